"""Losses of language models 语言模型的损失: how surprised a model is by the tokens that it should have foreseen."""

import keras
from keras import ops
from keras.src.backend.common.masking import set_keras_mask  # how a loss tells Keras's mean what to leave out

from kerasnets import backend, guard
from kerasnets.layers.layer import public


@public
class TokenCrossEntropy(keras.losses.Loss):
    """ℓ = log Σᵥ exp zᵥ − z_y: the cross-entropy of logits z with the label y, a mean over the tokens that count.

    labels (B, T), logits (B, T, V) → (), or (B, T) with `reduction="none"`.
    Causal LM: the labels are the ids one token later. Masked LM: the hidden ids, and `ignored_label` everywhere else.
    A label equal to `ignored_label` counts for nothing, like a token that the logits' mask leaves out; where nothing
    counts, the loss is 0. Whatever the dtype of the logits, everything is computed in float32.

    label_smoothing ε: ℓ ← (1 − ε) ℓ + ε (the mean of ℓ over all labels), Szegedy et al. 2016, arXiv:1512.00567.

    Raises `ValueError` for shapes that do not fit, and for labels outside the vocabulary where they can be seen.
    """

    # fmt: off
    def __init__(self, ignored_label=-100, label_smoothing=0.0, reduction="sum_over_batch_size",
                 name="token_cross_entropy", dtype="float32"):
        # fmt: on
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must lie in [0, 1). Received: label_smoothing={label_smoothing}")
        self.ignored_label, self.label_smoothing = ignored_label, label_smoothing

    def call(self, y_true, y_pred):
        logits, labels = y_pred, ops.cast(y_true, "int32")
        if len(labels.shape) == len(logits.shape) and labels.shape[-1] == 1:
            labels = ops.squeeze(labels, axis=-1)
        check_shapes(self.name, labels.shape, logits.shape)
        counts = ops.not_equal(labels, self.ignored_label)
        labels = ops.where(counts, labels, 0)
        guard.check_token_ids(labels, logits.shape[-1], f"{self.name}: labels")
        losses = backend.cross_entropy(logits, labels, self.label_smoothing)
        losses = ops.where(counts, losses, 0.0)
        set_keras_mask(losses, counts)
        return losses

    def get_config(self):
        ours = {"ignored_label": self.ignored_label, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **ours}


def check_shapes(name, labels, logits):
    pairs = zip(labels, logits[:-1], strict=False)  # in a compiled step None fits any number
    if len(labels) + 1 != len(logits) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(f"{name}: labels {tuple(labels)} do not fit logits {tuple(logits)}: one for each token.")
