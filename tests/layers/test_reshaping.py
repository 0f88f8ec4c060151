"""Flatten and ZeroPadding2D against Keras's."""

import keras
import numpy as np
import pytest

from kerasnets.layers import Flatten, ZeroPadding2D

FORMATS = ["channels_last", "channels_first"]


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_flatten_same_as_keras(shape, data_format, random, same_as_keras):
    x = random.normal(size=shape).astype("float32")
    same_as_keras(Flatten(data_format), keras.layers.Flatten(data_format), x)


def test_flatten_gives_the_same_rows_for_both_formats(random):
    x = random.normal(size=(2, 4, 5, 3)).astype("float32")
    last = keras.ops.convert_to_numpy(Flatten("channels_last")(x))
    first = keras.ops.convert_to_numpy(Flatten("channels_first")(np.moveaxis(x, -1, 1)))
    np.testing.assert_array_equal(last, first)
    np.testing.assert_array_equal(last, x.reshape(2, -1))


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("padding", [2, (1, 2), ((1, 2), (3, 4)), ((0, 1), 2)])
def test_zero_padding_same_as_keras(padding, data_format, random, same_as_keras):
    x = random.normal(size=(2, 3, 4, 5)).astype("float32")
    settings = {"padding": padding, "data_format": data_format}
    y = same_as_keras(ZeroPadding2D(**settings), keras.layers.ZeroPadding2D(**settings), x)
    assert np.count_nonzero(y) == x.size


def test_zero_padding_keeps_unknown_lengths_unknown():
    assert ZeroPadding2D(1).compute_output_shape((None, None, 4, 3)) == (None, None, 6, 3)


@pytest.mark.parametrize("padding", [(1,), (1, 2, 3), "1", ((1, 2), (3, 4, 5)), ((1, 2), (3, -4)), None])
def test_zero_padding_refuses_other_paddings(padding):
    with pytest.raises(ValueError, match="padding"):
        ZeroPadding2D(padding)
