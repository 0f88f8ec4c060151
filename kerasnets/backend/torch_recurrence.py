"""PyTorch's fused recurrent kernels, for every mask; what has no fused step on a CPU, written out in place."""

import functools
import weakref
from typing import NamedTuple

import keras
import numpy as np
import torch

ORDER = {"gru": (1, 0, 2)}  # torch holds a GRU's gates as r, z, n; ours are z, r, h


def recurrence_path(cell):
    """What `recurrence` does for this cell, or None where it cannot."""
    if cell.formula is None or cell.implementation == 1:
        return None
    in_place = ", or on a CPU without gradients its steps in place" if cell.formula in STEPS else ""
    return f"torch's fused {cell.formula} kernel{in_place}"


def recurrence(cell, sequences, states, mask=None, return_sequences=True, return_states=True, training=True):
    """Run `cell` over (B, T, D); returns the outputs (B, T, U), or the last one (B, U), and the last states.

    A masked step leaves the states as they are, so it might as well not be there: the kernel runs over the steps that
    count, and each step reads the output of the last one that counts, zero before it.
    """
    weights = kernel_weights(cell, is_written_out(cell.formula, sequences))
    if mask is not None:
        mask = mask.to(device=sequences.device, dtype=torch.bool)
        packing = packing_of(mask)
        if len(packing.steps) < mask.numel():
            if (cell.formula == "lstm" and return_states) or packing_pays(cell.formula, packing):
                return run_packed(cell.formula, sequences, states, weights, packing, return_sequences)
            return run_compact(cell.formula, sequences, states, weights, mask, packing, return_sequences)
    outputs, last = run_kernel(cell.formula, sequences, states, weights)
    return (outputs if return_sequences else outputs[:, -1]), last


def packing_pays(formula, packing):
    """Whether a kernel that skips the padding is faster; oneDNN's LSTM, for full batches only, gains more than that.

    An LSTM whose states are wanted is packed all the same: a row's last cell state is nowhere in the outputs.
    """
    return formula != "lstm" and not torch.is_grad_enabled() and len(packing.steps) < 0.8 * packing.count.numel()


def lay_out(cell):
    """Turn an LSTM's W and U over in memory: on a CPU its kernel, unlike the others, reads no transposed view."""
    if cell.formula == "lstm":
        for weight in (cell.kernel, cell.recurrent_kernel):
            weight.value.data = weight.value.detach().t().contiguous().t()


def kernel_weights(cell, written_out):
    """W, U, b, b_u as torch lays them out: (gates · U, inputs), gates in torch's order for torch's own kernel."""
    bias, recurrent_bias = cell.split_bias()
    weights = [keras.ops.convert_to_tensor(w) for w in (cell.kernel, cell.recurrent_kernel)]
    if bias is not None:
        bias = keras.ops.convert_to_tensor(bias)
        weights += [
            bias,
            torch.zeros_like(bias) if recurrent_bias is None else keras.ops.convert_to_tensor(recurrent_bias),
        ]
    order = ORDER.get(cell.formula)
    if order and not written_out:
        weights = [torch.cat([w.chunk(3, -1)[gate] for gate in order], -1) for w in weights]
    as_it_lies = cell.formula != "lstm" and weights[0].device.type == "cpu"  # an LSTM's: see `lay_out`
    return [w if w.ndim == 1 else w.t() if as_it_lies else w.t().contiguous() for w in weights]


def run_kernel(formula, sequences, states, weights):
    """One call of `torch._VF.{lstm, gru, rnn_tanh, rnn_relu}` over rows of full length."""
    if is_written_out(formula, sequences):
        batch, steps, _ = sequences.shape
        data = sequences.transpose(0, 1).flatten(0, 1)
        outputs = STEPS[formula](data, [batch] * steps, states[0], weights).view(steps, batch, -1).transpose(0, 1)
        return outputs, (outputs[:, -1],)
    states = [s.unsqueeze(0).contiguous() for s in states]
    outputs, *last = getattr(torch._VF, formula)(sequences, initial(formula, states), weights, *settings(weights), True)
    return outputs, tuple(s.squeeze(0) for s in last)


def is_written_out(formula, sequences):
    """torch's kernel takes many calls a step on a CPU; where no gradient is wanted, fewer in place do."""
    return formula in STEPS and sequences.device.type == "cpu" and not torch.is_grad_enabled()


def plain_steps(activate_, data, sizes, h, weights):
    """h_t = φ(x_t W + b + h_{t−1} U), each written over its x_t W + b.   (P, D) → (P, U), `sizes` rows a step."""
    W, U, *biases = weights
    h_all = torch.addmm(sum(biases), data, W.t()) if biases else data @ W.t()
    U = U.t()
    rows = len(h)
    for h_t, going_on in zip(h_all.split(sizes), sizes, strict=True):
        if going_on < rows:
            h, rows = h[:going_on], going_on
        h = activate_(h_t.addmm_(h, U))
    return h_all


def tanh_steps(data, sizes, h, weights):
    """The same for φ = tanh, which is k f(k z) − (k − 1).

    The steps hold g = (h + k − 1) / k alone: g_t = f(k (x_t W + b + h_{t−1} U)), where h U = k g U − (k − 1) 1 U.
    """
    k, f_ = fast_tanh(data)
    W, U, *biases = weights
    bias = sum(biases) - (k - 1) * U.sum(1)
    g_all = plain_steps(f_, data, sizes, (h + k - 1) / k, [k * W, k * k * U, k * bias])
    return g_all.mul_(k).sub_(k - 1)


def fast_tanh(x):
    """(k, f_), k f_(k z) − (k − 1) = tanh(z) in place: 2 σ(2 z) − 1; torch's σ takes less than half its tanh's time.

    Half precision has too few bits around ½ for that.
    """
    return (2, torch.sigmoid_) if x.dtype in (torch.float32, torch.float64) else (1, torch.tanh_)


def gru_steps(data, sizes, h, weights):
    """h_t = h̃ + z ⊙ (h_{t−1} − h̃), with z, r and h̃ as in `GRUCell`.   (P, D) → (P, U), `sizes` rows a step.

    The steps hold g = (h + k − 1) / k, as in `tanh_steps`: it lies between the old g and the candidate's alike.
    """
    W, U, *biases = weights
    units = U.shape[1]
    b, b_u = biases or (W.new_zeros(3 * units),) * 2
    k, f_ = fast_tanh(data)
    b_u = b_u - (k - 1) * U.sum(1)
    b, b_h = torch.cat([(b + b_u)[: 2 * units], b[2 * units :]]), b_u[2 * units :]
    g, U = (h + k - 1) / k, k * U.t()
    x_zr, x_h = torch.addmm(b, data, W.t()).split((2 * units, units), dim=1)
    x_zr, x_h = x_zr.split(sizes), x_h.mul_(k).split(sizes)
    g_all, product = data.new_empty(len(data), units), data.new_empty(len(g), 3 * units)
    rows = None
    for x_zr_t, x_h_t, g_t, going_on in zip(x_zr, x_h, g_all.split(sizes), sizes, strict=True):
        if going_on != rows:
            rows, g, product = going_on, g[:going_on], product[:going_on]
            zr, u_h = product.split((2 * units, units), dim=1)
            z, r = zr.chunk(2, dim=1)
        torch.mm(g, U, out=product)
        zr.add_(x_zr_t).sigmoid_()
        g = f_(torch.addcmul(x_h_t, r, u_h.add_(b_h), value=k, out=g_t)).lerp_(g, z)
    return g_all.mul_(k).sub_(k - 1)


STEPS = {
    "rnn_tanh": tanh_steps,
    "rnn_relu": functools.partial(plain_steps, torch.relu_),
    "gru": gru_steps,
}


def initial(formula, states):
    """An LSTM takes its two states as a list, the others their one."""
    return states if formula == "lstm" else states[0]


def settings(weights):
    """(has biases, layers, dropout, training, bidirectional)"""
    return len(weights) == 4, 1, 0.0, torch.is_grad_enabled(), False


class Packing(NamedTuple):
    """The P steps that count, one behind the other: the first of every row, the second of every row, …."""

    steps: object  # (P,): where each stands among all B · T
    sizes: object  # (T′,): how many rows have a first step, a second, …; on the CPU
    order: object  # (B,): the rows, the longest first
    count: object  # (B, T): how many steps have counted so far
    held: object  # (B, T): which of the P was the last
    at_once: bool  # whether the first step counts in every row


_latest = (None, None, None)  # a mask, its version, its packing: stacked layers share their mask


def packing_of(mask):
    global _latest
    reference, version, packing = _latest
    if reference is None or reference() is not mask or mask.is_inference() or mask._version != version:
        packing = pack(mask)
        _latest = (None,) * 3 if mask.is_inference() else (weakref.ref(mask), mask._version, packing)
    return packing


def pack(mask):
    """The packing of a mask (B, T), found in NumPy: its calls on so few numbers are shorter than torch's."""
    counts = mask.cpu().numpy()
    count = counts.cumsum(1)
    lengths = count[:, -1]
    order = np.argsort(-lengths, kind="stable")
    sizes = (lengths[:, None] > np.arange(mask.shape[1])).sum(0)
    held = (sizes.cumsum() - sizes)[(count - 1).clip(min=0)] + np.argsort(order)[:, None]
    steps = np.empty(lengths.sum(), "int64")
    steps[held[counts]] = np.flatnonzero(counts)
    there = [torch.from_numpy(x).to(mask.device) for x in (steps, order, count, held)]
    return Packing(there[0], torch.from_numpy(sizes[sizes > 0]), *there[1:], bool(counts[:, 0].all()))


def run_packed(formula, sequences, states, weights, packing, return_sequences):
    """The kernel over the steps that count, and nothing else."""
    steps, sizes, order, count, held, at_once = packing
    if len(steps) == 0:
        outputs = torch.zeros_like(states[0])
        return (outputs[:, None].expand(*count.shape, -1) if return_sequences else outputs), states
    data = packed_already(sequences, packing)
    if data is None:
        data = sequences.flatten(0, 1).index_select(0, steps)
    begun = order[: sizes[0]]  # rows in which any step counts
    before = [s.index_select(0, begun) for s in states]
    if is_written_out(formula, sequences):
        data = STEPS[formula](data, sizes.tolist(), before[0], weights)
        after = [data[held[begun, -1]]]
    else:
        hx = initial(formula, [s.unsqueeze(0) for s in before])
        data, *after = getattr(torch._VF, formula)(data, sizes, hx, weights, *settings(weights))
        after = [s.squeeze(0) for s in after]
    last = tuple(s.index_copy(0, begun, new) for s, new in zip(states, after, strict=True))
    if not return_sequences:
        held, count = held[:, -1], count[:, -1]
    outputs = data.index_select(0, held.flatten() if at_once else held.flatten().clamp(max=len(data) - 1))
    outputs = outputs.view(*held.shape, -1)
    outputs = outputs if at_once else outputs * (count > 0)[..., None]
    # Where a gradient is wanted, it must pass through the outputs themselves.
    if return_sequences and not (torch.is_grad_enabled() or outputs.is_inference()):
        outputs.packed = packing, outputs._version, data
    return outputs, last


def packed_already(sequences, packing):
    """The steps that count, where `sequences` are the outputs of a layer that was given the same mask; else None."""
    known, version, data = getattr(sequences, "packed", (None, None, None))
    return data if known is packing and version == sequences._version else None


def run_compact(formula, sequences, states, weights, mask, packing, return_sequences):
    """The kernel over full rows, the steps that count moved to the front: those behind change nothing before them."""
    count, lengths = packing.count, packing.count[:, -1]
    padded_right = bool((mask == (torch.arange(mask.shape[1], device=mask.device) < lengths[:, None])).all())
    if not padded_right:
        sequences = take_steps(sequences, torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True))
    outputs, _ = run_kernel(formula, sequences, states, weights)
    final = outputs[torch.arange(len(outputs), device=outputs.device), (lengths - 1).clamp(min=0)]
    last = tuple(torch.where(lengths[:, None] == 0, state, final) for state in states)
    final = final * (lengths > 0)[:, None]
    if not return_sequences:
        return final, last
    if padded_right:
        return torch.where(mask[:, :, None], outputs, final[:, None]), last
    return take_steps(outputs, (count - 1).clamp(min=0)) * (count > 0)[:, :, None], last


def take_steps(sequences, steps):
    """(B, T, D), (B, T) → (B, T, D): in each row, the steps asked for."""
    rows = torch.arange(sequences.shape[0], device=sequences.device).unsqueeze(1)
    return sequences[rows, steps]
