"""One model for each layer of kerasnets, with arguments that are not the defaults; and, as a script, the other backend.

    KERAS_BACKEND=torch python -m tests.layers.every_layer FOLDER

loads what another backend saved there and prints, as JSON, how far each model's outputs are from that backend's.
"""

import json
import pathlib
import sys

import keras
import numpy as np

from kerasnets import layers

PICTURE, SEQUENCE, ROW = (7, 6, 4), (7, 4), (4,)
FIRST = {"data_format": "channels_first"}
RECURRENT = {"bias_initializer": "random_normal", "kernel_regularizer": "l2"}

# layer: (shape of one sample, arguments), … ; token ids where the shape is that of an Embedding
CASES = {
    "Dense": [(ROW, {"units": 3, "activation": "relu", "bias_initializer": "random_normal"}), (SEQUENCE, {"units": 3})],
    "Embedding": [((5,), {"input_dim": 9, "output_dim": 4, "mask_zero": True})],
    "BERTEmbedding": [((7,), {"vocab_size": 9, "hidden_size": 4, "max_length": 8, "dropout": 0.1, "epsilon": 1e-6})],
    "FirstTokenPooler": [(SEQUENCE, {"activation": "relu", "bias_initializer": "random_normal"})],
    "Flatten": [(PICTURE, {}), (PICTURE, FIRST)],
    "ZeroPadding2D": [(PICTURE, {"padding": ((1, 2), (0, 3))})],
    "Conv1D": [
        (SEQUENCE, {"filters": 6, "kernel_size": 3, "padding": "causal", "dilation_rate": 2, "activation": "tanh"}),
        (SEQUENCE, {"filters": 6, "kernel_size": 3, "padding": "same", "strides": 2, "bias_regularizer": "l1"}),
    ],
    "Conv2D": [
        (PICTURE, {"filters": 6, "kernel_size": 3, "groups": 2, "padding": "same", "strides": (2, 1)}),
        (PICTURE, {"filters": 6, "kernel_size": (3, 2), "kernel_constraint": "max_norm", **FIRST}),
    ],
    "MaxPooling1D": [(SEQUENCE, {"padding": "same"})],
    "MaxPooling2D": [(PICTURE, {"pool_size": (3, 2), "padding": "same", "strides": 2}), (PICTURE, {})],
    "AveragePooling1D": [(SEQUENCE, {"pool_size": 2, "padding": "same"})],
    "AveragePooling2D": [(PICTURE, {"pool_size": (3, 2), "padding": "same", "strides": 2})],
    "GlobalAveragePooling1D": [(SEQUENCE, {"keepdims": True})],
    "GlobalAveragePooling2D": [(PICTURE, FIRST)],
    "GlobalMaxPooling1D": [(SEQUENCE, FIRST)],
    "GlobalMaxPooling2D": [(PICTURE, {"keepdims": True})],
    "LayerNormalization": [(SEQUENCE, {"axis": -1, "epsilon": 1e-5}), (SEQUENCE, {"axis": [1, 2], "center": False})],
    "RMSNormalization": [(SEQUENCE, {"epsilon": 1e-5})],
    "FeedForward": [(SEQUENCE, {"feedforward_size": 6, "bias_initializer": "random_normal"})],
    "GatedFeedForward": [(SEQUENCE, {"feedforward_size": 6, "activation": "gelu"})],
    "PositionEmbedding": [(SEQUENCE, {"max_length": 9})],
    "RelativePositionBias": [((7,), {"num_heads": 2, "num_buckets": 8, "max_distance": 6})],
    "RotaryEmbedding": [
        ((7, 2, 8), {"size": 8, "scaling": {"rope_type": "linear", "factor": 2.0}}),
        ((7, 2, 8), {"size": 4, "theta": 100.0, "interleaved": True}),
    ],
    "MultiHeadAttention": [
        (SEQUENCE, {"num_heads": 2, "key_dim": 3, "value_dim": 5, "dropout": 0.1, "kernel_regularizer": "l2"}),
        (PICTURE, {"num_heads": 2, "key_dim": 3, "attention_axes": 2, "output_shape": 6, "sliding_window": 2}),
    ],
    "GroupQueryAttention": [
        (SEQUENCE, {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2, "use_gate": True}),
        (SEQUENCE, {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 1, "use_bias": False}),
    ],
    "TransformerEncoderBlock": [
        (SEQUENCE, {"num_heads": 2, "feedforward_size": 8, "norm_first": True, "dropout": 0.1})
    ],
    "TransformerDecoderBlock": [(SEQUENCE, {"num_heads": 2, "feedforward_size": 8, "activation": "gelu"})],
    "CausalLMHead": [(SEQUENCE, {"vocab_size": 9, "use_bias": True})],
    "MaskedLMHead": [(SEQUENCE, {"vocab_size": 9, "activation": "relu", "epsilon": 1e-6})],
    "SimpleRNNCell": [(SEQUENCE, {"units": 3, **RECURRENT})],
    "LSTMCell": [(SEQUENCE, {"units": 3, "unit_forget_bias": False, **RECURRENT})],
    "GRUCell": [(SEQUENCE, {"units": 3, "reset_after": False, **RECURRENT})],
    "SimpleRNN": [(SEQUENCE, {"units": 3, "activation": "relu", "return_sequences": True, **RECURRENT})],
    "LSTM": [(SEQUENCE, {"units": 3, **RECURRENT}), (SEQUENCE, {"units": 3, "go_backwards": True, "dropout": 0.1})],
    "GRU": [(SEQUENCE, {"units": 3, **RECURRENT}), (SEQUENCE, {"units": 3, "reset_after": False, "unroll": True})],
    "Bidirectional": [(SEQUENCE, {"merge_mode": "sum"}), (SEQUENCE, {"merge_mode": "concat"})],
}
# layer: the argument below which its integers lie
READS_INTEGERS = {"Embedding": "input_dim", "BERTEmbedding": "vocab_size", "RelativePositionBias": "num_buckets"}
LOOKS_AT_ITSELF = ("MultiHeadAttention", "GroupQueryAttention", "TransformerDecoderBlock")  # its input comes twice
ALL = [(name, number) for name, cases in CASES.items() for number in range(len(cases))]


def make_layer(name, number, dtype=None, library=layers):
    _, arguments = CASES[name][number]
    inner = [layers.LSTM(3, return_sequences=True, dtype=dtype)] if name == "Bidirectional" else []
    return getattr(library, name)(*inner, **arguments, dtype=dtype)


def make_branch(name, number, dtype=None):
    """(input, output) of the layer; a cell is run over a sequence."""
    shape, _ = CASES[name][number]
    layer = make_layer(name, number, dtype)
    if name.endswith("Cell"):
        layer = keras.layers.RNN(layer, dtype=dtype)
    symbol = keras.Input(shape, name=f"input_{name}_{number}", dtype="int32" if name in READS_INTEGERS else "float32")
    return symbol, layer(symbol, symbol) if name in LOOKS_AT_ITSELF else layer(symbol)


def make_model(name, number):
    return keras.Model(*make_branch(name, number), name=f"{name}_{number}")


def example(name, number, batch=3):
    shape, arguments = CASES[name][number]
    random = np.random.default_rng(1)
    if name in READS_INTEGERS:
        return random.integers(0, arguments[READS_INTEGERS[name]], (batch, *shape)).astype("int32")
    return random.normal(size=(batch, *shape)).astype("float32")


def outputs(model, name, number):
    return keras.ops.convert_to_numpy(model(example(name, number)))


def save_all(folder):
    for name, number in ALL:
        model = make_model(name, number)
        model.save(folder / f"{name}_{number}.keras")
        np.save(folder / f"{name}_{number}.npy", outputs(model, name, number))


def differences(folder):
    """How far the outputs of each loaded model are from the saved ones."""
    found = {}
    for name, number in ALL:
        model = keras.models.load_model(folder / f"{name}_{number}.keras")
        expected = np.load(folder / f"{name}_{number}.npy")
        found[f"{name}_{number}"] = float(np.abs(outputs(model, name, number) - expected).max())
    return found


if __name__ == "__main__":
    print(json.dumps({"backend": keras.config.backend(), "differences": differences(pathlib.Path(sys.argv[1]))}))
