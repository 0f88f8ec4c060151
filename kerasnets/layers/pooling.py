"""Pooling 池化: a neighbourhood becomes one number, so that it matters what was seen and less where.

Average: LeCun et al. 1989; max: Ranzato et al. 2007; global: Lin et al. 2014, arXiv:1312.4400. `pool` is the equation
in plain words; the layers call the backend's own pooling, and a test holds them equal. No layer here has weights.
Shapes are written for "channels_last".
"""

import functools

from keras import ops
from keras.layers import InputSpec

from kerasnets import backend, guard
from kerasnets.layers.layer import Layer, data_format_or_default, public
from kerasnets.layers.windows import Windowed, border, channels_first, channels_last, shifted


def pool(x, pool_size, strides, padding="valid", data_format="channels_last", kind="max"):
    """y[p] = max_o x[s p + o], or the mean over o; padding is never the largest and never counted.

    (B, *spatial, C) → (B, *places, C). The readable twin of the pooling layers.
    """
    if data_format == "channels_first":
        return channels_first(pool(channels_last(x), pool_size, strides, padding, "channels_last", kind))
    borders = [border(*axis, padding) for axis in zip(x.shape[1:-1], pool_size, strides, strict=True)]
    borders = [(0, 0), *borders, (0, 0)]
    once = (1,) * len(pool_size)
    if kind == "max":
        x = ops.pad(x, borders, constant_values=float("-inf"))
        return functools.reduce(ops.maximum, (seen for _, seen in shifted(x, pool_size, strides, once)))
    counts = ops.pad(ops.ones_like(x), borders)
    total = sum(seen for _, seen in shifted(ops.pad(x, borders), pool_size, strides, once))
    return total / sum(seen for _, seen in shifted(counts, pool_size, strides, once))


class Pooling(Windowed):
    """What the pooling layers share: a window for each channel, which moves by its own size unless told otherwise."""

    def __init__(self, arguments, **kwargs):
        super().__init__(**kwargs)
        self.set_arguments(arguments)
        strides = self.pool_size if self.strides is None else self.strides
        self.set_window("pool_size", self.pool_size, strides, self.padding, self.data_format)
        self.pool_size = self.window
        self.mark_built()

    def compute_output_shape(self, input_shape):
        places = self.places(input_shape)
        return (*input_shape[: self.first_axis], *places, *input_shape[self.first_axis + self.rank :])


class MaxPooling(Pooling):
    """y[p] = max_o x[s p + o]."""

    def call(self, inputs):
        return backend.max_pool(inputs, self.pool_size, self.strides, self.padding, self.data_format)


class AveragePooling(Pooling):
    """y[p] = mean_o x[s p + o], over the inputs that are no padding."""

    def call(self, inputs):
        if self.padding == "valid" or None in inputs.shape[1:]:
            return backend.average_pool(inputs, self.pool_size, self.strides, self.padding, self.data_format)
        # Keras on torch pads unevenly with copies of the edge and counts them: here zeros are added, and not counted.
        borders = self.borders(inputs.shape)
        padded, inside = ops.pad(inputs, borders), ops.pad(ops.ones((1, *inputs.shape[1:]), inputs.dtype), borders)
        means = [
            backend.average_pool(x, self.pool_size, self.strides, "valid", self.data_format) for x in (padded, inside)
        ]
        return means[0] / means[1]


@public
class MaxPooling1D(MaxPooling):
    """y[t] = max_o x[s t + o], o < pool_size.   (B, T, C) → (B, T′, C); s: strides, or pool_size."""

    rank = 1

    def __init__(self, pool_size=2, strides=None, padding="valid", data_format=None, name=None, **kwargs):
        super().__init__(locals(), name=name, **kwargs)


@public
class MaxPooling2D(MaxPooling):
    """y[i, j] = max_(a, b) x[s i + a, s j + b].   (B, H, W, C) → (B, H′, W′, C); s: strides, or pool_size."""

    rank = 2

    def __init__(self, pool_size=(2, 2), strides=None, padding="valid", data_format=None, name=None, **kwargs):
        super().__init__(locals(), name=name, **kwargs)


@public
class AveragePooling1D(AveragePooling):
    """y[t] = mean_o x[s t + o], o < pool_size.   (B, T, C) → (B, T′, C); s: strides, or pool_size."""

    rank = 1

    def __init__(self, pool_size, strides=None, padding="valid", data_format=None, name=None, **kwargs):
        super().__init__(locals(), name=name, **kwargs)


@public
class AveragePooling2D(AveragePooling):
    """y[i, j] = mean_(a, b) x[s i + a, s j + b].   (B, H, W, C) → (B, H′, W′, C); s: strides, or pool_size."""

    rank = 2

    def __init__(self, pool_size, strides=None, padding="valid", data_format=None, name=None, **kwargs):
        super().__init__(locals(), name=name, **kwargs)


class GlobalPooling(Layer):
    """What the global pooling layers share: the window is the whole input; `keepdims` leaves its axes with length 1."""

    rank = None

    def __init__(self, data_format=None, keepdims=False, **kwargs):
        super().__init__(**kwargs)
        self.set_arguments(locals())
        self.data_format = data_format_or_default(data_format)
        self.input_spec = InputSpec(ndim=self.rank + 2)
        self.mark_built()

    @property
    def spatial_axes(self):
        first = 1 if self.data_format == "channels_last" else 2
        return tuple(range(first, first + self.rank))

    def compute_output_shape(self, input_shape):
        kept = [1 if axis in self.spatial_axes else n for axis, n in enumerate(input_shape)]
        return tuple(n for axis, n in enumerate(kept) if self.keepdims or axis not in self.spatial_axes)


class GlobalMaxPooling(GlobalPooling):
    """y = max_p x[p]."""

    def call(self, inputs):
        return ops.max(inputs, axis=self.spatial_axes, keepdims=self.keepdims)


class GlobalAveragePooling(GlobalPooling):
    """y = mean_p x[p]."""

    def call(self, inputs):
        return ops.mean(inputs, axis=self.spatial_axes, keepdims=self.keepdims)


@public
class GlobalMaxPooling1D(GlobalMaxPooling):
    """y = max_t x[t].   (B, T, C) → (B, C), or (B, 1, C) with `keepdims`."""

    rank = 1


@public
class GlobalMaxPooling2D(GlobalMaxPooling):
    """y = max_(i, j) x[i, j].   (B, H, W, C) → (B, C), or (B, 1, 1, C) with `keepdims`."""

    rank = 2


@public
class GlobalAveragePooling1D(GlobalAveragePooling):
    """y = mean_t x[t], over the steps t where `mask` is True.   (B, T, C) → (B, C), or (B, 1, C) with `keepdims`.

    Raises `ValueError` for a mask that is not (B, T).
    """

    rank = 1

    def __init__(self, data_format=None, keepdims=False, **kwargs):
        super().__init__(data_format, keepdims, **kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        if mask is None:
            return super().call(inputs)
        (time,) = self.spatial_axes
        guard.check_mask(mask, (inputs.shape[0], inputs.shape[time]), f"Layer {self.name!r}")
        mask = ops.cast(ops.expand_dims(mask, 3 - time), "bool")
        total = ops.sum(ops.where(mask, inputs, 0), axis=time, keepdims=self.keepdims)
        count = ops.sum(ops.cast(mask, inputs.dtype), axis=time, keepdims=self.keepdims)
        return total / ops.maximum(count, 1)  # a row of padding alone has the mean 0, not NaN as in Keras

    def compute_mask(self, inputs, mask=None):
        return None


@public
class GlobalAveragePooling2D(GlobalAveragePooling):
    """y = mean_(i, j) x[i, j].   (B, H, W, C) → (B, C), or (B, 1, 1, C) with `keepdims`."""

    rank = 2
