"""Attention 注意力: each query takes a mean of all values, weighted by how well their keys fit it.

Vaswani et al. 2017, arXiv:1706.03762; fewer key than query heads: Shazeer 2019, arXiv:1911.02150 (one), Ainslie et al.
2023, arXiv:2305.13245 (groups). `attend` is the equation, which also shows its scores; `attention` gives the same
output from the backend's fused kernel. A query that may look at nothing takes the plain mean of all values, not NaN.
"""

from typing import NamedTuple

import keras
from keras import ops

from kerasnets import backend
from kerasnets.backend.portable import repeat_heads
from kerasnets.layers import masking
from kerasnets.layers.layer import record

UNSEEN = -1e9  # a score so low that softmax makes it 0, and finite; float16 has nothing below -65504
SHOWN = ("q", "k", "v", "scores", "probabilities")


class Attended(NamedTuple):
    """What attention computes on its way: output (B, T, N, H′), scores and probabilities (B, N, T, S)."""

    output: object
    scores: object
    probabilities: object


def attend(query, key, value, visible=None, bias=None, scale=None, drop=None):
    """A = softmax(s Q Kᵀ + bias, where visible), output A V.   (B, T, N, H), (B, S, K, H), (B, S, K, H′) → `Attended`.

    s: scale, 1/√H unless given. Query head n reads key head ⌊n K / N⌋. The softmax is taken in float32 at least.
    `drop` is a function of A, dropout in training.
    """
    key, value = repeat_heads(key, query.shape[2]), repeat_heads(value, query.shape[2])
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = ops.einsum("btnh,bsnh->bnts", query, key) * scale
    scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    scores = masked(scores, visible, bias)
    probabilities = ops.softmax(scores, axis=-1)
    weights = probabilities if drop is None else drop(probabilities)
    output = ops.einsum("bnts,bsnh->btnh", ops.cast(weights, value.dtype), value)
    return Attended(output, scores, probabilities)


def masked(scores, visible=None, bias=None):
    """scores + bias where visible, and a score that counts for nothing elsewhere."""
    scores = scores if bias is None else scores + ops.cast(bias, scores.dtype)
    return scores if visible is None else ops.where(visible, scores, ops.cast(UNSEEN, scores.dtype))


def attention(query, key, value, visible=None, bias=None, scale=None, is_causal=False, drop=None):
    """`attend(…).output`, from the backend's fused kernel unless there is dropout; `is_causal` is j ≤ i without a mask.

    visible: (B, 1, T, S) booleans, bias: (B, N, T, S) numbers, either may broadcast, None says nothing.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    record(lambda: shown(query, key, value, explicit(visible, is_causal, query, key), bias, scale), *SHOWN)
    if drop is None:
        return backend.attention(query, key, value, visible, bias, scale, is_causal)
    return attend(query, key, value, explicit(visible, is_causal, query, key), bias, scale, drop).output


def explicit(visible, is_causal, query, key):
    """The mask that `is_causal` stands for, or `visible` as it is."""
    return masking.causal_mask(ops.shape(query)[1], ops.shape(key)[1])[:, None] if is_causal else visible


def shown(query, key, value, visible, bias, scale):
    """What `kn.trace` shows of attention: the fused kernel keeps the scores to itself, so they are computed again."""
    _, scores, probabilities = attend(query, key, value, visible, bias, scale)
    return dict(zip(SHOWN, (query, key, value, scores, probabilities), strict=True))


class Cache(NamedTuple):
    """The keys and values of all tokens so far, in arrays of fixed length S, and how many of its places are taken."""

    keys: object  # (B, S, K, H)
    values: object  # (B, S, K, H)
    length: object  # ()


def remember(cache, key, value):
    """All keys and values so far, and the cache that holds them; without a cache, those that came.   (B, T, K, H)."""
    if cache is None:
        return key, value, None
    keys, values = backend.placed(cache.keys, key, cache.length), backend.placed(cache.values, value, cache.length)
    return keys, values, Cache(keys, values, cache.length + key.shape[1])


def split_heads(x, num_heads):
    """(B, T, N · H) → (B, T, N, H): head by head."""
    return ops.reshape(x, (*ops.shape(x)[:-1], num_heads, x.shape[-1] // num_heads))


def merge_heads(x):
    """(B, T, N, H) → (B, T, N · H)."""
    return ops.reshape(x, (*ops.shape(x)[:-2], x.shape[-2] * x.shape[-1]))
