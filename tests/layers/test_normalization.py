"""Normalizations against Keras's, and against the equations in plain words."""

import keras
import numpy as np
import pytest

from kerasnets.layers import LayerNormalization, RMSNormalization
from kerasnets.layers.normalization import divide_by_rms, standardise


@pytest.mark.parametrize("axis", [-1, 1, [1, 2], [-1, -2], [1, 2, 3]])
@pytest.mark.parametrize(
    "settings", [{}, {"epsilon": 1e-6, "center": False}, {"scale": False}, {"scale": False, "center": False}]
)
def test_layer_normalization_same_as_keras(axis, settings, random, same_as_keras):
    settings = {"axis": axis, "gamma_initializer": "random_normal", "beta_initializer": "random_normal", **settings}
    x = random.normal(loc=2, scale=3, size=(4, 3, 5, 6)).astype("float32")
    layer = LayerNormalization(**settings)
    if keras.config.backend() != "torch" or axis not in (1, [1, 2]):  # Keras itself breaks down there
        same_as_keras(layer, keras.layers.LayerNormalization(**settings), x, tolerance=2e-6)  # outputs reach 10
    y = keras.ops.convert_to_numpy(layer(x))
    axes = tuple(axis) if isinstance(axis, list) else axis
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + layer.epsilon)
    shape = [n if i in [a % 4 for a in np.atleast_1d(axis)] else 1 for i, n in enumerate(x.shape)]
    for weight, combine in ((layer.gamma, np.multiply), (layer.beta, np.add)):
        if weight is not None:
            expected = combine(expected, keras.ops.convert_to_numpy(weight).reshape(shape))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [-1, 2, [1, 2]])
def test_rms_normalization_same_as_keras(axis, random, same_as_keras):
    x = random.normal(size=(4, 5, 6)).astype("float32")
    ours, theirs = RMSNormalization(axis), keras.layers.RMSNormalization(axis)
    theirs.build(x.shape)
    theirs.set_weights([random.normal(size=theirs.weights[0].shape)])
    same_as_keras(ours, theirs, x)


@pytest.mark.parametrize("axis", [-1, [1, 2]])
def test_the_equations(axis, random):
    x = keras.ops.convert_to_tensor(random.normal(loc=2, scale=3, size=(4, 5, 6)).astype("float32"))
    pairs = (LayerNormalization(axis), standardise(x, axis)), (RMSNormalization(axis), divide_by_rms(x, axis))
    for layer, expected in pairs:
        y, expected = keras.ops.convert_to_numpy(layer(x)), keras.ops.convert_to_numpy(expected)
        np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6)  # rsqrt where the equation divides by a root


def test_the_outcome(random):
    x = random.normal(loc=5, scale=3, size=(4, 64)).astype("float32")
    y = keras.ops.convert_to_numpy(LayerNormalization(epsilon=1e-9)(x))
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(-1), 1, atol=1e-5)
    y = keras.ops.convert_to_numpy(RMSNormalization()(x))
    np.testing.assert_allclose((y**2).mean(-1), 1, atol=1e-5)


@pytest.mark.parametrize("dtype, middle", [("float16", 60000), ("float32", 100000)])
def test_layer_normalization_computes_half_precision_in_float32(dtype, middle):
    x = np.array([[middle, middle - 32, middle + 32]], dtype)  # the squares, or they themselves, are beyond float16
    y = LayerNormalization(dtype="mixed_float16")(x)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y)[0], [0, -1.2247, 1.2247], atol=1e-3)


def test_the_config_keeps_the_axes():
    for layer in (LayerNormalization([2, 1]), RMSNormalization([2, 1])):
        layer.build((None, 3, 4))
        assert layer.get_config()["axis"] == [1, 2]
        assert [tuple(w.shape) for w in layer.weights] == [(3, 4)] * len(layer.weights)


@pytest.mark.parametrize("Layer", [LayerNormalization, RMSNormalization])
def test_refuses_axes_that_are_not_there(Layer):
    with pytest.raises(ValueError, match=r"Axis 2 is out of bounds for input shape \(4, 3\)"):
        Layer(axis=2)(np.ones((4, 3), "float32"))
    with pytest.raises(TypeError, match="Expected an int or a list/tuple of ints for the argument 'axis'"):
        Layer(axis={"axis": -1})
