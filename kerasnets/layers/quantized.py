"""Matrices in 8 bits: W ≈ Q s, Q whole numbers from −127 to 127, and one s for each output.

A model that writes token after token reads all its weights for each of them, and waits for the memory: weights of a
quarter of the size are read four times as fast. s = max |w| / 127 over what one output is made of, so that no weight is
moved by more than s / 2. Only weights are rounded; x and y are floats.

A few inputs are twenty times as large as the others, and their weights' errors count as much as all the rest. Their
weights have a second digit: W ≈ (Q + Q₂ / 254) s for these, as further columns of Q that read x / 254 of them.
Dettmers et al. 2022, arXiv:2208.07339, found such inputs, and keep their weights in floats.

Layers keep such matrices where their dtype policy is `Int8Weights`; `kn.quantize` fills them.
"""

import contextlib
import contextvars
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from kerasnets import backend

LARGEST = 127  # of 8 bits; −128 is not used, so that the range is the same on both sides
BASE = 2 * LARGEST  # of a second digit: half a step of the first is 127 of its own

_noted = contextvars.ContextVar("noted", default=None)  # told of what each matrix reads, within `noting`


@keras.saving.register_keras_serializable(package="kerasnets")
class Int8Weights(keras.DTypePolicy):
    """Another policy's dtypes, by its name, for all but the matrices of layers that can keep these in 8 bits."""

    can_be_trained = False  # for the guard


class Int8Matrix(NamedTuple):
    """W ≈ (Q s)ᵀ, or a table E ≈ Q s.   values: Q and Q₂ (outputs, inputs + k) int8, scale: s (outputs,) float32.

    twice (k,) int32: the inputs that have a second digit. Q lies the other way round than a kernel: one output's
    weights stand together, or XLA reads them 40 times slower.
    """

    values: object
    scale: object
    twice: object

    def __getitem__(self, rows):
        """The rows of a table as floats."""
        return self.as_table()[rows]

    def as_table(self):
        """Q s.   (outputs, inputs) float32."""
        return joined(ops.convert_to_tensor(self.values), ops.convert_to_tensor(self.scale), self.twice)


def joined(values, scale, twice):
    """Rows (…, inputs + k) int8 and their scales (…) → (…, inputs) float32."""
    first, second = values[..., : -twice.shape[0]], values[..., -twice.shape[0] :]
    places = ops.equal(ops.expand_dims(ops.convert_to_tensor(twice), -1), ops.arange(first.shape[-1], dtype="int32"))
    second = ops.matmul(ops.cast(second, "float32") / BASE, ops.cast(places, "float32"))  # (…, k), (k, inputs)
    whole = ops.cast(first, "float32") + second
    return whole * ops.expand_dims(scale, -1)


def rounded(table, sizes=None):
    """(outputs, inputs) → the arrays of an `Int8Matrix`, in NumPy.   sizes (inputs,): how large each input is."""
    sizes = np.abs(table).max(axis=0) if sizes is None else sizes
    twice = np.sort(np.argsort(-sizes, kind="stable")[: second_digits(table.shape[1])]).astype("int32")
    scale = np.abs(table).max(axis=-1) / LARGEST
    scale = np.where(scale > 0, scale, 1).astype("float32")
    steps = table / scale[:, None]
    first = np.rint(steps)
    second = np.rint((steps - first)[:, twice] * BASE)
    return np.concatenate([first, second], axis=1).astype("int8"), scale, twice


def second_digits(inputs):
    """How many inputs have a second digit; 64: PyTorch reads 592 bytes a row in bfloat16 slower than 640."""
    return 64 if inputs >= 512 else max(1, inputs // 16)


def make_table(layer, name, shape):
    """The weight of a layer that is `shape` = (outputs, inputs), in floats or in 8 bits as the layer's policy says."""
    if not isinstance(layer.dtype_policy, Int8Weights):
        return layer.make_weight(name, shape)
    settings = {"trainable": False, "autocast": False, "initializer": "zeros"}
    outputs, inputs = shape
    twice = second_digits(inputs)
    return Int8Matrix(
        layer.add_weight(name=name, shape=(outputs, inputs + twice), dtype="int8", **settings),
        layer.add_weight(name=f"{name}_scale", shape=(outputs,), dtype="float32", **settings),
        layer.add_weight(name=f"{name}_twice", shape=(twice,), dtype="int32", **settings),
    )


def unwrap(layer, name):
    """A matrix that is given to other layers must be what it is: TensorFlow puts tuples of weights into wrappers."""
    matrix = getattr(layer, name)
    if isinstance(matrix, Int8Matrix):
        object.__setattr__(layer, name, Int8Matrix(*matrix))


def make_kernel(layer, name, shape):
    """The same for `shape` = (inputs, outputs), as kernels are."""
    is_rounded = isinstance(layer.dtype_policy, Int8Weights)
    return make_table(layer, name, shape[::-1]) if is_rounded else layer.make_weight(name, shape)


def dense(x, kernel, bias=None):
    """x W + b.   (…, D) → (…, F).   W: (D, F), or an `Int8Matrix`."""
    if not isinstance(kernel, Int8Matrix):
        note(x, kernel)
        return backend.dense(x, kernel, bias)
    x = ops.convert_to_tensor(x)
    others, dtype = ops.shape(x)[:-1], keras.backend.standardize_dtype(x.dtype)
    rows = ops.cast(ops.reshape(x, (-1, x.shape[-1])), "float32")
    y = backend.int8_product(rows, *map(ops.convert_to_tensor, kernel))
    y = ops.reshape(ops.cast(y, dtype), (*others, y.shape[-1]))
    return y if bias is None else y + bias


def dense_by_table(x, table):
    """x Eᵀ.   (…, D) → (…, V).   E: (V, D), or an `Int8Matrix`."""
    if isinstance(table, Int8Matrix):
        return dense(x, table)
    note(x, table)
    return backend.product(x, ops.transpose(ops.cast(table, x.dtype)))


def rows_of(table, ids):
    """E[ids].   (…) → (…, D).   E: (V, D), or an `Int8Matrix`."""
    if not isinstance(table, Int8Matrix):
        return ops.take(table, ids, axis=0)
    return joined(ops.take(table.values, ids, axis=0), ops.take(table.scale, ids, axis=0), table.twice)


def as_kernel(kernel):
    """W as floats.   (D, F), or an `Int8Matrix` → (D, F)."""
    return ops.transpose(kernel.as_table()) if isinstance(kernel, Int8Matrix) else kernel


def note(x, weight):
    """Within `noting`: tell it what a weight reads."""
    noted = _noted.get()
    if noted is not None:
        noted(x, weight)


@contextlib.contextmanager
def noting(noted):
    """Within this, each product of a matrix in floats tells `noted(x, weight)` of it."""
    token = _noted.set(noted)
    try:
        yield
    finally:
        _noted.reset(token)
