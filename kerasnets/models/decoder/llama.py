"""LLaMA: what most open language models are built like since 2023.

Touvron et al. 2023, arXiv:2302.13971 and 2307.09288 (2); Dubey et al. 2024, arXiv:2407.21783 (3). Against GPT-2:
- RMSNorm without a mean and without a bias, before each sublayer and after the last block.
- Rotary positions: queries and keys turn, nothing is added to the tokens.
- A gated feed-forward layer (SwiGLU), and no biases anywhere.
- Groups of query heads share one key and value head (GQA), from LLaMA 2 70B on.
- LLaMA 3.1 slows its slow rotations down eight times, for texts of 131,072 tokens.
"""

import dataclasses

from kerasnets import layers
from kerasnets.checkpoint import Family, transposed
from kerasnets.layers.activations import ACTIVATIONS
from kerasnets.layers.attention import attention, merge_heads, remember, split_heads
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, public
from kerasnets.layers.position import rotate
from kerasnets.model import CausalLM, Decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    vocab_size: int = 32000
    hidden_size: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int | None = None  # as many as heads
    head_size: int | None = None  # the width, divided among the heads
    feedforward_size: int = 11008
    max_length: int = 2048  # of the texts it was trained on
    activation: str = "silu"
    epsilon: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None  # see `kerasnets.layers.frequencies`
    attention_bias: bool = False
    feedforward_bias: bool = False
    attention_dropout: float = 0.0
    tied: bool = False
    bos_token_id: int | None = 1
    eos_token_id: tuple = (2,)
    pad_token_id: int | None = None


SIZES = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "feedforward_size")


def sizes(*numbers):
    """One line of a table of presets: the numbers of `SIZES`."""
    return dict(zip(SIZES, numbers, strict=True))


def slowed(factor):
    """LLaMA 3.1 and 3.2 read 131,072 tokens, `factor` times as slowly where LLaMA 3 turned slowly."""
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {"max_length": 131072, "rope_scaling": scaling | {"original_max_position_embeddings": 8192}}


LLAMA2 = {"max_length": 4096, "epsilon": 1e-5}
LLAMA3 = {"vocab_size": 128256, "max_length": 8192, "epsilon": 1e-5, "rope_theta": 500000.0}
LLAMA3 |= {"bos_token_id": 128000, "eos_token_id": (128001,)}
SMOLLM2 = {"vocab_size": 49152, "max_length": 8192, "epsilon": 1e-5, "rope_theta": 100000.0, "tied": True}
SMOLLM2 |= {"bos_token_id": 0, "eos_token_id": (0,)}
PRESETS = {
    "llama-2-7b": LLAMA2 | sizes(4096, 32, 32, 32, 11008),
    "llama-2-13b": LLAMA2 | sizes(5120, 40, 40, 40, 13824),
    "llama-2-70b": LLAMA2 | sizes(8192, 80, 64, 8, 28672),
    "llama-3-8b": LLAMA3 | sizes(4096, 32, 32, 8, 14336),
    "llama-3-70b": LLAMA3 | sizes(8192, 80, 64, 8, 28672),
    "llama-3.1-8b": LLAMA3 | slowed(8.0) | sizes(4096, 32, 32, 8, 14336),
    "llama-3.1-70b": LLAMA3 | slowed(8.0) | sizes(8192, 80, 64, 8, 28672),
    "llama-3.1-405b": LLAMA3 | slowed(8.0) | sizes(16384, 126, 128, 8, 53248),
    "llama-3.2-1b": LLAMA3 | slowed(32.0) | sizes(2048, 16, 32, 8, 8192) | {"tied": True},
    "llama-3.2-3b": LLAMA3 | slowed(32.0) | sizes(3072, 28, 24, 8, 8192) | {"tied": True},
    "smollm2-135m": SMOLLM2 | sizes(576, 30, 9, 3, 1536),
    "smollm2-360m": SMOLLM2 | sizes(960, 32, 15, 5, 2560),
    "smollm2-1.7b": SMOLLM2 | sizes(2048, 24, 32, 32, 8192) | {"rope_theta": 130000.0},
    "tinyllama-1.1b": sizes(2048, 22, 32, 4, 5632) | {"epsilon": 1e-5},
}


class LLaMAAttention(Layer):
    """Causal self-attention whose queries and keys turn with their positions."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.num_kv_heads, self.head_size = heads(config)
        self.query = layers.Dense(self.num_heads * self.head_size, use_bias=config.attention_bias)
        self.key = layers.Dense(self.num_kv_heads * self.head_size, use_bias=config.attention_bias)
        self.value = layers.Dense(self.num_kv_heads * self.head_size, use_bias=config.attention_bias)
        self.out = self.make_out(config)
        self.dropout = Dropout(config.attention_dropout)

    def make_out(self, config):
        return layers.Dense(config.hidden_size, use_bias=config.attention_bias)

    def call(self, x, places, visible=None, cache=None, training=False):
        q, k, v = self.project(x)
        q, k = rotate(q, *places), rotate(k, *places)
        return self.attend(q, k, v, visible, None, cache, training)

    def project(self, x):
        """(B, T, D) → q (B, T, N, H), k and v (B, T, K, H)."""
        q = split_heads(self.query(x), self.num_heads)
        return q, *(split_heads(part(x), self.num_kv_heads) for part in (self.key, self.value))

    def attend(self, q, k, v, visible, bias, cache, training):
        k, v, cache = remember(cache, k, v)
        drop = self.dropout if training and self.dropout.rate else None
        y = attention(q, k, v, visible, bias, is_causal=visible is None, drop=drop)
        return self.out(merge_heads(y)), cache


def heads(config):
    """(N, K, H); raises where the heads cannot share the width or the keys evenly."""
    n, k = config.num_heads, config.num_kv_heads or config.num_heads
    if n % k or config.head_size is None and config.hidden_size % n:
        raise ValueError(
            "num_heads must be a multiple of num_kv_heads, and hidden_size one of num_heads unless head_size is given; "
            f"received hidden_size={config.hidden_size}, num_heads={n}, num_kv_heads={k}, head_size={config.head_size}."
        )
    return n, k, config.head_size or config.hidden_size // n


class LLaMABlock(Layer):
    """x ← x + attention(norm(x)), then x ← x + feedforward(norm(x))."""

    Attention = LLaMAAttention

    def __init__(self, config, **kwargs):
        super().__init__()
        self.attention_norm = layers.RMSNormalization(epsilon=config.epsilon)
        self.attention = self.Attention(config, **kwargs)
        self.feedforward_norm = layers.RMSNormalization(epsilon=config.epsilon)
        activation = ACTIVATIONS[config.activation]
        self.feedforward = layers.GatedFeedForward(config.feedforward_size, activation, config.feedforward_bias)

    def call(self, x, places, visible=None, cache=None):
        attended, cache = self.attention(self.attention_norm(x), places, visible, cache=cache)
        x = x + attended
        x = x + self.feedforward(self.feedforward_norm(x))
        return x, cache


@public
class LLaMA(Decoder):
    """The backbone: ids (B, T) → hidden states (B, T, D), after the final norm."""

    Config, presets = Config, PRESETS

    def make_layers(self):
        config = self.config
        _, _, head_size = heads(config)
        self.token_embedding = layers.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = layers.RotaryEmbedding(head_size, config.rope_theta, config.rope_scaling)
        self.blocks = [self.make_block(depth) for depth in range(config.num_layers)]
        self.final_norm = layers.RMSNormalization(epsilon=config.epsilon)

    def make_block(self, depth):
        return LLaMABlock(self.config)

    def decode(self, input_ids, positions, visible=None, cache=None):
        x = self.token_embedding(input_ids)
        cache = list(cache or [None] * len(self.blocks))
        places = self.places(positions, cache[0])
        for i, block in enumerate(self.blocks):
            x, cache[i] = block(x, places, visible, cache=cache[i])
        return self.final_norm(x), cache

    def places(self, positions, cache):
        """What attention needs to know of the positions, once for all blocks: cos and sin, (B, T, H / 2) each."""
        return self.rotary.cos_sin(positions)


@public
class LLaMACausalLM(CausalLM):
    """LLaMA with its head: ids (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = LLaMA


FIELDS = {  # in config.json: in `Config`
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_size",
    "intermediate_size": "feedforward_size",
    "max_position_embeddings": "max_length",
    "hidden_act": "activation",
    "rms_norm_eps": "epsilon",
    "attention_bias": "attention_bias",
    "mlp_bias": "feedforward_bias",
    "attention_dropout": "attention_dropout",
    "tie_word_embeddings": "tied",
}

WEIGHTS = [  # in the file, in the model
    ("embed_tokens.weight", "token_embedding.embeddings"),
    ("layers.{i}.input_layernorm.weight", "blocks.{i}.attention_norm.scale"),
    ("layers.{i}.self_attn.q_proj.weight", "blocks.{i}.attention.query.kernel", transposed),
    ("layers.{i}.self_attn.q_proj.bias", "blocks.{i}.attention.query.bias"),
    ("layers.{i}.self_attn.k_proj.weight", "blocks.{i}.attention.key.kernel", transposed),
    ("layers.{i}.self_attn.k_proj.bias", "blocks.{i}.attention.key.bias"),
    ("layers.{i}.self_attn.v_proj.weight", "blocks.{i}.attention.value.kernel", transposed),
    ("layers.{i}.self_attn.v_proj.bias", "blocks.{i}.attention.value.bias"),
    ("layers.{i}.self_attn.o_proj.weight", "blocks.{i}.attention.out.kernel", transposed),
    ("layers.{i}.self_attn.o_proj.bias", "blocks.{i}.attention.out.bias"),
    ("layers.{i}.post_attention_layernorm.weight", "blocks.{i}.feedforward_norm.scale"),
    ("layers.{i}.mlp.gate_proj.weight", "blocks.{i}.feedforward.gate.kernel", transposed),
    ("layers.{i}.mlp.gate_proj.bias", "blocks.{i}.feedforward.gate.bias"),
    ("layers.{i}.mlp.up_proj.weight", "blocks.{i}.feedforward.up.kernel", transposed),
    ("layers.{i}.mlp.up_proj.bias", "blocks.{i}.feedforward.up.bias"),
    ("layers.{i}.mlp.down_proj.weight", "blocks.{i}.feedforward.down.kernel", transposed),
    ("layers.{i}.mlp.down_proj.bias", "blocks.{i}.feedforward.down.bias"),
    ("norm.weight", "final_norm.scale"),
]


def read(fields, config, default_length=Config.max_length):
    """The rotation, which has several spellings."""
    rotary = fields.rotary(config.get("max_length") or default_length)
    partial = rotary.pop("partial_rotary_factor")
    if partial != 1:
        fields.refuse(f"partial_rotary_factor is {partial!r}, and only whole heads are turned here")
    return config | rotary


def write(config, values):
    """In the spelling of transformers 5."""
    scaling = config.rope_scaling or {"rope_type": "default"}
    return values | {"rope_parameters": {**scaling, "rope_theta": config.rope_theta}}


# What the files of this family and of those built like it have in common.
COMMON = dict(
    choices={"activation": ACTIVATIONS},
    weights=WEIGHTS,
    heads={"causal_lm": [("lm_head.weight", "head.kernel", transposed)]},
    prefix="model.",
    ignored=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    repeated={"lm_head.weight": "embed_tokens.weight"},
)

FAMILY = Family(
    model_types=("llama",),
    tasks={"backbone": LLaMA, "causal_lm": LLaMACausalLM},
    architectures={"LlamaModel": "backbone", "LlamaForCausalLM": "causal_lm"},
    fields=FIELDS,
    expected={"rope_interleaved": (False,)},
    # pretraining_tp says into how many parts the products were cut in training; their sum is the same.
    harmless=("pretraining_tp", "is_llama_config", "max_sequence_length", "transformers.js_config"),
    read=read,
    write=write,
    **COMMON,
).register()
