"""Beam search 束搜索: the k best beginnings of a text are continued side by side.

    new_ids = model.generate(batch, sampler=kn.samplers.Beam(num_beams=4, length_penalty=0.6))       # (B, new)

A beginning counts Σ log p of its tokens. Of all continuations of k open ones the best 2k are looked at:

    one that stops, and is among the first k      → is ended, with the score Σ log p / n^penalty, n its new tokens
    the best k of those that don't stop           → are open

The k ended ones of the highest scores are kept. A row of the batch is finished when k are ended and the best open one,
if it ended here, would not be better than the worst of them; with `early_stopping` as soon as k are ended. Where there
is no place for more tokens, open ones end.   Lowerre 1976; the penalty: Wu et al. 2016, arXiv:1609.08144.

Each row of the batch becomes k rows, which follow each other; the keys and values of a beginning go with it.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from kerasnets import generation
from kerasnets.generation import Program, Run, with_numbers
from kerasnets.prompts import refuse_unless

NEVER = -1e9  # the score of what is not there


class Search(Run):
    """One call of `generate` with `samplers.Beam`: `samples` are the best ones of each row, best first.

    Further in `carry`: scores (B, k) of the open ones; ended_ids (B k, S), ended_scores and ended (B, k).
    """

    def __init__(self, model, inputs, settings):
        self.beams = settings.sampler[0] if isinstance(settings.sampler, (list, tuple)) else settings.sampler
        k, wanted = self.beams.num_beams, settings.samples
        refuse_unless(wanted <= k, f"samples must be at most num_beams={k}", wanted)
        refuse_unless(not settings.stop_strings, f"stop_strings do not go with {self.beams}", settings.stop_strings)
        self.wanted = wanted
        alike = dataclasses.replace(self.beams, early_stopping=False)  # `make_fixed` says it: one program for all
        super().__init__(model, inputs, dataclasses.replace(settings, samples=1, sampler=alike))

    def program_kind(self):
        return BeamProgram

    def make_fixed(self):
        fixed = super().make_fixed()
        fixed.pop("uniform")  # nothing is drawn
        early = self.beams.early_stopping
        says = {"is_early": early is True, "is_never": early == "never"}
        says = {name: ops.convert_to_tensor(value, "bool") for name, value in says.items()}
        return fixed | says | {"most": generation.as_int32(self.settings.max_new_tokens)}

    def begin(self):
        """The prompt is read once; then each row is there k times."""
        carry, shown = super().begin()
        again = lambda x: ops.repeat(x, self.beams.num_beams, axis=0)  # noqa: E731
        for name in {"first", "memory"} & set(self.fixed):
            self.fixed[name] = keras.tree.map_structure(again, self.fixed[name])
        return carry, shown

    def all_at_once(self):
        carry = self.last_carry()
        ids = ops.convert_to_numpy(carry["ended_ids"])
        ids = ids.reshape(-1, self.beams.num_beams, ids.shape[-1])[:, : self.wanted, self.ids.shape[1] :]
        ids = ids.reshape(-1, ids.shape[-1])
        longest = np.flatnonzero((ids >= 0).any(axis=0)).max() + 1
        return np.where(ids < 0, int(self.fixed["pad"]), ids)[:, :longest]

    def steps(self):
        raise ValueError(f"{self.beams} can't stream: which text is the best is known at the end; call generate.")


class BeamProgram(Program):
    """The compiled steps, of which only the choice differs."""

    def choose(self, logits, carry, fixed):
        """k continuations of the k open ones of each row, and what has ended."""
        k = self.samplers[0].num_beams
        if "scores" not in carry:  # the prompt was read
            logits, carry = spread(logits, carry, k)
        *numbers, of_beam = fixed["numbers"]
        count = carry["length"] + 1 - fixed["start"]
        log_p = ops.log_softmax(logits, axis=-1)
        for processor, own in zip(self.processors, numbers, strict=True):
            log_p = with_numbers(processor, own)(log_p, carry["ids"], count - 1)
        new = candidates(log_p, carry, max(2, 1 + fixed["stops"].shape[0]) * k)
        stops = ops.any(ops.equal(new["token"][..., None], fixed["stops"]), axis=-1)
        stops = ops.logical_or(stops, count >= fixed["most"])
        beam = with_numbers(self.samplers[0], of_beam)
        carry = with_ended(carry, new, stops, count, beam)
        carry = with_open(carry, new, stops, k)
        carry["finished"] = finished(carry, count, fixed, beam.length_penalty)
        return {**carry, "length": carry["length"] + 1}, []


def spread(logits, carry, k):
    """Each row k times, of which the first one counts: so its k best tokens are found, not one k times."""
    again = lambda x: ops.repeat(x, k, axis=0)  # noqa: E731
    batch = logits.shape[0]
    rows = {name: keras.tree.map_structure(again, carry[name]) for name in ("ids", "keys", "values")}
    scores = ops.where(ops.equal(ops.arange(k), 0), 0.0, NEVER)
    nothing = {"scores": ops.full((batch, k), NEVER), "ended": ops.zeros((batch, k), "bool")}
    carry = {**carry, **rows, "ended_ids": rows["ids"], "ended": nothing["ended"], "ended_scores": nothing["scores"]}
    return again(logits), {**carry, "scores": ops.broadcast_to(ops.cast(scores, "float32"), (batch, k))}


def candidates(log_p, carry, count):
    """The best `count` continuations of each row, as arrays (B, count): score, token, parent; ids (B, count, S)."""
    batch, k = carry["scores"].shape
    vocabulary = log_p.shape[-1]
    totals = ops.reshape(log_p + ops.reshape(carry["scores"], (-1, 1)), (batch, k * vocabulary))
    score, place = ops.top_k(totals, min(count, k * vocabulary))
    place = ops.cast(place, "int32")
    parent = place // vocabulary + k * ops.arange(batch, dtype="int32")[:, None]
    token, here = place % vocabulary, ops.arange(carry["ids"].shape[1], dtype="int32")
    ids = ops.where(ops.equal(here, carry["length"]), token[..., None], ops.take(carry["ids"], parent, axis=0))
    return {"score": score, "token": token, "parent": parent, "ids": ids}


def with_ended(carry, new, stops, count, beam):
    """What ends now, among what ended before: the best k of both."""
    k = beam.num_beams
    ends = ops.logical_and(stops, ops.arange(stops.shape[1]) < k)
    is_closed = carry["finished"][:, None]
    score = new["score"] / ops.power(ops.cast(count, "float32"), beam.length_penalty)
    score = ops.where(ops.logical_and(ends, ops.logical_not(is_closed)), score, NEVER)
    before = ops.reshape(carry["ended_ids"], (-1, k, carry["ids"].shape[1]))
    best, place = ops.top_k(ops.concatenate([carry["ended_scores"], score], axis=1), k)
    ended = taken(ops.concatenate([carry["ended"], ends], axis=1), place)
    ids = taken(ops.concatenate([before, new["ids"]], axis=1), place)
    return {**carry, "ended": ended, "ended_scores": best, "ended_ids": ops.reshape(ids, carry["ids"].shape)}


def with_open(carry, new, stops, k):
    """The best k that go on, each with the keys and values of its parent."""
    scores, place = ops.top_k(ops.where(stops, new["score"] + NEVER, new["score"]), k)
    parent = ops.reshape(taken(new["parent"], place), (-1,))
    found = {name: [ops.take(x, parent, axis=0) for x in carry[name]] for name in ("keys", "values")}
    ids = ops.reshape(taken(new["ids"], place), carry["ids"].shape)
    return {**carry, **found, "ids": ids, "token": ops.reshape(taken(new["token"], place), (-1,)), "scores": scores}


def finished(carry, count, fixed, penalty):
    """(B,): whether nothing that is open can become one of the best, or need not."""
    length = ops.cast(ops.where(fixed["is_never"], fixed["most"], count), "float32")
    possible = carry["scores"][:, 0] / ops.power(length, penalty)
    is_enough = ops.logical_or(fixed["is_early"], possible <= ops.min(carry["ended_scores"], axis=1))
    return ops.logical_or(carry["finished"], ops.logical_and(ops.all(carry["ended"], axis=1), is_enough))


def taken(x, place):
    """x (B, m, …) at `place` (B, k)."""
    place = ops.cast(place, "int32")
    return ops.take_along_axis(x, place if len(x.shape) == 2 else place[..., None], axis=1)
