"""Dense against Keras's, and against the product of two arrays."""

import keras
import numpy as np
import pytest

from kerasnets.layers import Dense


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (2, 3, 2, 4)])
@pytest.mark.parametrize("settings", [{}, {"activation": "relu"}, {"use_bias": False, "activation": "softmax"}])
def test_same_as_keras(shape, settings, random, same_as_keras):
    settings = {**settings, "bias_initializer": "random_normal"}
    x = random.normal(size=shape).astype("float32")
    same_as_keras(Dense(3, **settings), keras.layers.Dense(3, **settings), x)


def test_the_equation(random):
    x, W, b = (random.normal(size=shape).astype("float32") for shape in ((5, 4), (4, 3), (3,)))
    layer = Dense(3, activation="tanh")
    layer.build(x.shape)
    layer.set_weights([W, b])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), np.tanh(x @ W + b), atol=1e-6)


def test_gradients_are_those_of_keras(random):
    x, y = random.normal(size=(8, 4)).astype("float32"), random.normal(size=(8, 3)).astype("float32")
    weights = {}
    for Layer in (Dense, keras.layers.Dense):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), Layer(6, activation="relu"), Layer(3)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, y, epochs=3, verbose=0, shuffle=False)
        weights[Layer] = model.get_weights()
    for ours, theirs in zip(weights[Dense], weights[keras.layers.Dense], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_mask_passes_through(random):
    x = keras.layers.Masking()(np.array([[[1.0, 2.0], [0.0, 0.0]]], "float32"))
    mask = keras.src.backend.get_keras_mask(Dense(3)(x))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(mask), [[True, False]])


def test_weights_are_stored_under_numbers(random):
    # The float32 part of Keras's `test_legacy_load_own_variables`, whose rest is about quantization.
    store = {"0": random.random((8, 16)).astype("float32"), "1": random.random((16,)).astype("float32")}
    layer = Dense(16)
    layer.build((None, 8))
    layer.load_own_variables(store)
    np.testing.assert_array_equal(layer.get_weights()[0], store["0"])
    np.testing.assert_array_equal(layer.get_weights()[1], store["1"])
    saved = {}
    layer.save_own_variables(saved)
    assert sorted(saved) == ["0", "1"]


def test_refuses_units_that_are_no_positive_integer():
    with pytest.raises(ValueError, match="`units` must be a positive integer. Received: units=-3"):
        Dense(-3)
