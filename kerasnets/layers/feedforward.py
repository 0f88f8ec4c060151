"""The feed-forward layer 前馈网络: between two attentions, each token is worked on by itself.

Vaswani et al. 2017, arXiv:1706.03762; gated: Shazeer 2020, arXiv:2002.05202, who offers "divine benevolence" as the
explanation of why it works.
"""

from kerasnets.layers.dense import Dense
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, positive_integer, public


class Sublayers(Layer):
    """What the two share: `Dense` layers with their settings, each with random numbers of its own."""

    def dense(self, units, name, activation=None):
        """One initializer would draw the same numbers for two kernels of one shape, hence a copy of it."""
        initializer = self.kernel_initializer
        return Dense(
            units,
            activation,
            self.use_bias,
            kernel_initializer=initializer.clone() if hasattr(initializer, "clone") else initializer,
            bias_initializer=self.bias_initializer,
            dtype=self.dtype_policy,
            name=name,
        )

    def compute_output_shape(self, input_shape):
        return input_shape


@public
class FeedForward(Sublayers):
    """y = φ(x W₁ + b₁) W₂ + b₂: wide in the middle.   (…, D) → (…, D).

    W₁: wide.kernel (D, F), W₂: narrow.kernel (F, D), φ: activation; in training, `dropout` after φ. Raises `ValueError`
    for a `feedforward_size` that is no positive integer.
    """

    # fmt: off
    def __init__(self, feedforward_size, activation="relu", use_bias=True, kernel_initializer="glorot_uniform",
                 bias_initializer="zeros", dropout=0.0, **kwargs):
        # fmt: on
        positive_integer("feedforward_size", feedforward_size)
        super().__init__(**kwargs)
        self.set_arguments(locals())
        self.supports_masking = True

    def build(self, input_shape):
        self.wide = self.dense(self.feedforward_size, "wide", self.activation)
        self.narrow = self.dense(input_shape[-1], "narrow")
        self.wide_dropout = Dropout(self.dropout, dtype=self.dtype_policy) if self.dropout else None
        self.wide.build(input_shape)
        self.narrow.build((*input_shape[:-1], self.feedforward_size))

    def call(self, x):
        wide = self.wide(x)
        return self.narrow(wide if self.wide_dropout is None else self.wide_dropout(wide))


@public
class GatedFeedForward(Sublayers):
    """y = (φ(x G) ⊙ (x U)) W: a gate decides how much of each channel passes.   (…, D) → (…, D).

    G: gate.kernel and U: up.kernel (D, F), W: down.kernel (F, D), each with a bias if `use_bias`. φ: activation, "silu"
    for SwiGLU, "gelu" for GeGLU, "sigmoid" for the first of them. Raises `ValueError` for a `feedforward_size` that is
    no positive integer.
    """

    # fmt: off
    def __init__(self, feedforward_size, activation="silu", use_bias=False, kernel_initializer="glorot_uniform",
                 bias_initializer="zeros", **kwargs):
        # fmt: on
        positive_integer("feedforward_size", feedforward_size)
        super().__init__(**kwargs)
        self.set_arguments(locals())
        self.supports_masking = True

    def build(self, input_shape):
        self.gate = self.dense(self.feedforward_size, "gate", self.activation)
        self.up = self.dense(self.feedforward_size, "up")
        self.down = self.dense(input_shape[-1], "down")
        self.gate.build(input_shape)
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], self.feedforward_size))

    def call(self, x):
        return self.down(self.gate(x) * self.up(x))
