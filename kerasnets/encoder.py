"""Encoders and their tasks: what understands a text, and the heads that ask it something.

A family writes `encode`, from the arrays of a batch to hidden states (B, T, D); the tasks are the same in each:
which words are hidden (`MaskedLM`), of which kind is the text (`SequenceClassifier`), of which kind is each token
(`TokenClassifier`), where does the answer stand (`QuestionAnswerer`).
"""

import dataclasses

import keras
from keras import ops

from kerasnets import layers, losses
from kerasnets.checkpoint import expanded
from kerasnets.encoder_files import ONE, PROBLEMS, REGRESSION, SEVERAL
from kerasnets.layers import masking
from kerasnets.layers.activations import ACTIVATIONS
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import public
from kerasnets.layers.reading import barely
from kerasnets.model import TextModel

INPUTS = ("input_ids", "token_type_ids", "position_ids", "attention_mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What the tasks' heads need to know; each family's `Config` adds its sizes."""

    num_labels: int = 2
    labels: tuple | None = None  # their names
    problem_type: str | None = None  # regression where there is one label, else one label of several
    classifier_dropout: float | None = None  # that of the blocks


class Encoder(TextModel):
    """The door of an encoder: ids → hidden states (B, T, D), each token seeing all that are not padding.

    A family writes `encode(input_ids, segments, positions, padding)`; its `extra_inputs` come by their names.
    Positions count from each row's first real token, so that rows padded left or right give what they give alone.
    """

    extra_inputs = ()
    always_pools = False  # whether the files of all tasks hold a pooler, read or not

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.inputs_taken = (*INPUTS, *cls.extra_inputs)

    @barely
    def call(self, inputs, training=None):
        input_ids, segments, positions, padding = self.unpack(inputs, *INPUTS)
        self.check_length(input_ids.shape[1])
        if positions is None:
            positions = self.positions_of(input_ids, padding)
        extra = {name: inputs.get(name) if isinstance(inputs, dict) else None for name in self.extra_inputs}
        return self.encode(input_ids, segments, positions, padding, **extra)

    def positions_of(self, input_ids, padding):
        places = masking.positions_of(input_ids)
        if padding is None:
            return places
        first = ops.argmax(ops.cast(padding, "int32"), axis=1)
        return ops.maximum(places - ops.cast(first, "int32")[:, None], 0)

    def check_length(self, length):
        if length is not None and length > self.config.max_length:
            raise ValueError(f"{type(self).__name__} reads at most {self.config.max_length} tokens; received {length}.")

    @property
    def token_embedding(self):
        return self.embedding.token_embedding


class EncoderTask(TextModel):
    """An encoder, `backbone`, with a head for one task."""

    Backbone = None
    reads_pooler = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.Backbone:
            cls.Config, cls.presets = cls.Backbone.Config, cls.Backbone.presets
            cls.inputs_taken = (*cls.Backbone.inputs_taken, *cls.extra_inputs)

    extra_inputs = ()

    def make_config(self, fields):
        config = super().make_config(fields)
        if config.labels is not None and len(config.labels) != config.num_labels:
            raise ValueError(f"{len(config.labels)} labels {config.labels} for num_labels={config.num_labels}.")
        if config.problem_type not in (None, *PROBLEMS):
            raise ValueError(f"problem_type must be one of {PROBLEMS} or None; received {config.problem_type!r}.")
        if not hasattr(config, "has_pooler"):
            return config
        has_pooler = self.reads_pooler or self.Backbone.always_pools and config.has_pooler
        return dataclasses.replace(config, has_pooler=has_pooler)

    def make_layers(self):
        config = self.config
        self.backbone = self.Backbone(**vars(config), name="backbone", is_part=True)
        rate = config.dropout if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = Dropout(rate)
        self.make_head()

    def encode(self, inputs):
        """The hidden states (B, T, D)."""
        self.unpack(inputs)
        if isinstance(inputs, dict):
            inputs = {name: array for name, array in inputs.items() if name not in self.extra_inputs}
        return self.backbone(inputs)

    @classmethod
    def from_backbone(cls, backbone, **changes):
        """A new head on a copy of a backbone that has learned something; `changes` are fields, as `num_labels`."""
        model = cls(**{**vars(backbone.config), **changes})
        rows = expanded(backbone.family.weights, model.backbone, "")
        for name, (_, weights) in expanded(backbone.family.weights, backbone, "").items():
            for ours, theirs in zip(rows.get(name, (None, []))[1], weights, strict=False):
                ours.assign(theirs)
        return model

    @property
    def label_names(self):
        """A name for each label."""
        return self.config.labels or tuple(f"LABEL_{i}" for i in range(self.config.num_labels))


class MaskedLM(EncoderTask):
    """Logits (B, T, V) of the token that stood, or stands, at each place.   Loss: cross-entropy where it is hidden.

    Given `mask_positions` (B, P), only those P places of each row are looked at: (B, P, V), for that much less work.
    """

    extra_inputs = ("mask_positions",)

    def make_head(self):
        config = self.config
        activation = ACTIVATIONS[config.activation]
        self.head = layers.MaskedLMHead(config.vocab_size, tied=True, activation=activation, epsilon=config.epsilon)

    @barely
    def call(self, inputs, training=None):
        hidden = self.encode(inputs)
        places = inputs.get("mask_positions") if isinstance(inputs, dict) else None
        return self.head(hidden, self.backbone.token_embedding.embeddings, places)

    def make_loss(self):
        """Labels: the hidden ids, and −100 wherever nothing is hidden."""
        return losses.TokenCrossEntropy()


class SequenceClassifier(EncoderTask):
    """Logits (B, labels) of the whole text: of its kind, of what is true of it, or a number, as `problem` says."""

    reads_pooler = True

    def make_head(self):
        self.head = layers.Dense(self.config.num_labels)

    @barely
    def call(self, inputs, training=None):
        _, padding = self.unpack(inputs, "input_ids", "attention_mask")
        return self.head(self.dropout(self.pool(self.encode(inputs), padding)))

    def pool(self, hidden, padding):
        """(B, T, D) → (B, D)."""
        return self.backbone.pooler(hidden, padding)

    @property
    def problem(self):
        """One of `PROBLEMS`."""
        return self.config.problem_type or (REGRESSION if self.config.num_labels == 1 else ONE)

    def make_loss(self):
        """Labels: numbers (B, labels), 0 or 1 for each (B, labels), or which one it is (B,)."""
        if self.problem == REGRESSION:
            return keras.losses.MeanSquaredError()
        if self.problem == SEVERAL:
            return keras.losses.BinaryCrossentropy(from_logits=True)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class TokenClassifier(EncoderTask):
    """Logits (B, T, labels) of each token's kind.   Loss: cross-entropy, where the label is not −100."""

    def make_head(self):
        self.head = layers.Dense(self.config.num_labels)

    @barely
    def call(self, inputs, training=None):
        return self.head(self.dropout(self.encode(inputs)))

    def make_loss(self):
        """Labels: the kind of each token, and −100 for tokens that have none."""
        return losses.TokenCrossEntropy()


class QuestionAnswerer(EncoderTask):
    """Logits (B, T, 2): does the answer begin, does it end with this token?   The input is a question and a text."""

    def make_head(self):
        self.head = layers.Dense(2)

    @barely
    def call(self, inputs, training=None):
        return self.head(self.encode(inputs))

    def make_loss(self):
        """Labels (B, 2): the places of the answer's first and last token, −100 where there is none."""
        return SpanCrossEntropy()


@public
class SpanCrossEntropy(losses.TokenCrossEntropy):
    """The cross-entropy of where the answer begins and of where it ends.   (B, 2), logits (B, T, 2) → ()."""

    def call(self, y_true, y_pred):
        return super().call(y_true, ops.swapaxes(y_pred, 1, 2))


def without_padding(x, padding):
    """x, zero where there is padding.   (B, T, D), (B, T) → (B, T, D)."""
    return x if padding is None else x * ops.cast(padding, x.dtype)[:, :, None]
