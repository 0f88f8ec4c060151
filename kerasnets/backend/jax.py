"""JAX: what XLA does well it is left to do; the rest is put so that it does."""

from functools import partial

import jax
from keras import ops

from kerasnets.backend import portable
from kerasnets.backend.jax_recurrence import recurrence, recurrence_path  # noqa: F401
from kerasnets.backend.jax_xla import after_way_back, product, whole, whole_gradient  # noqa: F401
from kerasnets.backend.portable import (  # noqa: F401  XLA does these well
    adam,
    added,
    all_rows,
    average_pool,
    convolution,
    cross_entropy,
    gelu,
    lay_out,
    placed,
    rms_normalization,
)

supports_jit_around_recurrence = True


def is_concrete(x):
    """True where the values of `x` can be looked at: no tracer, no symbolic tensor."""
    return isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)


def settled(x):
    """x, once it is there: JAX copies in the background, and what is copied stays in memory until then."""
    return x if isinstance(x, jax.core.Tracer) else jax.block_until_ready(x)


def dense(x, kernel, bias=None):
    """x W + b, in the way that XLA reads W fastest."""
    x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
    if not is_concrete(x) and jax.default_backend() == "cpu" and portable.is_one_row(x, kernel):
        return portable.dense_in_two(x, kernel, bias)
    return portable.dense(x, kernel, bias, product)


def int8_product(x, values, scale, twice):
    """x (Q s)ᵀ, Q read as it is in a loop too: without the barrier XLA turns Q into floats once, before the loop."""
    x, values = jax.lax.optimization_barrier((x, values))
    return portable.int8_product(x, values, scale, twice, in_tiles=True)


def max_pool(x, pool_size, strides, padding, data_format):
    """y[p] = max_o x[s p + o], with a gradient that is as fast."""
    if portable.are_tiles(x, pool_size, strides, padding, data_format):
        return max_of_tiles(x, tuple(pool_size), data_format)
    return portable.max_pool(x, pool_size, strides, padding, data_format)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def max_of_tiles(x, pool_size, data_format):
    return portable.max_pool(x, pool_size, pool_size, "valid", data_format)


@max_of_tiles.defjvp
def max_of_tiles_jvp(pool_size, data_format, x, dx):
    return jax.jvp(lambda x: portable.max_of_tiles(x, pool_size, data_format), x, dx)


def attention(query, key, value, visible, bias, scale, is_causal):
    """softmax(s Q Kᵀ + bias, where visible) V; written out where JAX's own refuses: float16 on a CPU, H ≠ H′."""
    on_cpu = jax.default_backend() == "cpu" or key.shape != value.shape
    compute = portable.attention_written_out if on_cpu else portable.attention
    return compute(query, key, value, visible, bias, scale, is_causal)


compiles_each_shape = True  # XLA makes a program for each shape of the arrays: better few shapes


def jit(function, **arguments):
    """jax.jit, not to be called in another; on a CPU with vectors as wide as it has: by default XLA's are of 256 bits.

    SmolLM2-135M, one row, two cores with AVX-512: 34.0 → 30.4 ms a token in float32, 23.0 → 16.5 ms in int8.
    """
    wide = {"xla_cpu_prefer_vector_width": 512} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=wide, **arguments)


def compiled(function, rarely=False):
    """`function(weights, carry, fixed)`, pytrees of arrays, as one program for each of their shapes."""
    return jit(function)


def stepped(function):
    """(weights, fixed) → step, for many times: step(carry) → (carry, …), written into the carry's own memory."""
    program = jit(function, donate_argnums=1)
    return lambda weights, fixed: lambda carry: program(weights, carry, fixed)


def looped(function, goes_on):
    """(weights, carry, fixed) → carry, after as many such steps as `goes_on(carry, fixed)` says, all in one program."""

    def loop(weights, carry, fixed):
        def step(carry):
            return function(weights, carry, fixed)[0]

        return jax.lax.while_loop(lambda carry: goes_on(carry, fixed), step, carry)

    return jit(loop, donate_argnums=1)
