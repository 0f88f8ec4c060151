"""A recurrent layer read step by step with its cell, its gates laid open: what `kn.trace` shows of it.

The names are those of the cells' equations; gates are what σ and φ make of them, between 0 and 1 or −1 and 1.
"""

from keras import ops

GATES = ("i", "f", "g", "o", "z", "r", "candidate", "h", "c")


def unrolled(layer, sequences, initial_state, mask=None):
    """{gate or state: (B, T, U)} of a recurrent layer, in the order in which it reads: last step first if backwards.

    Where the mask (B, T) is False, a step leaves the states as they were; the gates are those that it would have had.
    """
    from kerasnets.layers.recurrent import GRUCell, LSTMCell  # which run on the module that calls this one

    cell, states, steps = layer.cell, tuple(initial_state), []
    gates_of = {LSTMCell.gates: lstm_gates, GRUCell.gates: gru_gates}.get(type(cell).gates, lambda *_: {})
    sequences = ops.cast(sequences, cell.compute_dtype)
    order = range(sequences.shape[1])
    for t in reversed(order) if layer.go_backwards else order:
        gates = gates_of(cell, sequences[:, t], states)
        _, following = cell.call(sequences[:, t], list(states))
        if mask is not None:
            counts = ops.cast(mask[:, t, None], "bool")
            following = [ops.where(counts, new, old) for new, old in zip(following, states, strict=True)]
        states = tuple(following)
        steps.append({**gates, **dict(zip("hc", states, strict=False))})
    return {name: ops.stack([step[name] for step in steps], axis=1) for name in (steps or [{}])[0]}


def seen(cell, x, h):
    """What the cell's `gates` sees: its sums of x W + b and h U + b_u."""
    _, bias = cell.split_bias()
    recurrent = ops.matmul(h, cell.recurrent_kernel)
    return cell.combine(cell.project(x), recurrent if bias is None else recurrent + bias)


def lstm_gates(cell, x, states):
    """σ(i), σ(f), φ(g), σ(o)."""
    i, f, g, o = ops.split(seen(cell, x, states[0])[0], 4, axis=-1)
    σ, φ = cell.recurrent_activation, cell.activation
    return {"i": σ(i), "f": σ(f), "g": φ(g), "o": σ(o)}


def gru_gates(cell, x, states):
    """z, r and the candidate h̃, whose product with U comes before or after the reset gate."""
    zr, x_h, u_h = seen(cell, x, states[0])
    z, r = ops.split(cell.recurrent_activation(zr), 2, axis=-1)
    if cell.reset_after:
        return {"z": z, "r": r, "candidate": cell.activation(x_h + r * u_h)}
    U_h = ops.split(cell.recurrent_kernel, 3, axis=-1)[2]
    return {"z": z, "r": r, "candidate": cell.activation(x_h + ops.matmul(r * states[0], U_h))}
