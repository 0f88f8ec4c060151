"""`keras.layers.X` can be replaced by `kerasnets.layers.X`: the same arguments, order and defaults."""

import inspect

import keras
import pytest

import kerasnets as kn

NOT_OURS = {"lora_rank", "lora_alpha", "quantization_config"}
SHARED = [name for name in kn.layers.__all__ if hasattr(keras.layers, name)]


def arguments(cls):
    parameters = inspect.signature(cls).parameters.values()
    return [(p.name, p.default, p.kind) for p in parameters if p.name not in NOT_OURS]


@pytest.mark.parametrize("name", SHARED)
def test_signature_is_that_of_keras(name):
    assert arguments(getattr(kn.layers, name)) == arguments(getattr(keras.layers, name))


def test_every_layer_of_the_issue_is_here():
    wanted = """Dense Embedding ZeroPadding2D Flatten Conv1D Conv2D MaxPooling1D MaxPooling2D AveragePooling1D
        AveragePooling2D GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D GlobalMaxPooling2D
        SimpleRNNCell LSTMCell GRUCell SimpleRNN LSTM GRU Bidirectional LayerNormalization RMSNormalization
        MultiHeadAttention GroupQueryAttention"""
    assert set(wanted.split()) <= set(SHARED)
