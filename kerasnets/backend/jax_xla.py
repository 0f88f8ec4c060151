"""The same arrays, put so that XLA on a CPU makes of them what is fast."""

import math

import jax
import jax.numpy as jnp
from keras import ops


def product(x, matrix):
    """x W, the rows of x as one matrix.   (…, D), (D, F) → (…, F).

    With more axes XLA on a CPU turns x, W and their gradients over in memory for the way back: the training step of the
    GPT in `benchmarks.training` takes 0.83 of KerasHub's time that way, and 0.59 this way.
    """
    *others, width = x.shape
    return ops.matmul(x.reshape(math.prod(others), width), matrix).reshape(*others, matrix.shape[-1])


@jax.custom_jvp
def whole(x):
    """x, computed as one array before anything is taken out of it.

    XLA on a CPU merges what makes x into what takes parts of it, and does not vectorise the merged loop: a GRU step
    takes twice as long. It does not merge across a branch, so here is one: both sides are x, and XLA can't know.
    """
    if jax.default_backend() != "cpu":
        return x
    return jax.lax.cond(jnp.isnan(x[(0,) * x.ndim]), lambda x: jnp.maximum(x, x - 1), lambda x: x, x)


@whole.defjvp
def whole_jvp(x, dx):
    """The branch is for XLA's eyes only: a gradient through it would pass both sides."""
    return whole(*x), dx[0]


@jax.custom_jvp
def whole_gradient(x):
    """x, whose gradient is computed as one array before anything is made of it.

    A gradient runs down a residual stream from norm to norm, and XLA on a CPU merges what makes it into every use of
    it: each layer's weights would compute the way back through all later norms again. The branch is as in `whole`.
    """
    return x


@whole_gradient.defjvp
def whole_gradient_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    if jax.default_backend() != "cpu" or 0 in x.shape:
        return x, dx
    odd = jnp.isnan(x[(0,) * x.ndim])
    return x, jax.lax.cond(odd, lambda dx: dx * odd.astype(dx.dtype), lambda dx: dx, dx)  # times 1, and XLA can't know


def after_way_back(number, gradients):
    """The number, once the way back has come to the first weights, so that what needs it waits for all of it.

    A weight's step is written where the weight lay. Where XLA on a CPU does not see that the way back has read the
    weight by then, it copies all of it first: a training step of a small BART took 7 % longer, one of T5-small 4 %. A
    network that begins with a convolution is left alone: the CNN of `benchmarks.classic` took 4 to 11 % longer this
    way. Where the first gradient begins with NaN the number is NaN, and so is each weight after the step.
    """
    first = gradients[0]
    if jax.default_backend() != "cpu" or first.ndim != 2:
        return number
    return jnp.where(jnp.isnan(first[0, 0]), jnp.nan, ops.convert_to_tensor(number))
