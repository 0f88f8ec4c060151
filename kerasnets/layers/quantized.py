"""Matrices in 8 bits: W ≈ Q s, Q whole numbers from −127 to 127, and one s for each output.

A model that writes token after token reads all its weights for each of them, and waits for the memory: weights of a
quarter of the size are read four times as fast. s = max |w| / 127 over what one output is made of, so that no weight is
moved by more than s / 2. Only weights are rounded; x and y are floats.   Dettmers et al. 2022, arXiv:2208.07339, whose
section 2 is this and whose section 3 what larger models need in addition.

Layers keep such matrices where their dtype policy is `Int8Weights`; `kn.quantize` fills them.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from kerasnets import backend

LARGEST = 127  # of 8 bits; −128 is not used, so that the range is the same on both sides


@keras.saving.register_keras_serializable(package="kerasnets")
class Int8Weights(keras.DTypePolicy):
    """Another policy's dtypes, by its name, for all but the matrices of layers that can keep these in 8 bits."""

    can_be_trained = False  # for the guard


class Int8Matrix(NamedTuple):
    """W ≈ (Q s)ᵀ, or a table E ≈ Q s.   values: Q (outputs, inputs) int8, scale: s (outputs,) float32.

    Q lies the other way round than a kernel: one output's weights stand together, or XLA reads them 40 times slower.
    """

    values: object
    scale: object

    def __getitem__(self, rows):
        """The rows of a table as floats."""
        return self.as_table()[rows]

    def as_table(self):
        """Q s.   (outputs, inputs) float32."""
        return ops.cast(self.values, "float32") * ops.expand_dims(ops.convert_to_tensor(self.scale), -1)


def rounded(table):
    """(outputs, inputs) → Q int8 and s float32, in NumPy."""
    scale = np.abs(table).max(axis=-1) / LARGEST
    scale = np.where(scale > 0, scale, 1).astype("float32")
    return np.rint(table / scale[:, None]).astype("int8"), scale


def make_table(layer, name, shape):
    """The weight of a layer that is `shape` = (outputs, inputs), in floats or in 8 bits as the layer's policy says."""
    if not isinstance(layer.dtype_policy, Int8Weights):
        return layer.make_weight(name, shape)
    settings = {"trainable": False, "autocast": False, "initializer": "zeros"}
    values = layer.add_weight(name=name, shape=shape, dtype="int8", **settings)
    return Int8Matrix(values, layer.add_weight(name=f"{name}_scale", shape=shape[:1], dtype="float32", **settings))


def make_kernel(layer, name, shape):
    """The same for `shape` = (inputs, outputs), as kernels are."""
    is_rounded = isinstance(layer.dtype_policy, Int8Weights)
    return make_table(layer, name, shape[::-1]) if is_rounded else layer.make_weight(name, shape)


def dense(x, kernel, bias=None):
    """x W + b.   (…, D) → (…, F).   W: (D, F), or an `Int8Matrix`."""
    if not isinstance(kernel, Int8Matrix):
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
    return ops.matmul(x, ops.transpose(ops.cast(table, x.dtype)))


def rows_of(table, ids):
    """E[ids].   (…) → (…, D).   E: (V, D), or an `Int8Matrix`."""
    if not isinstance(table, Int8Matrix):
        return ops.take(table, ids, axis=0)
    return ops.cast(ops.take(table.values, ids, axis=0), "float32") * ops.take(table.scale, ids, axis=0)[..., None]


def as_kernel(kernel):
    """W as floats.   (D, F), or an `Int8Matrix` → (D, F)."""
    return ops.transpose(kernel.as_table()) if isinstance(kernel, Int8Matrix) else kernel
