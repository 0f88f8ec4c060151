"""A scan on JAX, whose backward pass leaves the weight gradients to one product over all steps."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from keras import ops

from kerasnets.backend.jax_xla import product, whole


def recurrence_path(cell):
    """What `recurrence` does for this cell, or None where it cannot."""
    if cell.implementation == 1:
        return None
    return "one projection of all inputs, then a loop, weight gradients in one product"


def recurrence(cell, sequences, states, mask=None, return_sequences=True, return_states=True, training=True):
    """Run `cell` over (B, T, D); returns the outputs (B, T, U), or the last one (B, U), and the last states.

    A masked step leaves the states as they are, and its output is the state before it.
    """
    weights = jax.tree.map(ops.convert_to_tensor, (cell.kernel, cell.recurrent_kernel, *cell.split_bias()))
    mask = None if mask is None else mask[:, :, None].astype(bool)
    outputs, states = scan(cell, return_sequences, sequences, weights, states, mask)
    return (outputs if return_sequences else states[0]), states


def advance(cell, mask, seen, states):
    """states′ of one step, the old ones where the mask is False."""
    return tuple(kept(mask, new, old) for new, old in zip(cell.gates(seen, states), states, strict=True))


def kept(mask, new, old):
    return new if mask is None else jnp.where(mask, new, old)


def gates_halved(formula, weights):
    """W, U and biases of half the size for the gates that are a σ, as the steps in `WITH_ONE_TANH` have them."""
    factors = {"lstm": [0.5, 0.5, 1, 0.5], "gru": [0.5, 0.5, 1]}[formula]
    return jax.tree.map(lambda w: w * np.repeat(np.array(factors, "float32"), weights[1].shape[0]), weights)


def advance_lstm(mask, seen, states):
    """The step of an LSTM with one tanh for all gates, σ(z) = (tanh(z / 2) + 1) / 2, in 3 to 7 % less time.

    The mask comes before h′, which would have XLA compute c′ a second time.
    """
    (z,), (h, c) = seen, states
    i, f, g, o = jnp.split(jnp.tanh(z), 4, axis=-1)
    i, f, o = ((t + 1) / 2 for t in (i, f, o))
    c = kept(mask, f * c + i * g, c)
    return kept(mask, o * jnp.tanh(c), h), c


def advance_gru(mask, seen, states):
    """The step of a GRU with one tanh for both of its σ, in 2 to 9 % less time."""
    (zr, x_h, u_h), (h,) = seen, states
    z, r = ((t + 1) / 2 for t in jnp.split(whole(jnp.tanh(zr)), 2, axis=-1))
    return (kept(mask, z * h + (1 - z) * jnp.tanh(x_h + r * u_h), h),)


WITH_ONE_TANH = {"lstm": advance_lstm, "gru": advance_gru}


def plus(x, bias):
    return x if bias is None else x + bias


def time_first(arrays):
    """(B, T, …) → (T, B, …), or back, for each array."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def scan(cell, return_sequences, sequences, weights, states, mask):
    """(B, T, D) → (B, T, U) and the last states, each step read and written where it lies."""
    go_on = partial(advance, cell)
    if cell.formula in WITH_ONE_TANH and sequences.dtype == jnp.float32:
        go_on, weights = WITH_ONE_TANH[cell.formula], gates_halved(cell.formula, weights)
    W, U, b, b_u = weights
    batch, steps, _ = sequences.shape

    def step(t, carry):
        states, arrays = carry
        x, m = take((arrays[0], mask), t, axis=1)
        states = go_on(m, cell.combine(plus(x, b), plus(states[0] @ U, b_u)), states)
        return states, (*arrays[:-1], put(arrays[-1], states[0], t, axis=1)) if return_sequences else arrays

    arrays = (product(sequences, W),)
    if return_sequences and cell.num_gates > 1:  # with one gate, an output takes the place of what it was made of
        arrays = (*arrays, jnp.zeros((batch, steps, U.shape[0]), states[0].dtype))
    states, arrays = jax.lax.fori_loop(0, steps, step, (states, arrays))
    return arrays[-1] if return_sequences else None, states


def scan_forward(cell, return_sequences, sequences, weights, states, mask):
    """The same, keeping what the way back needs: the states and what the gates saw of x W + b and h U + b_u.

    As few arrays as can be: at these sizes memory that is touched for the first time costs as much as the products.
    """
    W, U, b, b_u = weights
    sequences, mask = time_first((sequences, mask))

    def step(states, inputs):
        x, m = inputs
        seen = cell.combine(plus(x, b), plus(states[0] @ U, b_u))
        return advance(cell, m, seen, states), (seen, states)

    last, (seen, before) = jax.lax.scan(step, states, (product(sequences, W), mask))
    outputs = time_first(jnp.concatenate([before[0][1:], last[0][None]])) if return_sequences else None
    return (outputs, last), (sequences, weights, seen, before, mask)


def scan_backward(cell, return_sequences, residuals, cotangents):
    """Backpropagation through time carries only the states' gradient; the weights' is one product over all steps.

    The gradient of what the gates saw takes the place of what they saw, step by step: a scan would write it to new
    memory, and past 32 MB in one compiled program the allocator hands back every page and faults it in at each call.
    """
    sequences, (W, U, b, b_u), seen, before, mask = residuals
    d_outputs, d_states = cotangents
    d_outputs = time_first(d_outputs)
    U_T = U.T  # out here, or XLA turns it at every step
    steps = sequences.shape[0]

    def step(count, carry):
        d_states, arrays = carry
        d_output, old, states, m = take((d_outputs, arrays, before, mask), steps - 1 - count)
        if len(old) > 1:  # or XLA reads them again after they are written, from a copy of all steps
            old = tuple(whole(x) for x in old)
        _, pullback = jax.vjp(partial(advance, cell, m), old, states)
        if return_sequences:
            d_states = (d_states[0] + d_output, *d_states[1:])
        d_seen, d_before = pullback(d_states)
        d_states = (d_before[0] + joined(of(cell, "h", d_seen)) @ U_T, *d_before[1:])
        return d_states, put(arrays, d_seen, steps - 1 - count)

    d_states, d_seen = jax.lax.fori_loop(0, steps, step, (d_states, seen))
    d_x, d_product = of(cell, "x", d_seen), of(cell, "h", d_seen)
    d_W, d_U = joined(outer(sequences, d) for d in d_x), joined(outer(before[0], d) for d in d_product)
    d_b, d_bu = (
        None if bias is None else joined(d.sum((0, 1)) for d in parts) for bias, parts in ((b, d_x), (b_u, d_product))
    )
    edges = itertools.accumulate(d.shape[-1] for d in d_x[:-1])
    d_sequences = sum(product(d, columns.T) for d, columns in zip(d_x, jnp.split(W, list(edges), axis=1), strict=True))
    return time_first(d_sequences), (d_W, d_U, d_b, d_bu), d_states, None


FROM_ZERO = {"allow_negative_indices": False}  # nor does each step ask whether t counts from the end


def take(arrays, t, axis=0):
    """Step t of each array (T, ...), or of (B, T, ...) with axis=1."""
    return jax.tree.map(partial(jax.lax.dynamic_index_in_dim, index=t, axis=axis, keepdims=False, **FROM_ZERO), arrays)


def put(arrays, values, t, axis=0):
    """The arrays (T, ...), or (B, T, ...) with axis=1, with `values` at step t."""
    return jax.tree.map(partial(jax.lax.dynamic_update_index_in_dim, index=t, axis=axis, **FROM_ZERO), arrays, values)


def of(cell, source, parts):
    """Those of `parts`, one for each array that the gates see, which are made of "x" (x W) or "h" (h U)."""
    return [part for part, sources in zip(parts, cell.reads, strict=True) if source in sources]


def joined(parts):
    return jnp.concatenate(list(parts), axis=-1)


def outer(x, d):
    """Σ over steps and batch of xᵀ d."""
    return x.reshape(-1, x.shape[-1]).T @ d.reshape(-1, d.shape[-1])


scan.defvjp(scan_forward, scan_backward)
