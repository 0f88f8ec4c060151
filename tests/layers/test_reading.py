"""`reading_with`: given values instead of a model's own, and layers called without what Keras does around them."""

import types

import keras
import numpy as np
import pytest

from kerasnets.layers import Dense
from kerasnets.layers.reading import reading_with

X = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")


def layers_and_model(policy, second=None):
    """Two layers that are built, and the model that they belong to, of which only the dtypes matter here."""
    first = Dense(4, "tanh", dtype=policy, name="first")
    second = Dense(2, dtype=second or policy, name="second")
    second(first(X))
    model = types.SimpleNamespace(dtype_policy=first.dtype_policy, variables=[*first.variables, *second.variables])
    return first, second, model


def numbers(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


def test_values_are_the_given_ones_and_the_weights_stay():
    first, second, model = layers_and_model("float32")
    own = numbers(second(first(X)))
    with reading_with([keras.ops.ones_like(v.value) for v in model.variables], model.variables, model):
        y = numbers(second(first(keras.ops.convert_to_tensor(X))))
    expected = np.tanh(X.sum(axis=1, keepdims=True) + 1) * 4 + 1
    np.testing.assert_allclose(y, expected.repeat(2, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(numbers(second(first(X))), own)


@pytest.mark.parametrize(
    "policy, second, names",
    [
        ("float32", None, []),
        ("bfloat16", None, []),
        ("float32", "bfloat16", ["second"]),  # it casts what comes, which is Keras's part
        ("mixed_bfloat16", None, ["first", "second"]),  # and here the weights
    ],
)
def test_only_layers_with_nothing_to_cast_are_called_barely(policy, second, names, monkeypatch):
    first, second, model = layers_and_model(policy, second)
    expected = numbers(second(first(X)))
    seen, call = [], keras.layers.Layer.__call__
    monkeypatch.setattr(keras.layers.Layer, "__call__", lambda layer, x: seen.append(layer.name) or call(layer, x))
    with reading_with([variable.value for variable in model.variables], model.variables, model):
        y = numbers(second(first(keras.ops.cast(X, first.compute_dtype))))
    assert seen == names
    np.testing.assert_allclose(y, expected, rtol=1e-6)
