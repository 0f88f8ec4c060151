"""Weights in 8 bits: a quarter of the memory, and up to four times as many tokens a second.

    model = kn.quantize(model, "int8")      model = kn.from_pretrained(source, quantize="int8")

Every matrix of `Dense`, `Embedding` and the heads over the vocabulary becomes whole numbers and one scale for each of
its outputs (see `layers/quantized.py`); norms, biases, positions and convolutions stay as they are. The new model says
and writes what the old one does, nearly; `save` keeps it as it is, for every backend. It cannot be trained, nor be
written as a checkpoint of another library: do that before. PyTorch on a processor packs the matrices once more when
they are first read, and then holds half the memory.

Which inputs are the large ones, whose weights need more, is seen by letting the model read something: words drawn at
random show the same ones as real text does.
"""

import keras
import numpy as np
from keras import ops

from kerasnets.layers.layer import blank_weights
from kerasnets.layers.quantized import Int8Matrix, Int8Weights, noting, rounded

SCHEMES = ("int8",)


def quantize(model, scheme="int8"):
    """A model like this one whose matrices are in 8 bits; `model` stays as it is.

    Raises `ValueError` for another scheme, for a model that is in 8 bits already, and for one that is not a model of
    kerasnets with its weights made.
    """
    check_scheme(scheme)
    if is_quantized(model):
        raise ValueError(f"{type(model).__name__} is in 8 bits already.")
    policy = Int8Weights(model.dtype_policy.name)
    with blank_weights():
        twin = type(model).from_config({**model.get_config(), "dtype": policy})
    layers, twins = list(model._flatten_layers()), list(twin._flatten_layers())
    if [*map(type, layers)] != [*map(type, twins)] or not twin.weights:
        raise ValueError(f"{type(model).__name__} makes its weights only when it is called: it cannot be quantized.")
    sizes = sizes_of_inputs(model)
    for layer, other in zip(layers, twins, strict=True):
        fill(other, layer, sizes)
    return twin


def sizes_of_inputs(model):
    """{id of a matrix, or the shape of a table that is read as one: Σ x² of each of its inputs (D,)}."""
    found = {}

    def noted(x, weight):
        key = id(weight) if isinstance(weight, keras.Variable) else tuple(weight.shape)
        squares = np.square(ops.convert_to_numpy(ops.cast(x, "float32"))).reshape(-1, x.shape[-1]).sum(0)
        found[key] = found.get(key, 0) + squares

    with noting(noted):
        model(something_to_read(model))
    return found


def something_to_read(model):
    """Random numbers in the form of a model's inputs."""
    random = np.random.default_rng(0)
    config = model.config
    wanted = getattr(model, "smallest_inputs", dict)()
    if set(wanted) <= {"input_ids"}:
        length = min(128, getattr(config, "max_length", None) or 128)
        return random.integers(0, config.vocab_size, (2, length)).astype("int32")
    shapes = {name: ((16, *x.shape[1:]), x.dtype) for name, x in wanted.items()}
    return {
        name: random.integers(0, config.vocab_size, shape).astype(dtype)
        if "int" in dtype
        else random.normal(size=shape).astype(dtype)
        for name, (shape, dtype) in shapes.items()
    }


def check_scheme(scheme, also=SCHEMES[0]):
    """One error for what is no scheme, nor `also`."""
    if scheme not in (*SCHEMES, also):
        raise ValueError(f"quantize must be one of {list(SCHEMES)}; received {scheme!r}.")


def is_quantized(model):
    return isinstance(model.dtype_policy, Int8Weights)


def fill(layer, source, sizes):
    """Give a layer the weights of `source`, its matrices rounded."""
    matrices = {name: matrix for name, matrix in vars(layer).items() if isinstance(matrix, Int8Matrix)}
    taken = {id(weight) for matrix in matrices.values() for weight in matrix}
    for name, matrix in matrices.items():
        weight = getattr(source, name)
        table = ops.convert_to_numpy(ops.cast(weight, "float32"))
        table = table.T if name == "kernel" else table
        read = sizes.get(id(weight), sizes.get(tuple(weight.shape)))
        for place, numbers in zip(matrix, rounded(table, read), strict=True):
            place.assign(numbers)
    theirs = {weight.name: weight for weight in own_weights(source)}
    for weight in own_weights(layer):
        if id(weight) not in taken:
            weight.assign(ops.copy(theirs[weight.name]))  # `predict` on JAX gives memory up that two models share


def own_weights(layer):
    """Those of the layer itself, not of layers within it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]
