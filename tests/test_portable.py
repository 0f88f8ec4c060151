"""What a backend does in place of `keras.ops` has the same values and the same gradients."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from kerasnets import backend
from kerasnets.backend import portable

FORMATS = ["channels_last", "channels_first"]
CONVOLUTIONS = [
    # length of the axes, window, strides, padding, dilation, groups
    ((9,), (3,), (1,), "valid", (1,), 1),
    ((9,), (4,), (2,), "same", (1,), 2),
    ((8, 7), (3, 3), (1, 1), "same", (1, 1), 1),
    ((8, 7), (3, 2), (2, 3), "same", (1, 1), 2),
    ((9, 9), (2, 3), (1, 1), "valid", (2, 2), 1),
]
POOLS = [
    # length of the axes, window, strides, padding
    ((8,), (2,), (2,), "valid"),
    ((9, 7), (2, 3), (2, 3), "valid"),  # tiles, with a rest
    ((8, 6), (4, 3), (4, 3), "same"),  # tiles that fit
    ((9, 7), (2, 2), (2, 2), "same"),
    ((9, 7), (3, 2), (2, 1), "valid"),
    ((9, 7), (3, 3), (1, 2), "same"),
]


class Holder(keras.layers.Layer):
    """Arrays as weights, so that a step of SGD shows their gradients on every backend."""

    def __init__(self, function, arrays):
        super().__init__()
        self.function = function
        self.held = [self.add_weight(shape=a.shape, initializer="zeros") for a in arrays]
        self.set_weights(arrays)

    def call(self, x):
        y = self.function(*(ops.convert_to_tensor(weight) for weight in self.held))
        factors = ops.reshape(ops.sin(ops.arange(math.prod(y.shape), dtype="float32")), y.shape)
        # Not linear in y: TensorFlow may update a weight before it reads it where the gradient needs no forward pass.
        return x * ops.sum(factors * ops.exp(y / 4))


def value_and_gradients(function, *arrays, jit_compile="auto"):
    """f(arrays), and for each array the gradient of Σ sin(i) exp(f(arrays)_i / 4)."""
    layer = Holder(function, arrays)
    value = ops.convert_to_numpy(function(*map(ops.convert_to_tensor, arrays)))
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(keras.optimizers.SGD(1.0), loss=lambda _, y: ops.sum(y), jit_compile=jit_compile)
    model.train_on_batch(np.ones((1, 1), "float32"), np.ones((1, 1), "float32"))
    return value, [before - after for before, after in zip(arrays, layer.get_weights(), strict=True)]


def assert_same(ours, theirs, *arrays, **settings):
    (value, gradients), (expected, expected_gradients) = (
        value_and_gradients(function, *arrays, **settings) for function in (ours, theirs)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert np.abs(expected_gradient).max() > 0.01
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


def picture(random, lengths, channels, data_format):
    shape = (2, *lengths, channels) if data_format == "channels_last" else (2, channels, *lengths)
    return random.normal(size=shape).astype("float32")


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_dense(shape, has_bias, random):
    arrays = [random.normal(size=s).astype("float32") for s in (shape, (4, 5), (5,))][: 2 + has_bias]
    assert_same(backend.dense, portable.dense, *arrays)


@pytest.mark.parametrize("rows", [(1,), (1, 1)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_dense_of_one_row(rows, has_bias, random):
    """A row by a large kernel, as a step of generation has it, compiled: XLA is given it in halves."""
    arrays = [random.normal(size=s).astype("float32") / 32 for s in ((*rows, 512), (512, 768), (768,))]
    x, kernel, bias = *map(ops.convert_to_tensor, arrays[:2]), arrays[2] if has_bias else None
    assert portable.is_one_row(x, kernel) and not portable.is_one_row(ops.ones((2, 512)), kernel)
    expected = arrays[0] @ arrays[1] + (arrays[2] if has_bias else 0)
    compiled = backend.compiled(lambda weights, x, _: backend.dense(x, *weights))
    y = compiled([kernel, None if bias is None else ops.convert_to_tensor(bias)], x, {})
    assert y.shape == (*rows, 768)
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, rtol=1e-5, atol=1e-6)
    assert_same(portable.dense_in_two, portable.dense, *arrays[: 2 + has_bias])


def test_dense_promotes_as_keras_does():
    y = backend.dense(ops.ones((2, 3), "int32"), ops.ones((3, 4), "float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "float32"


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("lengths, window, strides, padding, dilation, groups", CONVOLUTIONS)
def test_convolution(lengths, window, strides, padding, dilation, groups, data_format, random):
    x = picture(random, lengths, 4, data_format)
    kernel, bias = (random.normal(size=s).astype("float32") for s in ((*window, 4 // groups, 6), (6,)))
    kernel /= 4  # as layers have it: of sums far larger than the tolerance float32 has not the bits

    def ours(x, kernel, bias):
        return backend.convolution(x, kernel, bias, strides, padding, data_format, dilation)

    def theirs(x, kernel, bias):  # with the channels last: TensorFlow convolves no others on some processors
        is_last = data_format == "channels_last"
        x = x if is_last else ops.moveaxis(x, 1, -1)
        y = portable.convolution(x, kernel, bias, strides, padding, "channels_last", dilation)
        return y if is_last else ops.moveaxis(y, -1, 1)

    assert_same(ours, theirs, x, kernel, bias)


@pytest.mark.parametrize("axes", [[-1], [1, 2]])
def test_rms_normalization(axes, random):
    x, scale = (random.normal(size=s).astype("float32") for s in ((3, 4, 5), (3, 4, 5)[axes[0] :]))
    x[1] = 0  # as a padded row may be, whose length has no slope
    ours, theirs = (lambda x, g, m=m: m.rms_normalization(x, g, axes, 0.1) for m in (backend, portable))
    assert_same(ours, theirs, x, scale)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("kind", ["max_pool", "average_pool"])
@pytest.mark.parametrize("lengths, window, strides, padding", POOLS)
def test_pool(kind, lengths, window, strides, padding, data_format, random):
    x = picture(random, lengths, 3, data_format)
    ours, theirs = (
        lambda x, module=module: getattr(module, kind)(x, window, strides, padding, data_format)
        for module in (backend, portable)
    )
    assert_same(ours, theirs, x)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="JAX always asks XLA, torch never")
@pytest.mark.parametrize("lengths, window, strides, padding", POOLS)
def test_max_pool_in_a_step_compiled_by_xla(lengths, window, strides, padding, random):
    x = picture(random, lengths, 3, "channels_last")
    ours, theirs = (
        lambda x, module=module: module.max_pool(x, window, strides, padding, "channels_last")
        for module in (backend, portable)
    )
    assert_same(ours, theirs, x, jit_compile=True)


@pytest.mark.parametrize("data_format", FORMATS)
def test_the_first_of_equal_values_gets_the_gradient(data_format, random):
    x = np.round(picture(random, (8, 9), 3, data_format)).clip(0)  # as after a relu: many zeros, and other equal values
    ours, theirs = (
        lambda x, f=f: f(x, (2, 3), (2, 3), "valid", data_format) for f in (backend.max_pool, portable.max_pool)
    )
    assert_same(ours, theirs, x)
    chain = lambda x: portable.max_of_tiles(x, (2, 3), data_format)  # noqa: E731
    assert_same(chain, theirs, x)


def test_nan_is_the_largest():
    x = np.array([[1, np.nan], [np.nan, 1], [1, 2], [np.nan, np.nan]], "float32")[:, :, None]
    y = ops.convert_to_numpy(portable.max_of_tiles(ops.convert_to_tensor(x), (2,), "channels_last"))
    np.testing.assert_array_equal(y[:, 0, 0], [np.nan, np.nan, 2, np.nan])
