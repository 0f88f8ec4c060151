"""Masks 掩码: who may look at whom. True = may look; (…, T, S) for T queries that look at S keys.

`padding` is the notes' `attention_mask`: (B, S), 1 for real tokens and 0 for padding, on either side.
Causal masks: Vaswani et al. 2017, arXiv:1706.03762; sliding windows: Beltagy et al. 2020, arXiv:2004.05150.
"""

from keras import ops


def causal_mask(queries, keys=None, first=0, window=None):
    """j ≤ i, and i − j < window: no query looks ahead, or further back than a window.   → (1, T, S).

    Query number 0 stands at place `first` among the keys: behind those that a cache remembers.
    """
    i = first + ops.arange(queries)[:, None]
    j = ops.arange(queries if keys is None else keys)[None, :]
    visible = j <= i
    return (visible if window is None else ops.logical_and(visible, i - j < window))[None]


def band_mask(queries, keys, window):
    """|i − j| < window: no query looks further than that, back or ahead.   → (1, T, S)."""
    i, j = ops.arange(queries)[:, None], ops.arange(keys)[None, :]
    return (ops.abs(i - j) < window)[None]


def narrowed(visible, window, queries, cache=None):
    """`visible`, None being all that came before, and at most `window` places back, the query's own among them.

    queries: (B, T, N, H). The first of them stands behind what `cache` remembers.   → (B or 1, 1, T, S).
    """
    keys, first = (None, 0) if cache is None else (cache.keys.shape[1], cache.length)
    near = causal_mask(queries.shape[1], keys, first, window)
    return combined(near, None if visible is None else visible[:, 0])


def padding_mask(padding):
    """No query looks at padding.   (B, S) → (B, 1, S)."""
    return ops.cast(padding, "bool")[:, None, :]


def combined(*masks):
    """Where all of them say True; None says nothing.   (B or 1, T or 1, S) each → (B, 1, T, S), or None of Nones."""
    masks = [mask for mask in masks if mask is not None]
    if not masks:
        return None
    visible = masks[0]
    for mask in masks[1:]:
        visible = ops.logical_and(visible, mask)
    return visible[:, None]


def positions_of(input_ids, padding=None):
    """0, 1, 2, … for the real tokens of each row, wherever they begin; 0 for padding before them.   (B, T) → (B, T)."""
    if padding is None:
        return ops.broadcast_to(ops.arange(ops.shape(input_ids)[1], dtype="int32")[None], ops.shape(input_ids))
    return ops.maximum(ops.cumsum(ops.cast(padding, "int32"), axis=1) - 1, 0)
