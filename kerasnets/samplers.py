"""Samplers 采样: which token comes next, given the logits z of all; p = softmax(z).

    model.generate(batch, sampler=kn.samplers.TopP(0.9))
    model.generate(batch, sampler=(kn.samplers.Temperature(0.7), kn.samplers.TopK(50)))   # one after the other

Each is a function of z that removes tokens, z_i = −∞, or changes how far z is spread; then one token is drawn from
what is left. They are values: equal arguments, equal samplers. Each raises `ValueError` for numbers without a meaning.
"""

import dataclasses
import math

from keras import ops

REMOVED = -math.inf


@dataclasses.dataclass(frozen=True)
class Greedy:
    """argmax z: the most probable token, the first of equal ones. Nothing is drawn."""

    def __call__(self, logits):
        first = ops.expand_dims(ops.argmax(logits, axis=-1), -1)
        return kept(logits, ops.equal(ops.arange(logits.shape[-1], dtype=first.dtype), first))


@dataclasses.dataclass(frozen=True)
class Temperature:
    """z / τ: below 1 what is probable becomes more so, above 1 all become more alike.   Ackley et al. 1985."""

    temperature: float = 1.0

    def __post_init__(self):
        check(self, "temperature", 0 < self.temperature < math.inf, "a number above 0; for the limit 0 take Greedy()")

    def __call__(self, logits):
        return logits / self.temperature


@dataclasses.dataclass(frozen=True)
class TopK:
    """The k most probable tokens, and those as probable as the last of them.   Fan et al. 2018, arXiv:1805.04833."""

    k: int = 50

    def __post_init__(self):
        check(self, "k", isinstance(self.k, int) and not isinstance(self.k, bool) and self.k > 0, "a positive integer")

    def __call__(self, logits):
        largest = ops.top_k(logits, min(self.k, logits.shape[-1]))[0]
        return kept(logits, logits >= largest[:, -1:])


@dataclasses.dataclass(frozen=True)
class TopP:
    """The smallest set of the most probable tokens whose probabilities add up to P: the "nucleus".

    Token i stays where Σ p_j < P over all j more probable than i.   Holtzman et al. 2019, arXiv:1904.09751.
    """

    p: float = 0.9

    def __post_init__(self):
        check(self, "p", 0 < self.p <= 1, "above 0 and at most 1")

    def __call__(self, logits):
        falling = -ops.sort(-logits, axis=-1)
        p = ops.softmax(falling, axis=-1)
        before = ops.cumsum(p, axis=-1) - p
        stays = ops.logical_or(before < self.p, ops.equal(self.p, 1.0))  # all of them, even if the sum passes 1
        last = ops.min(ops.where(stays, falling, ops.max(falling)), axis=-1, keepdims=True)
        return kept(logits, logits >= last)


@dataclasses.dataclass(frozen=True)
class MinP:
    """Tokens of at least P times the probability of the most probable one.   Nguyen et al. 2024, arXiv:2407.01082."""

    p: float = 0.05

    def __post_init__(self):
        check(self, "p", 0 < self.p <= 1, "above 0 and at most 1")

    def __call__(self, logits):
        return kept(logits, logits >= ops.max(logits, axis=-1, keepdims=True) + ops.log(self.p))


@dataclasses.dataclass(frozen=True)
class Beam:
    """The best of `num_beams` texts that are continued side by side: `kerasnets.beam`. It searches, and draws nothing.

    Above 0, `length_penalty` makes longer texts better. A row is finished with `num_beams` texts if none that is still
    open can be better as it is; early_stopping: as soon as so many are ended; "never": when none can become better.
    """

    num_beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    def __post_init__(self):
        is_count = isinstance(self.num_beams, int) and not isinstance(self.num_beams, bool) and self.num_beams > 1
        check(self, "num_beams", is_count, "an integer above 1; for 1 take Greedy()")
        check(self, "length_penalty", -math.inf < self.length_penalty < math.inf, "a number")
        is_known = isinstance(self.early_stopping, bool) or self.early_stopping == "never"
        check(self, "early_stopping", is_known, 'False, True or "never"')
        object.__setattr__(self, "length_penalty", float(self.length_penalty))

    def __call__(self, logits):
        return logits

    def search(self, model, inputs, settings):
        """One call of `generate`."""
        from kerasnets.beam import Search

        return Search(model, inputs, settings)


def kept(logits, stays):
    """z where it stays, −∞ elsewhere."""
    return ops.where(stays, logits, ops.cast(REMOVED, logits.dtype))


def draw(logits, uniform):
    """The token i with Σ_{j<i} p_j ≤ u < Σ_{j≤i} p_j: one number u of [0, 1) decides.   (B, V), (B,) → (B,)."""
    p = ops.softmax(logits, axis=-1)
    total = ops.cumsum(p, axis=-1)
    place = ops.sum(ops.cast(total <= uniform[:, None] * total[:, -1:], "int32"), axis=-1)
    last = ops.max(ops.where(p > 0, ops.arange(p.shape[-1], dtype="int32"), 0), axis=-1)  # u Σ p may round to Σ p
    return ops.minimum(place, last)


def chain(sampler):
    """The samplers in their order, as a tuple; raises for what is none and for what nothing can come before or after.

    A sampler that searches, instead of drawing token by token, has a method `search`, and stands alone.
    """
    samplers = (Greedy(),) if sampler is None else tuple(sampler) if isinstance(sampler, (list, tuple)) else (sampler,)
    if not samplers or any(isinstance(s, type) or not callable(s) for s in samplers):
        raise ValueError(f"sampler must be one of kerasnets.samplers, or several in a tuple; received {sampler!r}.")
    if len(samplers) > 1 and any(isinstance(s, Greedy) for s in samplers):
        raise ValueError(f"Greedy() takes the most probable token whatever the others do; received {samplers}.")
    if len(samplers) > 1 and any(hasattr(s, "search") for s in samplers):
        raise ValueError(f"A sampler that searches stands alone; received {samplers}.")
    kinds = [type(s) for s in samplers]
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"Each sampler may stand once; received {samplers}.")
    return samplers


def check(sampler, name, is_right, expected):
    if not is_right:
        kind, value = type(sampler).__name__, getattr(sampler, name)
        raise ValueError(f"samplers.{kind}: {name} must be {expected}; received {value!r}.")
