"""DeBERTa: an encoder whose attention keeps what a token is apart from where it stands.

He et al. 2020, arXiv:2006.03654. Against BERT:
- Nothing of the position is added to the tokens: attention has two terms more, of content and relative position.
- A table of relative positions, i − j, that all blocks share and each of them projects for itself.
- Query, key and value come out of one matrix, head by head; the keys have no bias.
- What stands in place of padding is zero, and classifiers read the first token through a layer with GELU.
"""

import dataclasses
import math

from keras import ops

from kerasnets import encoder, encoder_files, layers
from kerasnets.checkpoint import Family, transposed
from kerasnets.encoder import without_padding
from kerasnets.encoder_files import layer, masked_lm_rows, norm, read_labels, sizes, write_labels
from kerasnets.layers import masking
from kerasnets.layers.activations import ACTIVATIONS
from kerasnets.layers.attention import attention, merge_heads, split_heads
from kerasnets.layers.disentangled import distances, position_bias, rows_of
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, public

TERMS = ("c2p", "p2c")  # content to position, position to content


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(encoder.TaskConfig):
    vocab_size: int = 50265
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feedforward_size: int = 3072
    max_length: int = 512  # of the texts it was trained on
    num_segments: int = 0
    absolute_positions: bool = False  # a table of them, added to the tokens
    relative_positions: bool = True
    max_distance: int | None = None  # rows of the table of distances to either side; as many as max_length
    terms: tuple = TERMS
    activation: str = "gelu"
    pooler_activation: str = "gelu"
    epsilon: float = 1e-7
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pooler_dropout: float = 0.0
    legacy: bool = False  # names of the masked LM's head in the file
    bos_token_id: int | None = None
    eos_token_id: tuple = ()
    pad_token_id: int | None = 0


PRESETS = {
    "deberta-base": {},
    "deberta-large": sizes(24, 1024, 16, 4096),
    "deberta-xlarge": sizes(48, 1024, 16, 4096),
}


class DeBERTaAttention(Layer):
    """Self-attention both ways, of contents and relative positions: see `kerasnets.layers.disentangled`."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = config.num_heads
        self.scale = 1 / math.sqrt(config.hidden_size // config.num_heads * (1 + len(config.terms)))
        self.make_projections(config)
        self.out = layers.Dense(config.hidden_size)
        self.dropout = Dropout(config.attention_dropout)
        self.position_dropout = Dropout(config.dropout)

    def make_projections(self, config):
        width = config.hidden_size
        self.query_key_value = layers.Dense(3 * width, use_bias=False)
        self.query_bias = self.make_weight("query_bias", (width,), initializer="zeros")
        self.value_bias = self.make_weight("value_bias", (width,), initializer="zeros")
        terms = config.terms if config.relative_positions else ()
        self.position_query = layers.Dense(width) if "p2c" in terms else None
        self.position_key = layers.Dense(width, use_bias=False) if "c2p" in terms else None

    def project(self, x):
        """(B, T, D) → q, k and v, (B, T, N, H) each."""
        q, k, v = ops.split(split_heads(self.query_key_value(x), self.num_heads), 3, axis=-1)
        q_bias, v_bias = (ops.reshape(b, (self.num_heads, -1)) for b in (self.query_bias, self.value_bias))
        return q + q_bias, k, v + v_bias

    def position_projections(self):
        return self.position_query, self.position_key

    def call(self, x, distance_table=None, rows=None, visible=None, training=False):
        q, k, v = self.project(x)
        bias = None
        if distance_table is not None:
            table = self.position_dropout(distance_table)
            places = (p and split_heads(p(table), self.num_heads) for p in self.position_projections())
            bias = position_bias(q, k, *places, rows, self.scale)
        drop = self.dropout if training and self.dropout.rate else None
        return self.out(merge_heads(attention(q, k, v, visible, bias, self.scale, drop=drop)))


class DeBERTaBlock(Layer):
    """x ← norm(x + attention(x)), then x ← norm(x + feedforward(x))."""

    Attention = DeBERTaAttention

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.attention = self.Attention(config)
        self.attention_norm = layers.LayerNormalization(epsilon=config.epsilon)
        self.feedforward = layers.FeedForward(config.feedforward_size, ACTIVATIONS[config.activation])
        self.feedforward_norm = layers.LayerNormalization(epsilon=config.epsilon)
        self.dropout = Dropout(config.dropout)

    def call(self, x, distance_table=None, rows=None, visible=None):
        x = self.attention_norm(x + self.dropout(self.attention(x, distance_table, rows, visible)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


@public
class DeBERTa(encoder.Encoder):
    """The backbone: ids (B, T) → hidden states (B, T, D). Without absolute positions it reads texts of any length."""

    Config, presets, Block = Config, PRESETS, DeBERTaBlock

    def make_layers(self):
        config = self.config
        if config.hidden_size % config.num_heads:
            raise ValueError(f"{config.num_heads} heads can't share hidden_size={config.hidden_size} evenly.")
        positions = config.max_length if config.absolute_positions else None
        rows = (config.vocab_size, config.hidden_size, positions, config.num_segments)
        self.embedding = layers.BERTEmbedding(*rows, config.dropout, config.epsilon)
        self.distance_embedding = None
        if config.relative_positions:
            self.distance_embedding = layers.Embedding(2 * self.span, config.hidden_size)
            self.distance_embedding.build()
        self.blocks = [self.Block(config) for _ in range(config.num_layers)]

    def check_length(self, length):
        if self.config.absolute_positions:
            super().check_length(length)

    def encode(self, input_ids, segments, positions, padding):
        x = without_padding(self.embedding(input_ids, segments, positions), padding)
        visible = None if padding is None else masking.combined(masking.padding_mask(padding))
        table, rows = self.distances_within(input_ids)
        for block in self.blocks:
            x = block(x, table, rows, visible)
        return x

    @property
    def span(self):
        return self.config.max_distance or self.config.max_length

    def distances_within(self, input_ids):
        """(the rows of the table that texts of this length need, which of them i and j have (T, T))."""
        if self.distance_embedding is None:
            return None, None
        span = min(input_ids.shape[1] or self.span, self.span)
        table = self.distance_embedding.embeddings[self.span - span : self.span + span]
        return ops.cast(table, self.compute_dtype), rows_of(distances(ops.shape(input_ids)[1]), span)


@public
class DeBERTaMaskedLM(encoder.MaskedLM):
    """DeBERTa that fills in hidden words: ids (B, T) → logits (B, T, V)."""

    Backbone = DeBERTa

    @property
    def heads_key(self):
        return "masked_lm" if self.config.legacy else "masked_lm/released"


@public
class DeBERTaSequenceClassifier(encoder.SequenceClassifier):
    """DeBERTa that says of which kind a text, or a pair of texts, is: ids (B, T) → logits (B, labels)."""

    Backbone = DeBERTa

    def make_head(self):
        self.pooler = layers.FirstTokenPooler(ACTIVATIONS[self.config.pooler_activation])
        self.pooler_dropout = Dropout(self.config.pooler_dropout)
        super().make_head()

    def pool(self, hidden, padding):
        return self.pooler(self.pooler_dropout(hidden), padding)


@public
class DeBERTaTokenClassifier(encoder.TokenClassifier):
    """DeBERTa that says of which kind each token is: ids (B, T) → logits (B, T, labels)."""

    Backbone = DeBERTa


@public
class DeBERTaQuestionAnswerer(encoder.QuestionAnswerer):
    """DeBERTa that finds the answer in a text: ids (B, T) → logits (B, T, 2) of its first and its last token."""

    Backbone = DeBERTa


FIELDS = encoder_files.FIELDS | {  # in config.json: in `Config`
    "position_biased_input": "absolute_positions",
    "relative_attention": "relative_positions",
    "pooler_hidden_act": "pooler_activation",
    "pooler_dropout": "pooler_dropout",
    "cls_dropout": "classifier_dropout",
    "legacy": "legacy",
}

BLOCK, OURS = "encoder.layer.{i}.", "blocks.{i}."
SHARED_WEIGHTS = [  # in the file, in the model; without the attention's
    ("embeddings.word_embeddings.weight", "embedding.token_embedding.embeddings"),
    ("embeddings.position_embeddings.weight", "embedding.position_embedding.embeddings"),
    ("embeddings.token_type_embeddings.weight", "embedding.segment_embedding.embeddings"),
    *norm("embeddings.LayerNorm", "embedding.norm"),
    ("encoder.rel_embeddings.weight", "distance_embedding.embeddings"),
    *layer(BLOCK + "attention.output.dense", OURS + "attention.out"),
    *norm(BLOCK + "attention.output.LayerNorm", OURS + "attention_norm"),
    *layer(BLOCK + "intermediate.dense", OURS + "feedforward.wide"),
    *layer(BLOCK + "output.dense", OURS + "feedforward.narrow"),
    *norm(BLOCK + "output.LayerNorm", OURS + "feedforward_norm"),
]
WEIGHTS = SHARED_WEIGHTS + [
    (BLOCK + "attention.self.in_proj.weight", OURS + "attention.query_key_value.kernel", transposed),
    (BLOCK + "attention.self.q_bias", OURS + "attention.query_bias"),
    (BLOCK + "attention.self.v_bias", OURS + "attention.value_bias"),
    (BLOCK + "attention.self.pos_proj.weight", OURS + "attention.position_key.kernel", transposed),
    *layer(BLOCK + "attention.self.pos_q_proj", OURS + "attention.position_query"),
]
CLS, LM = "cls.predictions.", "lm_predictions.lm_head."
HEADS = {
    "masked_lm": masked_lm_rows(CLS + "transform.dense", CLS + "transform.LayerNorm", CLS + "bias"),
    "masked_lm/released": masked_lm_rows(LM + "dense", LM + "LayerNorm", LM + "bias"),
    "sequence_classifier": [*layer("pooler.dense", "pooler.dense"), *layer("classifier", "head")],
    "token_classifier": layer("classifier", "head"),
    "question_answerer": layer("qa_outputs", "head"),
}


def read(fields, config):
    """The terms, which have two spellings, and what may be none; for absent fields, what transformers takes."""
    config = {"relative_positions": False, "absolute_positions": True, **read_labels(fields, config)}
    terms = fields.get("pos_att_type", ())
    terms = tuple(term.strip() for term in terms.lower().split("|")) if isinstance(terms, str) else tuple(terms)
    if len({*terms}) != len(terms) or not {*terms} <= {*TERMS}:
        fields.refuse(f"pos_att_type is {terms}, and only {TERMS} are done here, each once")
    segments = fields.checked("type_vocab_size", 0, "a number of segments", lambda v: isinstance(v, int) and v >= 0)
    distance = fields.checked("max_relative_positions", -1, "an integer", lambda v: isinstance(v, int))
    for name in ("pooler_hidden_size", "embedding_size"):
        if (value := fields.get(name)) not in (None, config.get("hidden_size", Config.hidden_size)):
            fields.refuse(f"{name} is {value!r}, and only hidden_size is done here")
    distance = distance if isinstance(distance, int) and distance > 0 else None
    return config | {"terms": terms, "num_segments": segments, "max_distance": distance}


def write(config, values):
    values = write_labels(config, values) | {"pos_att_type": list(config.terms), "type_vocab_size": config.num_segments}
    return values | {"max_relative_positions": config.max_distance or -1, "pooler_hidden_size": config.hidden_size}


def head_of_file(tensors, config):
    """Which of its two names the masked LM's head has in the file: config.json may say it, and may be wrong."""
    starts = {LM: False, CLS: True}
    return next(({"legacy": starts[s]} for s in starts if any(n.startswith(s) for n in tensors.names())), {})


# Of v2's files too.
COMMON = dict(
    choices={"activation": ACTIVATIONS, "pooler_activation": ACTIVATIONS},
    expected={"tie_word_embeddings": (True,), "talking_head": (False,)},
    harmless=("padding_idx",),
    heads=HEADS,
    prefix="deberta.",
    # Left in the released files by their training: tables that nothing reads, and the head of another task.
    ignored=(r"embeddings\.position_ids", r".*\._weight", r"embeddings\.position_embeddings\.weight",
             r"mask_predictions\..*"),
    repeated={"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
              "cls.predictions.decoder.bias": "cls.predictions.bias"},
    look=head_of_file,
)  # fmt: skip

FAMILY = Family(
    model_types=("deberta",),
    tasks=encoder_files.tasks(DeBERTa, DeBERTaMaskedLM, DeBERTaSequenceClassifier, DeBERTaTokenClassifier,
                        DeBERTaQuestionAnswerer),
    architectures=encoder_files.architectures("Deberta"),
    fields=FIELDS, weights=WEIGHTS, read=read, write=write, **COMMON,
).register()  # fmt: skip
