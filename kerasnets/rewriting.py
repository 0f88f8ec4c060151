"""Rewriting 改写: texts from texts, by an encoder–decoder: translated, summarised, corrected, as it was trained.

    kn.rewrite(model, tokenizer, ["That is good.", "Hello."], prefix="translate English to German: ")   # [text, text]
    for i, piece in kn.rewrite(model, tokenizer, texts, stream=True): ...                               # as they come

Texts of like length are read together, and come back in their own order.
"""

from kerasnets import backend
from kerasnets.batches import listed, longest, rounded
from kerasnets.prompts import stop_tokens

INCOMPLETE = "\ufffd"  # bytes that are no character yet


def rewrite(
    model, tokenizer, texts, prefix="", batch_size=32, max_new_tokens=50, sampler=None, max_length=None, stream=False,
    **settings,
):  # fmt: skip
    """What the model writes for `prefix` and each text: a text for one, a list for a list.

    sampler: one of `kn.samplers`, Greedy() if not given, or Beam(); further settings are those of `model.generate`. A
    text is cut off to `max_length` tokens, if given. With `stream` it is an iterator of (number of the text, piece):
    pieces of one text come in their order, and together are what would be returned.

    Raises `ValueError` for what is no text, for one that is longer than the model can read, and for a model without an
    encoder.
    """
    texts, is_one = listed(texts)
    check(model, batch_size, settings)
    rows = tokenizer.encodings([prefix + text for text in texts], None, max_length)
    limit = longest(model)
    for i, row in enumerate(rows):
        if not row.ids or limit is not None and len(row.ids) > limit:
            raise ValueError(f"rewrite: text {i} has {len(row.ids)} tokens; from 1 to {limit} can be read.")
    settings |= dict(max_new_tokens=max_new_tokens, sampler=sampler)
    written = pieces if stream else whole
    found = written(model, tokenizer, list(batches(tokenizer, rows, batch_size)), settings)
    if stream:
        return found
    results = [text for _, text in sorted(found)]
    return results[0] if is_one else results


def check(model, batch_size, settings):
    if not hasattr(model, "remember_source"):
        raise ValueError(f"rewrite: {type(model).__name__} has no encoder, which reads the text that is to be written.")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer; received {batch_size!r}.")
    if set(settings) & {"samples", "explain"}:
        raise ValueError("rewrite writes one text for each: `samples` and `explain` are settings of generate alone.")


def batches(tokenizer, rows, batch_size):
    """(numbers of the texts, their ids and masks), the longest first; filled up with the last, where that pays."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    for begin in range(0, len(rows), batch_size):
        chosen = order[begin : begin + batch_size]
        count = rounded(len(chosen)) if backend.compiles_each_shape else len(chosen)
        ids = [rows[i].ids for i in chosen + chosen[-1:] * (count - len(chosen))]
        mask = [[1] * len(row) for row in ids]
        yield chosen, {"input_ids": ids, "attention_mask": mask}


def whole(model, tokenizer, inputs, settings):
    """(number, text) of each."""
    stops = stop_tokens(model.config, settings.get("stop_tokens"))
    for chosen, batch in inputs:
        for i, ids in zip(chosen, model.generate(batch, **settings).tolist(), strict=False):
            yield i, tokenizer.decode(until(ids, stops))


def pieces(model, tokenizer, inputs, settings):
    """(number, what is new of its text), step after step."""
    stops = stop_tokens(model.config, settings.get("stop_tokens"))
    streams = [(chosen, model.stream(batch, **settings)) for chosen, batch in inputs]  # looked at before the first step
    return (piece for chosen, steps in streams for piece in pieces_of(tokenizer, chosen, steps, stops))


def pieces_of(tokenizer, chosen, steps, stops):
    ids, sent = [[] for _ in chosen], [""] * len(chosen)
    for step in steps:
        for row, token in enumerate(step.tolist()[: len(chosen)]):
            ids[row].append(token)
            text = sendable(tokenizer, tokenizer.decode(until(ids[row], stops)))
            if len(text) > len(sent[row]):
                yield chosen[row], text[len(sent[row]) :]
                sent[row] = text
    for row, i in enumerate(chosen):
        text = tokenizer.decode(until(ids[row], stops))
        if len(text) > len(sent[row]):
            yield i, text[len(sent[row]) :]


def sendable(tokenizer, text):
    """The part that stays as it is, whatever follows: no half character, and no last word that is to be tidied."""
    text = text.rstrip(INCOMPLETE)
    return text.rsplit(" ", 1)[0] if tokenizer.tidies and " " in text else "" if tokenizer.tidies else text


def until(ids, stops):
    """The ids before the first of `stops`."""
    end = next((n for n, i in enumerate(ids) if i in stops), len(ids))
    return ids[:end]
