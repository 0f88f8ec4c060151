"""Processors: what changes the logits before the sampler sees them, by what was written so far.

Each is a value, called as `processor(logits, ids, step)`: logits (B, V) in float32; ids (B, S), the prompt and all new
tokens, each row ending in the same column, −1 where no token stands; step (), the number of new tokens so far. They
run inside the compiled step. A family whose checkpoints ask for some gives them by a method `processors()` of its
model, and `generate(processors=...)` takes more.
"""

import dataclasses

from keras import ops

from kerasnets.samplers import REMOVED, kept


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
    """z / c where z > 0, z c elsewhere, for every token that was seen.   Keskar et al. 2019, arXiv:1909.05858."""

    penalty: float = 1.0

    def __call__(self, logits, ids, step):
        z = ops.take_along_axis(logits, ops.maximum(ids, 0), axis=1)
        return written(logits, ids, ops.where(z < 0, z * self.penalty, z / self.penalty))


@dataclasses.dataclass(frozen=True)
class NoRepeatNGram:
    """z = −∞ for a token that would end n tokens which stand there already.   Paulus et al. 2017, arXiv:1705.04304."""

    size: int = 3

    def __call__(self, logits, ids, step):
        before, places = self.size - 1, ids.shape[1] - self.size + 1
        if places < 1:
            return logits
        end = 1 + ops.max(ops.where(ids >= 0, ops.arange(ids.shape[1], dtype="int32"), -1))
        last = ops.take(ids, ops.maximum(end - before + ops.arange(before, dtype="int32"), 0), axis=1)
        ends = ids[:, before:]
        repeats = ends >= 0
        for n in range(before):
            repeats = ops.logical_and(repeats, ops.equal(ids[:, n : n + places], last[:, n : n + 1]))
            repeats = ops.logical_and(repeats, last[:, n : n + 1] >= 0)
        return written(logits, ops.where(repeats, ends, -1), ops.full(ends.shape, REMOVED, logits.dtype))


@dataclasses.dataclass(frozen=True)
class SuppressTokens:
    """z = −∞ for these tokens, at every step from `first` up to `last`, None being no end."""

    tokens: tuple
    first: int = 0
    last: int | None = None

    def __call__(self, logits, ids, step):
        is_one = ops.any(ops.equal(ops.arange(logits.shape[1])[:, None], ops.array(self.tokens)), axis=1)
        is_now = step >= self.first
        is_now = is_now if self.last is None else ops.logical_and(is_now, step <= self.last)
        return kept(logits, ops.logical_not(ops.logical_and(is_one, is_now)))


@dataclasses.dataclass(frozen=True)
class ForcedToken:
    """z = 0 for this token and −∞ for all others, at one step."""

    token: int
    step: float = 0.0

    def __call__(self, logits, ids, step):
        forced = ops.where(ops.equal(ops.arange(logits.shape[1]), self.token), 0.0, REMOVED)
        return ops.where(ops.equal(ops.cast(step, "float32"), self.step), ops.cast(forced, logits.dtype), logits)


def written(logits, ids, values):
    """The logits with `values` (B, S) at the tokens `ids` (B, S); where the id is −1, nothing is written."""
    batch, vocabulary = logits.shape
    rows = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], ids.shape)
    columns = ops.where(ids < 0, vocabulary, ids)  # one column more, for what is written nowhere
    places = ops.reshape(ops.stack([rows, columns], axis=-1), (-1, 2))
    wide = ops.pad(logits, [[0, 0], [0, 1]])
    return ops.scatter_update(wide, places, ops.reshape(values, (-1,)))[:, :vocabulary]
