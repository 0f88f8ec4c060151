"""Attention along some axes of a picture or a film: they become the one axis T, and those left alone join the batch.

x (B, …, N, H) and `axes`, the places among "…" that are attended along. Where there is one place, nothing is to do.
"""

import functools
import math

import numpy as np
from keras import ops

from kerasnets.layers import masking


def in_order(x, axes):
    """The axes of x: the batch, those left alone, those attended along, heads and channels."""
    rank = len(x.shape)
    return (0, *(axis for axis in range(1, rank - 2) if axis not in axes), *axes, rank - 2, rank - 1)


def folded(x, axes):
    """(B, …, N, H) → (B′, T, N, H)."""
    if len(x.shape) == 4:
        return x
    x = ops.transpose(x, in_order(x, axes))
    shape = ops.shape(x)
    return ops.reshape(x, (-1, math.prod(shape[-2 - len(axes) : -2]), *shape[-2:]))


def unfolded(y, query, axes):
    """What `folded` did, undone.   (B′, T, N, H′) → (B, …, N, H′), for `query` (B, …, N, H) as it was."""
    if len(query.shape) == 4:
        return y
    order = in_order(query, axes)
    shape = ops.shape(query)
    y = ops.reshape(y, (*(shape[axis] for axis in order[:-1]), y.shape[-1]))
    return ops.transpose(y, tuple(int(axis) for axis in np.argsort(order)))


def scores_shape(query, key, axes):
    """(B, those left alone, N, those of the queries, those of the keys)."""
    shape, order = ops.shape(query), in_order(query, axes)
    alone = order[: len(order) - 2 - len(axes)]
    places = [shape[axis] for axis in axes] + [ops.shape(key)[axis] for axis in axes]
    return [*(shape[axis] for axis in alone), shape[-2], *places]


def folded_mask(mask, query, key, axes):
    """Any mask that has the last axes of the scores, or 1 there → (B′ or 1, N or 1, T or 1, S or 1)."""
    mask = with_heads(mask, len(query.shape) - 1 + len(axes), axes)
    if len(query.shape) == 4:
        return mask
    shape, head = scores_shape(query, key, axes), -2 * len(axes) - 1
    shape[head] = mask.shape[head]
    mask = ops.broadcast_to(mask, shape)
    queries, keys = shape[head + 1 :][: len(axes)], shape[head + 1 :][len(axes) :]
    return ops.reshape(mask, (-1, shape[head], math.prod(queries), math.prod(keys)))


def with_heads(mask, rank, axes):
    """The mask as booleans with axes of length 1 for the heads, and for what else it lacks, before the places."""
    mask = ops.cast(mask, "bool")
    while len(mask.shape) < rank:
        mask = ops.expand_dims(mask, -2 * len(axes) - 1)
    return mask


def unfolded_scores(scores, query, key, axes):
    """(B′, N, T, S) → as `scores_shape` says."""
    return scores if len(query.shape) == 4 else ops.reshape(scores, scores_shape(query, key, axes))


def visible_places(query, value, axes, masks, is_causal=False, window=None):
    """All that says who may look at whom as one mask, (B or 1, …, N or 1, places of queries, places of keys), or None.

    masks: padding of the query (B, …), the value and the key, True for what is real, and a mask of places by places.
    `window`: how far a query looks, to both sides, j − w < i < j + w.
    """
    query_mask, value_mask, key_mask, attention_mask = masks
    masks = [] if attention_mask is None else [attention_mask]
    masks += [] if query_mask is None else [with_axes(query_mask, axes, -1)]
    masks += [with_axes(mask, axes, -len(axes) - 1) for mask in (value_mask, key_mask) if mask is not None]
    if is_causal or window is not None:
        places = [[ops.shape(x)[axis] for axis in axes] for x in (query, value)]
        lengths = [math.prod(numbers) for numbers in places]
        pairs = [masking.causal_mask(*lengths)] if is_causal else []
        pairs += [masking.band_mask(*lengths, window)] if window is not None else []
        masks += [ops.reshape(mask, (1, *places[0], *places[1])) for mask in pairs]
    masks = [with_heads(mask, len(query.shape) + len(axes), axes) for mask in masks]
    return functools.reduce(ops.logical_and, masks) if masks else None


def with_axes(mask, axes, place):
    """As many axes of length 1 as there are attended axes."""
    for _ in axes:
        mask = ops.expand_dims(mask, place)
    return mask
