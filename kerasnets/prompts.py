"""What `generate` and `stream` are given: prompts, the source of a translation, settings; looked at, and in place."""

import dataclasses

import keras
import numpy as np
from keras import ops

from kerasnets.samplers import Greedy, chain

SMALLEST = 16  # bucket


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What `generate` and `stream` take beside the prompt, looked at."""

    max_new_tokens: int = 50
    sampler: object = None
    seed: int = 0
    stop_tokens: object = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    min_new_tokens: int = 0
    samples: int = 1
    stop_strings: tuple = ()
    tokenizer: object = None
    processors: tuple = ()
    explain: bool = False

    def __post_init__(self):
        for name, least in (("max_new_tokens", 1), ("samples", 1), ("no_repeat_ngram", 0), ("min_new_tokens", 0)):
            value = getattr(self, name)
            is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            refuse_unless(is_integer and value >= least, f"{name} must be an integer of at least {least}", value)
        chain(self.sampler)
        penalty = self.repetition_penalty
        refuse_unless(0 < penalty < np.inf, "repetition_penalty must be above 0; 1 is none", penalty)
        few = self.min_new_tokens <= self.max_new_tokens
        refuse_unless(few, f"min_new_tokens must be at most max_new_tokens={self.max_new_tokens}", self.min_new_tokens)
        if isinstance(self.stop_strings, str):
            object.__setattr__(self, "stop_strings", (self.stop_strings,))
        is_readable = not self.stop_strings or self.tokenizer is not None
        refuse_unless(is_readable, "stop_strings need tokenizer=...", self.stop_strings)
        refuse_unless(all(self.stop_strings), "stop_strings must not be empty", self.stop_strings)
        if self.samples > 1 and isinstance(chain(self.sampler)[0], Greedy):
            raise ValueError(f"samples={self.samples} with Greedy() are all the same: give a sampler that draws.")


def refuse_unless(is_right, expected, value):
    if not is_right:
        raise ValueError(f"generate: {expected}; received {value!r}.")


def bucket(length, smallest=SMALLEST):
    """The next of 16, 24, 32, 48, 64, 96, 128, …, or of 1, 2, 3, 4, 6, 8, … with smallest=1."""
    size = smallest
    while size < length:
        size *= 2
    return 3 * size // 4 if size > smallest and 3 * size // 4 >= length else size


def stop_tokens(config, given):
    """The ids behind which a row stops: those given, else the config's."""
    found = getattr(config, "eos_token_id", ()) if given is None else given
    found = () if found is None else (found,) if isinstance(found, (int, np.integer)) else tuple(found)
    wrong = [i for i in found if not isinstance(i, (int, np.integer)) or not 0 <= i < config.vocab_size]
    refuse_unless(not wrong or given is None, f"stop_tokens must be ids below {config.vocab_size}", given)
    return tuple(int(i) for i in found)


def prompts(model, inputs):
    """([ids] of each row without its padding, the source or None), or one error that says what is wrong with them."""
    inputs = dict(inputs) if hasattr(inputs, "keys") else {"input_ids": inputs}
    source = None
    if hasattr(model, "remember_source"):
        source = {name: inputs.pop(name) for name in list(inputs) if not name.startswith("decoder_")}
        inputs = {name.removeprefix("decoder_"): inputs[name] for name in inputs}
        if "input_ids" not in inputs:
            first = next(iter(source.values()))
            rows = len(keras.tree.flatten(first)[0] if isinstance(first, dict) else first)
            inputs["input_ids"] = np.full((rows, 1), model.config.decoder_start_token_id)
    inputs.pop("token_type_ids", None)  # of a tokenizer's batch; no decoder reads them
    unknown = sorted(set(inputs) - {"input_ids", "attention_mask"})
    refuse_unless(not unknown and "input_ids" in inputs, "prompts are input_ids and attention_mask", sorted(inputs))
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    rows = [np.asarray(row) for row in two_dimensional(ids)]
    if mask is not None:
        masks = [np.asarray(row).astype(bool) for row in two_dimensional(mask)]
        fits = [row.shape for row in rows] == [row.shape for row in masks]
        refuse_unless(fits, "attention_mask must be shaped like input_ids", [row.shape for row in masks])
        rows = [row[kept] for row, kept in zip(rows, masks, strict=True)]
    for number, row in enumerate(rows):
        check_prompt(row, number, model.config.vocab_size)
    refuse_unless(rows, "there must be a prompt", ids)
    return rows, source


def two_dimensional(ids):
    """The rows of a list of lists or of an array (B, T); one row alone is a batch of one."""
    if hasattr(ids, "shape"):
        ids = ops.convert_to_numpy(ids)
    is_one = len(ids) > 0 and np.ndim(ids[0]) == 0
    return [ids] if is_one else list(ids)


def check_prompt(row, number, vocab_size):
    if len(row) == 0:
        raise ValueError(f"generate: prompt {number} is empty; begin with a token, such as bos_token_id.")
    if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
        raise ValueError(f"generate: prompt {number} must be a row of integers; received {row.dtype} {row.shape}.")
    wrong = np.flatnonzero((row < 0) | (row >= vocab_size))
    if len(wrong):
        place = int(wrong[0])
        raise ValueError(
            f"generate: token ids must lie in [0, {vocab_size}); token {place} of prompt {number} is {row[place]}."
        )


def check_length(model, longest, new):
    limit = getattr(model.config, "max_length", None)
    if limit is not None and longest + new > limit:
        most = f"at most {limit - longest} new ones fit" if longest < limit else "the prompt alone is too long"
        raise ValueError(
            f"generate: {longest} tokens and {new} new ones exceed the {limit} of {type(model).__name__}: {most}."
        )


def padded_source(source):
    """A source of text in the length of a bucket, with its attention_mask, as int32; anything else as it is."""
    if "input_ids" not in source:
        return {name: np.asarray(value) for name, value in source.items()}
    rows = [np.asarray(row) for row in two_dimensional(source["input_ids"])]
    mask = source.get("attention_mask")
    masks = [np.ones_like(row) for row in rows] if mask is None else [np.asarray(m) for m in two_dimensional(mask)]
    length = bucket(max(len(row) for row in rows))
    placed = {name: np.zeros((len(rows), length), "int32") for name in ("input_ids", "attention_mask")}
    for i, (row, kept) in enumerate(zip(rows, masks, strict=True)):
        placed["input_ids"][i, : len(row)], placed["attention_mask"][i, : len(kept)] = row, kept
    return {**source, **placed}
