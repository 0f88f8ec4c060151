"""Weights in 8 bits: a quarter of the memory, and up to four times as many tokens a second.

    model = kn.quantize(model, "int8")      model = kn.from_pretrained(source, quantize="int8")

Every matrix of `Dense`, `Embedding` and the heads over the vocabulary becomes whole numbers and one scale for each of
its outputs (see `layers/quantized.py`); norms, biases, positions and convolutions stay as they are. The new model says
and writes what the old one does, nearly; `save` keeps it as it is, for every backend. It cannot be trained, nor be
written as a checkpoint of another library: do that before.
"""

from keras import ops

from kerasnets.layers.layer import blank_weights
from kerasnets.layers.quantized import Int8Matrix, Int8Weights, rounded

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
    for layer, other in zip(layers, twins, strict=True):
        fill(other, layer)
    return twin


def check_scheme(scheme, also=SCHEMES[0]):
    """One error for what is no scheme, nor `also`."""
    if scheme not in (*SCHEMES, also):
        raise ValueError(f"quantize must be one of {list(SCHEMES)}; received {scheme!r}.")


def is_quantized(model):
    return isinstance(model.dtype_policy, Int8Weights)


def fill(layer, source):
    """Give a layer the weights of `source`, its matrices rounded."""
    matrices = {name: matrix for name, matrix in vars(layer).items() if isinstance(matrix, Int8Matrix)}
    taken = {id(weight) for matrix in matrices.values() for weight in matrix}
    for name, matrix in matrices.items():
        weight = getattr(source, name)
        table = ops.convert_to_numpy(ops.cast(weight, "float32"))
        table = table.T if name == "kernel" else table
        for place, numbers in zip(matrix, rounded(table), strict=True):
            place.assign(numbers)
    theirs = {weight.name: weight for weight in own_weights(source)}
    for weight in own_weights(layer):
        if id(weight) not in taken:
            weight.assign(theirs[weight.name])


def own_weights(layer):
    """Those of the layer itself, not of layers within it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]
