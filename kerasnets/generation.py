"""Generation 文本生成: token after token, each drawn given all before it; the one loop for every generative model.

    new_ids = model.generate(batch, max_new_tokens=50, sampler=kn.samplers.TopP(0.9), seed=0)     # (B, new)
    for ids in model.stream(batch): ...                                                           # (B,) each

The prompt is read at once, and each new token with the keys and values of all before it remembered (`Cache`). Rows of
different lengths end in the same column, padding before them, so that all write in one place:

    column      0 … first        …        start       …       length      …       S
    row         nothing          prompt       new tokens          not written yet

What a model brings:
- `backbone.decode(input_ids, positions, visible, cache) → (hidden, cache)` and `predict_next(hidden) → logits`.
- An encoder–decoder also has `remember_source(inputs) → memory`, arrays with one row for each row of the batch, called
  once for a prompt; then `decode(..., memory=memory)`. Its text begins with `decoder_input_ids`, or where these are not
  given with `config.decoder_start_token_id`. A source may also come as {"memory": what `remember_source` returned}.
- `processors()`, if its checkpoints ask for some (see `processors.py`); `cache_spaces()`, the shapes ((K, H), (K, H′))
  of each block's keys and values, if its config does not say them in the usual names.

Lengths are rounded up to those of `bucket`, so that few programs are compiled; a model keeps its own.
"""

import copy
import dataclasses

import keras
import numpy as np
from keras import ops

from kerasnets import backend
from kerasnets.layers.attention import Cache
from kerasnets.layers.reading import reading_with
from kerasnets.processors import ForcedToken, NoRepeatNGram, RepetitionPenalty, SuppressTokens
from kerasnets.prompts import SMALLEST, Settings, bucket, check_length, padded_source, prompts, stop_tokens
from kerasnets.samplers import Greedy, chain, draw

ROOM = 256  # places of a cache that are made at once; further ones when they are needed


def generate(model, inputs, max_new_tokens=50, **settings):
    """New tokens after each prompt.   ids (B, T), or {"input_ids": …, "attention_mask": …} → int32 (B, new).

    A row stops behind one of `stop_tokens`, those of the model's config unless given, and is padded after it; the
    longest row says how many columns there are. `sampler` is one of `kn.samplers`, Greedy() unless given, or several in
    a tuple. Further settings: seed, min_new_tokens, repetition_penalty, no_repeat_ngram, stop_strings with a tokenizer,
    processors; with `samples` the rows are those of the first prompt, of the second, and so on.

    Raises `ValueError` for a prompt that is empty, not of this vocabulary or longer than the model can read, and for
    settings without a meaning.
    """
    run = begun(model, inputs, Settings(max_new_tokens=max_new_tokens, **settings))
    if run.settings.stop_strings:
        return np.stack(list(run.steps()), axis=1)
    return run.all_at_once()


def stream(model, inputs, max_new_tokens=50, **settings):
    """The same, one step at a time: yields the new ids (B,) as they come, padding for rows that have stopped.

    With `explain` it yields what `kerasnets.explain.Explanation` holds: why these tokens. The settings are looked at
    when `stream` is called, before the first step.
    """
    return begun(model, inputs, Settings(max_new_tokens=max_new_tokens, **settings)).steps()


def begun(model, inputs, settings):
    """One call, of the sampler itself if that is one that searches."""
    search = getattr(chain(settings.sampler)[0], "search", None)
    return Run(model, inputs, settings) if search is None else search(model, inputs, settings)


class Run:
    """One call of `generate` or `stream`: the prompt, what is fixed, and what changes with each step.

    `carry`, which changes: ids (B, S), −1 where nothing stands, length (), finished (B,), keys and values of each
    block. `fixed`: first (B,), start (), limit (), stops, pad, the numbers of samplers and processors, random numbers.
    """

    def __init__(self, model, inputs, settings):
        self.model, self.settings = model, settings
        rows, source = prompts(model, inputs)
        self.longest = max(len(row) for row in rows)
        check_length(model, self.longest, settings.max_new_tokens)
        rows = [row for row in rows for _ in range(settings.samples)]
        columns = bucket(self.longest, SMALLEST if source is None else 1)  # a translation begins with one token
        self.ids = np.full((len(rows), columns), -1, "int32")
        for place, row in zip(self.ids, rows, strict=True):
            place[len(place) - len(row) :] = row
        self.samplers, self.processors = chain(settings.sampler), all_processors(model, settings)
        self.program, self.weights = program_of(
            model, self.processors, self.samplers, settings.explain, self.program_kind()
        )
        self.fixed = self.make_fixed()
        if source is not None:
            memory = source["memory"] if "memory" in source else self.remembered(source)
            again = lambda x: ops.repeat(x, settings.samples, axis=0)  # noqa: E731
            self.fixed["memory"] = keras.tree.map_structure(again, memory)

    def program_kind(self):
        return Program

    def remembered(self, source):
        source = {name: ops.convert_to_tensor(value) for name, value in padded_source(source).items()}
        return self.program.remember(self.weights, source, {})

    def make_fixed(self):
        batch, start = self.ids.shape
        config, settings = self.model.config, self.settings
        stops = stop_tokens(config, settings.stop_tokens)
        pad = getattr(config, "pad_token_id", None)
        pad = pad if pad is not None else stops[0] if stops else 0
        fixed = {
            "first": np.argmax(self.ids >= 0, axis=1).astype("int32"),
            "start": np.int32(start),
            "limit": np.int32(start + settings.max_new_tokens),
            "stops": np.array(stops or [-1], "int32"),
            "pad": np.int32(pad),
            "numbers": [numbers_of(step) for step in (*self.processors, *self.samplers)],
        }
        if not isinstance(self.samplers[0], Greedy):  # each row has its own, whatever stands beside it
            random = [np.random.default_rng([settings.seed, row]) for row in range(batch)]
            fixed["uniform"] = np.stack([r.random(bucket(settings.max_new_tokens), "float32") for r in random], axis=1)
        return keras.tree.map_structure(ops.convert_to_tensor, fixed)

    def begin(self):
        """The prompt is read and its first new token chosen: (carry, what was shown)."""
        ids = ops.convert_to_tensor(self.ids)
        carry, shown = self.program.read(self.weights, {"ids": ids}, self.fixed)
        return self.with_room(carry), shown

    def with_room(self, carry):
        """The same with more places in its full cache: many at a time, but not far more than are used.

        The last new token needs none, since nothing is read after it.
        """
        taken, most = carry["ids"].shape[1] - 1, self.ids.shape[1] + self.settings.max_new_tokens - 1
        return grown(carry, bucket(min(most, max(ROOM, 2 * taken))))

    def all_at_once(self):
        """New ids (B, new)."""
        carry = self.last_carry()
        length = int(ops.convert_to_numpy(carry["length"]))
        return ops.convert_to_numpy(carry["ids"])[:, self.ids.shape[1] : length]

    def last_carry(self):
        """After all steps, in one compiled loop, or in a few where the cache has to grow."""
        total = self.ids.shape[1] + self.settings.max_new_tokens
        carry, _ = self.begin()
        while True:
            length, finished = (ops.convert_to_numpy(carry[name]) for name in ("length", "finished"))
            if length >= total or finished.all():
                return carry
            carry = carry if length < carry["ids"].shape[1] else self.with_room(carry)
            limit = as_int32(min(total, carry["ids"].shape[1]))
            carry = self.program.rest(self.weights, carry, self.fixed | {"limit": limit})

    def steps(self):
        """New ids (B,) step by step, or explanations of them."""
        carry, shown = self.begin()
        step, texts = self.program.write(self.weights, self.fixed), [[] for _ in self.ids]
        for count in range(1, self.settings.max_new_tokens + 1):
            ids, finished = (ops.convert_to_numpy(carry[name]) for name in ("token", "finished"))
            yield self.explained(ids, shown) if self.settings.explain else ids
            if self.settings.stop_strings:
                finished = self.finished_by_strings(texts, ids, finished)
                carry["finished"] = ops.convert_to_tensor(finished)
            if finished.all() or count == self.settings.max_new_tokens:
                return
            if self.ids.shape[1] + count == carry["ids"].shape[1]:
                carry = self.with_room(carry)
            carry, shown = step(carry)

    def finished_by_strings(self, texts, ids, finished):
        """The rows that have stopped, and those whose text now holds one of `stop_strings`."""
        finished = finished.copy()
        for row, text in enumerate(texts):
            text.append(int(ids[row]))
            if not finished[row]:
                written = self.settings.tokenizer.decode(text)
                finished[row] = any(string in written for string in self.settings.stop_strings)
        return finished

    def explained(self, ids, shown):
        from kerasnets import explain

        names = ["model", *map(repr, (*self.processors, *self.samplers))]
        return explain.Explanation(ids, dict(zip(names, map(ops.convert_to_numpy, shown), strict=True)))


class Program:
    """The compiled steps of one model with one kind of samplers and processors, whose numbers are arguments."""

    def __init__(self, model, variables, processors, samplers, explain):
        self.model, self.processors, self.samplers, self.explain = model, processors, samplers, explain

        def stateless(function):
            def with_weights(weights, *arguments):
                with reading_with(weights, variables, model):
                    return function(*arguments)

            return with_weights

        self.remember = backend.compiled(stateless(lambda inputs, _: model.remember_source(inputs)))
        is_prompt = not hasattr(model, "remember_source")  # else it is one token, and read with each source
        self.read = backend.compiled(stateless(self.first_step), rarely=is_prompt)
        step = stateless(self.step)
        self.write, self.rest = backend.stepped(step), backend.looped(step, goes_on)

    def first_step(self, carry, fixed):
        """The whole prompt: ids (B, P) → carry with one new token."""
        batch, length = carry["ids"].shape
        dtype = self.model.compute_dtype
        spaces = cache_spaces(self.model)
        keys, values = ([ops.zeros((batch, length, *space[i]), dtype) for space in spaces] for i in (0, 1))
        carry = {**carry, "keys": keys, "values": values, "length": as_int32(length)}
        carry["finished"] = ops.zeros((batch,), "bool")
        logits, carry = self.look(carry["ids"], as_int32(0), carry, fixed)
        carry["ids"] = ops.pad(carry["ids"], [[0, 0], [0, 1]], constant_values=-1)
        return self.choose(logits, carry, fixed)

    def step(self, carry, fixed):
        """One token more."""
        logits, carry = self.look(carry["token"][:, None], carry["length"] - 1, carry, fixed)
        return self.choose(logits, carry, fixed)

    def look(self, ids, begin, carry, fixed):
        """Logits (B, V) of what follows `ids` (B, T), whose first stands in column `begin`; and they are remembered."""
        columns = begin + ops.arange(ids.shape[1], dtype="int32")  # (T,)
        places, first = ops.arange(carry["keys"][0].shape[1], dtype="int32"), fixed["first"]
        visible = ops.logical_and(places <= columns[:, None], places >= first[:, None, None])  # (B, T, S)
        positions = ops.maximum(columns - first[:, None], 0)
        cache = [Cache(k, v, begin) for k, v in zip(carry["keys"], carry["values"], strict=True)]
        memory = {"memory": fixed["memory"]} if "memory" in fixed else {}
        hidden, cache = self.model.backbone.decode(ops.maximum(ids, 0), positions, visible[:, None], cache, **memory)
        logits = ops.cast(self.model.predict_next(hidden[:, -1:])[:, 0], "float32")
        return logits, {**carry, "keys": [c.keys for c in cache], "values": [c.values for c in cache]}

    def choose(self, logits, carry, fixed):
        """Processors, samplers, a token (B,), its place among the ids; and the logits on the way, to explain it."""
        ids, length = carry["ids"], carry["length"]
        numbers, shown = iter(fixed["numbers"]), [logits]
        for processor in self.processors:
            logits = with_numbers(processor, next(numbers))(logits, ids, length - fixed["start"])
            shown.append(logits)
        for sampler in self.samplers:
            is_argmax = isinstance(sampler, Greedy) and not self.explain
            logits = logits if is_argmax else with_numbers(sampler, next(numbers))(logits)
            shown.append(logits)
        if "uniform" in fixed:
            token = draw(logits, ops.take(fixed["uniform"], length - fixed["start"], axis=0))
        else:
            token = ops.cast(ops.argmax(logits, axis=-1), "int32")
        token = ops.where(carry["finished"], fixed["pad"], token)
        ends = ops.any(ops.equal(token[:, None], fixed["stops"]), axis=1)
        here = ops.equal(ops.arange(ids.shape[1], dtype="int32"), length)
        carry = {**carry, "token": token, "ids": ops.where(here, token[:, None], ids), "length": length + 1}
        carry["finished"] = ops.logical_or(carry["finished"], ends)
        return carry, shown if self.explain else []


def goes_on(carry, fixed):
    """Whether there is a place left, and a row that has not stopped."""
    return ops.logical_and(carry["length"] < fixed["limit"], ops.logical_not(ops.all(carry["finished"])))


def grown(carry, size):
    """The same with `size` places in the cache, and a column more for ids: the last one is not remembered."""
    more = size + 1 - carry["ids"].shape[1]
    names = [name for name in ("ids", "ended_ids") if name in carry]
    ids = {name: ops.pad(carry[name], [[0, 0], [0, more]], constant_values=-1) for name in names}
    caches = {}
    for name in ("keys", "values"):
        caches[name] = [ops.pad(x, [[0, 0], [0, size - x.shape[1]], [0, 0], [0, 0]]) for x in carry[name]]
    return {**carry, **caches, **ids}


def cache_spaces(model):
    """((K, H), (K, H′)) of each block."""
    if hasattr(model, "cache_spaces"):
        return model.cache_spaces()
    config = model.config
    heads = getattr(config, "num_kv_heads", None) or config.num_heads
    size = getattr(config, "head_size", None) or config.hidden_size // config.num_heads
    return [((heads, size), (heads, size))] * config.num_layers


def float_fields(step):
    """The names of a sampler's or processor's numbers, which may change without a new program."""
    fields = dataclasses.fields(step) if dataclasses.is_dataclass(step) else ()
    return [field.name for field in fields if isinstance(getattr(step, field.name), float)]


def numbers_of(step):
    return [np.float32(getattr(step, name)) for name in float_fields(step)]


def with_numbers(step, numbers):
    """The same with other numbers, which may be tensors: nothing is checked again."""
    names, step = float_fields(step), copy.copy(step)
    for name, number in zip(names, numbers, strict=True):
        object.__setattr__(step, name, number)
    return step


def program_of(model, processors, samplers, explain, kind=Program):
    """(Program, the values of the model's weights); a program is kept with its model, and no weights with a program."""
    variables = model.variables
    kinds = [with_numbers(step, [0.0] * len(float_fields(step))) for step in (*processors, *samplers)]
    key = (tuple(map(id, variables)), len(processors), tuple(kinds), explain)
    programs = vars(model).setdefault("_programs", {})
    if key not in programs:
        programs[key] = kind(model, variables, processors, samplers, explain)
    return programs[key], [variable.value for variable in variables]


def all_processors(model, settings):
    """The family's, those of the settings, and the caller's, in the order in which transformers has them."""
    found = []
    if settings.repetition_penalty != 1:
        found.append(RepetitionPenalty(float(settings.repetition_penalty)))
    if settings.no_repeat_ngram:
        found.append(NoRepeatNGram(int(settings.no_repeat_ngram)))
    stops = stop_tokens(model.config, settings.stop_tokens)
    if settings.min_new_tokens and stops:
        found.append(SuppressTokens(stops, 0, int(settings.min_new_tokens) - 1))
    last = getattr(model.config, "forced_eos_token_id", None)
    found += [] if last is None else [ForcedToken(last, float(settings.max_new_tokens - 1))]
    family = tuple(model.processors()) if hasattr(model, "processors") else ()
    return (*found, *family, *settings.processors)


def as_int32(value):
    return ops.convert_to_tensor(value, "int32")
