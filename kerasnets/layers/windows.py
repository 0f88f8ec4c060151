"""A window 窗口 that slides over some axes: where it stands and what it sees, for convolution and pooling.

Along an axis of length n, a window of k cells, d apart, moves by s: its cell o at place p stands on input s p + d o.
Shapes are written for "channels_last".
"""

import itertools

from keras import ops
from keras.layers import InputSpec

from kerasnets.layers.layer import Layer, data_format_or_default, integers, one_of


def output_length(length, window, stride, padding, dilation=1):
    """How many places there are on an axis: ⌊(n − d(k − 1) − 1) / s⌋ + 1 unpadded, ⌈n / s⌉ when padded."""
    if length is None:
        return None
    if padding != "valid":
        return -(-length // stride)
    places = (length - dilation * (window - 1) - 1) // stride + 1
    if places <= 0:
        raise ValueError(
            f"Computed output size would be zero or negative: a window of {window} with dilation {dilation} does not "
            f"fit into an axis of length {length} with padding='valid'."
        )
    return places


def border(length, window, stride, padding, dilation=1):
    """(before, after): what is added to an axis; "same" puts the odd one after, "causal" all of it before."""
    reach = dilation * (window - 1)
    if padding == "causal":
        return reach, 0
    if padding == "valid":
        return 0, 0
    total = max((output_length(length, window, stride, padding) - 1) * stride + reach + 1 - length, 0)
    return total // 2, total - total // 2


def shifted(x, window, strides, dilation):
    """(o, what cell o of the window sees at every place): (B, *padded, C) → (B, *places, C) for each o."""
    places = [
        output_length(n, k, s, "valid", d) for n, k, s, d in zip(x.shape[1:-1], window, strides, dilation, strict=True)
    ]
    for cell in itertools.product(*map(range, window)):
        spans = [
            slice(d * o, d * o + s * (p - 1) + 1, s) for o, s, d, p in zip(cell, strides, dilation, places, strict=True)
        ]
        yield cell, x[(slice(None), *spans)]


def channels_last(x):
    return ops.moveaxis(x, 1, -1)


def channels_first(x):
    return ops.moveaxis(x, -1, 1)


class Windowed(Layer):
    """A layer with a window over `rank` axes: its arguments, and the shapes that follow from them."""

    rank = None
    paddings = {"valid", "same"}

    def set_window(self, window_name, window, strides, padding, data_format, dilation_rate=1):
        self.window = integers(window_name, window, self.rank)
        self.strides = integers("strides", strides, self.rank)
        self.dilation_rate = integers("dilation_rate", dilation_rate, self.rank)
        self.padding = one_of("padding", padding, self.paddings)
        self.data_format = data_format_or_default(data_format)
        self.input_spec = InputSpec(ndim=self.rank + 2)

    @property
    def first_axis(self):
        """The first of the axes that the window slides along."""
        return 1 if self.data_format == "channels_last" else 2

    @property
    def channel_axis(self):
        return -1 if self.data_format == "channels_last" else 1

    def axes(self, shape):
        """What `output_length` and `border` ask of each axis that the window slides along."""
        lengths = shape[self.first_axis :][: self.rank]
        columns = (lengths, self.window, self.strides, [self.padding] * self.rank, self.dilation_rate)
        return zip(*columns, strict=True)

    def borders(self, shape):
        """(before, after) of every axis, as `ops.pad` takes them."""
        sliding = [border(*axis) for axis in self.axes(shape)]
        return [(0, 0)] * self.first_axis + sliding + [(0, 0)] * (2 - self.first_axis)

    def places(self, shape):
        return [output_length(*axis) for axis in self.axes(shape)]
