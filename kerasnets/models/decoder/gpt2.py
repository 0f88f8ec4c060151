"""GPT-2: a stack of blocks, each token attending to those before it, trained to say which token comes next.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Causal LM 因果语言模型.
- Token and learned position embeddings are added.
- The norm stands before each sublayer, and once more after the last block.
- Query, key and value come out of one matrix, side by side.
- GELU is taken by its tanh formula.
- The head is the token embedding read backwards.
"""

import dataclasses

import keras

from kerasnets import layers
from kerasnets.checkpoint import Family, transposed
from kerasnets.layers.activations import ACTIVATIONS
from kerasnets.layers.attention import attention, merge_heads, remember, split_heads
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, public
from kerasnets.model import CausalLM, Decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    vocab_size: int = 50257
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feedforward_size: int | None = None  # four times the width
    max_length: int = 1024
    activation: str = "gelu_new"
    epsilon: float = 1e-5
    dropout: float = 0.1
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    scale_scores: bool = True
    scale_by_depth: bool = False  # block number n divides its scores by n + 1
    tied: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: tuple = (50256,)
    pad_token_id: int | None = None


PRESETS = {
    "gpt2": {},
    "gpt2-medium": {"hidden_size": 1024, "num_layers": 24, "num_heads": 16},
    "gpt2-large": {"hidden_size": 1280, "num_layers": 36, "num_heads": 20},
    "gpt2-xl": {"hidden_size": 1600, "num_layers": 48, "num_heads": 25},
}


class GPT2Attention(Layer):
    """Causal self-attention whose query, key and value are one matrix: q | k | v = x W + b."""

    def __init__(self, config, depth, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = config.num_heads
        self.scale = (config.hidden_size // config.num_heads) ** -0.5 if config.scale_scores else 1.0
        self.scale /= depth + 1 if config.scale_by_depth else 1
        self.query_key_value = layers.Dense(3 * config.hidden_size)
        self.out = layers.Dense(config.hidden_size)
        self.dropout = Dropout(config.attention_dropout)

    def call(self, x, visible=None, cache=None, training=False):
        q, k, v = (split_heads(part, self.num_heads) for part in keras.ops.split(self.query_key_value(x), 3, axis=-1))
        k, v, cache = remember(cache, k, v)
        drop = self.dropout if training and self.dropout.rate else None
        y = attention(q, k, v, visible, scale=self.scale, is_causal=visible is None, drop=drop)
        return self.out(merge_heads(y)), cache


class GPT2Block(Layer):
    """x ← x + attention(norm(x)), then x ← x + feedforward(norm(x))."""

    def __init__(self, config, depth, **kwargs):
        super().__init__(**kwargs)
        self.attention_norm = layers.LayerNormalization(epsilon=config.epsilon)
        self.attention = GPT2Attention(config, depth)
        self.feedforward_norm = layers.LayerNormalization(epsilon=config.epsilon)
        width = config.feedforward_size or 4 * config.hidden_size
        self.feedforward = layers.FeedForward(width, ACTIVATIONS[config.activation])
        self.dropout = Dropout(config.dropout)

    def call(self, x, visible=None, cache=None):
        attended, cache = self.attention(self.attention_norm(x), visible, cache=cache)
        x = x + self.dropout(attended)
        x = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return x, cache


@public
class GPT2(Decoder):
    """The backbone: ids (B, T) → hidden states (B, T, D), after the final norm."""

    Config, presets = Config, PRESETS

    def make_layers(self):
        config = self.config
        self.token_embedding = layers.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = layers.Embedding(config.max_length, config.hidden_size)
        self.dropout = Dropout(config.embedding_dropout)
        self.blocks = [GPT2Block(config, depth) for depth in range(config.num_layers)]
        self.final_norm = layers.LayerNormalization(epsilon=config.epsilon)

    def decode(self, input_ids, positions, visible=None, cache=None):
        x = self.dropout(self.token_embedding(input_ids) + self.position_embedding(positions))
        cache = list(cache or [None] * len(self.blocks))
        for i, block in enumerate(self.blocks):
            x, cache[i] = block(x, visible, cache=cache[i])
        return self.final_norm(x), cache


@public
class GPT2CausalLM(CausalLM):
    """GPT-2 with its head: ids (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = GPT2


FIELDS = {  # in config.json: in `Config`
    "vocab_size": "vocab_size",
    "n_embd": "hidden_size",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_inner": "feedforward_size",
    "n_positions": "max_length",
    "activation_function": "activation",
    "layer_norm_epsilon": "epsilon",
    "resid_pdrop": "dropout",
    "embd_pdrop": "embedding_dropout",
    "attn_pdrop": "attention_dropout",
    "scale_attn_weights": "scale_scores",
    "scale_attn_by_inverse_layer_idx": "scale_by_depth",
    "tie_word_embeddings": "tied",
}

WEIGHTS = [  # in the file, in the model
    ("wte.weight", "token_embedding.embeddings"),
    ("wpe.weight", "position_embedding.embeddings"),
    ("h.{i}.ln_1.weight", "blocks.{i}.attention_norm.gamma"),
    ("h.{i}.ln_1.bias", "blocks.{i}.attention_norm.beta"),
    ("h.{i}.attn.c_attn.weight", "blocks.{i}.attention.query_key_value.kernel"),
    ("h.{i}.attn.c_attn.bias", "blocks.{i}.attention.query_key_value.bias"),
    ("h.{i}.attn.c_proj.weight", "blocks.{i}.attention.out.kernel"),
    ("h.{i}.attn.c_proj.bias", "blocks.{i}.attention.out.bias"),
    ("h.{i}.ln_2.weight", "blocks.{i}.feedforward_norm.gamma"),
    ("h.{i}.ln_2.bias", "blocks.{i}.feedforward_norm.beta"),
    ("h.{i}.mlp.c_fc.weight", "blocks.{i}.feedforward.wide.kernel"),
    ("h.{i}.mlp.c_fc.bias", "blocks.{i}.feedforward.wide.bias"),
    ("h.{i}.mlp.c_proj.weight", "blocks.{i}.feedforward.narrow.kernel"),
    ("h.{i}.mlp.c_proj.bias", "blocks.{i}.feedforward.narrow.bias"),
    ("ln_f.weight", "final_norm.gamma"),
    ("ln_f.bias", "final_norm.beta"),
]

FAMILY = Family(
    model_types=("gpt2",),
    tasks={"backbone": GPT2, "causal_lm": GPT2CausalLM},
    architectures={"GPT2Model": "backbone", "GPT2LMHeadModel": "causal_lm"},
    fields=FIELDS,
    choices={"activation": ACTIVATIONS},
    expected={"add_cross_attention": (False,)},
    harmless=("n_ctx", "reorder_and_upcast_attn", "summary_type", "summary_use_proj", "summary_activation",
              "summary_proj_to_labels", "summary_first_dropout"),
    weights=WEIGHTS,
    heads={"causal_lm": [("lm_head.weight", "head.kernel", transposed)]},
    prefix="transformer.",
    ignored=(r"h\.\d+\.attn\.(masked_)?bias",),
    repeated={"lm_head.weight": "wte.weight"},
).register()  # fmt: skip
