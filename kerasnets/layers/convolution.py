"""Convolution 卷积: one small kernel of weights looks at every place, so that a pattern is found wherever it stands.

LeCun et al. 1989, doi:10.1162/neco.1989.1.4.541; dilation: Yu & Koltun 2016, arXiv:1511.07122; groups: Krizhevsky et
al. 2012. `convolve` is the equation in plain words; the layers call the backend's own convolution, and a test holds
them equal. Shapes are written for "channels_last".
"""

from keras import ops
from keras.layers import InputSpec

from kerasnets import backend
from kerasnets.layers.layer import public
from kerasnets.layers.windows import Windowed, border, channels_first, channels_last, shifted


def convolve(x, kernel, strides, padding="valid", data_format="channels_last", dilation_rate=None):
    """y[p] = Σ_o x[s p + d o] K[o]: each cell o of the kernel multiplies the input shifted to it.

    (B, *spatial, C), (*window, C / groups, filters) → (B, *places, filters); each group of channels makes its own
    share of the filters. The readable twin of `Conv1D` and `Conv2D`.
    """
    if data_format == "channels_first":
        return channels_first(convolve(channels_last(x), kernel, strides, padding, "channels_last", dilation_rate))
    *window, depth, filters = kernel.shape
    dilation = dilation_rate or (1,) * len(window)
    axes = zip(x.shape[1:-1], window, strides, dilation, strict=True)
    x = ops.pad(x, [(0, 0), *(border(n, k, s, padding, d) for n, k, s, d in axes), (0, 0)])
    groups = x.shape[-1] // depth
    y = 0.0
    for cell, seen in shifted(x, window, strides, dilation):
        seen = ops.reshape(seen, (*seen.shape[:-1], groups, depth))
        weights = ops.reshape(kernel[cell], (depth, groups, filters // groups))
        y = y + ops.einsum("...gc,cgf->...gf", seen, weights)
    return ops.reshape(y, (*y.shape[:-2], filters))


class Convolution(Windowed):
    """y[p] = φ(Σ_o x[s p + d o] K[o] + b), what `Conv1D` and `Conv2D` share: all but the rank."""

    def __init__(self, arguments, **kwargs):
        super().__init__(**kwargs)
        self.set_arguments(arguments)
        self.set_window(
            "kernel_size", self.kernel_size, self.strides, self.padding, self.data_format, self.dilation_rate
        )
        self.kernel_size = self.window
        self.check_arguments()

    def check_arguments(self):
        if self.filters <= 0:
            raise ValueError(
                "Invalid value for argument `filters`. Expected a strictly positive value. "
                f"Received filters={self.filters}."
            )
        if self.groups <= 0:
            raise ValueError(f"The number of groups must be a positive integer. Received: groups={self.groups}.")
        if self.filters % self.groups:
            raise ValueError(
                "The number of filters must be evenly divisible by the number of groups. "
                f"Received: groups={self.groups}, filters={self.filters}."
            )
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                "`strides > 1` not supported in conjunction with `dilation_rate > 1`. "
                f"Received: strides={self.strides} and dilation_rate={self.dilation_rate}"
            )

    def build(self, input_shape):
        channels = input_shape[self.channel_axis]
        if channels % self.groups:
            raise ValueError(
                "The number of input channels must be evenly divisible by the number of groups. "
                f"Received groups={self.groups}, but the input of shape {input_shape} has {channels} channels."
            )
        self.compute_output_shape(input_shape)  # raises where the kernel does not fit
        self.kernel = self.make_weight("kernel", (*self.kernel_size, channels // self.groups, self.filters))
        self.bias = self.make_weight("bias", (self.filters,)) if self.use_bias else None
        self.input_spec = InputSpec(ndim=self.rank + 2, axes={self.channel_axis: channels})

    def call(self, inputs):
        padding = self.padding
        if padding == "causal":
            inputs, padding = ops.pad(inputs, self.borders(inputs.shape)), "valid"
        y = backend.convolution(
            inputs, self.kernel, self.bias, self.strides, padding, self.data_format, self.dilation_rate
        )
        return y if self.activation is None else self.activation(y)

    def compute_output_shape(self, input_shape):
        places = self.places(input_shape)
        if self.data_format == "channels_last":
            return (input_shape[0], *places, self.filters)
        return (input_shape[0], self.filters, *places)


@public
class Conv1D(Convolution):
    """y[t] = φ(Σ_o x[s t + d o] K[o] + b).   (B, T, C) → (B, T′, filters).

    K: kernel (kernel_size, C / groups, filters), s: strides, d: dilation_rate. padding="causal": y[t] sees no x after t
    (WaveNet, van den Oord et al. 2016, arXiv:1609.03499). Raises `ValueError` for arguments that do not fit together
    and for a kernel longer than the sequence.
    """

    rank = 1
    paddings = {"valid", "same", "causal"}

    # fmt: off
    def __init__(self, filters, kernel_size, strides=1, padding="valid", data_format=None, dilation_rate=1, groups=1,
                 activation=None, use_bias=True, kernel_initializer="glorot_uniform", bias_initializer="zeros",
                 kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None,
                 kernel_constraint=None, bias_constraint=None, **kwargs):
        # fmt: on
        super().__init__(locals(), activity_regularizer=activity_regularizer, **kwargs)


@public
class Conv2D(Convolution):
    """y[i, j] = φ(Σ_(a, b) x[s i + d a, s j + d b] K[a, b] + b).   (B, H, W, C) → (B, H′, W′, filters).

    K: kernel (*kernel_size, C / groups, filters), s: strides, d: dilation_rate. Raises `ValueError` for arguments that
    do not fit together and for a kernel larger than the picture.
    """

    rank = 2

    # fmt: off
    def __init__(self, filters, kernel_size, strides=(1, 1), padding="valid", data_format=None, dilation_rate=(1, 1),
                 groups=1, activation=None, use_bias=True,
                 kernel_initializer="glorot_uniform", bias_initializer="zeros",
                 kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None,
                 kernel_constraint=None, bias_constraint=None, **kwargs):
        # fmt: on
        super().__init__(locals(), activity_regularizer=activity_regularizer, **kwargs)
