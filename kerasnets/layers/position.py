"""Positions 位置编码: attention alone sees a set of tokens; these tell it their order.

- `sinusoidal` (Vaswani et al. 2017, arXiv:1706.03762) and `PositionEmbedding` (Gehring et al. 2017, arXiv:1705.03122)
  are added to the tokens.
- `RotaryEmbedding` (Su et al. 2021, arXiv:2104.09864) turns queries and keys, so that their product depends on how far
  they are apart.
- `alibi_bias` (Press et al. 2021, arXiv:2108.12409) and `RelativePositionBias` (Raffel et al. 2019, arXiv:1910.10683)
  are added to the scores.
"""

import math

import numpy as np
from keras import ops

from kerasnets import guard
from kerasnets.layers.frequencies import attention_factor, inverse_frequencies
from kerasnets.layers.layer import Layer, positive_integer, public


def sinusoidal(positions, size, theta=10000.0, interleaved=True, steps=None):
    """sin(t f_i) and cos(t f_i), f_i = θ^(−i / steps).   (…) positions t → (…, size), in float32.

    They stand in channels 2i and 2i + 1, or in two halves [sin | cos] where not `interleaved`. steps is size / 2 unless
    given; with size / 2 − 1 the last f is 1 / θ itself. Raises `ValueError` for an odd size.
    """
    if size % 2:
        raise ValueError(f"Each frequency takes two channels; received size={size}.")
    f = np.power(float(theta), -np.arange(size // 2) / (steps or size / 2)).astype("float32")
    angles = ops.multiply(ops.cast(positions, "float32")[..., None], f)
    if not interleaved:
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
    return ops.reshape(ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1), (*ops.shape(positions), size))


@public
class PositionEmbedding(Layer):
    """y[t] = P[t], to be added to x: one learned row for each position.   (B, T, D), (B, T) → (B, T, D).

    P: embeddings (max_length, D). Positions are 0, 1, 2, … unless given.
    Raises `ValueError` for a text longer than the table.
    """

    def __init__(self, max_length, embeddings_initializer="uniform", **kwargs):
        positive_integer("max_length", max_length)
        super().__init__(**kwargs)
        self.set_arguments(locals())

    def build(self, input_shape, *_):
        self.embeddings = self.make_weight("embeddings", (self.max_length, input_shape[-1]))

    def call(self, x, positions=None):
        length = x.shape[1]
        if length is not None and length > self.max_length:
            raise ValueError(f"Layer {self.name!r} has {self.max_length} positions; received {length} tokens.")
        positions = ops.arange(ops.shape(x)[1]) if positions is None else positions
        guard.check_token_ids(positions, self.max_length, f"Layer {self.name!r}: positions")
        return ops.broadcast_to(ops.take(self.embeddings, positions, axis=0), ops.shape(x))

    def compute_output_shape(self, input_shape, *_):
        return input_shape


def rotate(x, cos, sin, interleaved=False):
    """(x₁ cos − x₂ sin, x₂ cos + x₁ sin) for each pair (x₁, x₂).   (B, T, N, H), (B, T, r / 2) twice → (B, T, N, H).

    The first r channels turn, the others stay. Pairs are channels i and i + r/2, or 2i and 2i + 1 if `interleaved`.
    """
    half = cos.shape[-1]
    cos, sin = (ops.cast(wave, x.dtype)[:, :, None] for wave in (cos, sin))
    turning, rest = (x, None) if x.shape[-1] == 2 * half else (x[..., : 2 * half], x[..., 2 * half :])
    if interleaved:
        pairs = ops.reshape(turning, (*ops.shape(x)[:-1], half, 2))
        x1, x2 = pairs[..., 0], pairs[..., 1]
        y = ops.stack([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
        y = ops.reshape(y, (*ops.shape(x)[:-1], 2 * half))
    else:  # all channels at once: few operations, of which those with the waves alone are the same in every block
        cos, sin = ops.concatenate([cos, cos], axis=-1), ops.concatenate([-sin, sin], axis=-1)
        y = turning * cos + ops.roll(turning, half, axis=-1) * sin
    return y if rest is None else ops.concatenate([y, rest], axis=-1)


@public
class RotaryEmbedding(Layer):
    """y = rotate(x, cos(t f), sin(t f)), t the position of each token.   (B, T, N, H), (B, T) → (B, T, N, H).

    size: how many channels of each head turn, f: `inverse_frequencies(size, theta, scaling)`. A model that rotates
    in many blocks takes `cos_sin(positions)` once and calls `rotate` there.
    """

    def __init__(self, size, theta=10000.0, scaling=None, interleaved=False, **kwargs):
        positive_integer("size", size)
        super().__init__(**kwargs)
        self.set_arguments({**locals(), "scaling": None if scaling is None else dict(scaling)})
        self.frequencies = inverse_frequencies(size, theta, scaling)
        self.factor = attention_factor(scaling)
        self.mark_built()

    def cos_sin(self, positions):
        """(B, T) → cos and sin of the angles, (B, T, size / 2) each, in float32."""
        angles = ops.multiply(ops.cast(positions, "float32")[..., None], self.frequencies)
        return ops.cos(angles) * self.factor, ops.sin(angles) * self.factor

    def call(self, x, positions=None):
        positions = ops.arange(ops.shape(x)[1])[None] if positions is None else positions
        return rotate(x, *self.cos_sin(positions), interleaved=self.interleaved)

    def compute_output_shape(self, input_shape, *_):
        return input_shape


def alibi_slopes(num_heads):
    """m_h = 2^(−8h / p), h = 1 … p, the largest power of two ≤ N; the heads left take every other of 2p.   → (N,)."""
    p = 2 ** int(math.log2(num_heads))
    slopes = [2 ** (-8 * h / p) for h in range(1, p + 1)]
    slopes += [2 ** (-8 * h / (2 * p)) for h in range(1, 2 * p, 2)]
    return np.array(slopes[:num_heads], "float32")


def alibi_bias(num_heads, queries, keys=None, first=0):
    """−m_h |i − j|: what is further away counts less, in each head another way.   → (1, N, T, S).

    Query number 0 stands at place `first` among the keys, as in `causal_mask`.
    """
    i = first + ops.arange(queries)[:, None]
    j = ops.arange(queries if keys is None else keys)[None, :]
    return ops.multiply(ops.cast(-ops.abs(i - j), "float32"), alibi_slopes(num_heads)[:, None, None])[None]


def relative_buckets(distance, num_buckets=32, max_distance=128, bidirectional=True):
    """One bucket for each small distance j − i, wider ones further on, the last for all from `max_distance` on.

    n buckets, e = n / 2: d where d < e, else e + ⌊ln(d / e) / ln(max_distance / e) (n − e)⌋. If `bidirectional`, half
    of the buckets are for keys after the query (j > i), d = |j − i|; if not, d = i − j and those keys are at 0.
    """
    offset = 0
    if bidirectional:
        num_buckets //= 2
        offset = ops.cast(distance > 0, "int32") * num_buckets
        distance = ops.abs(distance)
    else:
        distance = ops.maximum(-distance, 0)
    exact = num_buckets // 2
    ratio = ops.cast(ops.maximum(distance, 1), "float32") / exact
    steps = ops.log(ratio) / math.log(max_distance / exact) * (num_buckets - exact)
    wide = ops.minimum(exact + ops.cast(steps, "int32"), num_buckets - 1)
    return offset + ops.where(distance < exact, distance, wide)


@public
class RelativePositionBias(Layer):
    """bias[h, i, j] = R[bucket(j − i), h], to be added to the scores.   (B, T) and (B, S) positions → (B, N, T, S).

    R: embeddings (num_buckets, N), see `relative_buckets`. Keys are the queries unless given.
    """

    # fmt: off
    def __init__(self, num_heads, num_buckets=32, max_distance=128, bidirectional=True,
                 embeddings_initializer="uniform", **kwargs):
        # fmt: on
        positive_integer("num_heads", num_heads)
        super().__init__(**kwargs)
        self.set_arguments(locals())

    def build(self, *_):
        self.embeddings = self.make_weight("embeddings", (self.num_buckets, self.num_heads))

    def call(self, queries, keys=None):
        keys = queries if keys is None else keys
        distance = ops.cast(keys, "int32")[:, None, :] - ops.cast(queries, "int32")[:, :, None]
        buckets = relative_buckets(distance, self.num_buckets, self.max_distance, self.bidirectional)
        return ops.transpose(ops.take(self.embeddings, buckets, axis=0), (0, 3, 1, 2))

    def compute_output_shape(self, queries_shape, keys_shape=None):
        return (queries_shape[0], self.num_heads, queries_shape[1], (keys_shape or queries_shape)[1])
