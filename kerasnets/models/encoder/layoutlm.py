"""LayoutLM: BERT that also sees where on the page each word stands.

Xu et al. 2019, arXiv:1912.13318. Forms and receipts 表单: the same words mean other things elsewhere. Against BERT:
- `bbox` (B, T, 4) holds each token's box x₀, y₀, x₁, y₁, in thousandths of the page, 0 at the top left.
- A table for places across, one for places down, one for heights and one for widths are added to BERT's three.
- Tokens without a place, as [CLS] and padding, stand at (0, 0, 0, 0) unless the data says otherwise.
"""

import dataclasses

import numpy as np
from keras import ops

from kerasnets import encoder, encoder_files, guard
from kerasnets.checkpoint import Family
from kerasnets.encoder_files import sizes
from kerasnets.layers.layer import Layer, public
from kerasnets.models.encoder import bert
from kerasnets.models.encoder.bert import COMMON, FIELDS, WEIGHTS

PAGE = 1000  # a page's width and its height, in the units of a box


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(bert.Config):
    max_places: int = 1024  # rows of the tables of places, of which a box reaches those up to `PAGE`


PRESETS = {"layoutlm-base-uncased": {}, "layoutlm-large-uncased": sizes(24, 1024, 16, 4096)}


class BoxEmbedding(Layer):
    """y = X[x₀] + Y[y₀] + X[x₁] + Y[y₁] + H[y₁ − y₀] + W[x₁ − x₀].   (B, T, 4) → (B, T, D)."""

    reads_token_ids = True  # for the guard: boxes, too, are rows of tables

    def __init__(self, max_places, hidden_size, **kwargs):
        super().__init__(**kwargs)
        self.max_places, self.hidden_size = max_places, hidden_size

    def build(self, *_):
        shape = (self.max_places, self.hidden_size)
        self.across, self.down, self.height, self.width = (
            self.make_weight(name, shape, initializer="uniform") for name in ("across", "down", "height", "width")
        )

    def call(self, bbox):
        guard.check_token_ids(bbox, min(PAGE, self.max_places - 1) + 1, f"Layer {self.name!r}: bbox")
        x0, y0, x1, y1 = (bbox[..., i] for i in range(4))
        rows = ((self.across, x0), (self.down, y0), (self.across, x1), (self.down, y1))
        rows += ((self.height, y1 - y0), (self.width, x1 - x0))
        return sum(ops.take(table, row, axis=0) for table, row in rows)


@public
class LayoutLM(bert.BERT):
    """The backbone: ids (B, T) and boxes (B, T, 4) → hidden states (B, T, D). All boxes are (0, 0, 0, 0) unless given.

    Raises `ValueError` for boxes of another shape, outside the page, or whose right or lower edge comes first.
    """

    Config, presets = Config, PRESETS
    extra_inputs, always_pools = ("bbox",), True

    def make_layers(self):
        super().make_layers()
        self.box_embedding = BoxEmbedding(self.config.max_places, self.config.hidden_size)

    def encode(self, input_ids, segments, positions, padding, bbox=None):
        if bbox is None:
            bbox = ops.zeros((1, 1, 4), "int32")
        else:
            check_boxes(bbox, input_ids)
        x = self.embedding(input_ids, segments, positions, self.box_embedding(bbox))
        return self.through_blocks(x, padding)


def check_boxes(bbox, input_ids):
    """Raise if the boxes are not (B, T, 4), or, where their values can be seen, not from top left to bottom right."""
    expected, found = (*input_ids.shape, 4), tuple(bbox.shape)
    if len(found) != 3 or any(None not in (e, f) and e != f for e, f in zip(expected, found, strict=True)):
        raise ValueError(f"LayoutLM: `bbox` must be {expected}, x₀ y₀ x₁ y₁ of each token; it has the shape {found}.")
    if guard.looks_at(bbox):
        boxes = ops.convert_to_numpy(bbox)
        wrong = (boxes[..., 2:] < boxes[..., :2]).any(-1)
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            box = boxes[place].tolist()
            raise ValueError(f"LayoutLM: `bbox` must be x₀ y₀ x₁ y₁, x₀ ≤ x₁ and y₀ ≤ y₁; at {place} it is {box}.")


@public
class LayoutLMMaskedLM(encoder.MaskedLM):
    """LayoutLM that fills in hidden words whose places are seen: ids (B, T) → logits (B, T, V)."""

    Backbone = LayoutLM


@public
class LayoutLMSequenceClassifier(encoder.SequenceClassifier):
    """LayoutLM that says of which kind a page is: ids (B, T) → logits (B, labels)."""

    Backbone = LayoutLM


@public
class LayoutLMTokenClassifier(encoder.TokenClassifier):
    """LayoutLM that says what each word of a page is, as a heading or an answer: ids (B, T) → logits (B, T, labels)."""

    Backbone = LayoutLM


@public
class LayoutLMQuestionAnswerer(encoder.QuestionAnswerer):
    """LayoutLM that finds the answer on a page: ids (B, T) → logits (B, T, 2) of its first and its last token."""

    Backbone = LayoutLM


TABLES = {"x": "across", "y": "down", "h": "height", "w": "width"}

FAMILY = Family(
    model_types=("layoutlm",),
    tasks=encoder_files.tasks(LayoutLM, LayoutLMMaskedLM, LayoutLMSequenceClassifier, LayoutLMTokenClassifier,
                        LayoutLMQuestionAnswerer),
    architectures=encoder_files.architectures("LayoutLM"),
    fields=FIELDS | {"max_2d_position_embeddings": "max_places"},
    weights=WEIGHTS + [(f"embeddings.{theirs}_position_embeddings.weight", f"box_embedding.{ours}")
                       for theirs, ours in TABLES.items()],
    heads=bert.heads("layoutlm."),
    prefix="layoutlm.",
    repeated={"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
              "cls.predictions.decoder.bias": "cls.predictions.bias"},
    **COMMON,
).register()  # fmt: skip
