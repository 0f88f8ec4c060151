"""DeBERTa v2 and v3: distances in buckets, and projections that contents and positions share.

He et al. 2020, arXiv:2006.03654 (v2), and 2021, arXiv:2111.09543 (v3, trained to find replaced words). Against DeBERTa:
- Query, key and value are three matrices with biases; the two largest v2 and all v3 project positions with the same.
- Near distances have a row each, further ones share one in steps that grow, so that 512 rows do for any text.
- The table of distances goes through a norm.
- v2 adds what a convolution sees of the embeddings to the output of the first block: neighbours make one word.
"""

import dataclasses

import numpy as np
from keras import ops

from kerasnets import encoder, encoder_files, layers
from kerasnets.checkpoint import Family, Transform
from kerasnets.encoder import without_padding
from kerasnets.encoder_files import layer, norm, sizes
from kerasnets.layers import masking
from kerasnets.layers.activations import ACTIVATIONS
from kerasnets.layers.attention import split_heads
from kerasnets.layers.disentangled import distances, log_buckets, rows_of
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, public
from kerasnets.models.encoder import deberta
from kerasnets.models.encoder.deberta import BLOCK, COMMON, FIELDS, OURS, SHARED_WEIGHTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(deberta.Config):
    vocab_size: int = 128100
    num_buckets: int | None = 256  # to either side; None: each distance has a row of its own
    norm_distances: bool = True
    share_projections: bool = True  # of contents and positions
    convolution_size: int | None = None  # how many tokens it sees, an odd number; None: there is none
    convolution_groups: int = 1
    convolution_activation: str = "tanh"


V2 = {"convolution_size": 3, "convolution_activation": "gelu"}
PRESETS = {
    "deberta-v2-xlarge": V2 | sizes(24, 1536, 24, 6144),
    "deberta-v2-xxlarge": V2 | sizes(48, 1536, 24, 6144),
    "deberta-v3-xsmall": sizes(12, 384, 6, 1536),
    "deberta-v3-small": sizes(6, 768, 12, 3072),
    "deberta-v3-base": {},
    "deberta-v3-large": sizes(24, 1024, 16, 4096),
    "mdeberta-v3-base": {"vocab_size": 251000},
}


class DeBERTaV2Attention(deberta.DeBERTaAttention):
    """Disentangled self-attention with three projections, which positions may share."""

    def make_projections(self, config):
        width, self.terms, self.shares = config.hidden_size, config.terms, config.share_projections
        self.query, self.key, self.value = (layers.Dense(width) for _ in range(3))
        has_own = config.relative_positions and not self.shares
        self.position_query = layers.Dense(width) if has_own and "p2c" in self.terms else None
        self.position_key = layers.Dense(width) if has_own and "c2p" in self.terms else None

    def project(self, x):
        return tuple(split_heads(project(x), self.num_heads) for project in (self.query, self.key, self.value))

    def position_projections(self):
        if not self.shares:
            return self.position_query, self.position_key
        return self.query if "p2c" in self.terms else None, self.key if "c2p" in self.terms else None


class DeBERTaV2Block(deberta.DeBERTaBlock):
    """x ← norm(x + attention(x)), then x ← norm(x + feedforward(x))."""

    Attention = DeBERTaV2Attention


class NeighbourConvolution(Layer):
    """norm(y + φ(conv(x))), x the embeddings, y the first block's output.   (B, T, D), (B, T, D) → (B, T, D)."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        size, groups = config.convolution_size, config.convolution_groups
        self.convolution = layers.Conv1D(config.hidden_size, size, padding="same", groups=groups)
        self.activation = ACTIVATIONS[config.convolution_activation]
        self.norm = layers.LayerNormalization(epsilon=config.epsilon)
        self.dropout = Dropout(config.dropout)

    def call(self, x, y, padding=None):
        seen = without_padding(self.convolution(x), padding)
        return without_padding(self.norm(y + self.activation(self.dropout(seen))), padding)


@public
class DeBERTaV2(deberta.DeBERTa):
    """The backbone, of v3 too: ids (B, T) → hidden states (B, T, D)."""

    Config, presets, Block = Config, PRESETS, DeBERTaV2Block

    def make_layers(self):
        super().make_layers()
        config = self.config
        self.distance_norm = layers.LayerNormalization(epsilon=config.epsilon) if config.norm_distances else None
        if self.distance_norm:
            self.distance_norm.build((None, config.hidden_size))
        self.convolution = NeighbourConvolution(config) if config.convolution_size else None

    @property
    def span(self):
        return self.config.num_buckets or super().span

    def encode(self, input_ids, segments, positions, padding):
        x = embedded = without_padding(self.embedding(input_ids, segments, positions), padding)
        visible = None if padding is None else masking.combined(masking.padding_mask(padding))
        table, rows = self.distances_within(input_ids)
        for i, block in enumerate(self.blocks):
            x = block(x, table, rows, visible)
            if i == 0 and self.convolution is not None:
                x = self.convolution(embedded, x, padding)
        return x

    def distances_within(self, input_ids):
        if self.distance_embedding is None:
            return None, None
        length, buckets = input_ids.shape[1], self.config.num_buckets
        is_near = length is not None and length <= (buckets // 2 if buckets else self.span)
        span = length if is_near else self.span
        table = self.distance_embedding.embeddings[self.span - span : self.span + span]
        table = ops.cast(table, self.compute_dtype) if self.distance_norm is None else self.distance_norm(table)
        distance = distances(ops.shape(input_ids)[1])
        if buckets:
            distance = log_buckets(distance, buckets, self.config.max_distance or self.config.max_length)
        return table, rows_of(distance, span)


@public
class DeBERTaV2MaskedLM(deberta.DeBERTaMaskedLM):
    """DeBERTa v2 or v3 that fills in hidden words: ids (B, T) → logits (B, T, V)."""

    Backbone = DeBERTaV2


@public
class DeBERTaV2SequenceClassifier(deberta.DeBERTaSequenceClassifier):
    """DeBERTa v2 or v3 that says of which kind a text, or a pair of texts, is: ids (B, T) → logits (B, labels)."""

    Backbone = DeBERTaV2


@public
class DeBERTaV2TokenClassifier(encoder.TokenClassifier):
    """DeBERTa v2 or v3 that says of which kind each token is: ids (B, T) → logits (B, T, labels)."""

    Backbone = DeBERTaV2


@public
class DeBERTaV2QuestionAnswerer(encoder.QuestionAnswerer):
    """DeBERTa v2 or v3 that finds the answer: ids (B, T) → logits (B, T, 2) of its first and its last token."""

    Backbone = DeBERTaV2


# A torch convolution is [out, in, places] where a kernel is (places, in, out).
convolved = Transform(
    lambda tensor, shapes: [np.transpose(tensor, (2, 1, 0))], lambda arrays: arrays[0].transpose(2, 1, 0)
)

WEIGHTS = SHARED_WEIGHTS + [
    *layer(BLOCK + "attention.self.query_proj", OURS + "attention.query"),
    *layer(BLOCK + "attention.self.key_proj", OURS + "attention.key"),
    *layer(BLOCK + "attention.self.value_proj", OURS + "attention.value"),
    *layer(BLOCK + "attention.self.pos_key_proj", OURS + "attention.position_key"),
    *layer(BLOCK + "attention.self.pos_query_proj", OURS + "attention.position_query"),
    *norm("encoder.LayerNorm", "distance_norm"),
    ("encoder.conv.conv.weight", "convolution.convolution.kernel", convolved),
    ("encoder.conv.conv.bias", "convolution.convolution.bias"),
    *norm("encoder.conv.LayerNorm", "convolution.norm"),
]


def read(fields, config):
    """What v2 adds, most of which is absent where it is not done."""
    absent = {"share_projections": False, "convolution_groups": 1, "convolution_activation": "tanh"}
    absent |= sizes(24, 1536, 24, 6144)
    config = absent | deberta.read(fields, config)
    kinds = {"none": False, "layer_norm": True}
    is_normed = kinds.get(fields.text("norm_rel_ebd", tuple(kinds), "none"), False)
    buckets = fields.checked("position_buckets", -1, "an integer", lambda v: isinstance(v, int))
    size = fields.checked("conv_kernel_size", 0, "an odd number, or 0", lambda v: v == 0 or v > 0 and v % 2)
    if fields.get("attention_head_size") not in (None, config["hidden_size"] // config["num_heads"]):
        fields.refuse("attention_head_size is not hidden_size / num_attention_heads, which alone is done here")
    found = {"num_buckets": buckets if buckets > 0 else None, "convolution_size": size or None}
    return config | found | {"norm_distances": is_normed}


def write(config, values):
    more = {"position_buckets": config.num_buckets or -1, "conv_kernel_size": config.convolution_size or 0}
    return deberta.write(config, values) | more | {"norm_rel_ebd": "layer_norm" if config.norm_distances else "none"}


FAMILY = Family(
    model_types=("deberta-v2",),
    tasks=encoder_files.tasks(DeBERTaV2, DeBERTaV2MaskedLM, DeBERTaV2SequenceClassifier, DeBERTaV2TokenClassifier,
                        DeBERTaV2QuestionAnswerer),
    architectures=encoder_files.architectures("DebertaV2"),
    fields=FIELDS | {"share_att_key": "share_projections", "conv_groups": "convolution_groups",
                     "conv_act": "convolution_activation"},
    weights=WEIGHTS,
    read=read,
    write=write,
    **{**COMMON, "choices": COMMON["choices"] | {"convolution_activation": ACTIVATIONS}},
).register()  # fmt: skip
