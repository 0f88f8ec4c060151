"""The fused kernels against the equation, and the equation against NumPy."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from kerasnets.layers import masking
from kerasnets.layers.attention import Cache, attend, attention, merge_heads, remember, split_heads

# Of the outputs, which are means of values around 1; half precision rounds at each step, and not in the same places.
TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
BATCH, QUERIES, KEYS, HEADS, SIZE = 2, 5, 7, 4, 8


def arrays(random, heads=HEADS, queries=QUERIES, value_size=SIZE):
    shapes = (queries, HEADS, SIZE), (KEYS, heads, SIZE), (KEYS, heads, value_size)
    return [random.normal(size=(BATCH, *shape)).astype("float32") for shape in shapes]


def plain(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def by_hand(q, k, v, visible=None, bias=None, scale=None):
    """One query of one head at a time, in float64."""
    q, k, v = (x.astype("float64") for x in (q, k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    shape = (len(q), q.shape[2], q.shape[1], k.shape[1])
    visible = np.broadcast_to(True if visible is None else visible, shape)
    bias = np.broadcast_to(0.0 if bias is None else bias, shape)
    output = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, i, n in np.ndindex(q.shape[:3]):
        head = n * k.shape[2] // q.shape[2]
        scores = scale * k[b, :, head] @ q[b, i, n] + bias[b, n, i]
        weights = np.exp(scores - scores.max()) * visible[b, n, i]
        weights = weights / weights.sum() if weights.any() else np.full(len(weights), 1 / len(weights))
        output[b, i, n] = weights @ v[b, :, head]
    return output


def masks(random):
    padding = np.array([[1] * KEYS, [0, 0, 1, 1, 1, 1, 0]])
    causal = ops.convert_to_numpy(masking.causal_mask(QUERIES, KEYS, first=KEYS - QUERIES))
    return {
        "none": None,
        "padding": padding[:, None, None].astype(bool),
        "causal and padding": np.logical_and(causal, padding[:, None].astype(bool))[:, None],
        "one for each head": random.random((BATCH, HEADS, QUERIES, KEYS)) < 0.7,
        "a row sees nothing": np.arange(QUERIES)[:, None] * np.ones((1, 1, 1, KEYS)) != 2,
    }


def biases(random):
    return {
        "none": None,
        "one for each head": random.normal(size=(1, HEADS, QUERIES, KEYS)).astype("float32"),
        "one for each row": random.normal(size=(BATCH, 1, 1, KEYS)).astype("float32"),
    }


PAIRS = list(itertools.product(masks(np.random.default_rng(0)), biases(np.random.default_rng(0))))


def largest(y, expected):
    return np.abs(y - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("mask, bias", PAIRS)
@pytest.mark.parametrize("heads", [HEADS, 2, 1])
def test_kernel_equation_and_numpy_agree(mask, bias, heads, random):
    q, k, v = arrays(random, heads)
    visible, bias = masks(random)[mask], biases(random)[bias]
    expected = by_hand(q, k, v, visible, bias)
    assert largest(plain(attend(q, k, v, visible, bias).output), expected) < 1e-5
    assert largest(plain(fused(q, k, v, visible, bias)), expected) < 1e-5


def fused(q, k, v, visible=None, bias=None, **kwargs):
    return attention(*(ops.convert_to_tensor(x) for x in (q, k, v)), tensor(visible), tensor(bias), **kwargs)


def tensor(x):
    return None if x is None else ops.convert_to_tensor(x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mask, bias", PAIRS)
def test_half_precision(dtype, mask, bias, random):
    q, k, v = (ops.cast(x, dtype) for x in arrays(random, heads=2))
    visible, bias = masks(random)[mask], biases(random)[bias]
    rounded = None if bias is None else ops.cast(bias, dtype)
    slow, fast = attend(q, k, v, visible, rounded).output, fused(q, k, v, visible, rounded)
    assert keras.backend.standardize_dtype(fast.dtype) == keras.backend.standardize_dtype(slow.dtype) == dtype
    slow, fast = plain(slow), plain(fast)
    assert np.isfinite(slow).all() and np.isfinite(fast).all()
    if mask == "a row sees nothing":  # float16 can't tell all scores apart from nothing: any mean of values will do
        assert np.abs(fast[:, 2]).max() <= np.abs(plain(v)).max()
        slow, fast = np.delete(slow, 2, axis=1), np.delete(fast, 2, axis=1)
    assert largest(fast, slow) < TOLERANCE[dtype]


@pytest.mark.parametrize("queries", [KEYS, QUERIES])
@pytest.mark.parametrize("heads", [HEADS, 1])
def test_is_causal_is_a_causal_mask(queries, heads, random):
    q, k, v = arrays(random, heads, queries)
    visible = np.tri(queries, KEYS, dtype=bool)[None, None]
    expected = by_hand(q, k, v, visible)
    assert largest(plain(fused(q, k, v, is_causal=True)), expected) < 1e-5
    with_nothing_dropped = fused(q, k, v, is_causal=True, drop=lambda A: A)
    assert largest(plain(with_nothing_dropped), expected) < 1e-5


def test_scale_and_values_of_another_width(random):
    q, k, v = arrays(random, 2, value_size=3)
    expected = by_hand(q, k, v, scale=0.2)
    assert expected.shape == (BATCH, QUERIES, HEADS, 3)
    assert largest(plain(attend(q, k, v, scale=0.2).output), expected) < 1e-5
    assert largest(plain(fused(q, k, v, scale=0.2)), expected) < 1e-5


def test_what_attend_shows(random):
    q, k, v = arrays(random)
    visible = masks(random)["one for each head"]
    output, scores, A = attend(q, k, v, visible)
    np.testing.assert_allclose(plain(A).sum(-1), 1, rtol=1e-6)
    assert (plain(A)[~visible] == 0).all() and (plain(A)[visible] > 0).all()
    products = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(SIZE)
    np.testing.assert_allclose(plain(scores)[visible], products[visible], atol=1e-5)
    np.testing.assert_allclose(plain(output), np.einsum("bnts,bsnh->btnh", plain(A), v), atol=1e-5)
    dropped = attend(q, k, v, visible, drop=lambda A: A * 2)
    np.testing.assert_allclose(plain(dropped.output), 2 * plain(output), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(plain(dropped.probabilities), plain(A))


class Attending(keras.layers.Layer):
    """A query to be learned, so that its gradient can be looked at."""

    def __init__(self, start, seen, function, **kwargs):
        super().__init__(**kwargs)
        self.seen, self.function = seen, function
        self.query = self.add_weight(shape=start.shape, initializer="zeros")
        self.query.assign(start)

    def call(self, x):
        q = ops.cast(ops.broadcast_to(self.query, (ops.shape(x)[0], *self.query.shape[1:])), x.dtype)
        return self.function(q, x, x, ops.convert_to_tensor(self.seen))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.query.shape[1:])


def with_equation(q, k, v, visible):
    return attend(q, k, v, visible).output


@pytest.mark.parametrize("function", [attention, with_equation])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_gradient_where_a_row_sees_nothing(function, dtype, random):
    q, k, _ = arrays(random)
    seen = masks(random)["a row sees nothing"]
    inputs = keras.Input(k.shape[1:])
    layer = Attending(q[:1], seen, function, dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(k, np.zeros_like(q), epochs=1, verbose=0)
    after = plain(layer.query)
    assert np.isfinite(after).all()
    others = np.delete(np.arange(QUERIES), 2)
    assert (after[:, others] != q[:1, others]).any(axis=(0, 2, 3)).all()


def test_remember_writes_behind_what_is_there(random):
    _, k, v = arrays(random)
    assert remember(None, k, v) == (k, v, None)
    empty = np.zeros((BATCH, 10, HEADS, SIZE), "float32")
    cache = Cache(ops.convert_to_tensor(empty), ops.convert_to_tensor(empty), 0)
    for start, end in ((0, 3), (3, 4), (4, 7)):
        keys, values, cache = remember(cache, k[:, start:end], v[:, start:end])
        assert int(cache.length) == end
    np.testing.assert_array_equal(plain(keys), np.concatenate([k, empty[:, :3]], axis=1))
    np.testing.assert_array_equal(plain(values), np.concatenate([v, empty[:, :3]], axis=1))


def test_heads_are_split_head_by_head(random):
    x = random.normal(size=(2, 3, 12)).astype("float32")
    heads = plain(split_heads(x, 4))
    np.testing.assert_array_equal(heads[:, :, 1], x[:, :, 3:6])
    np.testing.assert_array_equal(plain(merge_heads(heads)), x)
