"""Feed-forward layers against NumPy, by their equations."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from kerasnets import layers

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x),
    "linear": lambda x: x,
}
SETTINGS = {"kernel_initializer": "random_normal", "bias_initializer": "random_normal"}


def weights(*denses):
    """(kernel, bias) of each in float64, 0 for no bias."""
    plain = [[ops.convert_to_numpy(w).astype("float64") for w in dense.weights] for dense in denses]
    return [(w[0], w[1] if len(w) > 1 else 0.0) for w in plain]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feedforward_by_hand(random, activation, use_bias):
    layer = layers.FeedForward(7, activation, use_bias, **SETTINGS)
    x = random.normal(size=(2, 5, 4)).astype("float32")
    found = ops.convert_to_numpy(layer(x))
    (w1, b1), (w2, b2) = weights(layer.wide, layer.narrow)
    assert w1.shape == (4, 7) and len(layer.weights) == 2 + 2 * use_bias
    np.testing.assert_allclose(found, ACTIVATIONS[activation](x @ w1 + b1) @ w2 + b2, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gated_by_hand(random, activation, use_bias):
    layer = layers.GatedFeedForward(7, activation, use_bias, **SETTINGS)
    x = random.normal(size=(2, 5, 4)).astype("float32")
    found = ops.convert_to_numpy(layer(x))
    (g, bg), (u, bu), (w, b) = weights(layer.gate, layer.up, layer.down)
    assert len(layer.weights) == 3 + 3 * use_bias
    np.testing.assert_allclose(found, (ACTIVATIONS[activation](x @ g + bg) * (x @ u + bu)) @ w + b, atol=1e-5)


@pytest.mark.parametrize("seeded", [False, True])
def test_each_kernel_has_numbers_of_its_own(seeded):
    """gate and up have one shape; with the same numbers in both, neither would have been asked for."""
    initializer = keras.initializers.RandomNormal(seed=3 if seeded else None)
    layer = layers.GatedFeedForward(7, kernel_initializer=initializer)
    layer.build((None, 4))
    gate, up = (ops.convert_to_numpy(dense.kernel) for dense in (layer.gate, layer.up))
    assert np.array_equal(gate, up) == seeded


def test_sizes_refused():
    for make in (layers.FeedForward, layers.GatedFeedForward):
        for size in (0, -3, 2.5, None):
            with pytest.raises(ValueError, match="feedforward_size"):
                make(size)


def test_dtype_reaches_the_inner_layers():
    for make in (layers.FeedForward, layers.GatedFeedForward):
        layer = make(7, dtype="float16")
        layer.build((None, 4))
        assert {keras.backend.standardize_dtype(w.dtype) for w in layer.weights} == {"float16"}


def test_mask_passes():
    model = keras.Sequential(
        [layers.Embedding(9, 4, mask_zero=True), layers.FeedForward(7), layers.GatedFeedForward(5)]
    )
    y = model(np.array([[1, 2, 0]]))
    assert ops.convert_to_numpy(y._keras_mask).tolist() == [[True, True, False]]


def test_dropout_acts_in_training_only():
    layer = layers.FeedForward(64, dropout=0.5)
    x = np.ones((2, 3, 8), "float32")
    plain = keras.ops.convert_to_numpy(layer(x))
    assert np.array_equal(plain, keras.ops.convert_to_numpy(layer(x, training=False)))
    assert not np.allclose(plain, keras.ops.convert_to_numpy(layer(x, training=True)))
    assert layers.FeedForward.from_config(layer.get_config()).dropout == 0.5
