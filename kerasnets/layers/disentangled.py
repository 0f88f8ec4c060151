"""Disentangled attention 解耦注意力: what a token is and where it stands ask and answer each for itself.

He et al. 2020, arXiv:2006.03654, 3.1. The score of query i and key j is a sum of three products, s = 1 / √(3 H):

    s [ qᵢ · kⱼ  +  qᵢ · k̂[δ(i, j)]  +  kⱼ · q̂[δ(i, j)] ]       content–content, content–position, position–content

q and k are made of the tokens, q̂ and k̂ of a table with a row for each distance δ between two places.
"""

import math

from keras import ops

from kerasnets.layers.layer import record

SHOWN = ("content_to_position", "position_to_content")


def distances(length):
    """i − j for a query at i and a key at j.   → (T, T)."""
    places = ops.arange(length, dtype="int32")
    return places[:, None] - places[None, :]


def log_buckets(distance, num_buckets, max_distance):
    """δ as it is up to m = num_buckets / 2, and beyond in ever longer steps, as many again up to `max_distance`.

    sign(δ) (m + ⌈ln(|δ| / m) / ln((max_distance − 1) / m) (m − 1)⌉) where |δ| > m. He et al. 2021, arXiv:2111.09543.
    """
    middle = num_buckets // 2
    far = ops.cast(ops.maximum(ops.abs(distance), middle), "float32")
    steps = ops.ceil(ops.log(far / middle) / math.log((max_distance - 1) / middle) * (middle - 1))
    far = ops.sign(distance) * (ops.cast(steps, "int32") + middle)
    return ops.where(ops.abs(distance) <= middle, distance, far)


def rows_of(distance, span):
    """The row of a table of 2 · span distances: δ + span, the first or last one for those that are further."""
    return ops.clip(distance + span, 0, 2 * span - 1)


def position_bias(query, key, position_query, position_key, rows, scale):
    """s (qᵢ · k̂[δ] + kⱼ · q̂[δ]), to be added to the scores.   (B, T, N, H) twice, (R, N, H) twice → (B, N, T, T).

    rows: (T, T), the row δ(i, j) of the two tables, either of which may be None.
    """
    terms = []
    if position_key is not None:
        every = ops.einsum("btnh,rnh->bntr", query, position_key) * scale
        terms.append(picked(every, rows))
    if position_query is not None:
        every = ops.einsum("bsnh,rnh->bnsr", key, position_query) * scale
        terms.append(ops.swapaxes(picked(every, ops.transpose(rows)), -1, -2))
    names = [name for name, part in zip(SHOWN, (position_key, position_query), strict=True) if part is not None]
    record(lambda: dict(zip(names, terms, strict=True)), *names)
    return sum(terms) if terms else None


def picked(every, rows):
    """every[b, n, i, rows[i, j]].   (B, N, T, R), (T, T) → (B, N, T, T)."""
    shape = (*ops.shape(every)[:-1], ops.shape(rows)[1])
    return ops.take_along_axis(every, ops.broadcast_to(rows[None, None], shape), axis=-1)
