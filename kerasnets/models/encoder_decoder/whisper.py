"""Whisper: speech is written down, in its own language or in English.

Radford et al. 2022, arXiv:2212.04356. Speech recognition 语音识别.
- The source is a log-mel spectrogram of 30 seconds, `kerasnets.preprocessing.audio`; nothing of it is padding.
- Two convolutions make one vector of every 20 milliseconds; to these, sines and cosines are added.
- The target begins with tokens that say the language, the task, and whether times are to be written.
- The norm before each sublayer, and once more after the last block of both parts; keys have no bias.
- The head is the token embedding read backwards.
"""

import dataclasses

import keras
from keras import ops

from kerasnets import layers
from kerasnets.checkpoint import Family, Transform
from kerasnets.layers.activations import ACTIVATIONS
from kerasnets.layers.attention import attention, merge_heads, remember, split_heads
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, public
from kerasnets.seq2seq import EncoderDecoder, Seq2SeqLM, block_rows, norm_rows, of_block

EPSILON = 1e-5
AS_THE_ENCODER = {"num_decoder_layers": "num_layers", "num_decoder_heads": "num_heads"}
AS_THE_ENCODER |= {"decoder_feedforward_size": "feedforward_size"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    vocab_size: int = 51865
    num_mels: int = 80
    hidden_size: int = 384
    num_layers: int = 4
    num_heads: int = 6
    feedforward_size: int = 1536
    num_decoder_layers: int | None = None  # these three: as the encoder's
    num_decoder_heads: int | None = None
    decoder_feedforward_size: int | None = None
    max_source_length: int = 1500  # vectors, each of two frames
    max_length: int = 448
    activation: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    feedforward_dropout: float = 0.0
    bos_token_id: int | None = 50257
    eos_token_id: tuple = (50257,)
    pad_token_id: int | None = 50257
    decoder_start_token_id: int | None = 50258
    suppress_tokens: tuple = ()
    begin_suppress_tokens: tuple = (220, 50257)
    forced_decoder_ids: tuple = ()  # (place, token) each

    def __post_init__(self):
        for name, size in AS_THE_ENCODER.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self, size))


SIZES = ("hidden_size", "num_layers", "num_heads", "feedforward_size")
NUMBERS = {
    "tiny": (384, 4, 6, 1536),
    "base": (512, 6, 8, 2048),
    "small": (768, 12, 12, 3072),
    "medium": (1024, 24, 16, 4096),
    "large": (1280, 32, 20, 5120),
}
ENGLISH = {"vocab_size": 51864, "bos_token_id": 50256, "eos_token_id": (50256,), "pad_token_id": 50256}
ENGLISH |= {"decoder_start_token_id": 50257, "begin_suppress_tokens": (220, 50256)}
THIRD = {"vocab_size": 51866, "num_mels": 128}
PRESETS = {f"whisper-{name}": dict(zip(SIZES, numbers, strict=True)) for name, numbers in NUMBERS.items()}
PRESETS |= {f"{name}.en": fields | ENGLISH for name, fields in PRESETS.items() if name != "whisper-large"}
PRESETS |= {"whisper-large-v2": PRESETS["whisper-large"], "whisper-large-v3": PRESETS["whisper-large"] | THIRD}
PRESETS["whisper-large-v3-turbo"] = PRESETS["whisper-large-v3"] | {"num_decoder_layers": 4}


class WhisperAttention(Layer):
    """softmax(Q Kᵀ / √H) V. Keys and values are of x itself, or stand in a memory of the source."""

    def __init__(self, config, num_heads, **kwargs):
        super().__init__(**kwargs)
        if config.hidden_size % num_heads:
            raise ValueError(f"{num_heads} heads can't share hidden_size={config.hidden_size} evenly.")
        self.num_heads, self.head_size = num_heads, config.hidden_size // num_heads
        self.query, self.value, self.out = (layers.Dense(config.hidden_size) for _ in range(3))
        self.key = layers.Dense(config.hidden_size, use_bias=False)
        self.dropout = Dropout(config.attention_dropout)

    def call(self, x, visible=None, memory=None, cache=None, is_causal=False, training=False):
        q = split_heads(self.query(x), self.num_heads)
        k, v, cache = remember(cache, *self.keys_values(x)) if memory is None else (*memory, None)
        drop = self.dropout if training and self.dropout.rate else None
        return self.out(merge_heads(attention(q, k, v, visible, is_causal=is_causal, drop=drop))), cache

    def keys_values(self, x):
        """(B, S, D) → (B, S, N, H) twice."""
        return tuple(split_heads(part(x), self.num_heads) for part in (self.key, self.value))


class WhisperEncoderBlock(Layer):
    """x ← x + attention(norm(x)), then x ← x + feedforward(norm(x))."""

    def __init__(self, config, num_heads, feedforward_size, **kwargs):
        super().__init__(**kwargs)
        self.attention_norm = layers.LayerNormalization(epsilon=EPSILON)
        self.attention = WhisperAttention(config, num_heads)
        self.feedforward_norm = layers.LayerNormalization(epsilon=EPSILON)
        activation = ACTIVATIONS[config.activation]
        self.feedforward = layers.FeedForward(feedforward_size, activation, dropout=config.feedforward_dropout)
        self.dropout = Dropout(config.dropout)

    def call(self, x):
        attended, _ = self.attention(self.attention_norm(x))
        x = x + self.dropout(attended)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class WhisperDecoderBlock(WhisperEncoderBlock):
    """The same, and between the two x ← x + cross_attention(norm(x), source)."""

    def __init__(self, config, num_heads, feedforward_size, **kwargs):
        super().__init__(config, num_heads, feedforward_size, **kwargs)
        self.cross_attention_norm = layers.LayerNormalization(epsilon=EPSILON)
        self.cross_attention = WhisperAttention(config, num_heads)

    def call(self, x, visible=None, memory=None, cache=None):
        causal = visible is None
        attended, cache = self.attention(self.attention_norm(x), visible, cache=cache, is_causal=causal)
        x = x + self.dropout(attended)
        *memory, source_visible = memory
        read, _ = self.cross_attention(self.cross_attention_norm(x), source_visible, memory=memory)
        x = x + self.dropout(read)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x))), cache


def sines(shape, dtype=None):
    """The encoder's positions: [sin | cos] of 10,000 down to 1 turns."""
    length, size = shape
    return ops.cast(layers.sinusoidal(ops.arange(length), size, interleaved=False, steps=size // 2 - 1), dtype)


@public
class Whisper(EncoderDecoder):
    """The backbone: `input_features` (B, mels, 2 S), target (B, T) → the target's hidden states (B, T, D).

    Raises `ValueError` for features of another shape than the config's.
    """

    Config, presets = Config, PRESETS
    inputs_taken = ("input_features", "decoder_input_ids", "decoder_attention_mask")

    def make_layers(self):
        config = self.config
        activation = ACTIVATIONS["gelu"]
        self.conv1 = layers.Conv1D(config.hidden_size, 3, activation=activation)
        self.conv2 = layers.Conv1D(config.hidden_size, 3, strides=2, activation=activation)
        self.dropout = Dropout(config.dropout)
        self.encoder_position_embedding = layers.PositionEmbedding(config.max_source_length, sines, trainable=False)
        sizes = config.num_heads, config.feedforward_size
        self.encoder_blocks = [WhisperEncoderBlock(config, *sizes) for _ in range(config.num_layers)]
        self.encoder_norm = layers.LayerNormalization(epsilon=EPSILON)
        self.token_embedding = layers.Embedding(config.vocab_size, config.hidden_size)
        self.decoder_position_embedding = layers.PositionEmbedding(config.max_length)
        sizes = config.num_decoder_heads, config.decoder_feedforward_size
        self.decoder_blocks = [WhisperDecoderBlock(config, *sizes) for _ in range(config.num_decoder_layers)]
        self.decoder_norm = layers.LayerNormalization(epsilon=EPSILON)

    def smallest_inputs(self):
        config, ids = self.config, super().smallest_inputs()
        return ids | {"input_features": keras.KerasTensor((1, config.num_mels, 2 * config.max_source_length))}

    def encode(self, inputs):
        (features,) = self.unpack(inputs, "input_features")
        expected = (self.config.num_mels, 2 * self.config.max_source_length)
        if len(features.shape) != 3 or tuple(features.shape[1:]) != expected:
            raise ValueError(f"`input_features` must be (batch, {expected[0]}, {expected[1]}): {features.shape} came.")
        x = self.conv1(widened(ops.swapaxes(features, 1, 2)))
        x = self.conv2(widened(x))
        x = self.dropout(x + self.encoder_position_embedding(x))
        for block in self.encoder_blocks:
            x = block(x)
        return self.encoder_norm(x), None

    def decode(self, input_ids, positions, visible=None, cache=None, memory=None):
        x = self.token_embedding(input_ids)
        x = self.dropout(x + self.decoder_position_embedding(x, positions))
        cache = list(cache or [None] * len(self.decoder_blocks))
        for i, block in enumerate(self.decoder_blocks):
            x, cache[i] = block(x, visible, memory=of_block(memory, i), cache=cache[i])
        return self.decoder_norm(x), cache


def widened(x):
    """A zero at each end, where padding "same" with strides of 2 puts none before.   (B, T, C) → (B, T + 2, C)."""
    return ops.pad(x, [[0, 0], [1, 1], [0, 0]])


@public
class WhisperSeq2SeqLM(Seq2SeqLM):
    """Whisper with its head: `input_features` (B, mels, 2 S), target (B, T) → logits (B, T, V) of what follows each."""

    Backbone = Whisper


FIELDS = {  # in config.json: in `Config`
    "vocab_size": "vocab_size",
    "num_mel_bins": "num_mels",
    "d_model": "hidden_size",
    "encoder_layers": "num_layers",
    "encoder_attention_heads": "num_heads",
    "encoder_ffn_dim": "feedforward_size",
    "decoder_layers": "num_decoder_layers",
    "decoder_attention_heads": "num_decoder_heads",
    "decoder_ffn_dim": "decoder_feedforward_size",
    "max_source_positions": "max_source_length",
    "max_target_positions": "max_length",
    "activation_function": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "feedforward_dropout",
}

# A torch kernel is [out, in, places] where ours is (places, in, out).
turned = Transform(lambda tensor, shapes: [tensor.transpose(2, 1, 0)], lambda arrays: arrays[0].transpose(2, 1, 0))
WEIGHTS = [  # in the file, in the model
    ("encoder.conv1.weight", "conv1.kernel", turned),
    ("encoder.conv1.bias", "conv1.bias"),
    ("encoder.conv2.weight", "conv2.kernel", turned),
    ("encoder.conv2.bias", "conv2.bias"),
    ("encoder.embed_positions.weight", "encoder_position_embedding.embeddings"),
    *block_rows("encoder"),
    *norm_rows("encoder.layer_norm", "encoder_norm"),
    ("decoder.embed_tokens.weight", "token_embedding.embeddings"),
    ("decoder.embed_positions.weight", "decoder_position_embedding.embeddings"),
    *block_rows("decoder"),
    *norm_rows("decoder.layer_norm", "decoder_norm"),
]
LISTS = ("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids")


def read(fields, config):
    """The tokens that are never written, not at first, and at certain places."""
    found = {name: fields.get(name, []) for name in LISTS}
    for name, items in found.items():
        ids = [i for pair in items for i in pair] if name == "forced_decoder_ids" else items
        if not all(isinstance(i, int) or i is None for i in ids):
            fields.refuse(f"{name} must be a list of token ids; it is {items!r}")
    return config | {name: tuple(tuple(i) if isinstance(i, list) else i for i in x) for name, x in found.items()}


def write(config, values):
    return values | {name: getattr(config, name) for name in LISTS}


FAMILY = Family(
    model_types=("whisper",),
    tasks={"backbone": Whisper, "seq2seq_lm": WhisperSeq2SeqLM},
    architectures={"WhisperModel": "backbone", "WhisperForConditionalGeneration": "seq2seq_lm"},
    fields=FIELDS,
    choices={"activation": ACTIVATIONS},
    expected={"tie_word_embeddings": (True,)},
    # `scale_embedding` is in the files, and nobody scales; `mask_…` and `apply_…` are for training, the others for a
    # classifier and for the times of words.
    harmless=("scale_embedding", "encoder_layerdrop", "decoder_layerdrop", "init_std", "num_hidden_layers",
              "mask_feature_length", "mask_feature_min_masks", "mask_feature_prob", "mask_time_length",
              "mask_time_min_masks", "mask_time_prob", "apply_spec_augment", "use_weighted_layer_sum",
              "classifier_proj_size", "median_filter_width"),
    weights=WEIGHTS,
    prefix="model.",
    repeated={"proj_out.weight": "decoder.embed_tokens.weight"},
    read=read,
    write=write,
).register()  # fmt: skip
