"""BART: a text is damaged, and the model writes it again as it was.

Lewis et al. 2019, arXiv:1910.13461. Denoising 去噪. Against the Transformer of 2017:
- Learned positions, whose table begins with two rows that nobody reads.
- A norm behind the embeddings, and behind each sublayer; GELU.
- A target begins with the token that ends a text, and the head adds a bias that was never trained.
- Classification: the decoder reads the text too, and its state at the last end-of-text token tells the class.
"""

import dataclasses

import numpy as np
from keras import ops
from keras.src.backend.common.symbolic_scope import in_symbolic_scope  # Keras is only finding out shapes

from kerasnets import backend, layers
from kerasnets.checkpoint import Family, Transform
from kerasnets.encoder import TaskConfig
from kerasnets.encoder_files import read_labels, write_labels
from kerasnets.fields import told_by_tensors
from kerasnets.layers import masking
from kerasnets.layers.activations import ACTIVATIONS
from kerasnets.layers.attention import attention, merge_heads, remember, split_heads
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, public
from kerasnets.layers.reading import barely
from kerasnets.seq2seq import (
    EncoderDecoder,
    Seq2SeqLM,
    Seq2SeqModel,
    block_rows,
    linear_rows,
    norm_rows,
    of_block,
    shift_right,
    source_mask,
)

EPSILON = 1e-5
OFFSET = 2  # rows of the positions' tables before the one of position 0
AS_THE_ENCODER = {"num_decoder_layers": "num_layers", "num_decoder_heads": "num_heads"}
AS_THE_ENCODER |= {"decoder_feedforward_size": "feedforward_size"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TaskConfig):
    vocab_size: int = 50265
    hidden_size: int = 1024
    num_layers: int = 12
    num_heads: int = 16
    feedforward_size: int = 4096
    num_decoder_layers: int | None = None  # these three: as the encoder's
    num_decoder_heads: int | None = None
    decoder_feedforward_size: int | None = None
    max_length: int = 1024
    activation: str = "gelu"
    scale_embedding: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.0
    feedforward_dropout: float = 0.0
    classifier_dropout: float = 0.0
    num_labels: int = 3
    has_logits_bias: bool = told_by_tensors(True)
    bos_token_id: int | None = 0
    eos_token_id: tuple = (2,)
    pad_token_id: int | None = 1
    decoder_start_token_id: int | None = 2
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = 2

    def __post_init__(self):
        for name, size in AS_THE_ENCODER.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self, size))


PRESETS = {
    "bart-base": {"hidden_size": 768, "num_layers": 6, "num_heads": 12, "feedforward_size": 3072},
    "bart-large": {},
    "bart-large-cnn": {"vocab_size": 50264, "forced_bos_token_id": 0},
    "distilbart-cnn-12-6": {"vocab_size": 50264, "num_decoder_layers": 6, "forced_bos_token_id": 0},
}


class BARTAttention(Layer):
    """softmax(Q Kᵀ / √H) V. Keys and values are of x itself, or stand in a memory of the source."""

    def __init__(self, config, num_heads, **kwargs):
        super().__init__(**kwargs)
        if config.hidden_size % num_heads:
            raise ValueError(f"{num_heads} heads can't share hidden_size={config.hidden_size} evenly.")
        self.num_heads, self.head_size = num_heads, config.hidden_size // num_heads
        self.query, self.key, self.value, self.out = (layers.Dense(config.hidden_size) for _ in range(4))
        self.dropout = Dropout(config.attention_dropout)

    def call(self, x, visible=None, memory=None, cache=None, is_causal=False, training=False):
        q = split_heads(self.query(x), self.num_heads)
        k, v, cache = remember(cache, *self.keys_values(x)) if memory is None else (*memory, None)
        drop = self.dropout if training and self.dropout.rate else None
        return self.out(merge_heads(attention(q, k, v, visible, is_causal=is_causal, drop=drop))), cache

    def keys_values(self, x):
        """(B, S, D) → (B, S, N, H) twice."""
        return tuple(split_heads(part(x), self.num_heads) for part in (self.key, self.value))


class BARTEncoderBlock(Layer):
    """x ← norm(x + attention(x)), then x ← norm(x + feedforward(x))."""

    def __init__(self, config, num_heads, feedforward_size, **kwargs):
        super().__init__(**kwargs)
        self.attention = BARTAttention(config, num_heads)
        self.attention_norm = layers.LayerNormalization(epsilon=EPSILON)
        activation = ACTIVATIONS[config.activation]
        self.feedforward = layers.FeedForward(feedforward_size, activation, dropout=config.feedforward_dropout)
        self.feedforward_norm = layers.LayerNormalization(epsilon=EPSILON)
        self.dropout = Dropout(config.dropout)

    def call(self, x, visible=None):
        attended, _ = self.attention(x, visible)
        x = self.attention_norm(x + self.dropout(attended))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class BARTDecoderBlock(BARTEncoderBlock):
    """The same, and between the two x ← norm(x + cross_attention(x, source))."""

    def __init__(self, config, num_heads, feedforward_size, **kwargs):
        super().__init__(config, num_heads, feedforward_size, **kwargs)
        self.cross_attention = BARTAttention(config, num_heads)
        self.cross_attention_norm = layers.LayerNormalization(epsilon=EPSILON)

    def call(self, x, visible=None, memory=None, cache=None):
        attended, cache = self.attention(x, visible, cache=cache, is_causal=visible is None)
        x = self.attention_norm(x + self.dropout(attended))
        *memory, source_visible = memory
        read, _ = self.cross_attention(x, source_visible, memory=memory)
        x = self.cross_attention_norm(x + self.dropout(read))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x))), cache


@public
class BART(EncoderDecoder):
    """The backbone: source (B, S) and target (B, T) → the target's hidden states (B, T, D)."""

    Config, presets = Config, PRESETS

    def make_layers(self):
        config = self.config
        self.token_embedding = layers.Embedding(config.vocab_size, config.hidden_size)
        self.scale = config.hidden_size**0.5 if config.scale_embedding else 1.0
        self.dropout = Dropout(config.dropout)
        self.encoder_position_embedding = layers.PositionEmbedding(config.max_length + OFFSET)
        self.encoder_embedding_norm = layers.LayerNormalization(epsilon=EPSILON)
        sizes = config.num_heads, config.feedforward_size
        self.encoder_blocks = [BARTEncoderBlock(config, *sizes) for _ in range(config.num_layers)]
        self.decoder_position_embedding = layers.PositionEmbedding(config.max_length + OFFSET)
        self.decoder_embedding_norm = layers.LayerNormalization(epsilon=EPSILON)
        sizes = config.num_decoder_heads, config.decoder_feedforward_size
        self.decoder_blocks = [BARTDecoderBlock(config, *sizes) for _ in range(config.num_decoder_layers)]

    def encode(self, inputs):
        input_ids, padding = self.unpack(inputs, "input_ids", "attention_mask")
        x = self.token_embedding(input_ids) * self.scale
        x = x + self.encoder_position_embedding(x, masking.positions_of(input_ids, padding) + OFFSET)
        x, visible = self.dropout(self.encoder_embedding_norm(x)), source_mask(padding)
        for block in self.encoder_blocks:
            x = block(x, visible)
        return x, padding

    def decode(self, input_ids, positions, visible=None, cache=None, memory=None):
        x = self.token_embedding(input_ids) * self.scale
        x = x + self.decoder_position_embedding(x, positions + OFFSET)
        x = self.dropout(self.decoder_embedding_norm(x))
        cache = list(cache or [None] * len(self.decoder_blocks))
        for i, block in enumerate(self.decoder_blocks):
            x, cache[i] = block(x, visible, memory=of_block(memory, i), cache=cache[i])
        return x, cache


@public
class BARTSeq2SeqLM(Seq2SeqLM):
    """BART with its head: source (B, S) and target (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = BART

    def make_head(self):
        head = layers.CausalLMHead(self.config.vocab_size, tied=True, use_bias=self.config.has_logits_bias)
        head.build((None, None, self.config.hidden_size))
        if head.bias is not None:
            head.bias.trainable = False
        return head


@public
class BARTSequenceClassifier(Seq2SeqModel):
    """Logits (B, labels) of what kind a text is.   Raises `ValueError` for a text without an end-of-text token."""

    Config, presets = Config, PRESETS
    inputs_taken = ("input_ids", "attention_mask")

    def make_layers(self):
        config = self.config
        self.backbone = BART(**vars(config), name="backbone")
        self.dense = layers.Dense(config.hidden_size, "tanh")
        self.dropout = Dropout(config.classifier_dropout)
        self.head = layers.Dense(config.num_labels)

    @barely
    def call(self, inputs, training=None):
        input_ids, padding = self.unpack(inputs, "input_ids", "attention_mask")
        last = self.last_end(input_ids)
        target = shift_right(input_ids, self.config.decoder_start_token_id, self.config.pad_token_id)
        both = {"input_ids": input_ids, "decoder_input_ids": target}
        if padding is not None:  # the target begins where its row begins
            is_first = ops.logical_and(ops.equal(ops.cumsum(padding, axis=1), 1), ops.cast(padding, "bool"))
            both["decoder_input_ids"] = ops.where(is_first, self.config.decoder_start_token_id, target)
            both |= {"attention_mask": padding, "decoder_attention_mask": padding}
        hidden = ops.take_along_axis(self.backbone(both), last[:, None, None], axis=1)[:, 0]
        return self.head(self.dropout(self.dense(self.dropout(hidden))))

    def last_end(self, input_ids):
        """Where each row's last end-of-text token stands.   (B, T) → (B,)."""
        is_end = ops.equal(input_ids, self.config.eos_token_id[0])
        is_real = backend.is_concrete(input_ids) and not in_symbolic_scope()
        if is_real and not ops.convert_to_numpy(is_end).any(axis=1).all():
            raise ValueError(f"{type(self).__name__}: each text needs an end-of-text token {self.config.eos_token_id}.")
        places = ops.arange(input_ids.shape[1], dtype="int32")
        return ops.max(ops.where(is_end, places, 0), axis=1)


SAME = ("vocab_size", "scale_embedding", "dropout", "attention_dropout", "classifier_dropout")
FIELDS = {  # in config.json: in `Config`
    **{name: name for name in SAME},
    "d_model": "hidden_size",
    "encoder_layers": "num_layers",
    "encoder_attention_heads": "num_heads",
    "encoder_ffn_dim": "feedforward_size",
    "decoder_layers": "num_decoder_layers",
    "decoder_attention_heads": "num_decoder_heads",
    "decoder_ffn_dim": "decoder_feedforward_size",
    "max_position_embeddings": "max_length",
    "activation_function": "activation",
    "activation_dropout": "feedforward_dropout",
}
FORCED = ("forced_bos_token_id", "forced_eos_token_id")


def stack(part):
    """The rows of the encoder, or of the decoder."""
    return [
        (f"{part}.embed_positions.weight", f"{part}_position_embedding.embeddings"),
        *norm_rows(f"{part}.layernorm_embedding", f"{part}_embedding_norm"),
        *block_rows(part),
    ]


as_row = Transform(lambda tensor, shapes: [tensor[0]], lambda arrays: np.asarray(arrays[0])[None])
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


def read(fields, config):
    """The labels, of which there are three where the file says nothing, and the tokens that are forced."""
    plain = {name for name in ("id2label", "num_labels", "_num_labels") if fields.get(name) is not None}
    found = read_labels(fields, config) | ({} if plain else {"num_labels": Config.num_labels})
    for name in FORCED:
        default = None if name in fields.values else getattr(Config, name)
        found[name] = fields.checked(name, default, "a token id", lambda v: v is None or isinstance(v, int) and v >= 0)
    return found


def write(config, values):
    values |= {"eos_token_id": config.eos_token_id[0]} if len(config.eos_token_id) == 1 else {}
    return write_labels(config, values) | {name: getattr(config, name) for name in FORCED}


FAMILY = Family(
    model_types=("bart",),
    tasks={"backbone": BART, "seq2seq_lm": BARTSeq2SeqLM, "sequence_classifier": BARTSequenceClassifier},
    architectures={"BartModel": "backbone", "BartForConditionalGeneration": "seq2seq_lm",
                   "BartForSequenceClassification": "sequence_classifier"},
    fields=FIELDS,
    choices={"activation": ACTIVATIONS},
    expected={"add_bias_logits": (False,), "add_final_layer_norm": (False,), "normalize_before": (False,),
              "normalize_embedding": (True,), "static_position_embeddings": (False,), "tie_word_embeddings": (True,)},
    harmless=("encoder_layerdrop", "decoder_layerdrop", "init_std", "num_hidden_layers", "classif_dropout",
              "gradient_checkpointing", "force_bos_token_to_be_generated", "output_past", "prefix",
              "extra_pos_embeddings", "replacing_rate", "student_decoder_layers", "student_encoder_layers"),
    weights=[("shared.weight", "token_embedding.embeddings"), *stack("encoder"), *stack("decoder")],
    heads={"seq2seq_lm": [("final_logits_bias", "head.bias", as_row)],
           "sequence_classifier": linear_rows("classification_head.dense", "dense")
           + linear_rows("classification_head.out_proj", "head")},
    prefix="model.",
    ignored=(r"(encoder|decoder)\.version",),
    repeated=dict.fromkeys([prefix + name for prefix in ("", "model.") for name in TIED], "shared.weight"),
    read=read,
    write=write,
    look=lambda tensors, config: {"has_logits_bias": "final_logits_bias" in tensors.names()},
).register()  # fmt: skip
