"""GELU: the backend's loop is the equation, and so is the way back through it, eager and in a compiled step."""

import math

import keras
import numpy as np
import pytest

from kerasnets.layers.activations import ACTIVATIONS, gelu, gelu_in_words

X = np.concatenate([np.linspace(-6, 6, 241), [-40.0, 0.0, 40.0]]).astype("float32")


def expected(x, approximate):
    """In float64, by Python's own functions."""
    if approximate:
        return np.array([v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2 for v in x])
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x])


class Curve(keras.layers.Layer):
    """φ(w) for a weight that begins as X, whatever comes in."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def build(self, _):
        self.w = self.add_weight(shape=X.shape, initializer=lambda shape, dtype: keras.ops.convert_to_tensor(X, dtype))

    def call(self, x):
        return self.activation(self.w) + 0 * x


@pytest.mark.parametrize("approximate", [False, True])
def test_values(approximate):
    for function in (gelu, gelu_in_words):
        found = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(X), approximate))
        np.testing.assert_allclose(found, expected(X, approximate), atol=1e-6)


@pytest.mark.parametrize("name, approximate", [("gelu", False), ("gelu_new", True)])
@pytest.mark.parametrize("eager", [False, True])
def test_slope(name, approximate, eager):
    model = keras.Sequential([keras.Input(X.shape), Curve(ACTIVATIONS[name])])
    model.compile(keras.optimizers.SGD(1.0), lambda y, z: keras.ops.sum(z - y, axis=-1), run_eagerly=eager)
    nothing = np.zeros((1, len(X)), "float32")
    np.testing.assert_allclose(model.predict_on_batch(nothing)[0], expected(X, approximate), atol=1e-6)
    model.train_on_batch(nothing, nothing)
    slope = X.astype("float64") - keras.ops.convert_to_numpy(model.layers[-1].w)
    x, d = X.astype("float64"), 1e-5
    numeric = (expected(x + d, approximate) - expected(x - d, approximate)) / (2 * d)
    np.testing.assert_allclose(slope, numeric, atol=5e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_what_it_is(dtype):
    y = gelu(keras.ops.convert_to_tensor(X, dtype))
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    np.testing.assert_allclose(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")), expected(X, False), atol=0.02)
