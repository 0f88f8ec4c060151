"""Standardisation 标准化: numbers of any unit are brought around 0, the scale on which networks learn.

Mean and deviation are measured once, on the training set, and kept: unlike in normalization.py, an example's result
does not depend on its other numbers. LeCun, Bottou, Orr & Müller 1998, "Efficient BackProp", section 4.3.
"""

import numpy as np
from keras import ops

from kerasnets.layers.layer import Layer, public


@public
class Standardise(Layer):
    """y = (x − mean) / deviation.   (…, D) → (…, D), integers too; `inverse` is the way back.

    `mean` and `deviation` are numbers, or D of them, one for each feature. Raises `ValueError` for a deviation that is
    not positive, for counts other than 1 and D, and where the two do not have the same shape.
    """

    def __init__(self, mean=0.0, deviation=1.0, **kwargs):
        super().__init__(**kwargs)
        mean, deviation = np.asarray(mean, "float64").tolist(), np.asarray(deviation, "float64").tolist()
        self.set_arguments(locals())
        if np.ndim(mean) > 1 or np.shape(mean) != np.shape(deviation) or not np.all(np.asarray(deviation) > 0):
            raise ValueError(
                "Standardise: `mean` and `deviation` must be numbers, or lists of as many, and `deviation` positive; "
                f"received mean={mean}, deviation={deviation}."
            )

    def build(self, input_shape):
        if isinstance(self.mean, list) and len(self.mean) != input_shape[-1]:
            raise ValueError(
                f"Standardise: `mean` has {len(self.mean)} numbers, but the inputs of shape {tuple(input_shape)} have "
                f"{input_shape[-1]} features."
            )

    def call(self, x):
        return (ops.cast(x, self.compute_dtype) - self.constant(self.mean)) / self.constant(self.deviation)

    def inverse(self, y):
        """x = y · deviation + mean.   (…, D) → (…, D)."""
        return y * self.constant(self.deviation) + self.constant(self.mean)

    def constant(self, values):
        return ops.convert_to_tensor(values, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape
