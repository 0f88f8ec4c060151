"""TensorFlow: its own kernels where nothing is compiled, and small programs of XLA's where they are slow."""

import functools
import math

import tensorflow as tf
from keras import ops
from keras.ops import matmul as product  # noqa: F401
from tensorflow.compiler.tf2xla.python.xla import optimization_barrier
from tensorflow.python.ops import control_flow_util

from kerasnets.backend import portable
from kerasnets.backend.portable import (  # noqa: F401
    added,
    after_way_back,
    average_pool,
    cross_entropy,
    lay_out,
    placed,
    rms_normalization,
)
from kerasnets.backend.portable import attention_written_out as attention  # noqa: F401
from kerasnets.backend.tensorflow_recurrence import recurrence, recurrence_path  # noqa: F401

in_one_loop = functools.partial(tf.function, jit_compile=True, autograph=False)  # a small program of XLA's in a graph
supports_jit_around_recurrence = False  # in one XLA program our loops would take turns instead of running together


def is_concrete(x):
    """True where the values of `x` can be looked at: an eager tensor, no graph's and no symbolic one."""
    return isinstance(x, tf.Tensor) and hasattr(x, "numpy") and tf.executing_eagerly()


def settled(x):
    """x, which is there when the call that made it returns."""
    return x


def dense(x, kernel, bias=None):
    """x W + b, in the way that XLA reads W fastest."""
    x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
    in_two = in_xla() and not tf.config.get_visible_devices("GPU") and portable.is_one_row(x, kernel)
    return (portable.dense_in_two if in_two else portable.dense)(x, kernel, bias)


def int8_product(x, values, scale, twice):
    """x (Q s)ᵀ, Q read as it is in loops too: without the barrier XLA turns Q into floats once, before the loop.

    In a graph of TensorFlow's own it is a small program of XLA's: TensorFlow would write all of Q to memory as floats.
    """
    if in_xla():
        return portable.int8_product(*optimization_barrier(x, values), scale, twice, in_tiles=True)
    if tf.executing_eagerly():
        return portable.int8_product(x, values, scale, twice)
    return int8_loop(*map(tf.convert_to_tensor, (x, values, scale, twice)))


@in_one_loop
def int8_loop(x, values, scale, twice):
    """The same, called from a graph."""
    return portable.int8_product(x, values, scale, twice, in_tiles=True)


def in_xla():
    """Whether a program of XLA's is being made."""
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def gelu(x, approximate):
    """x Φ(x). The way there is one loop by XLA and so is the way back, where TensorFlow has twenty, over all of x."""
    return tf.nn.gelu(x, approximate) if tf.executing_eagerly() else gelu_in_loops(x, approximate)


def gelu_in_loops(x, approximate):
    @tf.custom_gradient
    def there(x):
        return gelu_loop(x, approximate), lambda dy: gelu_slope(x, dy, approximate)

    return there(x)


@in_one_loop
def gelu_loop(x, approximate):
    return tf.nn.gelu(x, approximate)


@in_one_loop
def gelu_slope(x, dy, approximate):
    """dy · the derivative of x Φ(x): Φ(x) + x Φ′(x)."""
    if approximate:
        t = tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        return dy * ((1 + t) / 2 + x / 2 * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x))
    density = tf.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return dy * ((1 + tf.math.erf(x / math.sqrt(2))) / 2 + x * density)


def all_rows(gradient):
    """The gradient of a table, of which TensorFlow keeps the rows that were read, some of them more than once."""
    return tf.convert_to_tensor(gradient)


def adam(variables, gradients, states, alpha, settings):
    """The step of `optimizers.py` by TensorFlow's kernel: whether it was made, which it is in float32 on one device.

    The kernel makes α of η and of the powers of β, which is done already: with powers of 0 it takes η as it is. Its
    1 − β₂ is the one of a β₂ in float32, 1e-5 from Keras's where β₂ is 0.999, and so is v; the step is set right again.
    """
    values = [variable.value for variable in variables]
    if tf.distribute.has_strategy() or any(value.dtype != tf.float32 for value in values):
        return False
    beta_2 = settings["beta_2"]
    alpha = alpha * math.sqrt((1 - tf.float32.as_numpy_dtype(beta_2)) / (1 - beta_2))
    numbers = {"lr": alpha, "beta1_power": 0.0, "beta2_power": 0.0, "beta1": settings["beta_1"], "beta2": beta_2}
    step = tf.raw_ops.ResourceApplyAdamWithAmsgrad if len(states) > 2 else tf.raw_ops.ResourceApplyAdam
    for value, gradient, *moments in zip(values, gradients, *states, strict=True):
        handles = {name: moment.value.handle for name, moment in zip(("m", "v", "vhat"), moments, strict=False)}
        step(var=value.handle, grad=gradient, epsilon=settings["epsilon"], **handles, **numbers)
    return True


def whole(x):
    """x, computed as one array before anything is taken out of it: see `jax.py`."""
    if tf.executing_eagerly():
        return x
    first = tf.reshape(x, [-1])[0]
    return tf.cond(tf.math.is_nan(first), lambda: tf.maximum(x, x - 1), lambda: tf.identity(x))


def whole_gradient(x):
    """x: only XLA as JAX calls it needs to be told (see `jax.py`)."""
    return x


def convolution(x, kernel, bias, strides, padding, data_format, dilation_rate):
    """y[p] = Σ_o x[s p + d o] K[o] + b; on a CPU TensorFlow convolves with the channels last only."""
    if data_format == "channels_last":
        return portable.convolution(x, kernel, bias, strides, padding, data_format, dilation_rate)
    x = ops.moveaxis(x, 1, -1)
    return ops.moveaxis(portable.convolution(x, kernel, bias, strides, padding, "channels_last", dilation_rate), -1, 1)


def max_pool(x, pool_size, strides, padding, data_format):
    """y[p] = max_o x[s p + o]; in a step compiled by XLA, with a gradient that is as fast."""
    if in_xla() and portable.are_tiles(x, pool_size, strides, padding, data_format):
        return portable.max_of_tiles(x, pool_size, data_format)
    return portable.max_pool(x, pool_size, strides, padding, data_format)


compiles_each_shape = True  # XLA makes a program for each shape of the arrays: better few shapes


def compiled(function, rarely=False):
    """`function(weights, carry, fixed)`, nests of tensors, as one XLA program for each of their shapes.

    What is called `rarely` stays a graph of TensorFlow's: a prompt of 64 tokens takes a model of 30 layers 0.13 s that
    way, not 0.11, but the first one 2.5 s, not 4.8.
    """
    return tf.function(function, jit_compile=not rarely, autograph=False)


def stepped(function):
    """(weights, fixed) → step, for many times: step(carry) → (carry, …)."""
    program = compiled(function)
    return lambda weights, fixed: lambda carry: program(weights, carry, fixed)


def looped(function, goes_on):
    """(weights, carry, fixed) → carry, after as many such steps as `goes_on(carry, fixed)` says, all in one program."""

    def loop(weights, carry, fixed):
        def step(carry):
            return [function(weights, carry, fixed)[0]]

        return tf.while_loop(lambda carry: goes_on(carry, fixed), step, [carry])[0]

    return compiled(loop)
