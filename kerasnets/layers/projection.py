"""A linear map from and to any number of axes: how a vector of D channels becomes N heads of H, and comes back."""

import math

from keras import initializers, ops

from kerasnets import backend
from kerasnets.layers.layer import Layer, public


@public
class Projection(Layer):
    """y = φ(x W + b), from the last `axes_read` axes of x to `outputs` in their place.   (…, *inputs) → (…, *outputs).

    W: kernel (*inputs, *outputs), b: bias (*outputs), φ: activation. (D,) → (N, H) parts a vector into heads.
    """

    # fmt: off
    def __init__(self, outputs, axes_read=1, activation=None, use_bias=True,
                 kernel_initializer="glorot_uniform", bias_initializer="zeros",
                 kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None,
                 kernel_constraint=None, bias_constraint=None, **kwargs):
        # fmt: on
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.set_arguments(locals())
        self.outputs = tuple(outputs)
        self.supports_masking = True

    def build(self, input_shape):
        self.inputs = tuple(input_shape[-self.axes_read :])
        self.kernel = self.make_weight("kernel", (*self.inputs, *self.outputs), initializer=self.begin)
        self.bias = self.make_weight("bias", self.outputs) if self.use_bias else None

    def begin(self, shape, dtype=None):
        """The kernel's first numbers: their size follows from all inputs and outputs, so they are drawn as a matrix."""
        if not isinstance(self.kernel_initializer, initializers.VarianceScaling):
            return self.kernel_initializer(shape, dtype=dtype)
        return ops.reshape(self.kernel_initializer((math.prod(self.inputs), math.prod(self.outputs)), dtype), shape)

    def call(self, x):
        others, width = ops.shape(x)[: -self.axes_read], math.prod(self.inputs)
        kernel = ops.reshape(self.kernel, (width, -1))
        bias = None if self.bias is None else ops.reshape(self.bias, (-1,))
        y = backend.dense(ops.reshape(x, (*others, width)), kernel, bias)
        y = ops.reshape(y, (*others, *self.outputs))
        return y if self.activation is None else self.activation(y)

    def compute_output_shape(self, input_shape):
        return (*input_shape[: -self.axes_read], *self.outputs)
