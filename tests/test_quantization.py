"""Matrices in 8 bits: the product, every family, files, generation, and what is refused."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import kerasnets as kn
from kerasnets import backend
from kerasnets.layers import quantized
from tests.models import every_family

NAMES = ["GPT2CausalLM", "BaichuanCausalLM", "DeBERTaMaskedLM", "T5Seq2SeqLM"]


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def error(found, expected):
    return np.abs(ops.convert_to_numpy(found) - expected).max() / np.abs(expected).max()


def bytes_of(model):
    return sum(np.prod(w.shape) * (1 if w.dtype == "int8" else 4) for w in model.weights)


def round_as(small, model):
    """Give a model in floats the numbers that its twin in 8 bits has."""
    for ours, theirs in zip(small._flatten_layers(), model._flatten_layers(), strict=True):
        for name, matrix in vars(ours).items():
            if isinstance(matrix, quantized.Int8Matrix):
                table = ops.convert_to_numpy(matrix.as_table())
                getattr(theirs, name).assign(table.T if name == "kernel" else table)


@pytest.mark.parametrize("rows", [1, 2, 16, 70])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (37, 19), (64, 300), (512, 128), (1536, 576)])
def test_product_is_that_of_the_rounded_numbers(rows, inputs, outputs):
    """Inputs of very different sizes: none of their bits may be lost beside a large one."""
    x = numbers(rows, inputs) * np.exp(3 * numbers(inputs, seed=1))
    arrays = quantized.rounded(numbers(outputs, inputs, seed=2), np.exp(numbers(inputs, seed=1)))
    matrix = quantized.Int8Matrix(*map(ops.convert_to_tensor, arrays))
    exact = x.astype("float64") @ ops.convert_to_numpy(matrix.as_table()).astype("float64").T
    assert error(quantized.dense(ops.convert_to_tensor(x), matrix), exact) < 3e-6


@pytest.mark.skipif(keras.config.backend() != "torch", reason="only there is a kernel that may be missing")
@pytest.mark.parametrize(("rows", "tolerance"), [(2, 1e-2), (3, 3e-6)])  # bfloat16 has 8 bits
def test_product_where_torch_lacks_the_kernel(rows, tolerance, monkeypatch):
    monkeypatch.setattr("kerasnets.backend.torch_int8.is_there", lambda: False)
    matrix = quantized.Int8Matrix(*map(ops.convert_to_tensor, quantized.rounded(numbers(128, 512, seed=2))))
    x = numbers(rows, 512)
    exact = x.astype("float64") @ ops.convert_to_numpy(matrix.as_table()).astype("float64").T
    assert error(quantized.dense(ops.convert_to_tensor(x), matrix), exact) < tolerance


@pytest.mark.parametrize("x", [np.float32([[126, 63, 1, -63]]), np.float32([[1, 0, -1, 0.5]]), np.ones((1, 4), "f4")])
def test_product_of_whole_numbers_and_halves_of_them(x):
    """And the largest numbers that 8 bits hold, of either sign."""
    table = np.float32([[127, -127, 64, 1], [-127, 3, 2, 127], [127, 127, 127, 127]])
    matrix = quantized.Int8Matrix(*map(ops.convert_to_tensor, quantized.rounded(table)))
    assert error(quantized.dense(ops.convert_to_tensor(x), matrix), x.astype("float64") @ table.T) < 3e-6


def test_a_row_that_is_no_number_leaves_the_others_alone():
    matrix = quantized.Int8Matrix(*map(ops.convert_to_tensor, quantized.rounded(numbers(64, 64))))
    x = numbers(3, 64, seed=1)
    expected = ops.convert_to_numpy(quantized.dense(ops.convert_to_tensor(x[1:]), matrix))
    x[0, 5] = np.nan
    y = ops.convert_to_numpy(quantized.dense(ops.convert_to_tensor(x), matrix))
    assert np.isnan(y[0]).all() and error(y[1:], expected) < 3e-6


def test_product_reads_what_was_assigned_last():
    """PyTorch keeps a packed copy of a matrix."""
    arrays = [quantized.rounded(numbers(64, 64, seed=seed)) for seed in (1, 2)]
    matrix = quantized.Int8Matrix(*(keras.Variable(x, dtype=str(x.dtype), trainable=False) for x in arrays[0]))
    x = ops.convert_to_tensor(numbers(1, 64))
    before = ops.convert_to_numpy(quantized.dense(x, matrix))
    for place, array in zip(matrix, arrays[1], strict=True):
        place.assign(array)
    expected = ops.convert_to_numpy(x).astype("float64") @ ops.convert_to_numpy(matrix.as_table()).astype("float64").T
    after = quantized.dense(x, matrix)
    assert error(after, expected) < 3e-6 < error(after, before)


def test_product_with_nothing_is_nothing():
    values = ops.convert_to_tensor(np.ones((3, 5), "int8"))
    y = backend.int8_product(ops.zeros((2, 4)), values, ops.ones(3), ops.zeros(1, "int32"))
    assert not ops.convert_to_numpy(y).any()


def test_rounding_is_to_the_nearest_of_255_steps_or_of_254_times_as_many():
    table = np.concatenate([numbers(5, 40) * np.float32([[1e-4], [1], [10], [1e3], [1e-20]]), np.zeros((1, 40), "f4")])
    sizes = np.ones(40)
    sizes[[7, 31]] = 2, 3
    values, scale, twice = quantized.rounded(table, sizes)
    assert twice.tolist() == [7, 31] and values.shape == (6, 42) and values.dtype == np.int8
    assert values.min() >= -127 and (np.abs(values[:5]).max(1) == 127).all() and not values[5].any()
    matrix = quantized.Int8Matrix(*map(ops.convert_to_tensor, (values, scale, twice)))
    steps = np.abs(ops.convert_to_numpy(matrix.as_table()) - table) / scale[:, None]
    assert steps.max() < 0.501 and steps[:, twice].max() < 0.501 / 254


def test_large_inputs_are_found():
    """Of a norm that makes two channels large, the weights behind it have their second digit there."""
    model = every_family.make("LLaMACausalLM")
    gain = np.ones(32, "float32")
    gain[[4, 29]] = 30
    model.backbone.blocks[1].attention_norm.set_weights([gain])
    model.backbone.final_norm.set_weights([gain])
    small = kn.quantize(model)
    for matrix in (small.backbone.blocks[1].attention.query.kernel, small.head.kernel):
        assert ops.convert_to_numpy(matrix.twice).tolist() == [4, 29]


@pytest.mark.parametrize(
    "make", [lambda **k: kn.layers.Dense(6, "relu", **k), lambda **k: kn.layers.Embedding(9, 5, **k)]
)
def test_a_layer_of_its_own(make):
    """A layer with this policy, its config, and what it gives for one that is asked in float16."""
    x = np.array([[1, 3, 8]]) if "embedding" in make().name else numbers(2, 3, 4)
    layer = make(dtype=quantized.Int8Weights("mixed_float16"))
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    again = type(layer).from_config(layer.get_config())
    assert again.dtype_policy == layer.dtype_policy and tuple(again(x).shape) == tuple(
        layer.compute_output_shape(x.shape)
    )
    assert [w.dtype for w in again.weights if w.dtype in ("int8", "int32", "float32")] == [
        w.dtype for w in layer.weights
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_model(name):
    """Near the model that was given, equal to one with the rounded numbers, and a third of its size."""
    keras.utils.set_random_seed(1)
    model = every_family.make(name)
    for weight in model.weights:  # biases and norms too must come along
        weight.assign(weight + 0.02 * numbers(*weight.shape))
    small = kn.quantize(model, "int8")
    outputs = every_family.outputs(small)
    assert bytes_of(small) < 0.35 * bytes_of(model)
    assert 1e-5 < error(outputs, every_family.outputs(model)) < 0.06
    round_as(small, model)
    assert error(outputs, every_family.outputs(model)) < 1e-5


def test_generation_of_a_saved_model(tmp_path):
    keras.utils.set_random_seed(2)
    whole = every_family.make("LLaMACausalLM")
    model = kn.quantize(whole)
    ids = every_family.IDS[:, :5]
    written = model.generate(ids, 12, stop_tokens=())
    whole.predict(ids, verbose=0)  # on JAX it gives up the memory of its weights: none may be shared
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    assert bytes_of(again) == bytes_of(model)
    assert np.array_equal(again.generate(ids, 12, stop_tokens=()), written)
    assert np.array_equal(np.stack(list(again.stream(ids, 12, stop_tokens=())), 1), written)
    logits = ops.convert_to_numpy(model(np.concatenate([ids, written], axis=1)))  # the loop is the model
    assert np.array_equal(logits[:, 4:-1].argmax(-1), written)


def test_saved_here_loaded_on_another_backend(tmp_path):
    other = "jax"
    if keras.config.backend() == other or not importlib.util.find_spec(other):
        pytest.skip("another process with JAX reads the file")
    model = kn.quantize(every_family.make("GPT2CausalLM"))
    model.save(tmp_path / "x.keras")
    np.save(tmp_path / "x.npy", every_family.outputs(model))
    code = """
import sys, numpy as np, kerasnets as kn, keras
from tests.models import every_family
y, expected = every_family.outputs(keras.models.load_model(sys.argv[1] + "/x.keras")), np.load(sys.argv[1] + "/x.npy")
assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()
"""
    environment = {**os.environ, "KERAS_BACKEND": other, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_checkpoint_read_in_8_bits(tmp_path):
    pytest.importorskip("safetensors")
    model = every_family.make("GPT2CausalLM")
    kn.to_pretrained(model, tmp_path / "whole")
    small = kn.from_pretrained(tmp_path / "whole", quantize="int8")
    assert np.array_equal(every_family.outputs(small), every_family.outputs(kn.quantize(model)))
    with pytest.raises(ValueError, match="8 bits is no checkpoint"):
        kn.to_pretrained(small, tmp_path / "small")
    with pytest.raises(ValueError, match=r"\['int8'\]; received 'int3'"):
        kn.from_pretrained(tmp_path / "whole", quantize="int3")


def test_what_is_refused():
    model = every_family.make("GPT2CausalLM")
    small = kn.quantize(model)
    for wrong, words in (((model, "int4"), "received 'int4'"), ((model, None), "received None"), ((small,), "already")):
        with pytest.raises(ValueError, match=words):
            kn.quantize(*wrong)
    with pytest.raises(ValueError, match="only when it is called"):
        kn.quantize(kn.MLP(num_classes=3))
    small.compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="8 bits, which cannot be trained"):
        small.fit(every_family.IDS, every_family.IDS, verbose=0)
    with pytest.raises(ValueError, match="8 bits, which cannot be trained"):
        small.train_on_batch(every_family.IDS, every_family.IDS)
