"""Pooling against Keras's, and against `pool`, the equation in plain words."""

import keras
import numpy as np
import pytest

from kerasnets import layers
from kerasnets.layers.pooling import pool

FORMATS = ["channels_last", "channels_first"]
WINDOWS = [(2, None), (3, 2), (2, 1), (3, 3)]


def inputs_of(random, rank, data_format):
    x = random.normal(size=(2, 7, 6, 3)[: rank + 1] + (3,)).astype("float32")
    return np.moveaxis(x, -1, 1) if data_format == "channels_first" else x


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("pool_size, strides", WINDOWS)
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("kind", ["Max", "Average"])
def test_same_as_keras_and_as_the_equation(kind, rank, pool_size, strides, padding, data_format, random, same_as_keras):
    x = inputs_of(random, rank, data_format)
    settings = {"pool_size": pool_size, "strides": strides, "padding": padding, "data_format": data_format}
    name = f"{kind}Pooling{rank}D"
    layer = getattr(layers, name)(**settings)
    y = keras.ops.convert_to_numpy(layer(x))
    expected = pool(keras.ops.convert_to_tensor(x), layer.pool_size, layer.strides, padding, data_format, kind.lower())
    np.testing.assert_allclose(y, keras.ops.convert_to_numpy(expected), rtol=1e-6, atol=1e-6)
    assert layer.compute_output_shape(x.shape) == y.shape
    # Keras on torch counts copies of the edge where "same" pads unevenly, and so differs from itself elsewhere.
    if not (kind == "Average" and padding == "same" and keras.config.backend() == "torch"):
        same_as_keras(layer, getattr(keras.layers, name)(**settings), x)


def test_average_of_a_padded_window_by_hand():
    x = np.array([[1, 2, 3, 4, 9]], "float32")[:, :, None]
    y = layers.AveragePooling1D(2, padding="same")(x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y)[0, :, 0], [1.5, 3.5, 9])


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("kind", ["Max", "Average"])
def test_global_same_as_keras(kind, rank, data_format, keepdims, random, same_as_keras):
    name = f"Global{kind}Pooling{rank}D"
    settings = {"data_format": data_format, "keepdims": keepdims}
    x = inputs_of(random, rank, data_format)
    same_as_keras(getattr(layers, name)(**settings), getattr(keras.layers, name)(**settings), x)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("data_format", FORMATS)
def test_global_average_of_the_steps_that_count(data_format, keepdims, random, same_as_keras):
    x = inputs_of(random, 1, data_format)
    mask = np.array([[1, 1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1]], bool)
    settings = {"data_format": data_format, "keepdims": keepdims}
    ours, theirs = layers.GlobalAveragePooling1D(**settings), keras.layers.GlobalAveragePooling1D(**settings)
    same_as_keras(ours, theirs, x, mask=mask)


def test_global_average_of_no_step_is_zero():
    x, mask = np.ones((2, 3, 4), "float32"), np.array([[True, False, False], [False, False, False]])
    y = keras.ops.convert_to_numpy(layers.GlobalAveragePooling1D()(x, mask=mask))
    np.testing.assert_array_equal(y, [[1] * 4, [0] * 4])


def test_global_average_ends_the_mask():
    ids = np.array([[2, 1, 0]])
    x = layers.Embedding(3, 2, mask_zero=True)(ids)
    pooled = layers.GlobalAveragePooling1D()(x)
    table = keras.ops.convert_to_numpy(x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(pooled), table[:, :2].mean(1), atol=1e-6)
    assert keras.src.backend.get_keras_mask(pooled) is None


def test_layers_without_weights_are_built_at_once():
    assert layers.MaxPooling2D().built and layers.GlobalMaxPooling1D().built


def test_unknown_lengths_stay_unknown():
    assert layers.MaxPooling2D().compute_output_shape((None, None, 7, 3)) == (None, None, 3, 3)
    symbol = keras.Input((None, 3))
    assert layers.AveragePooling1D(2, padding="same")(symbol).shape == (None, None, 3)


def test_refuses_a_window_larger_than_the_input():
    with pytest.raises(ValueError, match="a window of 5 .* does not fit into an axis of length 4"):
        layers.MaxPooling1D(5).compute_output_shape((1, 4, 2))
    with pytest.raises(
        ValueError, match=r"`pool_size` argument must be a tuple of 2 integers. Received pool_size=\(2, 0\)"
    ):
        layers.MaxPooling2D((2, 0))
