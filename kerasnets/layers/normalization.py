"""Normalization 归一化: each example's features are brought to one scale, whatever the layer before did to them.

Both layers work inside one example, so training and prediction are the same, and any batch size will do. `standardise`
and `divide_by_rms` are the equations in plain words; the layers call the backend's own, and a test holds them equal.
"""

import keras
from keras import ops
from keras.layers import InputSpec

from kerasnets import backend
from kerasnets.layers.layer import Layer, public


def standardise(x, axis=-1, epsilon=1e-3):
    """(x − mean(x)) / √(var(x) + ε): mean 0, variance 1 along `axis`.   (…, D) → (…, D)."""
    mean = ops.mean(x, axis=axis, keepdims=True)
    variance = ops.mean(ops.square(x - mean), axis=axis, keepdims=True)
    return (x - mean) / ops.sqrt(variance + epsilon)


def divide_by_rms(x, axis=-1, epsilon=1e-6):
    """x / √(mean(x²) + ε): mean square 1 along `axis`.   (…, D) → (…, D)."""
    return x / ops.sqrt(ops.mean(ops.square(x), axis=axis, keepdims=True) + epsilon)


class Normalization(Layer):
    """What the two share: one axis or several, and weights of their shape."""

    def set_axis(self, axis):
        if isinstance(axis, (list, tuple)) and all(isinstance(a, int) for a in axis):
            self.axis = sorted(axis)
        elif isinstance(axis, int):
            self.axis = axis
        else:
            raise TypeError(f"Expected an int or a list/tuple of ints for the argument 'axis', but received: {axis!r}")

    @property
    def axes(self):
        return [self.axis] if isinstance(self.axis, int) else list(self.axis)

    def build(self, input_shape):
        self.compute_output_shape(input_shape)  # raises where an axis is not there
        self.input_spec = InputSpec(axes={axis: input_shape[axis] for axis in self.axes})
        self.make_weights([input_shape[axis] for axis in self.axes])

    def compute_output_shape(self, input_shape):
        rank = len(input_shape)
        for axis in self.axes:
            if not -rank <= axis < rank:
                raise ValueError(
                    f"Axis {axis} is out of bounds for input shape {input_shape}. Received: axis={self.axis}"
                )
        return input_shape


@public
class LayerNormalization(Normalization):
    """y = (x − mean(x)) / √(var(x) + ε) · γ + β.   (…, D) → (…, D), mean and variance over `axis`.

    γ: gamma (D,) if `scale`, β: beta (D,) if `center`, ε: epsilon. Computed in float32 at least.
    Raises `ValueError` for an axis that is not there and for inputs of another width than the first ones.
    Ba et al. 2016, arXiv:1607.06450. `rms_scaling=True`, which Keras keeps for old files, is x / √(var(x) + ε) · γ.
    """

    # fmt: off
    def __init__(self, axis=-1, epsilon=1e-3, center=True, scale=True,
                 beta_initializer="zeros", gamma_initializer="ones", beta_regularizer=None, gamma_regularizer=None,
                 beta_constraint=None, gamma_constraint=None, **kwargs):
        # fmt: on
        rms_scaling = kwargs.pop("rms_scaling", False)
        super().__init__(**kwargs)
        self.set_arguments(locals())
        self.set_axis(axis)
        self.supports_masking = True
        self.autocast = False  # the mean of float16 inputs is taken in float32

    def make_weights(self, shape):
        self.gamma = self.beta = None
        if self.scale or self.rms_scaling:
            self.gamma = self.make_weight("gamma", shape, autocast=False)
        if self.center and not self.rms_scaling:
            self.beta = self.make_weight("beta", shape, autocast=False)

    def call(self, inputs):
        inputs = backend.whole_gradient(inputs)
        rank = len(inputs.shape)
        positions = sorted(axis % rank for axis in self.axes)
        if self.rms_scaling or positions == list(range(rank - len(positions), rank)):
            y = self.normalize_last_axes(inputs)
        else:  # Keras on torch hands neighbouring axes to a kernel that takes only the last ones
            shape = [n if axis in positions else 1 for axis, n in enumerate(inputs.shape)]
            x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
            y = standardise(x, positions, self.epsilon)
            y = y if self.gamma is None else y * ops.reshape(self.gamma, shape)
            y = y if self.beta is None else y + ops.reshape(self.beta, shape)
        return ops.cast(y, self.compute_dtype)

    def normalize_last_axes(self, inputs):
        extra = {"rms_scaling": True} if self.rms_scaling else {}
        return ops.layer_normalization(inputs, self.gamma, self.beta, self.axes, self.epsilon, **extra)


@public
class RMSNormalization(Normalization):
    """y = x / √(mean(x²) + ε) · g.   (…, D) → (…, D), the mean over `axis`.

    g: scale (D,), ε: epsilon. Raises `ValueError` for an axis that is not there and for inputs of another width than
    the first ones. Zhang & Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, axis=-1, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.set_arguments(locals())
        self.set_axis(axis)

    def make_weights(self, shape):
        self.scale = self.make_weight("scale", shape, initializer="ones")

    def call(self, x):
        return backend.rms_normalization(backend.whole_gradient(x), self.scale, self.axes, self.epsilon)
