"""GLM-4 in the names of the Hugging Face library: `glm` is the ChatGLM of 2024, `glm4` its successor of April 2025.

Zeng et al. 2024, arXiv:2406.12793. What they change:
- `GLM` says which share of each head is rotated, and may stretch the rotation for longer texts.
- `GLM4` normalizes what a sublayer puts out once more, before it is added.
"""

import dataclasses

from kerasnets import layers
from kerasnets.checkpoint import Family, transposed
from kerasnets.layers.layer import public
from kerasnets.model import CausalLM
from kerasnets.models.decoder import chatglm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(chatglm.Config):
    vocab_size: int = 151552
    num_layers: int = 40
    max_length: int = 131072
    rotary_share: float = 0.5
    rope_scaling: dict | None = None  # as `layers.RotaryEmbedding` takes it
    epsilon: float = 1.5625e-7
    eos_token_id: tuple = (151329, 151336, 151338)
    pad_token_id: int | None = 151329


PRESETS = {
    "glm-4-9b-hf": {"max_length": 8192},
    "glm-4-9b-chat-hf": {"rope_theta": 5e6},
}
BIG = {"hidden_size": 6144, "num_layers": 61, "num_heads": 48, "feedforward_size": 23040, "attention_bias": False}
PRESETS_OF_4 = {
    "glm-4-9b-0414": {"max_length": 32768, "epsilon": 1e-5},
    "glm-4-32b-0414": {"max_length": 32768, "epsilon": 1e-5, **BIG},
}


@public
class GLM(chatglm.ChatGLM):
    """The backbone: ids (B, T) → hidden states (B, T, D), after the final norm."""

    Config, presets = Config, PRESETS

    def make_rotary(self):
        config = self.config
        size = int(config.head_size * config.rotary_share)
        return layers.RotaryEmbedding(size, config.rope_theta, config.rope_scaling, interleaved=True)


@public
class GLMCausalLM(CausalLM):
    """GLM with its head: ids (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = GLM


class GLM4Block(chatglm.ChatGLMBlock):
    """x ← x + norm(attention(norm(x))), then x ← x + norm(feedforward(norm(x)))."""

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.attention_out_norm = layers.RMSNormalization(epsilon=config.epsilon)
        self.feedforward_out_norm = layers.RMSNormalization(epsilon=config.epsilon)

    def call(self, x, cos, sin, visible=None, cache=None):
        attended, cache = self.attention(self.attention_norm(x), cos, sin, visible, cache=cache)
        x = x + self.dropout(self.attention_out_norm(attended))
        x = x + self.dropout(self.feedforward_out_norm(self.feedforward(self.feedforward_norm(x))))
        return x, cache


@public
class GLM4(GLM):
    """The backbone: ids (B, T) → hidden states (B, T, D), after the final norm."""

    presets, Block = PRESETS_OF_4, GLM4Block


@public
class GLM4CausalLM(CausalLM):
    """GLM4 with its head: ids (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = GLM4


FIELDS = {  # in config.json: in `Config`
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_size",
    "intermediate_size": "feedforward_size",
    "max_position_embeddings": "max_length",
    "attention_bias": "attention_bias",
    "rms_norm_eps": "epsilon",
    "attention_dropout": "attention_dropout",
    "tie_word_embeddings": "tied",
}

BLOCK, OURS = "layers.{i}.", "blocks.{i}."
WEIGHTS = [  # in the file, in the model
    ("embed_tokens.weight", "token_embedding.embeddings"),
    (BLOCK + "input_layernorm.weight", OURS + "attention_norm.scale"),
    (BLOCK + "self_attn.q_proj.weight", OURS + "attention.query.kernel", transposed),
    (BLOCK + "self_attn.q_proj.bias", OURS + "attention.query.bias"),
    (BLOCK + "self_attn.k_proj.weight", OURS + "attention.key.kernel", transposed),
    (BLOCK + "self_attn.k_proj.bias", OURS + "attention.key.bias"),
    (BLOCK + "self_attn.v_proj.weight", OURS + "attention.value.kernel", transposed),
    (BLOCK + "self_attn.v_proj.bias", OURS + "attention.value.bias"),
    (BLOCK + "self_attn.o_proj.weight", OURS + "attention.out.kernel", transposed),
    (BLOCK + "post_attention_layernorm.weight", OURS + "feedforward_norm.scale"),
    (BLOCK + "mlp.gate_up_proj.weight", [f"{OURS}feedforward.{x}.kernel" for x in ("gate", "up")], transposed),
    (BLOCK + "mlp.down_proj.weight", OURS + "feedforward.down.kernel", transposed),
    ("norm.weight", "final_norm.scale"),
]
WEIGHTS_OF_4 = [
    *WEIGHTS,
    (BLOCK + "post_self_attn_layernorm.weight", OURS + "attention_out_norm.scale"),
    (BLOCK + "post_mlp_layernorm.weight", OURS + "feedforward_out_norm.scale"),
]


def read(fields, config):
    """The rotation, of which the library takes half where a file does not say how much."""
    size = config.get("head_size", Config.head_size)
    rotary = fields.rotary(config.get("max_length", Config.max_length), partial=Config.rotary_share)
    share = rotary.pop("partial_rotary_factor")
    if not isinstance(share, (int, float)) or not 0 < share <= 1 or int(size * share) % 2:
        fields.refuse(f"partial_rotary_factor must take an even number of {size} channels; it is {share!r}")
    return {**config, **rotary, "rotary_share": share}


def write(config, values):
    """For both versions of the library."""
    single = {"rope_theta": config.rope_theta, "partial_rotary_factor": config.rotary_share}
    scaling = config.rope_scaling or {}
    values |= {**single, "rope_parameters": {"rope_type": "default", **scaling, **single}}
    return values | ({"rope_scaling": scaling} if scaling else {})


def family(name, backbone, causal_lm, weights):
    return Family(
        model_types=(name,),
        tasks={"backbone": backbone, "causal_lm": causal_lm},
        architectures={f"{name.capitalize()}Model": "backbone", f"{name.capitalize()}ForCausalLM": "causal_lm"},
        fields=FIELDS,
        expected={"hidden_act": ("silu",)},
        read=read,
        write=write,
        weights=weights,
        heads={"causal_lm": [("lm_head.weight", "head.kernel", transposed)]},
        prefix="model.",
        ignored=(r"rotary_emb\.inv_freq",),
        repeated={"lm_head.weight": "embed_tokens.weight"},
    ).register()


FAMILY = family("glm", GLM, GLMCausalLM, WEIGHTS)
FAMILY_OF_4 = family("glm4", GLM4, GLM4CausalLM, WEIGHTS_OF_4)
