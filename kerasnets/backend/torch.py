"""PyTorch: its own kernels, without copies into torch's order of axes."""

import functools
import zipfile

import keras
import torch
from keras.ops import matmul as product  # noqa: F401
from torch.nn import functional

from kerasnets.backend import portable, torch_int8
from kerasnets.backend.portable import after_way_back, all_rows, gelu  # noqa: F401  a kernel of torch's own
from kerasnets.backend.torch_recurrence import lay_out, recurrence, recurrence_path  # noqa: F401

supports_jit_around_recurrence = True


def is_concrete(x):
    """True where the values of `x` can be looked at: a tensor with storage, not while a graph is captured."""
    is_real = isinstance(x, torch.Tensor) and x.device.type != "meta" and not torch._is_functional_tensor(x)
    return is_real and not torch.compiler.is_compiling()


def settled(x):
    """x, which is there when the call that made it returns."""
    return x


def whole(x):
    """x: only XLA needs to be told (see `jax.py`)."""
    return x


def whole_gradient(x):
    """x: only XLA as JAX calls it needs to be told (see `jax.py`)."""
    return x


def dense(x, kernel, bias=None):
    """x W + b in one call."""
    x, kernel = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(kernel)
    if x.dtype != kernel.dtype:
        return portable.dense(x, kernel, bias)
    return functional.linear(x, kernel.t(), None if bias is None else keras.ops.convert_to_tensor(bias))


def int8_product(x, values, scale, twice):
    """x ((Q + Q₂ / 254) s)ᵀ, Q₂ of the inputs `twice`.   (B, D), (F, D + k) int8, (F,), (k,) → (B, F).

    By `torch_int8.py`. For many rows, on a GPU, and where a gradient is wanted, Q becomes floats. Where the kernel is
    missing, one or two rows are read as bfloat16, whose 8 bits change 2 % of the likeliest tokens, no more than the
    weights' own rounding does.
    """
    rows, (outputs, inputs) = x.shape[0], values.shape
    wants_gradient = x.requires_grad and torch.is_grad_enabled()
    if x.device.type != "cpu" or wants_gradient or rows >= torch_int8.FLOAT_ROWS:
        return portable.int8_product(x, values, scale, twice)
    if torch_int8.is_there():
        return torch.ops.kerasnets.int8_product(x, values, scale, twice)
    fits = outputs % 64 == 0 and inputs % 64 == 0  # other shapes the kernel reads past their ends
    if rows <= 2 and fits and outputs * inputs < 2**24:
        x = x.to(torch.bfloat16)
        x = torch.cat([x, x.index_select(1, twice) / 254], dim=1)
        return torch._weight_int8pack_mm(x, values, scale.to(torch.bfloat16)).float()
    return portable.int8_product(x, values, scale, twice)


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
        zero = torch.zeros((), dtype=query.dtype, device=query.device)  # of no query: one mask serves all blocks
        bias = torch.where(visible, zero if bias is None else bias.to(query.dtype), lowest)
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


def rms_normalization(x, scale, axes, epsilon):
    """x / √(‖x‖² / D + ε) · g.   (…, D), (D,) → (…, D).

    The length of x is one call where the mean of x² is several, and the way back takes little more than half the time.
    """
    x, scale = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(scale)
    if sorted(axis % x.ndim for axis in axes) != list(range(x.ndim - len(axes), x.ndim)):
        return portable.rms_normalization(x, scale, axes, epsilon)
    dtype = x.dtype
    x = x.to(torch.promote_types(dtype, torch.float32))
    length = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
    mean = torch.addcmul(x.new_full((1,), epsilon), length, length, value=1 / scale.numel())
    return (x * torch.rsqrt(mean) * scale.to(x.dtype)).to(dtype)


def cross_entropy(logits, labels, smoothing):
    """log Σᵥ exp zᵥ − z_y, smoothed as `losses.py` says.   (…, V), (…) → (…)."""
    rows, labels = logits.flatten(0, -2), labels.long()
    losses = functional.cross_entropy(rows, labels.flatten(), reduction="none", label_smoothing=smoothing)
    return losses.view(labels.shape)


@torch.no_grad()
def adam(variables, gradients, states, alpha, settings):
    """The step of `optimizers.py` by torch's fused kernel: whether it was made, which it is for weights of one dtype.

    The kernel divides the moments by 1 − βᵗ itself, which α has done already: at a step far enough away that is 1.
    """
    weights, gradients = [variable.value for variable in variables], list(gradients)
    states = [[state.value for state in part] for part in states]
    for arrays in (gradients, *states):
        for i, weight in enumerate(weights):
            if arrays[i].stride() != weight.stride():  # the kernel looks at memory alone
                arrays[i].data = torch.empty_like(weight, dtype=arrays[i].dtype).copy_(arrays[i])
    if len({(x.dtype, x.device) for x in (*weights, *gradients, *sum(states, []))}) > 1:
        return False
    far = torch.full((), 1e9, device=weights[0].device)
    beta = {f"beta{i}": settings[f"beta_{i}"] for i in (1, 2)}
    torch._fused_adam_(
        weights, gradients, *states[:2], *(states[2:] or [[]]), [far] * len(weights), lr=alpha, **beta,
        weight_decay=0.0, eps=settings["epsilon"], amsgrad=len(states) > 2, maximize=False,
    )  # fmt: skip
    return True


def placed(array, piece, start):
    """The array (B, S, …) with `piece` (B, T, …) at the places from `start` on."""
    places = start + torch.arange(piece.shape[1], device=array.device)
    return array.index_copy(1, places, keras.ops.cast(piece, array.dtype))


compiles_each_shape = False  # a kernel takes any shape


def compiled(function, rarely=False):
    """`function(weights, carry, fixed)` without gradients, however `rarely`."""
    return torch.inference_mode()(function)


def stepped(function):
    """(weights, fixed) → step; step(carry) → (carry, …), captured once for each of their shapes: `torch_graph.py`."""
    from kerasnets.backend.torch_graph import Step

    return functools.partial(Step, function, vars(function).setdefault("graphs", {}))


def looped(function, goes_on):
    """(weights, carry, fixed) → carry, after as many such steps as `goes_on(carry, fixed)` says."""

    def step_and_question(weights, carry, fixed):
        carry, _ = function(weights, carry, fixed)
        return carry, goes_on(carry, fixed)

    start = stepped(step_and_question)

    def loop(weights, carry, fixed):
        return start(weights, fixed).repeated(carry) if goes_on(carry, fixed) else carry

    return loop


def added(array, places, rows):
    """The array (V, …) with `rows` (N, …) added at `places` (N,), in its own memory."""
    return array.index_add_(0, places, rows)
