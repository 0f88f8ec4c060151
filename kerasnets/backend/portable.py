"""The classic layers in `keras.ops`: what a backend does where it has nothing faster, and the measure of the others."""

import functools
import math

import keras
from keras import ops

TILE = 64  # outputs of a matrix in 8 bits


def dense(x, kernel, bias=None, product=ops.matmul):
    """x W + b.   (…, D), (D, U), (U,) → (…, U)."""
    y = product(x, kernel)
    return y if bias is None else ops.add(y, bias)


def is_one_row(x, kernel):
    """Whether x W reads W for a single row of x, as when text is written, and W is over 1 MB: `dense_in_two` pays."""
    rows = math.prod(0 if n is None else n for n in x.shape[:-1])
    return rows == 1 and x.shape[-1] % 2 == 0 and math.prod(kernel.shape) > 2**18


def dense_in_two(x, kernel, bias=None):
    """x W + b of one row: the halves of x times those of W's rows, as two products in one.   (…, D) → (…, U).

    XLA on a CPU reads W faster so, and no weight is copied: a step of a model that writes token after token, which
    waits for its weights, takes a tenth less.
    """
    inputs, outputs = kernel.shape
    halves = ops.matmul(ops.reshape(x, (2, 1, inputs // 2)), ops.reshape(kernel, (2, inputs // 2, outputs)))
    y = ops.reshape(ops.sum(halves, axis=0), (*x.shape[:-1], outputs))
    return y if bias is None else ops.add(y, bias)


def int8_product(x, values, scale, twice, in_tiles=False):
    """x ((Q + Q₂ / 254) s)ᵀ, Q₂ of the inputs `twice`.   (B, D), (F, D + k) int8, (F,), (k,) → (B, F).

    XLA turns Q into floats as it reads them, for one row of x. For more it would write all of them to memory first; so
    a prompt, which is some rows, reads a tile of Q after the other, whose floats the processor's own memory holds.
    """
    x = ops.concatenate([x, ops.take(x, twice, axis=1) / 254], axis=1)
    rows, outputs = x.shape[0], values.shape[0]
    if rows is None or not 2 < rows <= 128 or outputs % TILE or not in_tiles:
        return ops.matmul(x, ops.transpose(ops.cast(values, x.dtype))) * scale
    tiles = ops.reshape(values, (outputs // TILE, TILE, -1))
    y = ops.map(lambda tile: ops.matmul(x, ops.transpose(ops.cast(tile, x.dtype))), tiles)
    return ops.reshape(ops.moveaxis(y, 0, 1), (rows, outputs)) * scale


def convolution(x, kernel, bias, strides, padding, data_format, dilation_rate):
    """y[p] = Σ_o x[s p + d o] K[o] + b.   (B, *spatial, C), (*window, C / groups, F), (F,) → (B, *places, F)."""
    y = ops.conv(x, kernel, list(strides), padding, data_format, dilation_rate)
    if bias is None:
        return y
    if data_format == "channels_last":
        return ops.add(y, bias)
    # No ops.add here: on TensorFlow it takes the last axis where that is as long as the bias too.
    return y + ops.reshape(bias, (-1,) + (1,) * len(strides))


def max_pool(x, pool_size, strides, padding, data_format):
    """y[p] = max_o x[s p + o].   (B, *spatial, C) → (B, *places, C)."""
    return ops.max_pool(x, pool_size, strides, padding, data_format)


def average_pool(x, pool_size, strides, padding, data_format):
    """y[p] = mean_o x[s p + o].   (B, *spatial, C) → (B, *places, C)."""
    return ops.average_pool(x, pool_size, strides, padding, data_format)


def are_tiles(x, pool_size, strides, padding, data_format):
    """True where the windows lie side by side, none of them over the edge, and the lengths are known."""
    spatial = x.shape[1:-1] if data_format == "channels_last" else x.shape[2:]
    if tuple(pool_size) != tuple(strides) or None in spatial:
        return False
    return padding == "valid" or all(n % k == 0 for n, k in zip(spatial, pool_size, strict=True))


def max_of_tiles(x, pool_size, data_format):
    """`max_pool` over tiles as a chain of comparisons, since XLA's own gradient of a pooling is slow on a CPU.

    Of equal values the first in the window gets the gradient, as in `max_pool`: first within a row, then of the rows.
    """
    first = 1 if data_format == "channels_last" else 2
    for axis, size in reversed(list(enumerate(pool_size, start=first))):
        before = (slice(None),) * axis
        places = x.shape[axis] // size
        x = x[(*before, slice(places * size))]
        shape = [-1 if n is None else n for n in x.shape]
        x = ops.reshape(x, [*shape[:axis], places, size, *shape[axis + 1 :]])
        x = functools.reduce(first_max, [x[(*before, slice(None), i)] for i in range(size)])
    return x


def first_max(a, b):
    """The larger of two, the first of equal ones, NaN if one is NaN."""
    return ops.where(ops.logical_or(ops.greater_equal(a, b), ops.not_equal(a, a)), a, b)


def attention(query, key, value, visible, bias, scale, is_causal):
    """softmax(s Q Kᵀ + bias, where visible) V.   (B, T, N, H), (B, S, K, H), (B, S, K, H′) → (B, T, N, H′)."""
    if key.shape[2] == 1:  # Keras repeats several heads, but not one, and TensorFlow then fails
        key, value = (repeat_heads(x, query.shape[2]) for x in (key, value))
    if bias is not None and visible is not None:
        unseen = -3e4 if keras.backend.standardize_dtype(query.dtype) == "float16" else -1e9  # finite in each dtype
        bias, visible = ops.where(visible, ops.cast(bias, query.dtype), ops.cast(unseen, query.dtype)), None
    return ops.dot_product_attention(query, key, value, bias=bias, mask=visible, scale=scale, is_causal=is_causal)


def attention_written_out(query, key, value, visible, bias, scale, is_causal):
    """The same from products and sums, so that XLA divides T · H numbers by the sums of the weights, not T · S.

    The N / K heads of queries that share a head of keys are rows of one product: no key or value is repeated.
    """
    batch, length, heads, size = ops.shape(query)
    _, steps, shared, value_size = ops.shape(value)
    together, apart = (batch, shared, heads // shared * length), (batch, heads, length)
    q, k, v = (ops.swapaxes(x, 1, 2) for x in (query * scale, key, value))  # (B, N, T, H), (B, K, S, H)
    scores = ops.matmul(ops.reshape(q, (*together, size)), ops.swapaxes(k, 2, 3))
    scores = ops.reshape(scores, (*apart, steps))
    scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    if bias is not None:
        scores = scores + ops.cast(bias, scores.dtype)
    if is_causal:
        visible = ops.arange(ops.shape(scores)[3]) <= ops.arange(ops.shape(scores)[2])[:, None]
    if visible is not None:
        scores = ops.where(visible, scores, ops.cast(-1e9, scores.dtype))
    weights = ops.exp(scores - ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True)))
    y = ops.matmul(ops.reshape(weights, (*together, steps)), ops.cast(v, weights.dtype))
    y = ops.reshape(y, (*apart, value_size))
    y = y / ops.sum(weights, axis=-1, keepdims=True)
    return ops.cast(ops.swapaxes(y, 1, 2), value.dtype)


def repeat_heads(x, num_heads):
    """Each of K heads N / K times in a row.   (B, S, K, H) → (B, S, N, H).

    By `tile`: of `ops.repeat` TensorFlow makes some 25 operations, all of which are traced and compiled.
    """
    batch, length, heads, size = ops.shape(x)
    if heads == num_heads:
        return x
    return ops.reshape(ops.tile(x[:, :, :, None], (1, 1, 1, num_heads // heads, 1)), (batch, length, num_heads, size))


def rms_normalization(x, scale, axes, epsilon):
    """x / √(mean(x²) + ε) · g, the mean over `axes`, in float32 at least.   (…, D), (D,) → (…, D)."""
    return ops.rms_normalization(x, scale=scale, axis=axes, epsilon=epsilon)


def cross_entropy(logits, labels, smoothing):
    """log Σᵥ exp zᵥ − z_y, smoothed as `losses.py` says.   (…, V), (…) → (…).

    z_y is a sum over all v where v = y, of which XLA makes one loop, also on the way back.
    """
    is_label = ops.equal(ops.arange(logits.shape[-1], dtype=labels.dtype), ops.expand_dims(labels, -1))
    total = ops.logsumexp(logits, axis=-1)
    losses = total - ops.sum(ops.where(is_label, logits, ops.zeros_like(logits)), axis=-1)
    return (1 - smoothing) * losses + smoothing * (total - ops.mean(logits, axis=-1)) if smoothing else losses


def adam(variables, gradients, states, alpha, settings):
    """Whether the step of `optimizers.py` was made: not here, where Keras's own is as fast."""
    return False


def after_way_back(number, gradients):
    """The number: only XLA as JAX calls it needs to be told (see `jax_xla.py`)."""
    return number


def all_rows(gradient):
    """The gradient of a table, which TensorFlow keeps as the rows that were read."""
    return gradient


def gelu(x, approximate):
    """x Φ(x), or what is close to it: `layers/activations.py`."""
    return ops.gelu(x, approximate)


def placed(array, piece, start):
    """The array (B, S, …) with `piece` (B, T, …) at the places from `start` on."""
    return ops.slice_update(array, (0, start) + (0,) * (len(array.shape) - 2), ops.cast(piece, array.dtype))


def added(array, places, rows):
    """The array (V, …) with `rows` (N, …) added at `places` (N,); where a place comes again, both are added."""
    return ops.scatter_update(array, ops.expand_dims(places, -1), rows, reduction="add")


def lay_out(cell):
    """Place a cell's weights in memory as `recurrence` reads them: they lie so already."""
