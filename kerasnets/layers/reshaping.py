"""Layers that only rearrange: a border 扩充 before the kernels, one long row 扁平化 before the dense layers."""

import math

import keras
from keras import ops
from keras.layers import InputSpec

from kerasnets.layers.layer import Layer, data_format_or_default, integers, public


@public
class Flatten(Layer):
    """y[b, (i, j, …)] = x[b, i, j, …].   (B, …) → (B, product of …); (B,) → (B, 1).

    "channels_first" inputs (B, C, …) are flattened in the order (…, C), so that both formats give the same rows.
    """

    def __init__(self, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.set_arguments(locals())
        self.data_format = data_format_or_default(data_format)
        self.input_spec = InputSpec(min_ndim=1)
        self.mark_built()

    def call(self, inputs):
        rank = len(inputs.shape)
        if self.data_format == "channels_first" and rank > 2:
            inputs = ops.transpose(inputs, (0, *range(2, rank), 1))
        batch, *rest = ops.shape(inputs)
        is_known = all(isinstance(n, int) for n in rest)
        return ops.reshape(inputs, (batch, math.prod(rest) if is_known else -1))

    def compute_output_shape(self, input_shape):
        batch, *rest = input_shape
        return (batch, None if any(n is None for n in rest) else math.prod(rest))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=inputs.dtype, sparse=inputs.sparse)


@public
class ZeroPadding2D(Layer):
    """A border of zeros, so that kernels see the edge as often as the middle.

    (B, H, W, C) → (B, top + H + bottom, left + W + right, C). `padding` is ((top, bottom), (left, right)), (rows,
    columns) on either side, or one number for all. Raises `ValueError` for anything else.
    """

    def __init__(self, padding=(1, 1), data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.set_arguments(locals())
        height, width = (padding, padding) if isinstance(padding, int) else self.two_entries(padding)
        self.padding = (
            integers("1st entry of padding", height, 2, minimum=0),
            integers("2nd entry of padding", width, 2, minimum=0),
        )
        self.data_format = data_format_or_default(data_format)
        self.input_spec = InputSpec(ndim=4)
        self.mark_built()

    @staticmethod
    def two_entries(padding):
        if not hasattr(padding, "__len__") or len(padding) != 2:
            raise ValueError(
                "`padding` should be an integer, two integers (rows, columns) or two pairs ((top, bottom), "
                f"(left, right)). Received: padding={padding!r}"
            )
        return padding

    def borders(self):
        """(before, after) of each axis."""
        if self.data_format == "channels_first":
            return ((0, 0), (0, 0), *self.padding)
        return ((0, 0), *self.padding, (0, 0))

    def call(self, inputs):
        return ops.pad(inputs, self.borders())

    def compute_output_shape(self, input_shape):
        return tuple(
            None if n is None else before + n + after
            for n, (before, after) in zip(input_shape, self.borders(), strict=True)
        )
