"""ChatGLM 2 and 3, and GLM-4 in the names of their first release.

Du et al. 2021, "GLM", arXiv:2103.10360; Zeng et al. 2024, "ChatGLM", arXiv:2406.12793. From the second version on it is
a causal language model with four choices of its own:
- Only the first half of each head is rotated, in pairs of neighbouring channels; the rest knows no position.
- A few key and value heads (two of them) serve all query heads.
- Query, key and value have a bias, and nothing else has.
- RMS norm before each sublayer and after the last block; gated feed-forward (SwiGLU).
The first ChatGLM-6B is another model under the same name: two-dimensional positions, LayerNorm, GELU. It is refused.
"""

import dataclasses

from kerasnets import layers
from kerasnets.checkpoint import Family, transposed
from kerasnets.layers.attention import attention, merge_heads, remember, split_heads
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, public
from kerasnets.layers.position import rotate
from kerasnets.model import CausalLM, Decoder

THETA = 10000.0  # the files give its multiple, `rope_ratio`
LENGTH = 8192  # what ChatGLM 2 was trained on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    vocab_size: int = 65024
    hidden_size: int = 4096
    num_layers: int = 28
    num_heads: int = 32
    num_kv_heads: int = 2
    head_size: int = 128
    feedforward_size: int = 13696
    max_length: int = 32768
    attention_bias: bool = True  # of query, key and value; the output never has one
    rope_theta: float = THETA
    epsilon: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    tied: bool = False
    bos_token_id: int | None = None
    eos_token_id: tuple = (2,)
    pad_token_id: int | None = 0

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"Each key head serves as many query heads; received num_heads={self.num_heads}, "
                f"num_kv_heads={self.num_kv_heads}."
            )


GLM_4_9B = {"vocab_size": 151552, "num_layers": 40, "pad_token_id": 151329, "eos_token_id": (151329, 151336, 151338)}
PRESETS = {
    "chatglm2-6b": {},
    "chatglm3-6b": {"max_length": 8192},
    "chatglm3-6b-32k": {"rope_theta": 50 * THETA},
    "glm-4-9b": {**GLM_4_9B, "epsilon": 1.5625e-7, "max_length": 8192},
    "glm-4-9b-chat": {**GLM_4_9B, "epsilon": 1.5625e-7, "max_length": 131072, "rope_theta": 500 * THETA},
}


class ChatGLMAttention(Layer):
    """Causal self-attention of N query heads over K key heads; the first channels of each are rotated pair by pair."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.query = layers.Dense(config.num_heads * config.head_size, use_bias=config.attention_bias)
        self.key = layers.Dense(config.num_kv_heads * config.head_size, use_bias=config.attention_bias)
        self.value = layers.Dense(config.num_kv_heads * config.head_size, use_bias=config.attention_bias)
        self.out = layers.Dense(config.hidden_size, use_bias=False)
        self.dropout = Dropout(config.attention_dropout)

    def call(self, x, cos, sin, visible=None, cache=None, training=False):
        q = rotate(split_heads(self.query(x), self.num_heads), cos, sin, interleaved=True)
        k = rotate(split_heads(self.key(x), self.num_kv_heads), cos, sin, interleaved=True)
        v = split_heads(self.value(x), self.num_kv_heads)
        k, v, cache = remember(cache, k, v)
        drop = self.dropout if training and self.dropout.rate else None
        y = attention(q, k, v, visible, is_causal=visible is None, drop=drop)
        return self.out(merge_heads(y)), cache


class ChatGLMBlock(Layer):
    """x ← x + attention(norm(x)), then x ← x + feedforward(norm(x))."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.attention_norm = layers.RMSNormalization(epsilon=config.epsilon)
        self.attention = ChatGLMAttention(config)
        self.feedforward_norm = layers.RMSNormalization(epsilon=config.epsilon)
        self.feedforward = layers.GatedFeedForward(config.feedforward_size, activation="silu", use_bias=False)
        self.dropout = Dropout(config.dropout)

    def call(self, x, cos, sin, visible=None, cache=None):
        attended, cache = self.attention(self.attention_norm(x), cos, sin, visible, cache=cache)
        x = x + self.dropout(attended)
        x = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return x, cache


@public
class ChatGLM(Decoder):
    """The backbone: ids (B, T) → hidden states (B, T, D), after the final norm."""

    Config, presets, Block = Config, PRESETS, ChatGLMBlock

    def make_layers(self):
        config = self.config
        self.token_embedding = layers.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = self.make_rotary()
        self.blocks = [self.Block(config) for _ in range(config.num_layers)]
        self.final_norm = layers.RMSNormalization(epsilon=config.epsilon)

    def make_rotary(self):
        return layers.RotaryEmbedding(self.config.head_size // 2, self.config.rope_theta, interleaved=True)

    def decode(self, input_ids, positions, visible=None, cache=None):
        x = self.token_embedding(input_ids)
        cos, sin = self.rotary.cos_sin(positions)
        cache = list(cache or [None] * len(self.blocks))
        for i, block in enumerate(self.blocks):
            x, cache[i] = block(x, cos, sin, visible, cache=cache[i])
        return self.final_norm(x), cache


@public
class ChatGLMCausalLM(CausalLM):
    """ChatGLM with its head: ids (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = ChatGLM


FIELDS = {  # in config.json: in `Config`
    "padded_vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "multi_query_group_num": "num_kv_heads",
    "kv_channels": "head_size",
    "ffn_hidden_size": "feedforward_size",
    "seq_length": "max_length",
    "add_qkv_bias": "attention_bias",
    "layernorm_epsilon": "epsilon",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "tie_word_embeddings": "tied",
}

BLOCK, OURS = "encoder.layers.{i}.", "blocks.{i}."
QUERY_KEY_VALUE = ("attention.query", "attention.key", "attention.value")  # all query heads, then the groups
WEIGHTS = [  # in the file, in the model
    ("embedding.word_embeddings.weight", "token_embedding.embeddings"),
    (BLOCK + "input_layernorm.weight", OURS + "attention_norm.scale"),
    (BLOCK + "self_attention.query_key_value.weight", [f"{OURS}{x}.kernel" for x in QUERY_KEY_VALUE], transposed),
    (BLOCK + "self_attention.query_key_value.bias", [f"{OURS}{x}.bias" for x in QUERY_KEY_VALUE], transposed),
    (BLOCK + "self_attention.dense.weight", OURS + "attention.out.kernel", transposed),
    (BLOCK + "post_attention_layernorm.weight", OURS + "feedforward_norm.scale"),
    (BLOCK + "mlp.dense_h_to_4h.weight", [f"{OURS}feedforward.{x}.kernel" for x in ("gate", "up")], transposed),
    (BLOCK + "mlp.dense_4h_to_h.weight", OURS + "feedforward.down.kernel", transposed),
    ("encoder.final_layernorm.weight", "final_norm.scale"),
]


def read(fields, config):
    """The first ChatGLM-6B, groups only if they are asked for, and the base of the rotation."""
    if {"position_encoding_2d", "inner_hidden_size"} & set(fields.values):
        fields.refuse("position_encoding_2d or inner_hidden_size: this is the first ChatGLM-6B, which is not done here")
    if not fields.flag("multi_query_attention", False):
        config["num_kv_heads"] = config.get("num_heads", Config.num_heads)
    ratio = fields.number("rope_ratio", 1)
    if ratio != 1 and is_interpolated(fields, ratio):
        fields.refuse(
            f"rope_ratio ({ratio!r}) divides the positions in chatglm2-6b-32k, as this seems to be; only the later "
            "models, where it multiplies the base, are done here"
        )
    # The code of the models takes absent fields as these.
    return {"num_kv_heads": 1, "attention_bias": False, **config, "rope_theta": THETA * ratio}


def is_interpolated(fields, ratio):
    """Whether `rope_ratio` is how many times the text is longer than in training, which no later model has."""
    name = str(fields.get("_name_or_path", ""))
    return "chatglm2" in name.lower() or ratio * LENGTH == fields.get("seq_length")


def write(config, values):
    return {**values, "multi_query_attention": True, "rope_ratio": config.rope_theta / THETA}


FAMILY = Family(
    model_types=("chatglm",),
    tasks={"backbone": ChatGLM, "causal_lm": ChatGLMCausalLM},
    architectures={"ChatGLMModel": "causal_lm", "ChatGLMForConditionalGeneration": "causal_lm"},
    fields=FIELDS,
    expected={"rmsnorm": (True,), "post_layer_norm": (True,), "original_rope": (True,), "add_bias_linear": (False,),
              "apply_residual_connection_post_layernorm": (False,), "fp32_residual_connection": (False,),
              "quantization_bit": (0,), "pre_seq_len": (None,)},
    harmless=("apply_query_key_layer_scaling", "attention_softmax_in_fp32", "bias_dropout_fusion",
              "classifier_dropout", "num_hidden_layers", "prefix_projection", "vocab_size"),
    read=read,
    write=write,
    weights=WEIGHTS,
    heads={"causal_lm": [("transformer.output_layer.weight", "head.kernel", transposed)]},
    prefix="transformer.",
    ignored=(r"rotary_pos_emb\.inv_freq",),
    repeated={"transformer.output_layer.weight": "embedding.word_embeddings.weight"},
).register()  # fmt: skip
