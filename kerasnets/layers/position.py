"""Positions 位置编码: attention alone sees a set of tokens; these tell it their order.

- `sinusoidal` and `PositionEmbedding` are added to the tokens: Vaswani et al. 2017, arXiv:1706.03762; Gehring et al.
  2017, arXiv:1705.03122.
- `RotaryEmbedding` turns queries and keys, so that their product depends on the distance: Su et al. 2021,
  arXiv:2104.09864. Longer texts than it was trained on: "linear" (Chen et al. 2023, arXiv:2306.15595), "yarn" (Peng et
  al. 2023, arXiv:2309.00071), "llama3" (Dubey et al. 2024, arXiv:2407.21783).
- `alibi_bias` and `RelativePositionBias` are added to the scores: Press et al. 2021, arXiv:2108.12409; Raffel et al.
  2019, arXiv:1910.10683.
"""

import math

import numpy as np
from keras import ops

from kerasnets.layers.layer import Layer, positive_integer, public

# What each scaling of the frequencies is told: (what it needs, what it may be given).
SCALINGS = {
    "linear": ({"factor"}, {"original_max_position_embeddings"}),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}, set()),
    "yarn": (
        {"factor", "original_max_position_embeddings"},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
}


def inverse_frequencies(size, theta=10000.0, scaling=None):
    """f_i = θ^(−2i / size), which `scaling` slows down.   → float32 (size / 2,).

    scaling: None, or {"rope_type": "linear", "llama3" or "yarn", and its numbers (see `SCALINGS`)}.
    Taken in float32 step by step, as the published models were: at position 100,000 a single rounding more turns a
    pair of channels by 0.01. Raises `ValueError` for another `rope_type` and for numbers that do not belong to it.
    """
    if size % 2:
        raise ValueError(f"Rotation turns pairs of channels; received size={size}.")
    exponents = np.arange(0, size, 2, dtype="float32") / np.float32(size)
    f = np.float32(1) / np.power(float(theta), exponents.astype("float64")).astype("float32")
    if scaling is None:
        return f
    check_scaling(scaling)
    return {"linear": linear, "llama3": llama3, "yarn": yarn}[scaling["rope_type"]](f, size, theta, scaling)


def check_scaling(scaling):
    """Raise unless `scaling` is one of `SCALINGS` with all its numbers and no others."""
    kind, given = scaling.get("rope_type"), set(scaling) - {"rope_type"}
    if kind not in SCALINGS:
        raise ValueError(f"rope_type {kind!r} is not known here; known are {sorted(SCALINGS)}.")
    needed, allowed = SCALINGS[kind]
    if needed - given or given - needed - allowed:
        raise ValueError(
            f"rope_type {kind!r} needs {sorted(needed)} and may have {sorted(allowed)}; received {sorted(given)}."
        )
    odd = {name: value for name, value in scaling.items() if name != "rope_type" and not is_number(value)}
    if odd or not scaling["factor"] > 0:
        raise ValueError(f"rope_type {kind!r} needs positive finite numbers; received {odd or scaling}.")


def is_number(value):
    return isinstance(value, (bool, int, float)) and math.isfinite(value) and value >= 0


def linear(f, size, theta, scaling):
    """f / factor: as if the positions lay closer together."""
    return f / np.float32(scaling["factor"])


def llama3(f, size, theta, scaling):
    """f where a wave is short, f / factor where it is long, and in between a mean of both."""
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    old, wavelength = scaling["original_max_position_embeddings"], 2 * math.pi / f
    s = np.clip((old / wavelength - low) / (high - low), 0, 1)
    return ((1 - s) * f / factor + s * f).astype("float32")


def yarn(f, size, theta, scaling):
    """f for the fast pairs of channels, f / factor for the slow ones, and a ramp between.

    A pair i is fast if it turns more than `beta_fast` times in the original length, slow below `beta_slow`.
    """
    old = scaling["original_max_position_embeddings"]

    def pair(turns):
        return size * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(scaling.get("beta_fast") or 32), pair(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    kept = 1 - np.clip((np.arange(size // 2, dtype="float32") - low) / (high - low or 0.001), 0, 1)
    return (f / np.float32(scaling["factor"]) * (1 - kept) + f * kept).astype("float32")


def attention_factor(scaling):
    """What cos and sin are multiplied by: 0.1 ln(factor) + 1 for "yarn" unless it is given, 1 for all others."""
    if scaling is None or scaling["rope_type"] != "yarn":
        return 1.0
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    growth = 0.1 * math.log(max(scaling["factor"], 1))
    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return (growth * above + 1) / (growth * below + 1) if above and below else growth + 1


def rotate(x, cos, sin, interleaved=False):
    """(x₁ cos − x₂ sin, x₂ cos + x₁ sin) for each pair (x₁, x₂).   (B, T, N, H), (B, T, r / 2) twice → (B, T, N, H).

    The first r channels turn, the others stay. Pairs are channels i and i + r/2, or 2i and 2i + 1 if `interleaved`.
    """
    half = cos.shape[-1]
    cos, sin = (ops.cast(wave, x.dtype)[:, :, None] for wave in (cos, sin))
    turning, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        pairs = ops.reshape(turning, (*ops.shape(x)[:-1], half, 2))
        x1, x2 = pairs[..., 0], pairs[..., 1]
        y = ops.stack([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
        y = ops.reshape(y, (*ops.shape(x)[:-1], 2 * half))
    else:
        x1, x2 = turning[..., :half], turning[..., half:]
        y = ops.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
    return y if x.shape[-1] == 2 * half else ops.concatenate([y, rest], axis=-1)


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
        angles = ops.cast(positions, "float32")[..., None] * self.frequencies
        return ops.cos(angles) * self.factor, ops.sin(angles) * self.factor

    def call(self, x, positions=None):
        positions = ops.arange(ops.shape(x)[1])[None] if positions is None else positions
        return rotate(x, *self.cos_sin(positions), interleaved=self.interleaved)

    def compute_output_shape(self, input_shape, *_):
        return input_shape
