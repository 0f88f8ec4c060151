"""The plumbing: arguments become settings of weights and entries of the config; wrong ones are refused by name."""

import keras
import numpy as np
import pytest

from kerasnets.layers import LSTM, Dense
from kerasnets.layers.layer import Layer, data_format_or_default, integers, one_of, positive_integer


def test_strings_become_functions_and_go_back_into_the_config():
    layer = Dense(3, activation="relu", kernel_regularizer="l2", bias_constraint="non_neg", kernel_initializer="ones")
    assert layer.activation is keras.activations.relu
    assert isinstance(layer.kernel_regularizer, keras.regularizers.L2)
    assert isinstance(layer.bias_constraint, keras.constraints.NonNeg)
    twin = Dense.from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    assert isinstance(twin.kernel_initializer, keras.initializers.Ones)


def test_settings_reach_the_weights():
    layer = Dense(
        3, kernel_initializer="ones", bias_initializer=keras.initializers.Constant(2.0), bias_constraint="non_neg"
    )
    layer.build((None, 4))
    np.testing.assert_array_equal(layer.get_weights()[0], np.ones((4, 3)))
    np.testing.assert_array_equal(layer.get_weights()[1], [2, 2, 2])
    assert isinstance(layer.bias.constraint, keras.constraints.NonNeg)


def test_regularizers_become_losses():
    layer = Dense(
        3, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L2(0.5), activity_regularizer="l1"
    )
    layer(np.ones((2, 4), "float32"))
    kernel_loss, activity_loss = sorted((float(loss) for loss in layer.losses), reverse=True)
    assert kernel_loss == pytest.approx(0.5 * 12)
    assert activity_loss == pytest.approx(0.01 * 2 * 3 * 4 / 2)  # Keras divides by the batch size
    assert layer.get_config()["activity_regularizer"]["class_name"] == "L1"


def test_a_subclass_adds_its_arguments_to_the_config():
    class Scaled(Dense):
        def __init__(self, units, factor=2.0, **kwargs):
            super().__init__(units, **kwargs)
            self.factor = factor

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    config = Scaled(3, factor=4.0, activation="relu").get_config()
    twin = Scaled.from_config(config)
    assert (twin.units, twin.factor, twin.activation) == (3, 4.0, keras.activations.relu)


def test_inputs_may_come_by_name():
    assert LSTM(3)(sequences=np.ones((2, 5, 4), "float32")).shape == (2, 3)


def test_a_layer_without_settings_has_a_config():
    class Twice(Layer):
        def call(self, x):
            return 2 * x

    assert Twice.from_config(Twice(name="twice").get_config()).name == "twice"


@pytest.mark.parametrize("value", [0, -1, 2.5, None, "64", True])
def test_positive_integer_names_the_argument(value):
    with pytest.raises(ValueError, match="`units` must be a positive integer. Received: units="):
        positive_integer("units", value)


def test_integers():
    assert integers("strides", 2, 2) == (2, 2)
    assert integers("strides", [1, 3], 2) == (1, 3)
    assert integers("padding", 0, 2, minimum=0) == (0, 0)
    for wrong in ((1, 2, 3), "ab", None, (1, None), 1.5):
        with pytest.raises(ValueError, match="`strides` argument must be a tuple of 2 integers. Received strides="):
            integers("strides", wrong, 2)
    with pytest.raises(ValueError, match=r"including values \{0\} that do not satisfy `value > 0`"):
        integers("strides", (1, 0), 2)


def test_names_out_of_a_list():
    assert one_of("padding", "SAME", {"valid", "same"}) == "same"
    with pytest.raises(
        ValueError, match=r"`padding` argument must be one of \['same', 'valid'\]. Received: padding='full'"
    ):
        one_of("padding", "full", {"valid", "same"})
    assert data_format_or_default(None) == keras.config.image_data_format()
    assert data_format_or_default("channels_first") == "channels_first"
