"""Masks against NumPy, one query and one key at a time."""

import keras
import numpy as np
import pytest

from kerasnets.layers import masking

PADDING = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])


def shown(mask):
    return keras.ops.convert_to_numpy(mask)


def pairs(queries, keys, looks):
    """The mask of those (i, j) for which `looks(i, j)`."""
    return np.array([[looks(i, j) for j in range(keys)] for i in range(queries)])


@pytest.mark.parametrize("queries, keys, first", [(5, None, 0), (5, 5, 0), (2, 7, 3), (1, 6, 5), (4, 2, 0)])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_causal(queries, keys, first, window):
    mask = shown(masking.causal_mask(queries, keys, first, window))
    expected = pairs(queries, keys or queries, lambda i, j: j <= i + first and (not window or i + first - j < window))
    assert mask.dtype == bool and mask.shape == (1, *expected.shape)
    np.testing.assert_array_equal(mask[0], expected)


@pytest.mark.parametrize("queries, keys", [(5, 5), (3, 6), (6, 3)])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_band(queries, keys, window):
    mask = shown(masking.band_mask(queries, keys, window))
    np.testing.assert_array_equal(mask[0], pairs(queries, keys, lambda i, j: abs(i - j) < window))


def test_a_causal_window_is_a_causal_mask_and_a_band():
    both = np.logical_and(shown(masking.causal_mask(6)), shown(masking.band_mask(6, 6, 3)))
    np.testing.assert_array_equal(shown(masking.causal_mask(6, window=3)), both)


@pytest.mark.parametrize("dtype", ["int32", "bool", "float32"])
def test_padding(dtype):
    mask = shown(masking.padding_mask(PADDING.astype(dtype)))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, PADDING[:, None].astype(bool))


def test_combined():
    mask = shown(masking.combined(masking.causal_mask(5, window=2), None, masking.padding_mask(PADDING)))
    assert mask.shape == (3, 1, 5, 5)
    for row, padding in enumerate(PADDING):
        expected = pairs(5, 5, lambda i, j, padding=padding: j <= i and i - j < 2 and padding[j] == 1)
        np.testing.assert_array_equal(mask[row, 0], expected)


def test_combined_of_nothing_is_nothing():
    assert masking.combined() is None and masking.combined(None, None) is None
    assert shown(masking.combined(None, masking.causal_mask(3))).shape == (1, 1, 3, 3)


def test_positions_begin_at_the_first_real_token():
    ids = np.zeros((3, 5), "int32")
    np.testing.assert_array_equal(shown(masking.positions_of(ids)), [[0, 1, 2, 3, 4]] * 3)
    expected = [[0, 1, 2, 2, 2], [0, 0, 0, 1, 2], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(shown(masking.positions_of(ids, PADDING)), expected)
