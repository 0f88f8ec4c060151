"""`Standardise`: the equation, the way back, and what it refuses."""

import keras
import numpy as np
import pytest

from kerasnets.layers.standardisation import Standardise


def test_equation():
    digits = np.array([[0, 100], [200, 255]], "uint8")
    y = keras.ops.convert_to_numpy(Standardise(100, 50)(digits))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, [[-2, 0], [2, 3.1]], atol=1e-6)


def test_a_feature_each():
    x = np.array([[1.0, 2.0, 3.0], [3.0, 6.0, 11.0]], "float32")
    y = Standardise(x.mean(axis=0), x.std(axis=0))(x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y), [[-1, -1, -1], [1, 1, 1]], atol=1e-6)


@pytest.mark.parametrize("mean, deviation", [(33.4, 78.6), ([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])])
def test_inverse_is_the_way_back(mean, deviation):
    x = np.random.RandomState(0).normal(size=(4, 3)).astype("float32")
    layer = Standardise(mean, deviation)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.inverse(layer(x))), x, atol=1e-5)


def test_config_round_trip():
    layer = Standardise(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    config = layer.get_config()
    assert config["mean"] == [1.0, 2.0] and config["deviation"] == [3.0, 4.0]
    assert Standardise.from_config(config).get_config() == config


@pytest.mark.parametrize("mean, deviation", [(0, 0), (0, -1), ([0, 0], 1), ([0, 0], [1, 0]), ([[0]], [[1]])])
def test_refuses(mean, deviation):
    with pytest.raises(ValueError, match="`mean` and `deviation` must be numbers"):
        Standardise(mean, deviation)


def test_refuses_another_number_of_features():
    with pytest.raises(ValueError, match="`mean` has 2 numbers, but the inputs of shape .* have 3 features"):
        Standardise([0, 0], [1, 1])(np.zeros((4, 3), "float32"))


def test_half_precision():
    y = Standardise(33.4, 78.6, dtype="mixed_float16")(np.full((2, 2), 255, "uint8"))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y), np.full((2, 2), (255 - 33.4) / 78.6), rtol=2e-3)
