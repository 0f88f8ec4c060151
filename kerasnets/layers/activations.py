"""Activations 激活函数, by the names that config.json has for them.

GELU, Hendrycks & Gimpel 2016, arXiv:1606.08415, weighs x by the share of a normal distribution that lies below it.
`gelu_in_words` is the equation; the models call the backend's own, and a test holds them equal.
"""

import functools
import math

import keras
from keras import ops

from kerasnets import backend


def gelu_in_words(x, approximate=False):
    """x Φ(x), Φ(x) = (1 + erf(x / √2)) / 2; approximately (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.   (…) → (…)."""
    if approximate:
        return x * (1 + ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return x * (1 + ops.erf(x / math.sqrt(2))) / 2


def gelu(x, approximate=False):
    """The same by the backend's own loop."""
    return backend.gelu(ops.convert_to_tensor(x), approximate)


gelu_by_tanh = functools.partial(gelu, approximate=True)
ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": gelu_by_tanh,
    "gelu_pytorch_tanh": gelu_by_tanh,
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
    "swish": keras.activations.silu,
    "tanh": keras.activations.tanh,
}
