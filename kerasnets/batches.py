"""Many texts through one model: cut into windows it can read, those of like length together, by a compiled program."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from kerasnets import backend, guard
from kerasnets.layers.reading import reading_with
from kerasnets.preprocessing.tokenizer import ONE_AT_A_TIME, check_texts


class Window(NamedTuple):
    """A piece of text that a model can read at once, and which text it is of."""

    text: int
    encoding: object


def listed(texts):
    """(a list of texts, whether it was one text alone)."""
    is_one = isinstance(texts, str)
    texts = [texts] if is_one else texts
    check_texts("texts", texts)
    if not texts:
        raise ValueError("there is no text: received an empty list.")
    return texts, is_one


def longest(model, max_length=None):
    """How many tokens the model is to read at once."""
    limits = [n for n in (max_length, getattr(model.config, "max_length", None)) if n is not None]
    return min(limits, default=None)


def windows(tokenizer, texts, pairs, limit, overlap):
    """Each text, or pair, in pieces of at most `limit` tokens; of a pair the second one is cut."""
    if pairs is not None:
        check_texts("texts", pairs)
        if len(pairs) != len(texts):
            raise ValueError(f"each question needs its text: received {len(texts)} questions and {len(pairs)} texts.")
    inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
    with ONE_AT_A_TIME:
        cutter = tokenizer.backend
        cutter.no_truncation()
        if limit is not None:
            room = limit - cutter.num_special_tokens_to_add(pairs is not None)
            if pairs is not None:
                room -= max(len(e) for e in cutter.encode_batch(texts, add_special_tokens=False))
            if room < 1:
                raise ValueError(f"the model reads {limit} tokens, which the special tokens and a question alone take.")
            strategy = "only_first" if pairs is None else "only_second"
            cutter.enable_truncation(limit, stride=min(overlap, room // 2), strategy=strategy)
        encodings = cutter.encode_batch(inputs)
    return [Window(i, piece) for i, whole in enumerate(encodings) for piece in (whole, *whole.overflowing)]


def least_context(place, encoding):
    """How many tokens stand on the side of it where fewer stand."""
    return min(int(place), len(encoding.ids) - 1 - int(place))


def run(model, tokenizer, rows, compute, batch_size=32, more=None):
    """compute(model, batch) for each encoding, as arrays in the order of `rows`; those of like length run together.

    more: further inputs of the model, {name: one list of integers for each row}.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer; received {batch_size!r}.")
    vocab_size = model.config.vocab_size
    program, weights = program_of(model, compute)
    results = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    for begin in range(0, len(rows), batch_size):
        chosen = order[begin : begin + batch_size]
        batch = batch_of(model, tokenizer, [rows[i] for i in chosen])
        guard.check_values(batch["input_ids"], vocab_size, f"{type(model).__name__}: input_ids")
        for name, lists in (more or {}).items():
            batch[name] = filled([lists[i] for i in chosen], 0, len(batch["input_ids"]))
        outputs = ops.convert_to_numpy(program(weights, keras.tree.map_structure(ops.convert_to_tensor, batch), ()))
        for i, output in zip(chosen, outputs, strict=False):
            results[i] = output
    return results


def batch_of(model, tokenizer, rows):
    """The arrays of some encodings that the model takes, filled up on the right, to round sizes where these pay."""
    count = rounded(len(rows)) if backend.compiles_each_shape else len(rows)
    pad = tokenizer.pad_token_id or 0
    ids = filled([e.ids for e in rows], pad, count, 8)
    batch = {"input_ids": ids, "attention_mask": filled([[1] * len(e.ids) for e in rows], 0, count, 8)}
    has_segments = tokenizer.has_segments and any(max(e.type_ids, default=0) for e in rows)  # 0 unless given
    if has_segments and "token_type_ids" in model.inputs_taken:
        batch["token_type_ids"] = filled([e.type_ids for e in rows], 0, count, 8)
    return batch


def filled(rows, fill, count, least=1):
    """Lists of integers as one array of `count` rows."""
    width = max(map(len, rows))
    width = max(least, rounded(width)) if backend.compiles_each_shape else width
    array = np.full((count, width), fill, "int32")
    for place, row in zip(array, rows, strict=False):
        place[: len(row)] = row
    return array


def rounded(n):
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, …"""
    size = 1
    while size < n:
        size *= 2
    return 3 * size // 4 if size >= 4 and 3 * size // 4 >= n else size


def program_of(model, compute):
    """(program, weights): `compute` as a compiled function of weights and batch, which the model keeps."""
    variables = model.variables
    programs = vars(model).setdefault("_text_programs", {})
    key = (compute.__code__, tuple(map(id, variables)))
    if key not in programs:

        def stateless(weights, batch, _):
            with reading_with(weights, variables, model):
                return compute(model, batch)

        programs[key] = backend.compiled(stateless)
    return programs[key], [variable.value for variable in variables]


def as_float(x):
    return ops.cast(x, "float32")
