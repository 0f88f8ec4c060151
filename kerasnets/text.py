"""What an encoder and its tokenizer do with texts 文本: vectors, hidden words, kinds, names, answers.

    vectors = kn.embed(model, tokenizer, ["a text", "another"])                          # (B, D)
    kn.fill_mask(model, tokenizer, "The capital of France is [MASK].")[0][0]["text"]
    kn.classify(model, tokenizer, "A fine film.")["label"]
    kn.tag(model, tokenizer, "Ada Lovelace lived in London.")[0]                         # {"label", "text", "start", …}
    kn.answer(model, tokenizer, "Who lived in London?", "Ada Lovelace lived in London.")["text"]

One text gives one result, a list of them a list. Texts of like length are read together. One that is longer than the
model can read is cut off where it is judged as a whole (`embed`, `classify`), and read in overlapping windows where it
is judged token by token: each token is taken from the window in which it has most on both sides of it.
"""

import numpy as np
from keras import ops

from kerasnets.batches import as_float, least_context, listed, longest, run, windows
from kerasnets.layers.poolers import first_token

POOLINGS = ("mean", "cls")
BEGINS, GOES_ON = ("B", "S", "U"), ("I", "E", "L", "M")  # the prefixes of labels as B-name, I-name


def embed(model, tokenizer, texts, pooling="mean", normalize=True, batch_size=32, max_length=None):
    """A vector for each text.   [text, …] → (B, D) float32, of length 1 if `normalize`: products are cosines then.

    pooling: "mean" of the real tokens' vectors, or "cls", the first one's. What each model was trained for, its card
    says. The model is a backbone, or a task's, whose backbone is taken.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {list(POOLINGS)}; received {pooling!r}.")
    texts, is_one = listed(texts)
    model = getattr(model, "backbone", model)
    rows = tokenizer.encodings(texts, None, longest(model, max_length))
    vectors = np.stack(run(model, tokenizer, rows, mean_vector if pooling == "mean" else first_vector, batch_size))
    if normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors[0] if is_one else vectors


def mean_vector(model, batch):
    hidden, weights = as_float(model(batch)), as_float(batch["attention_mask"])[..., None]
    return ops.sum(hidden * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1)


def first_vector(model, batch):
    return as_float(first_token(model(batch), batch["attention_mask"]))


def fill_mask(model, tokenizer, texts, top=5, batch_size=32, overlap=128):
    """What may stand in each hidden place: a list for each text, of lists, one for each place, best first.

    A place is written as the tokenizer's mask token, `tokenizer.mask_token`. Each of its `top` candidates is a dict:
    "token", "id", "probability", and "text", the whole text with it in that place.
    Raises `ValueError` for a text without such a place.
    """
    check_task(model, "fill_mask", "masked_lm")
    texts, is_one = listed(texts)
    if tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer's files name no mask_token: this model was not trained to fill words in.")
    found = windows(tokenizer, texts, None, longest(model), overlap)
    asked = {}  # (text, first character): (how much stands beside it, window, place)
    for n, (text, encoding) in enumerate(found):
        for place in np.flatnonzero(np.array(encoding.ids) == tokenizer.mask_token_id):
            key = (text, encoding.offsets[place][0])
            asked[key] = max(asked.get(key, (-1,)), (least_context(place, encoding), n, int(place)))
    if missing := [text for i, text in enumerate(texts) if not any(key[0] == i for key in asked)]:
        raise ValueError(f"there is no {tokenizer.mask_token} in {missing[0]!r:.80}.")
    used = sorted({n for _, n, _ in asked.values()})
    places = {n: sorted(p for _, m, p in asked.values() if m == n) for n in used}
    more = {"mask_positions": [places[n] for n in used]}
    scores = run(model, tokenizer, [found[n].encoding for n in used], probabilities, batch_size, more)
    results = [[] for _ in texts]
    for (text, _), (_, n, place) in sorted(asked.items()):
        row = scores[used.index(n)][places[n].index(place)]
        start, end = found[n].encoding.offsets[place]
        results[text].append([candidate(tokenizer, texts[text], start, end, i, row[i]) for i in best(row, top)])
    return results[0] if is_one else results


def candidate(tokenizer, text, start, end, id, probability):
    word = tokenizer.decode([id]).strip()
    token = tokenizer.backend.id_to_token(id)
    whole = text[:start] + (word.removeprefix("##") or token or "") + text[end:]
    return {"token": token, "id": int(id), "probability": float(probability), "text": whole}


def probabilities(model, batch):
    return ops.softmax(as_float(model(batch)), axis=-1)


def classify(model, tokenizer, texts, pairs=None, threshold=0.5, batch_size=32, max_length=None):
    """Of which kind each text, or pair of texts, is: a dict.

    One label of several: "label", its "probability", and the "probabilities" of all. Any number of labels: "labels",
    those more probable than `threshold`, and all "probabilities". Regression: "value", or "values" of several.
    """
    check_task(model, "classify", "sequence_classifier")
    texts, is_one = listed(texts)
    pairs = [pairs] if isinstance(pairs, str) else pairs
    rows = tokenizer.encodings(texts, pairs, longest(model, max_length))
    logits = np.stack(run(model, tokenizer, rows, lambda model, batch: as_float(model(batch)), batch_size))
    problem, names = getattr(model, "problem", "single_label_classification"), label_names(model, logits.shape[-1])
    results = [judged(problem, names, row, threshold) for row in logits]
    return results[0] if is_one else results


def judged(problem, names, logits, threshold):
    if problem == "regression":
        values = dict(zip(names, logits.tolist(), strict=True))
        return {"value": float(logits[0])} if len(names) == 1 else {"values": values}
    if problem == "multi_label_classification":
        each = dict(zip(names, (1 / (1 + np.exp(-logits))).tolist(), strict=True))
        return {"labels": [name for name, p in each.items() if p > threshold], "probabilities": each}
    each = dict(zip(names, softmax(logits).tolist(), strict=True))
    label = max(each, key=each.get)
    return {"label": label, "probability": each[label], "probabilities": each}


def tag(model, tokenizer, texts, batch_size=32, overlap=64):
    """The names in each text, a list of dicts: "label", "text", "start" and "end" among its characters, "probability".

    A word has the label of its first token. Words labelled B-x, I-x, … are one name, and so are neighbours labelled x;
    O is no name. The probability is the mean over the words.
    """
    check_task(model, "tag", "token_classifier")
    texts, is_one = listed(texts)
    found = windows(tokenizer, texts, None, longest(model), overlap)
    scores = run(model, tokenizer, [window.encoding for window in found], probabilities, batch_size)
    names = label_names(model, scores[0].shape[-1])
    results = [[] for _ in texts]
    for text, words in enumerate(labelled_words(texts, found, scores)):
        for start, end, row in words:
            add_word(results[text], names[int(row.argmax())], float(row.max()), start, end)
        for name in results[text]:
            piece = texts[text][name["start"] : name["end"]]
            name["start"] += len(piece) - len(piece.lstrip())  # some tokenizers count the space before a word to it
            name["text"] = piece.strip()
            name["probability"] = float(np.mean(name["probability"]))
            del name["open"]
    return results[0] if is_one else results


def labelled_words(texts, found, scores):
    """For each text the words in their order: (first character, last one + 1, probabilities of the first token)."""
    tokens = [{} for _ in texts]  # of each text {first character: (context, window, place)}
    for n, (text, encoding) in enumerate(found):
        for place, (start, end) in enumerate(encoding.offsets):
            if end > start and not encoding.special_tokens_mask[place]:
                choice = (least_context(place, encoding), -n, place)
                tokens[text][start, end] = max(tokens[text].get((start, end), (-1,)), choice)
    for chosen in tokens:
        words = []
        for (start, end), (_, n, place) in sorted(chosen.items()):
            word = found[-n].encoding.word_ids[place]
            if words and word is not None and words[-1][3] == word:
                words[-1][1] = max(end, words[-1][1])
            else:
                words.append([start, end, scores[-n][place], word])
        yield [word[:3] for word in words]


def add_word(names, label, probability, start, end):
    """One more word: a name of its own, more of the last one, or none."""
    prefix, _, kind = label.partition("-") if label[:2] in {f"{p}-" for p in BEGINS + GOES_ON} else ("", "", label)
    last = names[-1] if names else None
    if kind == "O":
        if last:
            last["open"] = False
    elif last and last["open"] and last["label"] == kind and prefix not in BEGINS:
        last["end"] = end
        last["probability"].append(probability)
    else:
        names.append({"label": kind, "text": "", "start": start, "end": end, "probability": [probability]})
        names[-1]["open"] = True


def answer(model, tokenizer, questions, texts, max_tokens=30, can_refuse=False, batch_size=32, overlap=128):
    """Where each text answers its question: a dict of "text", "start" and "end" among its characters, "probability".

    An answer is at most `max_tokens` long. The probability is that of its first token times that of its last one,
    among all tokens of its window. `can_refuse`, for models trained with questions that have no answer: "text" is None
    where the first token of all, [CLS], is more likely than any answer.
    """
    check_task(model, "answer", "question_answerer")
    questions, is_one = listed(questions)
    texts = [texts] if isinstance(texts, str) else texts
    found = windows(tokenizer, questions, texts, longest(model), overlap)
    logits = run(model, tokenizer, [w.encoding for w in found], lambda m, batch: as_float(m(batch)), batch_size)
    results = [None] * len(texts)
    for (text, encoding), scores in zip(found, logits, strict=True):
        span = best_span(encoding, scores[: len(encoding.ids)], max_tokens)
        if span and (results[text] is None or span["score"] > results[text]["score"]):
            results[text] = span
    for i, result in enumerate(results):
        results[i] = finished(result, texts[i], can_refuse)
    return results[0] if is_one else results


def best_span(encoding, scores, max_tokens):
    """The best span of the second text in one window, as characters; None where nothing of the text is in it."""
    places = zip(encoding.sequence_ids, encoding.offsets, strict=True)
    allowed = np.array([text == 1 and end > start for text, (start, end) in places])
    if not allowed.any():
        return None
    first, last = np.where(allowed[:, None], scores, -np.inf).T
    more = np.arange(len(allowed))[None] - np.arange(len(allowed))[:, None]  # tokens after the first one
    spans = np.where((more >= 0) & (more < max_tokens), first[:, None] + last[None], -np.inf)
    i, j = np.unravel_index(spans.argmax(), spans.shape)
    shares = softmax(np.where((allowed | (np.arange(len(allowed)) == 0))[:, None], scores, -np.inf), axis=0)
    found = {"score": spans[i, j], "start": encoding.offsets[i][0], "end": encoding.offsets[j][1]}
    found["probability"] = float(shares[i, 0] * shares[j, 1])
    found["none"] = scores[0].sum() > spans[i, j]
    return found


def finished(result, text, can_refuse):
    nothing = {"text": None, "start": None, "end": None, "probability": None}
    if result is None or can_refuse and result["none"]:
        return nothing
    found = {name: result[name] for name in ("start", "end", "probability")}
    return {"text": text[result["start"] : result["end"]], **found}


def check_task(model, verb, task):
    if getattr(model, "task", task) != task:
        raise ValueError(f"kn.{verb} needs a model for {task!r}; received {type(model).__name__}, for {model.task!r}.")


def label_names(model, count):
    return getattr(model, "label_names", None) or [f"LABEL_{i}" for i in range(count)]


def best(scores, count):
    """The places of the largest numbers, largest first."""
    return np.argsort(-scores, kind="stable")[:count].tolist()


def softmax(x, axis=-1):
    x = np.exp(x - x.max(axis=axis, keepdims=True))
    return x / x.sum(axis=axis, keepdims=True)
