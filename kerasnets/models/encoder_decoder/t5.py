"""T5: every task is a text that becomes another text.

Raffel et al. 2019, arXiv:1910.10683; version 1.1: Shazeer 2020, arXiv:2002.05202; Flan: Chung et al. 2022,
arXiv:2210.11416. Text to text 文本到文本.
- RMSNorm before each sublayer and after the last block; no biases anywhere.
- No positions in the tokens: how far key and query are apart is looked up, and added to the scores of all blocks.
- Scores are not divided by √H; queries begin so much smaller instead.
- 1.0: ReLU; the head is the token embedding read backwards, after a division by √D.
- 1.1 and Flan: a gated GELU; the head has a table of its own.
"""

import dataclasses

from keras import ops
from keras.initializers import RandomNormal

from kerasnets import layers
from kerasnets.checkpoint import Family, transposed
from kerasnets.layers import masking
from kerasnets.layers.activations import ACTIVATIONS
from kerasnets.layers.attention import attention, merge_heads, remember, split_heads
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, public
from kerasnets.seq2seq import EncoderDecoder, Seq2SeqLM, of_block, source_mask

KINDS = ACTIVATIONS | {f"gated-{name}": activation for name, activation in ACTIVATIONS.items()}
KINDS |= {"gated-gelu": ACTIVATIONS["gelu_new"]}  # as the files of 1.1 mean it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    vocab_size: int = 32128
    hidden_size: int = 512
    num_layers: int = 6
    num_decoder_layers: int | None = None  # as many as the encoder's
    num_heads: int = 8
    head_size: int = 64
    feedforward_size: int = 2048
    activation: str = "relu"
    num_buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6
    dropout: float = 0.1
    tied: bool = True
    scale_head: bool = True
    bos_token_id: int | None = None
    eos_token_id: tuple = (1,)
    pad_token_id: int | None = 0
    decoder_start_token_id: int | None = 0


SIZES = ("hidden_size", "num_layers", "num_heads", "head_size", "feedforward_size")


def sizes(*numbers):
    """One line of a table of presets: the numbers of `SIZES`."""
    return dict(zip(SIZES, numbers, strict=True))


GATED = {"activation": "gated-gelu", "tied": False, "scale_head": False}
SECOND = {
    "small": GATED | sizes(512, 8, 6, 64, 1024),
    "base": GATED | sizes(768, 12, 12, 64, 2048),
    "large": GATED | sizes(1024, 24, 16, 64, 2816),
    "xl": GATED | sizes(2048, 24, 32, 64, 5120),
    "xxl": GATED | sizes(4096, 24, 64, 64, 10240),
}
PRESETS = {
    "t5-small": sizes(512, 6, 8, 64, 2048),
    "t5-base": sizes(768, 12, 12, 64, 3072),
    "t5-large": sizes(1024, 24, 16, 64, 4096),
    "t5-3b": sizes(1024, 24, 32, 128, 16384),
    "t5-11b": sizes(1024, 24, 128, 128, 65536),
    **{f"{name}-{size}": fields for name in ("t5-v1_1", "flan-t5") for size, fields in SECOND.items()},
}


class T5Attention(Layer):
    """softmax(Q Kᵀ + bias) V, without 1/√H. Keys and values are of x itself, or stand in a memory of the source."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.head_size = config.num_heads, config.head_size
        width, deviation = config.num_heads * config.head_size, config.hidden_size**-0.5
        small = RandomNormal(stddev=deviation * config.head_size**-0.5)
        self.query = layers.Dense(width, use_bias=False, kernel_initializer=small)
        self.key = layers.Dense(width, use_bias=False, kernel_initializer=RandomNormal(stddev=deviation))
        self.value = layers.Dense(width, use_bias=False, kernel_initializer=RandomNormal(stddev=deviation))
        self.out = layers.Dense(config.hidden_size, use_bias=False)
        self.dropout = Dropout(config.dropout)

    def call(self, x, visible=None, bias=None, memory=None, cache=None, training=False):
        q = split_heads(self.query(x), self.num_heads)
        k, v, cache = remember(cache, *self.keys_values(x)) if memory is None else (*memory, None)
        drop = self.dropout if training and self.dropout.rate else None
        y = attention(q, k, v, visible, bias, scale=1.0, drop=drop)
        return self.out(merge_heads(y)), cache

    def keys_values(self, x):
        """(B, S, D) → (B, S, N, H) twice."""
        return tuple(split_heads(part(x), self.num_heads) for part in (self.key, self.value))


class T5FeedForward(Layer):
    """φ(x W₁) W₂, or (φ(x G) ⊙ (x U)) W₂ where it is gated."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        gated, activation = config.activation.startswith("gated-"), KINDS[config.activation]
        self.wide = None if gated else layers.Dense(config.feedforward_size, activation, use_bias=False)
        self.gate = layers.Dense(config.feedforward_size, activation, use_bias=False) if gated else None
        self.up = layers.Dense(config.feedforward_size, use_bias=False) if gated else None
        self.narrow = layers.Dense(config.hidden_size, use_bias=False)
        self.dropout = Dropout(config.dropout)

    def call(self, x):
        wide = self.wide(x) if self.gate is None else self.gate(x) * self.up(x)
        return self.narrow(self.dropout(wide))


class T5EncoderBlock(Layer):
    """x ← x + attention(norm(x)), then x ← x + feedforward(norm(x))."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.attention_norm = layers.RMSNormalization(epsilon=config.epsilon)
        self.attention = T5Attention(config)
        self.feedforward_norm = layers.RMSNormalization(epsilon=config.epsilon)
        self.feedforward = T5FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def call(self, x, visible=None, bias=None):
        attended, _ = self.attention(self.attention_norm(x), visible, bias)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class T5DecoderBlock(T5EncoderBlock):
    """The same, and between the two x ← x + cross_attention(norm(x), source)."""

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.cross_attention_norm = layers.RMSNormalization(epsilon=config.epsilon)
        self.cross_attention = T5Attention(config)

    def call(self, x, visible=None, bias=None, memory=None, cache=None):
        attended, cache = self.attention(self.attention_norm(x), visible, bias, cache=cache)
        x = x + self.dropout(attended)
        *memory, source_visible = memory
        read, _ = self.cross_attention(self.cross_attention_norm(x), source_visible, memory=memory)
        x = x + self.dropout(read)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x))), cache


@public
class T5(EncoderDecoder):
    """The backbone: source (B, S) and target (B, T) → the target's hidden states (B, T, D), after the final norm."""

    Config, presets = Config, PRESETS

    def make_layers(self):
        config = self.config
        distances = (config.num_heads, config.num_buckets, config.max_distance)
        self.token_embedding = layers.Embedding(config.vocab_size, config.hidden_size, RandomNormal(stddev=1.0))
        self.dropout = Dropout(config.dropout)
        self.encoder_bias = layers.RelativePositionBias(*distances, bidirectional=True)
        self.encoder_blocks = [T5EncoderBlock(config) for _ in range(config.num_layers)]
        self.encoder_norm = layers.RMSNormalization(epsilon=config.epsilon)
        self.decoder_bias = layers.RelativePositionBias(*distances, bidirectional=False)
        self.decoder_blocks = [T5DecoderBlock(config) for _ in range(config.num_decoder_layers or config.num_layers)]
        self.decoder_norm = layers.RMSNormalization(epsilon=config.epsilon)

    def encode(self, inputs):
        input_ids, padding = self.unpack(inputs, "input_ids", "attention_mask")
        x, visible = self.dropout(self.token_embedding(input_ids)), source_mask(padding)
        bias = self.encoder_bias(*places(x))
        for block in self.encoder_blocks:
            x = block(x, visible, bias)
        return self.dropout(self.encoder_norm(x)), padding

    def decode(self, input_ids, positions, visible=None, cache=None, memory=None):
        x = self.dropout(self.token_embedding(input_ids))
        visible = masking.causal_mask(x.shape[1])[:, None] if visible is None else visible
        cache = list(cache or [None] * len(self.decoder_blocks))
        bias = self.decoder_bias(*places(x, cache[0]))
        for i, block in enumerate(self.decoder_blocks):
            x, cache[i] = block(x, visible, bias, memory=of_block(memory, i), cache=cache[i])
        return self.dropout(self.decoder_norm(x)), cache


def places(x, cache=None):
    """Where queries and keys stand, (1, T) and (1, S): only their distance counts, whatever is padded before them."""
    first, keys = (0, x.shape[1]) if cache is None else (cache.length, cache.keys.shape[1])
    return (first + ops.arange(x.shape[1]))[None], ops.arange(keys)[None]


@public
class T5Seq2SeqLM(Seq2SeqLM):
    """T5 with its head: source (B, S) and target (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = T5

    def make_head(self):
        return layers.CausalLMHead(self.config.vocab_size, tied=self.config.tied)

    def predict_next(self, hidden):
        return super().predict_next(hidden * self.config.hidden_size**-0.5 if self.config.scale_head else hidden)


FIELDS = {  # in config.json: in `Config`
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "num_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
    "num_heads": "num_heads",
    "d_kv": "head_size",
    "d_ff": "feedforward_size",
    "feed_forward_proj": "activation",
    "relative_attention_num_buckets": "num_buckets",
    "relative_attention_max_distance": "max_distance",
    "layer_norm_epsilon": "epsilon",
    "dropout_rate": "dropout",
    "tie_word_embeddings": "tied",
}


def sublayer(theirs, kind, ours, names):
    """The rows of a sublayer and its norm; `names` are pairs (in the file, in the model)."""
    rows = [(f"{theirs}.{kind}.{name}.weight", f"{ours}.{path}.kernel", transposed) for name, path in names]
    return [(f"{theirs}.layer_norm.weight", f"{ours}_norm.scale"), *rows]


ATTENTION = [("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")]
FEEDFORWARD = [("wi", "wide"), ("wi_0", "gate"), ("wi_1", "up"), ("wo", "narrow")]
BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
WEIGHTS = [  # in the file, in the model
    ("shared.weight", "token_embedding.embeddings"),
    (f"encoder.{BIAS}", "encoder_bias.embeddings"),
    *sublayer("encoder.block.{i}.layer.0", "SelfAttention", "encoder_blocks.{i}.attention", ATTENTION),
    *sublayer("encoder.block.{i}.layer.1", "DenseReluDense", "encoder_blocks.{i}.feedforward", FEEDFORWARD),
    ("encoder.final_layer_norm.weight", "encoder_norm.scale"),
    (f"decoder.{BIAS}", "decoder_bias.embeddings"),
    *sublayer("decoder.block.{i}.layer.0", "SelfAttention", "decoder_blocks.{i}.attention", ATTENTION),
    *sublayer("decoder.block.{i}.layer.1", "EncDecAttention", "decoder_blocks.{i}.cross_attention", ATTENTION),
    *sublayer("decoder.block.{i}.layer.2", "DenseReluDense", "decoder_blocks.{i}.feedforward", FEEDFORWARD),
    ("decoder.final_layer_norm.weight", "decoder_norm.scale"),
]
REPEATED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


def own_head(tensors, config):
    """transformers 5 says of every file that the head is tied; where another table is there, it is not."""
    both = {"lm_head.weight", "shared.weight"} <= {*tensors.names()}
    return {"tied": False} if both and not tensors.equal("lm_head.weight", "shared.weight") else {}


def read(fields, config):
    """The scale of the head, which older files say by the tie."""
    return checked(fields, config) | {"scale_head": fields.flag("scale_decoder_outputs", config.get("tied", True))}


def checked(fields, config):
    """The activation has a second spelling, which must not contradict the first."""
    kind = config.get("activation", Config.activation)
    inner = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    fields.expect({"dense_act_fn": (inner,), "is_gated_act": (kind.startswith("gated-"),)})
    return config


def write(config, values):
    return values | {"scale_decoder_outputs": config.scale_head}


# What the files of this family and of its variations have in common.
COMMON = dict(
    fields=FIELDS,
    choices={"activation": KINDS},
    harmless=("classifier_dropout", "initializer_factor", "n_positions", "output_past", "tokenizer_class"),
    weights=WEIGHTS,
    heads={"seq2seq_lm": [("lm_head.weight", "head.kernel", transposed)]},
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    repeated=dict.fromkeys(REPEATED, "shared.weight"),
    look=own_head,
)

FAMILY = Family(
    model_types=("t5",),
    tasks={"backbone": T5, "seq2seq_lm": T5Seq2SeqLM},
    architectures={"T5Model": "backbone", "T5ForConditionalGeneration": "seq2seq_lm",
                   "T5WithLMHeadModel": "seq2seq_lm"},
    read=read,
    write=write,
    **COMMON,
).register()  # fmt: skip
