"""Loops on TensorFlow that run side by side, and whose backward pass leaves the weight gradients to one product."""

import os

import tensorflow as tf
from keras import ops


def recurrence_path(cell):
    """What `recurrence` does for this cell, or None where it cannot."""
    if cell.implementation == 1:
        return None
    return "one projection of all inputs, a compiled loop, weight gradients in one product"


def recurrence(cell, sequences, states, mask=None, return_sequences=True, return_states=True, training=True):
    """Run `cell` over (B, T, D); returns the outputs (B, T, U), or the last one (B, U), and the last states.

    A masked step leaves the states as they are; its output is the one before it, zero before the first that counts.
    In a graph on CPUs the batch is cut in parts whose loops run side by side: one loop keeps one core busy.
    """
    scan = scan_of(cell, masked=mask is not None, keep=training)
    mask = [] if mask is None else [tf.cast(mask, tf.bool)]
    weights = weights_of(cell)
    pieces = [scan(*weights, *part) for part in cut([sequences, *mask, *states])]
    outputs, *last = (p[0] if len(p) == 1 else tf.concat(p, axis=0) for p in zip(*pieces, strict=True))
    return (outputs if return_sequences else outputs[:, -1]), tuple(last)


def weights_of(cell):
    """W, U, b, b_u as tensors, zeros where the cell has no bias."""
    W, U = (tf.convert_to_tensor(ops.convert_to_tensor(w)) for w in (cell.kernel, cell.recurrent_kernel))
    zero = tf.zeros(U.shape[1:], U.dtype)
    biases = (zero if b is None else tf.convert_to_tensor(ops.convert_to_tensor(b)) for b in cell.split_bias())
    return W, U, *biases


def cut(tensors):
    """The tensors' rows in as many parts as there are cores, of sixteen rows at least where their number is known."""
    batch = tensors[0].shape[0]
    parts = min(os.cpu_count() or 1, 2 if batch is None else batch // 16)
    if parts < 2 or tf.executing_eagerly() or tf.config.list_physical_devices("GPU"):
        return [tensors]
    rows = tf.shape(tensors[0])[0] if batch is None else batch
    edges = [rows * k // parts for k in range(parts + 1)]
    return [[x[start:stop] for x in tensors] for start, stop in zip(edges[:-1], edges[1:], strict=True)]


def scan_of(cell, masked, keep):
    """W, U, b, b_u, (B, T, D), (mask,) *states → (B, T, U), *last states; with `keep` it is ready for the way back."""
    loop = Loop(cell, masked)
    forward, backward = loop.forward, loop.backward
    if not tf.executing_eagerly():
        forward, backward = (tf.function(f, jit_compile=True, autograph=False) for f in (forward, backward))

    @tf.custom_gradient
    def scan(*inputs):
        inputs = [tf.stop_gradient(x) for x in inputs]  # the loops' own gradient is never asked for
        outputs, last, kept = forward(keep, *inputs)

        def gradient(d_outputs, *d_last):
            residuals = kept if keep else forward(True, *inputs)[2]
            return backward(residuals, d_outputs, d_last, *inputs)

        return (outputs, *last), gradient

    return scan


class Loop:
    """The loop over a cell's steps and the one back, as functions of tensors alone, so that XLA can compile them."""

    def __init__(self, cell, masked):
        self.cell, self.masked = cell, masked

    def split(self, inputs):
        W, U, b, b_u, sequences, *rest = inputs
        mask = tf.transpose(rest.pop(0))[:, :, None] if self.masked else None
        return (W, U, b, b_u), tf.transpose(sequences, (1, 0, 2)), mask, tuple(rest)

    def advance(self, mask, t, seen, states):
        new = tuple(self.cell.gates(seen, states))
        if mask is None:
            return new
        return tuple(tf.where(mask[t], n, s) for n, s in zip(new, states, strict=True))

    def forward(self, keep, *inputs):
        """Outputs, last states, and with `keep` what the gates saw and the states before each step."""
        (W, U, b, b_u), sequences, mask, states = self.split(inputs)
        steps, projected = tf.shape(sequences)[0], project(sequences, W)

        def step(t, states, outputs, seen_so_far, before):
            seen = self.cell.combine(projected[t] + b, states[0] @ U + b_u)
            new = self.advance(mask, t, seen, states)
            if keep:
                seen_so_far, before = written(seen_so_far, t, seen), written(before, t, states)
            return t + 1, new, outputs.write(t, new[0]), seen_so_far, before

        seen = arrays_like(steps, self.cell.combine(projected[0], projected[0])) if keep else ()
        before = arrays_like(steps, states) if keep else ()
        (outputs,) = arrays_like(steps, states[:1])
        _, last, outputs, seen, before = loop(steps, step, 0, states, outputs, seen, before)
        outputs = outputs.stack()
        if self.masked:
            counted = tf.cumsum(tf.cast(mask, tf.int32), axis=0) > 0
            outputs = tf.where(counted, outputs, tf.zeros_like(outputs))
        return tf.transpose(outputs, (1, 0, 2)), last, (stacked(seen), stacked(before))

    def backward(self, residuals, d_outputs, d_last, *inputs):
        """Backpropagation through time carries only the states' gradient; the weights' is one product."""
        (W, U, _, _), sequences, mask, _ = self.split(inputs)
        seen, before = residuals
        steps, d_outputs, U_T = tf.shape(sequences)[0], tf.transpose(d_outputs, (1, 0, 2)), tf.transpose(U)
        if self.masked:
            counted = tf.cumsum(tf.cast(mask, tf.int32), axis=0) > 0
            d_outputs = tf.where(counted, d_outputs, tf.zeros_like(d_outputs))

        def step(t, d_states, so_far):
            d_states = (d_states[0] + d_outputs[t], *d_states[1:])
            at_t = [tuple(s[t] for s in seen), tuple(s[t] for s in before)]
            with tf.GradientTape() as tape:
                tape.watch(at_t)
                new = self.advance(mask, t, *at_t)
            d_seen, d_before = tape.gradient(new, at_t, d_states, tf.UnconnectedGradients.ZERO)
            return (
                t - 1,
                (d_before[0] + joined(of(self.cell, "h", d_seen)) @ U_T, *d_before[1:]),
                written(so_far, t, d_seen),
            )

        d_seen = arrays_like(steps, tuple(s[0] for s in seen))
        _, d_states, d_seen = loop(steps, step, steps - 1, tuple(d_last), d_seen)
        d_seen = stacked(d_seen)
        d_x, d_product = of(self.cell, "x", d_seen), of(self.cell, "h", d_seen)
        d_W, d_U = joined(outer(sequences, d) for d in d_x), joined(outer(before[0], d) for d in d_product)
        d_biases = [joined(tf.reduce_sum(d, (0, 1)) for d in parts) for parts in (d_x, d_product)]
        columns = tf.split(W, [d.shape[-1] for d in d_x], axis=1)
        d_sequences = sum(project(d, tf.transpose(w)) for d, w in zip(d_x, columns, strict=True))
        d_mask = [None] if self.masked else []
        return d_W, d_U, *d_biases, tf.transpose(d_sequences, (1, 0, 2)), *d_mask, *d_states


def of(cell, source, parts):
    """Those of `parts`, one for each array that the gates see, which are made of "x" (x W) or "h" (h U)."""
    return [part for part, sources in zip(parts, cell.reads, strict=True) if source in sources]


def joined(parts):
    parts = list(parts)
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)


def project(sequences, W):
    """(T, B, D) → (T, B, G) as one product of two matrices."""
    steps, batch = tf.unstack(tf.shape(sequences)[:2])
    projected = tf.reshape(tf.reshape(sequences, (-1, W.shape[0])) @ W, (steps, batch, W.shape[1]))
    return tf.ensure_shape(projected, (*sequences.shape[:2], W.shape[1]))


def outer(x, d):
    """Σ over steps and batch of xᵀ d."""
    return tf.matmul(tf.reshape(x, (-1, x.shape[-1])), tf.reshape(d, (-1, d.shape[-1])), transpose_a=True)


def loop(steps, step, start, *variables):
    return tf.while_loop(lambda t, *_: (t >= 0) & (t < steps), step, (start, *variables), maximum_iterations=steps)


def arrays_like(steps, tensors):
    """A TensorArray of `steps` entries for each tensor."""
    return tuple(tf.TensorArray(x.dtype, steps, element_shape=x.shape) for x in tensors)


def written(arrays, t, tensors):
    return tuple(a.write(t, x) for a, x in zip(arrays, tensors, strict=True))


def stacked(arrays):
    return tuple(a.stack() for a in arrays)
