"""`BERT` and its tasks: agreement with transformers, and what the files of real checkpoints look like."""

import json

import keras
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
    "masked, relu, one segment": ("masked_lm", {"hidden_act": "relu", "type_vocab_size": 1, "layer_norm_eps": 0.05}),
    "classifier": ("sequence_classifier", {"num_labels": 5}),
    "regression": ("sequence_classifier", {"num_labels": 1, "problem_type": "regression"}),
    "tokens": ("token_classifier", {"num_labels": 3}),
    "answers": ("question_answerer", {}),
}


def reference(task="masked_lm", **changes):
    return check.reference("Bert", FIELDS | changes, task)


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    task, changes = VARIANTS[variant]
    batch = check.batch_of(VOCAB, changes.get("type_vocab_size", 2))
    check.check(reference(task, **changes), tmp_path, batch)


def test_pooler_agrees(tmp_path):
    import torch

    theirs = reference("backbone")
    theirs.save_pretrained(tmp_path)
    model, batch = kn.from_pretrained(tmp_path), check.batch_of(VOCAB)
    with torch.no_grad():
        expected = theirs(**{n: torch.tensor(a, dtype=torch.long) for n, a in batch.items()}).pooler_output
    parity.assert_close(model.pooler(model(batch)), expected.numpy())


def test_masks_with_holes_and_given_positions(tmp_path):
    theirs = reference("masked_lm")
    theirs.save_pretrained(tmp_path)
    model, batch = kn.from_pretrained(tmp_path), check.batch_of(VOCAB)
    batch["attention_mask"][:, 2:4] = 0
    parity.assert_close(check.real(model(batch), batch), check.real(check.outputs_of(theirs, batch)[1], batch))
    batch["position_ids"] = np.broadcast_to(np.arange(11)[::-1], (3, 11)).astype("int32")
    parity.assert_close(check.real(model(batch), batch), check.real(check.outputs_of(theirs, batch)[1], batch))


@pytest.mark.parametrize("task", ["backbone", "masked_lm"])
def test_files_of_the_hub(task, tmp_path):
    """What bert-base-uncased holds: old names, a pooler and a second head that this task does not read, no dtype."""
    import safetensors.torch
    import torch
    import transformers

    theirs = check.randomized(transformers.BertForPreTraining(transformers.BertConfig(**FIELDS)))
    tensors = {n.replace("LayerNorm.weight", "LayerNorm.gamma"): w for n, w in theirs.state_dict().items()}
    tensors = {n.replace("LayerNorm.bias", "LayerNorm.beta"): w.clone() for n, w in tensors.items()}
    tensors["bert.embeddings.position_ids"] = torch.arange(24)[None]
    values = FIELDS | {"model_type": "bert", "architectures": ["BertForMaskedLM"], "gradient_checkpointing": False,
                       "position_embedding_type": "absolute", "type_vocab_size": 2, "pad_token_id": 0}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    batch = check.batch_of(VOCAB)
    with torch.no_grad():
        out = theirs(**{n: torch.tensor(a) for n, a in batch.items()}, output_hidden_states=True)
    expected = out.hidden_states[-1] if task == "backbone" else out.prediction_logits
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    model = kn.from_pretrained(tmp_path, task=task)
    parity.assert_close(check.real(model(batch), batch), check.real(expected.numpy(), batch))
    (tmp_path / "pytorch_model.bin").unlink()
    half = {name: w.bfloat16() if w.is_floating_point() else w for name, w in tensors.items()}
    safetensors.torch.save_file(half, tmp_path / "model.safetensors")
    model = kn.from_pretrained(tmp_path, task=task)
    theirs.load_state_dict({name: w.bfloat16().float() for name, w in theirs.state_dict().items()})
    with torch.no_grad():
        out = theirs(**{n: torch.tensor(a) for n, a in batch.items()}, output_hidden_states=True)
    expected = out.hidden_states[-1] if task == "backbone" else out.prediction_logits
    parity.assert_close(check.real(model(batch), batch), check.real(expected.numpy(), batch))


def test_backbone_of_a_task_has_the_pooler_that_is_there(tmp_path):
    for task, has_pooler in (("masked_lm", False), ("sequence_classifier", True)):
        theirs = reference(task)
        theirs.save_pretrained(tmp_path / task)
        model = kn.from_pretrained(tmp_path / task, task="backbone")
        assert type(model) is kn.BERT and (model.pooler is not None) == has_pooler
        batch = check.batch_of(VOCAB)
        parity.assert_close(check.real(model(batch), batch), check.real(check.outputs_of(theirs, batch)[0][-1], batch))


def test_heads_are_loaded_or_refused(tmp_path):
    """A head is never left random: another task's file is refused, naming what is missing."""
    reference("masked_lm").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="missing: classifier.weight"):
        kn.from_pretrained(tmp_path, task="sequence_classifier")
    with pytest.raises(ValueError, match="tasks"):
        kn.from_pretrained(tmp_path, task="causal_lm")


def test_task_without_architectures(tmp_path):
    for task in check.TASKS:
        theirs = reference(task)
        theirs.save_pretrained(tmp_path)
        values = json.loads((tmp_path / "config.json").read_text())
        del values["architectures"]
        (tmp_path / "config.json").write_text(json.dumps(values))
        assert kn.from_pretrained(tmp_path).task == task


@pytest.mark.parametrize(
    "changes",
    [{"is_decoder": True}, {"tie_word_embeddings": False}, {"position_embedding_type": "relative_key"},
     {"hidden_act": "gelu_fast"}, {"a_new_field": 1}, {"id2label": {"0": "a", "2": "b"}}, {"problem_type": "other"}],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_configs_that_cannot_be_followed_are_refused(changes, tmp_path):
    reference("sequence_classifier").save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(ValueError, match=next(iter(changes))):
        kn.from_pretrained(tmp_path)


def test_labels_go_there_and_back(tmp_path):
    names = {0: "bad", 1: "good", 2: "so so"}
    settings = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    theirs = reference("sequence_classifier", problem_type="multi_label_classification", **settings)
    theirs.save_pretrained(tmp_path / "theirs")
    model = kn.from_pretrained(tmp_path / "theirs")
    assert model.label_names == ("bad", "good", "so so") and model.problem == "multi_label_classification"
    kn.to_pretrained(model, tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours")
    assert again.config.id2label == names and again.config.problem_type == model.problem


def test_masked_positions_are_the_same_logits():
    model, batch = kn.BERTMaskedLM(**SMALL), check.batch_of(VOCAB)
    places = np.array([[3, 1], [5, 0], [2, 2]], "int32")
    every = parity.to_numpy(model(batch))
    picked = parity.to_numpy(model({**batch, "mask_positions": places}))
    parity.assert_close(picked, np.take_along_axis(every, places[:, :, None], axis=1))


PROBLEMS = {
    "one": ({"num_labels": 3}, np.array([0, 2, 1])),
    "number": ({"num_labels": 1}, np.array([[0.5], [-1.0], [2.0]])),
    "several": ({"num_labels": 2, "problem_type": "multi_label_classification"}, np.array([[0, 1], [1, 1], [0, 0.0]])),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_classifiers_have_the_loss_of_transformers(problem, tmp_path):
    """The same loss as the reference computes from such labels."""
    import torch

    settings, labels = PROBLEMS[problem]
    model, batch = kn.BERTSequenceClassifier(**SMALL, **settings), check.batch_of(VOCAB)
    kn.to_pretrained(model, tmp_path)
    theirs = type(reference("sequence_classifier")).from_pretrained(tmp_path)
    kind = torch.long if labels.ndim == 1 else torch.float
    inputs = {name: torch.tensor(array) for name, array in batch.items()}
    expected = theirs(**inputs, labels=torch.tensor(labels, dtype=kind)).loss.item()
    assert parity.to_numpy(model.make_loss()(labels, model(batch))) == pytest.approx(expected, rel=1e-5)


def test_masked_lm_trains_at_the_places_that_are_asked():
    batch = check.batch_of(VOCAB)
    places = np.array([[3, 1], [5, 0], [2, 7]], "int32")
    labels = np.take_along_axis(batch["input_ids"], places, axis=1)
    labels[0, 1] = -100
    check.check_trains(kn.BERTMaskedLM(**SMALL), {**batch, "mask_positions": places}, labels)


def test_answers_have_the_loss_of_transformers(tmp_path):
    import torch

    model, batch = kn.BERTQuestionAnswerer(**SMALL), check.batch_of(VOCAB)
    kn.to_pretrained(model, tmp_path)
    theirs = type(reference("question_answerer")).from_pretrained(tmp_path)
    labels = np.array([[2, 4], [1, 1], [3, 7]])
    inputs = {name: torch.tensor(array) for name, array in batch.items()}
    first, last = torch.tensor(labels).T
    expected = theirs(**inputs, start_positions=first, end_positions=last).loss.item()
    assert parity.to_numpy(model.make_loss()(labels, model(batch))) == pytest.approx(expected, rel=1e-5)


def test_a_new_head_on_a_trained_backbone():
    backbone, batch = kn.BERT(**SMALL), check.batch_of(VOCAB)
    model = kn.BERTSequenceClassifier.from_backbone(backbone, num_labels=4, labels=("a", "b", "c", "d"))
    expected = model.head(backbone.pooler(backbone(batch)))
    assert model.label_names == ("a", "b", "c", "d")
    parity.assert_close(model(batch), parity.to_numpy(expected))


def test_wrong_inputs_are_refused_in_words():
    model = kn.BERT(**SMALL)
    with pytest.raises(ValueError, match="at most 24 tokens"):
        model(np.ones((1, 25), "int32"))
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        model({"input_ids": np.ones((1, 4), "int32"), "token_type_ids": np.full((1, 4), 2)})
    with pytest.raises(ValueError, match="3 labels"):
        kn.BERTSequenceClassifier(**SMALL, labels=("a", "b", "c"))
    with pytest.raises(ValueError, match="problem_type"):
        kn.BERTSequenceClassifier(**SMALL, problem_type="several")
    with pytest.raises(ValueError, match="share"):
        kn.BERT(**SMALL | {"num_heads": 5})


def test_presets_have_the_published_sizes():
    """Counted, not made: the tables and one block of the published width."""
    model = kn.BERT.from_preset("bert-base-uncased", num_layers=1, vocab_size=100)
    block = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert model.count_params() == (100 + 512 + 2 + 2) * 768 + block + 768 * 769
    assert kn.BERT.Config().vocab_size == 30522
    assert kn.BERT.presets["bert-large-uncased"]["feedforward_size"] == 4096


def test_dropout_acts_in_training_only():
    model = kn.BERTSequenceClassifier(**SMALL, dropout=0.5)
    batch = check.batch_of(VOCAB)
    assert np.array_equal(parity.to_numpy(model(batch)), parity.to_numpy(model(batch)))
    assert not np.allclose(parity.to_numpy(model(batch, training=True)), parity.to_numpy(model(batch)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    model = kn.BERTMaskedLM(**SMALL, dtype=policy)
    logits = model(check.batch_of(VOCAB))
    assert keras.backend.standardize_dtype(logits.dtype) == policy.removeprefix("mixed_")
    assert np.isfinite(parity.to_numpy(keras.ops.cast(logits, "float32"))).all()
