"""`LayoutLM` and its tasks: agreement with transformers, and boxes that are none."""

import numpy as np
import pytest

import kerasnets as kn
from tests.models import parity
from tests.models.encoder import encoder_parity as check

VOCAB = 60
FIELDS = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
              max_position_embeddings=24)  # fmt: skip
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, feedforward_size=48, max_length=24)
VARIANTS = {
    "backbone": ("backbone", {}),
    "masked": ("masked_lm", {}),
    "classifier": ("sequence_classifier", {"num_labels": 5}),
    "tokens": ("token_classifier", {"num_labels": 3, "layer_norm_eps": 0.05}),
    "answers": ("question_answerer", {"max_2d_position_embeddings": 1001}),
}


def page(rows=3, length=11):
    """A batch with boxes from edge to edge of a page, none where there is padding."""
    random = np.random.default_rng(0)
    corners = np.sort(random.integers(0, 1001, (rows, length, 2, 2)), axis=2)
    corners[0, 1], corners[0, 2] = [[0, 0], [1000, 1000]], [[5, 7], [5, 7]]
    batch = check.batch_of(VOCAB, rows=rows, length=length)
    return batch | {"bbox": (corners.reshape(rows, length, 4) * batch["attention_mask"][..., None]).astype("int32")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    task, changes = VARIANTS[variant]
    check.check(check.reference("LayoutLM", FIELDS | changes, task), tmp_path, page())


def test_without_boxes(tmp_path):
    theirs, batch = check.reference("LayoutLM", dict(FIELDS), "backbone"), check.batch_of(VOCAB)
    theirs.save_pretrained(tmp_path)
    model = kn.from_pretrained(tmp_path)
    parity.assert_close(check.real(model(batch), batch), check.real(check.outputs_of(theirs, batch)[0][-1], batch))


def test_places_change_what_words_mean():
    model, batch = kn.LayoutLMTokenClassifier(**SMALL, num_labels=3), page()
    moved = {**batch, "bbox": np.where(batch["bbox"] > 0, np.minimum(batch["bbox"] + 1, 1000), 0)}
    assert not np.allclose(parity.to_numpy(model(batch)), parity.to_numpy(model(moved)), atol=1e-4)


def test_trains():
    batch = page()
    labels = np.where(batch["attention_mask"] == 1, batch["input_ids"] % 3, -100)
    check.check_trains(kn.LayoutLMTokenClassifier(**SMALL, num_labels=3), batch, labels)


BOXES = {
    "must be": np.zeros((3, 11), "int32"),
    r"\(3, 11, 4\)": np.zeros((3, 10, 4), "int32"),
    r"\[0, 1001\)": np.full((3, 11, 4), 1001),
    r"position \(0, 0, 0\) is -1": np.full((3, 11, 4), -1),
    r"at \(1, 2\) it is \[9, 0, 3, 5\]": np.where(
        (np.arange(33) == 13).reshape(3, 11, 1), np.array([9, 0, 3, 5]), np.array([1, 2, 3, 4])
    ),
}


@pytest.mark.parametrize("message", BOXES)
def test_wrong_boxes_are_refused_in_words(message):
    model = kn.LayoutLM(**SMALL)
    with pytest.raises(ValueError, match=message):
        model(check.batch_of(VOCAB) | {"bbox": BOXES[message]})


def test_wrong_boxes_are_refused_at_the_door():
    model, batch = kn.LayoutLMSequenceClassifier(**SMALL), page()
    model.compile("sgd", model.make_loss())
    for name, value, limit in (("bbox", 1200, 1001), ("input_ids", 60, 60)):
        wrong = {**batch, name: batch[name].copy()}
        wrong[name][1, 2] = value
        with pytest.raises(ValueError, match=rf"x\['{name}'\].*\[0, {limit}\)"):
            model.fit(wrong, np.zeros(3, "int32"), verbose=0)


def test_presets_have_the_published_sizes():
    model = kn.LayoutLM.from_preset("layoutlm-base-uncased", num_layers=1, vocab_size=100)
    block = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert model.count_params() == (100 + 512 + 2 + 2 + 4 * 1024) * 768 + block + 768 * 769
    assert kn.LayoutLM.Config().vocab_size == 30522
