"""The fully connected layer 全连接层: every output sees every input.

Rosenblatt 1958, doi:10.1037/h0042519, called one output of it a perceptron. It is one matrix product: the columns of W
are patterns, and x W says how much of each pattern is in x.
"""

from keras.layers import InputSpec

from kerasnets.layers import quantized
from kerasnets.layers.layer import Layer, positive_integer, public


@public
class Dense(Layer):
    """y = φ(x W + b).   (…, D) → (…, units).

    W: kernel (D, units), b: bias (units,), φ: activation. Raises `ValueError` for `units` that are no positive integer
    and for inputs of another width than the first ones.
    """

    # fmt: off
    def __init__(self, units, activation=None, use_bias=True,
                 kernel_initializer="glorot_uniform", bias_initializer="zeros",
                 kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None,
                 kernel_constraint=None, bias_constraint=None, **kwargs):
        # fmt: on
        positive_integer("units", units)
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.set_arguments(locals())
        self.input_spec = InputSpec(min_ndim=2)
        self.supports_masking = True

    def build(self, input_shape):
        self.kernel = quantized.make_kernel(self, "kernel", (input_shape[-1], self.units))
        self.bias = self.make_weight("bias", (self.units,)) if self.use_bias else None
        self.input_spec = InputSpec(min_ndim=2, axes={-1: input_shape[-1]})

    def call(self, inputs):
        y = quantized.dense(inputs, self.kernel, self.bias)
        return y if self.activation is None else self.activation(y)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)
