"""Embedding against Keras's, and against rows of a table."""

import keras
import numpy as np
import pytest

from kerasnets.layers import Embedding


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 2)])
def test_same_as_keras(shape, dtype, random, same_as_keras):
    ids = random.integers(0, 7, shape).astype(dtype)
    same_as_keras(Embedding(7, 3), keras.layers.Embedding(7, 3), ids)


def test_the_equation(random):
    table, ids = random.normal(size=(7, 3)).astype("float32"), random.integers(0, 7, (2, 4))
    layer = Embedding(7, 3, weights=table)
    one_hot = np.eye(7, dtype="float32")[ids]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(ids)), one_hot @ table, atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda table: table, lambda table: [table]])
def test_weights_to_begin_with(wrap, random):
    table = random.normal(size=(7, 3)).astype("float32")
    np.testing.assert_array_equal(Embedding(7, 3, weights=wrap(table)).get_weights()[0], table)


def test_id_zero_is_padding_where_asked():
    ids = np.array([[2, 1, 0]])
    mask = keras.src.backend.get_keras_mask(Embedding(3, 2, mask_zero=True)(ids))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(mask), [[True, True, False]])
    assert keras.src.backend.get_keras_mask(Embedding(3, 2)(ids)) is None


def test_ids_as_floats_keep_their_precision_under_mixed_float16():
    table = np.arange(3000, dtype="float32")[:, None] % 2  # float16 has no 2049, and takes it for 2048
    layer = Embedding(3000, 1, weights=table, dtype="mixed_float16")
    y = layer(np.array([[2049.0, 2051.0]], "float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(y)[0, :, 0], [1, 1])


def test_weights_are_stored_under_numbers(random):
    # The float32 part of Keras's `test_legacy_load_own_variables`, whose rest is about quantization.
    store = {"0": random.random((10, 16)).astype("float32")}
    layer = Embedding(10, 16)
    layer.build()
    layer.load_own_variables(store)
    np.testing.assert_array_equal(layer.get_weights()[0], store["0"])


@pytest.mark.parametrize("sizes, name", [((0, 3), "input_dim"), ((3, 2.0), "output_dim"), ((True, 3), "input_dim")])
def test_refuses_sizes_that_are_no_positive_integers(sizes, name):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer"):
        Embedding(*sizes)
