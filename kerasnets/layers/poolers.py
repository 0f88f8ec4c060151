"""Poolers: from a vector for each token to one for the whole text.

Where the mean is wanted instead, `GlobalAveragePooling1D` takes that of the real tokens.
"""

from keras import ops

from kerasnets.layers.dense import Dense
from kerasnets.layers.layer import Layer, anew, public


@public
class FirstTokenPooler(Layer):
    """y = φ(x₀ W + b), x₀ the first token's vector, which attention made one of all.   (B, T, D) → (B, D).

    W: dense.kernel (D, D), b: dense.bias (D,), φ: activation. padding: (B, T), 1 for real tokens; the first of these is
    taken, wherever it stands. Devlin et al. 2018, arXiv:1810.04805.
    """

    # fmt: off
    def __init__(self, activation="tanh", kernel_initializer="glorot_uniform", bias_initializer="zeros", **kwargs):
        # fmt: on
        super().__init__(**kwargs)
        self.set_arguments(locals())

    def build(self, input_shape, *_):
        settings = {"kernel_initializer": anew(self.kernel_initializer), "bias_initializer": self.bias_initializer}
        self.dense = Dense(input_shape[-1], self.activation, name="dense", dtype=self.dtype_policy, **settings)
        self.dense.build((input_shape[0], input_shape[-1]))

    def call(self, x, padding=None):
        return self.dense(first_token(x, padding))

    def compute_output_shape(self, input_shape, *_):
        return (input_shape[0], input_shape[-1])


def first_token(x, padding=None):
    """The vector of each row's first real token.   (B, T, D), (B, T) → (B, D)."""
    if padding is None:
        return x[:, 0]
    first = ops.argmax(ops.cast(padding, "int32"), axis=1)
    return ops.take_along_axis(x, ops.cast(first, "int32")[:, None, None], axis=1)[:, 0]
