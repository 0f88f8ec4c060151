"""Convolutions against Keras's, and against `convolve`, the equation in plain words."""

import functools

import keras
import numpy as np
import pytest

from kerasnets.layers import Conv1D, Conv2D
from kerasnets.layers.convolution import convolve

FORMATS = ["channels_last", "channels_first"]
CASES_1D = [
    {"padding": padding, **window, "groups": groups}
    for padding in ("valid", "same", "causal")
    for window in ({}, {"strides": 2}, {"strides": 3}, {"dilation_rate": 2})
    for groups in (1, 2)
]
CASES_2D = [
    {"padding": padding, **window, "groups": groups}
    for padding in ("valid", "same")
    for window in ({}, {"strides": 2}, {"strides": (2, 3)}, {"dilation_rate": 2}, {"dilation_rate": (1, 2)})
    for groups in (1, 2)
]


def picture(random, shape, data_format):
    x = random.normal(size=shape).astype("float32")
    return np.moveaxis(x, -1, 1) if data_format == "channels_first" else x


def label(case):
    return "-".join(f"{name}={value}" for name, value in case.items()) if isinstance(case, dict) else None


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("case", CASES_1D, ids=label)
def test_conv1d_same_as_keras_and_as_the_equation(case, data_format, random, same_as_keras):
    x = picture(random, (2, 11, 4), data_format)
    settings = {**case, "data_format": data_format, "bias_initializer": "random_normal"}
    layer = Conv1D(10, 3, **settings)
    y = outputs(layer, keras.layers.Conv1D(10, 3, **settings), x, same_as_keras)
    assert_follows_the_equation(layer, x, y)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("case", CASES_2D, ids=label)
def test_conv2d_same_as_keras_and_as_the_equation(case, data_format, random, same_as_keras):
    x = picture(random, (2, 9, 8, 4), data_format)
    settings = {**case, "data_format": data_format, "bias_initializer": "random_normal"}
    layer = Conv2D(10, (3, 2), **settings)
    y = outputs(layer, keras.layers.Conv2D(10, (3, 2), **settings), x, same_as_keras)
    assert_follows_the_equation(layer, x, y)


def outputs(layer, reference, x, same_as_keras):
    """The layer's, which are Keras's where Keras has some; the equation is asked everywhere."""
    if keras_convolves(layer.data_format):
        return same_as_keras(layer, reference, x)
    return keras.ops.convert_to_numpy(layer(x))


@functools.cache
def keras_convolves(data_format):
    """TensorFlow has kernels for the channels first on some processors only; ours asks for none."""
    try:
        keras.layers.Conv2D(1, 1, data_format=data_format)(np.ones((1, 1, 1, 1), "float32"))
    except Exception as error:  # of TensorFlow's own classes
        assert keras.config.backend() == "tensorflow" and "only supports the NHWC" in str(error)
        return False
    return True


def assert_follows_the_equation(layer, x, y):
    kernel, bias = layer.get_weights()
    x, kernel = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(kernel)
    expected = convolve(x, kernel, layer.strides, layer.padding, layer.data_format, layer.dilation_rate)
    shape = (-1,) if layer.data_format == "channels_last" else (-1,) + (1,) * layer.rank
    expected = keras.ops.convert_to_numpy(expected) + bias.reshape(shape)
    # Another order of summation than the backend's: the last digit or two of float32 differ.
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_bias_belongs_to_the_channels_where_another_axis_is_as_long(random):
    # Keras on TensorFlow adds the bias along the width here.
    layer = Conv2D(6, 3, data_format="channels_first", bias_initializer="random_normal")
    x = random.normal(size=(2, 3, 8, 8)).astype("float32")
    assert_follows_the_equation(layer, x, keras.ops.convert_to_numpy(layer(x)))


def test_a_kernel_finds_its_pattern():
    x = np.zeros((1, 5, 5, 1), "float32")
    x[0, 1:4, 2] = 1  # a vertical stroke
    kernel = np.array([[-1, 2, -1]] * 3, "float32")[:, :, None, None]
    layer = Conv2D(1, 3, padding="same", use_bias=False)
    layer.build(x.shape)
    layer.set_weights([kernel])
    y = keras.ops.convert_to_numpy(layer(x))[0, :, :, 0]
    assert np.unravel_index(y.argmax(), y.shape) == (2, 2)
    assert y[2, 2] == 6


def test_causal_sees_nothing_ahead(random):
    x = random.normal(size=(1, 8, 2)).astype("float32")
    later = x.copy()
    later[:, 5:] += 1
    layer = Conv1D(3, 3, padding="causal", dilation_rate=2)
    before, after = (keras.ops.convert_to_numpy(layer(inputs)) for inputs in (x, later))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).min() > 0


def test_unknown_lengths_stay_unknown():
    assert Conv2D(5, 3, padding="same", strides=2).compute_output_shape((None, None, 7, 3)) == (None, None, 4, 5)
    assert Conv1D(5, 3, data_format="channels_first").compute_output_shape((None, 3, 9)) == (None, 5, 7)


def test_activation_and_activity_regularizer(random, same_as_keras):
    settings = {"activation": "relu", "use_bias": False, "activity_regularizer": "l2"}
    x = random.normal(size=(2, 6, 6, 3)).astype("float32")
    ours, theirs = Conv2D(4, 3, **settings), keras.layers.Conv2D(4, 3, **settings)
    same_as_keras(ours, theirs, x)
    assert float(ours.losses[0]) == pytest.approx(float(theirs.losses[0]), rel=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"filters": 0}, "`filters`. Expected a strictly positive value. Received filters=0"),
        ({"groups": 0}, "groups must be a positive integer. Received: groups=0"),
        ({"groups": 4}, "Received: groups=4, filters=6"),
        ({"strides": 2, "dilation_rate": 2}, r"strides=\(2, 2\) and dilation_rate=\(2, 2\)"),
        ({"padding": "causal"}, "`padding` argument must be one of .* Received: padding='causal'"),
        (
            {"kernel_size": (3, 0)},
            r"`kernel_size` argument must be a tuple of 2 integers. Received kernel_size=\(3, 0\)",
        ),
        ({"data_format": "NCHW"}, "`data_format` argument must be one of .* Received: data_format='NCHW'"),
    ],
)
def test_refuses_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        Conv2D(**{"filters": 6, "kernel_size": 3, **arguments})


def test_refuses_inputs_that_do_not_fit():
    with pytest.raises(ValueError, match="a window of 5 .* does not fit into an axis of length 4"):
        Conv2D(6, 5)(np.ones((1, 4, 4, 1), "float32"))
    with pytest.raises(ValueError, match="groups=2, but the input of shape .* has 3 channels"):
        Conv2D(6, 3, groups=2)(np.ones((1, 4, 4, 3), "float32"))
