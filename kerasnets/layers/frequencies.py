"""How fast rotary positions turn 旋转频率, and how they are slowed down for texts longer than those trained on.

Su et al. 2021, arXiv:2104.09864. "linear": Chen et al. 2023, arXiv:2306.15595; "yarn": Peng et al. 2023,
arXiv:2309.00071; "llama3": Dubey et al. 2024, arXiv:2407.21783.
"""

import math

import numpy as np

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
    if size % 2 or not is_number(theta) or theta <= 1:
        raise ValueError(f"Rotation turns pairs of channels, θ > 1; received size={size}, theta={theta!r}.")
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
    values = {name: scaling[name] for name in given}
    odd = {name: value for name, value in values.items() if not is_number(value) or name in needed and not value}
    if odd:
        raise ValueError(f"rope_type {kind!r} needs positive finite numbers; received {odd}.")
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise ValueError(f"low_freq_factor must be less than high_freq_factor; received {scaling}.")


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
