"""PyTorch: its own fused recurrent kernels, for every mask."""

import zipfile

import keras
import torch
from torch.nn import functional

from kerasnets.backend import portable

_TORCH_ORDER = {"gru": (1, 0, 2)}  # torch holds a GRU's gates as r, z, n; ours are z, r, h


supports_jit_around_recurrence = True


def is_concrete(x):
    """True where the values of `x` can be looked at: a tensor with storage, outside torch.compile."""
    return isinstance(x, torch.Tensor) and x.device.type != "meta" and not torch.compiler.is_compiling()


def settled(x):
    """x, which is there when the call that made it returns."""
    return x


def recurrence_path(cell):
    """What `recurrence` does for this cell, or None where it cannot."""
    if cell.formula is None or cell.implementation == 1:
        return None
    return f"torch's fused {cell.formula} kernel"


def whole(x):
    """x: only XLA needs to be told (see `jax.py`)."""
    return x


def recurrence(cell, sequences, states, mask=None, return_sequences=True, return_states=True, training=True):
    """Run `cell` over (B, T, D); returns the outputs (B, T, U), or the last one (B, U), and the last states.

    A masked step leaves the states as they are, so it might as well not be there: the steps that count are moved to
    the front, the kernel runs over them, and each step reads the output of the last one that counts, zero before it.
    """
    weights = kernel_weights(cell)
    if mask is None:
        outputs, last = run_kernel(cell.formula, sequences, states, weights)
        return (outputs if return_sequences else outputs[:, -1]), last
    mask = mask.to(device=sequences.device, dtype=torch.bool)
    lengths = mask.sum(1)
    padded_right = bool((mask == (torch.arange(mask.shape[1], device=mask.device) < lengths[:, None])).all())
    if not padded_right:
        sequences = take_steps(sequences, torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True))
    if (cell.formula == "lstm" and return_states) or packing_pays(cell.formula, mask, lengths):
        outputs, last = run_packed(cell.formula, sequences, states, weights, lengths)
        final = last[0]
    else:  # steps past a row's end change nothing before it
        outputs, _ = run_kernel(cell.formula, sequences, states, weights)
        final = outputs[torch.arange(len(outputs), device=outputs.device), (lengths - 1).clamp(min=0)]
        last = tuple(torch.where(lengths[:, None] == 0, state, final) for state in states)
    final = final * (lengths > 0)[:, None]
    if not return_sequences:
        return final, last
    if padded_right:
        return torch.where(mask[:, :, None], outputs, final[:, None]), last
    count = mask.cumsum(1)
    return take_steps(outputs, (count - 1).clamp(min=0)) * (count > 0)[:, :, None], last


def packing_pays(formula, mask, lengths):
    """Whether a kernel that skips the padding is faster; oneDNN's LSTM, for full batches only, gains more than that.

    An LSTM whose states are wanted is packed all the same: a row's last cell state is nowhere in the outputs.
    """
    return formula != "lstm" and not torch.is_grad_enabled() and int(lengths.sum()) < 0.8 * mask.numel()


def take_steps(sequences, steps):
    """(B, T, D), (B, T) → (B, T, D): in each row, the steps asked for."""
    rows = torch.arange(sequences.shape[0], device=sequences.device).unsqueeze(1)
    return sequences[rows, steps]


def kernel_weights(cell):
    """W, U, b, b_u as torch lays them out: (gates · U, inputs), gates in torch's order."""
    bias, recurrent_bias = cell.split_bias()
    weights = [keras.ops.convert_to_tensor(w) for w in (cell.kernel, cell.recurrent_kernel)]
    if bias is not None:
        bias = keras.ops.convert_to_tensor(bias)
        weights += [
            bias,
            torch.zeros_like(bias) if recurrent_bias is None else keras.ops.convert_to_tensor(recurrent_bias),
        ]
    order = _TORCH_ORDER.get(cell.formula)
    if order:
        weights = [torch.cat([w.chunk(3, -1)[gate] for gate in order], -1) for w in weights]
    return [w.t().contiguous() if w.ndim == 2 else w for w in weights]


def run_kernel(formula, sequences, states, weights):
    """One call of `torch._VF.{lstm, gru, rnn_tanh, rnn_relu}` over rows of full length."""
    states = [s.unsqueeze(0).contiguous() for s in states]
    outputs, *last = getattr(torch._VF, formula)(sequences, initial(formula, states), weights, *settings(weights), True)
    return outputs, tuple(s.squeeze(0) for s in last)


def run_packed(formula, sequences, states, weights, lengths):
    """The same with each row stopping after its own length."""
    pack, unpack = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    packed = pack(sequences, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
    hx = initial(formula, [s[packed.sorted_indices].unsqueeze(0) for s in states])
    data, *last = getattr(torch._VF, formula)(packed.data, packed.batch_sizes, hx, weights, *settings(weights))
    outputs, _ = unpack(packed._replace(data=data), batch_first=True, total_length=sequences.shape[1])
    last = [s.squeeze(0)[packed.unsorted_indices] for s in last]
    empty = lengths[:, None] == 0
    return outputs, tuple(torch.where(empty, before, after) for before, after in zip(states, last, strict=True))


def initial(formula, states):
    """An LSTM takes its two states as a list, the others their one."""
    return states if formula == "lstm" else states[0]


def settings(weights):
    """(has biases, layers, dropout, training, bidirectional)"""
    return len(weights) == 4, 1, 0.0, torch.is_grad_enabled(), False


def dense(x, kernel, bias=None):
    """x W + b in one call."""
    x, kernel = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(kernel)
    if x.dtype != kernel.dtype:
        return portable.dense(x, kernel, bias)
    return functional.linear(x, kernel.t(), None if bias is None else keras.ops.convert_to_tensor(bias))


def convolution(x, kernel, bias, strides, padding, data_format, dilation_rate):
    """y[p] = Σ_o x[s p + d o] K[o] + b in one call, without a copy of x in torch's order of axes."""
    x, kernel = channels_first(keras.ops.convert_to_tensor(x), data_format), keras.ops.convert_to_tensor(kernel)
    kernel = kernel.permute(-1, -2, *range(len(strides))).contiguous()
    bias = None if bias is None else keras.ops.convert_to_tensor(bias)
    x, pads = padded(x, kernel.shape[2:], strides, padding, dilation_rate)
    convolve = functional.conv1d if len(strides) == 1 else functional.conv2d
    y = convolve(x, kernel, bias, strides, pads, dilation_rate, x.shape[1] // kernel.shape[1])
    return y.movedim(1, -1) if data_format == "channels_last" else y


def max_pool(x, pool_size, strides, padding, data_format):
    """y[p] = max_o x[s p + o], without a copy of x in torch's order of axes."""
    x = channels_first(keras.ops.convert_to_tensor(x), data_format)
    x, pads = padded(x, pool_size, strides, padding, value=float("-inf"))
    pool = functional.max_pool1d if len(strides) == 1 else functional.max_pool2d
    y = pool(x, pool_size, strides, pads)
    return y.movedim(1, -1) if data_format == "channels_last" else y


def average_pool(x, pool_size, strides, padding, data_format):
    """y[p] = mean_o x[s p + o], without a copy of x in torch's order of axes."""
    if padding == "same":
        return portable.average_pool(x, pool_size, strides, padding, data_format)
    x = channels_first(keras.ops.convert_to_tensor(x), data_format)
    pool = functional.avg_pool1d if len(strides) == 1 else functional.avg_pool2d
    y = pool(x, pool_size, strides)
    return y.movedim(1, -1) if data_format == "channels_last" else y


def channels_first(x, data_format):
    """(B, *spatial, C) → (B, C, *spatial), a view: what torch calls the memory format channels_last."""
    return x.movedim(-1, 1) if data_format == "channels_last" else x


def padded(x, window, strides, padding, dilation_rate=None, value=0.0):
    """x and what torch is to add on either side of each axis; where that is uneven, x comes with it added."""
    from kerasnets.layers.windows import border

    axes = zip(x.shape[2:], window, strides, dilation_rate or (1,) * len(window), strict=True)
    pads = [border(length, size, stride, padding, dilation) for length, size, stride, dilation in axes]
    if all(before == after for before, after in pads):
        return x, [before for before, _ in pads]
    return functional.pad(x, [n for pair in reversed(pads) for n in pair], value=value), [0] * len(pads)


def attention(query, key, value, visible, bias, scale, is_causal):
    """softmax(s Q Kᵀ + bias, where visible) V by torch's fused kernels; what is unseen scores low, not -∞: no NaN."""
    lowest = torch.finfo(query.dtype).min / 2
    if visible is not None:
        visible = keras.ops.convert_to_tensor(visible)
        bias = torch.where(visible, query.new_zeros(()) if bias is None else bias.to(query.dtype), lowest)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))  # (B, N, T, H)
    y = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=is_causal, scale=scale, enable_gqa=k.shape[1] != q.shape[1]
    )
    return y.transpose(1, 2)


def read_bin(path):
    """{name: tensor} of a file that torch.save wrote, mapped where its format allows it; nothing in it is executed.

    Raises `ValueError` for a file that holds anything but named tensors.
    """
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 6):  # CVE-2025-32434: code ran all the same
        raise ValueError(f"{path}: torch {torch.__version__} may execute what is in a .bin file; 2.6 and later do not.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "unsupported" in line.lower()), lines[0]).strip()
        raise ValueError(f"{path} is not a whole file of tensors and nothing else: {reason}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} must hold {{name: tensor}}; it holds {type(state).__name__}.")
    others = {name: type(value).__name__ for name, value in state.items() if not isinstance(value, torch.Tensor)}
    if others or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{path} must hold {{name: tensor}}; it also holds {others or list(state)}.")
    return state


def picked(logits, labels):
    """z_y.   (…, V), (…) → (…)."""
    return logits.gather(-1, labels[..., None].long()).squeeze(-1)


def placed(array, piece, start):
    """The array (B, S, …) with `piece` (B, T, …) at the places from `start` on."""
    places = start + torch.arange(piece.shape[1], device=array.device)
    return array.index_copy(1, places, keras.ops.cast(piece, array.dtype))


def compiled(function):
    """`function(weights, carry, fixed)` without gradients."""
    return torch.inference_mode()(function)


stepped = compiled


def looped(function, goes_on):
    """(weights, carry, fixed) → carry, after as many steps as `goes_on(carry, fixed)` says."""

    @torch.inference_mode()
    def loop(weights, carry, fixed):
        while goes_on(carry, fixed):
            carry = function(weights, carry, fixed)
        return carry

    return loop
