"""`RoBERTa` and its tasks: agreement with transformers, XLM-R's files, and positions that count ids."""

import json

import numpy as np
import pytest

import kerasnets as kn
from tests.models import parity
from tests.models.encoder import encoder_parity as check

VOCAB, PAD = 60, 1
FIELDS = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
              max_position_embeddings=26, type_vocab_size=1, layer_norm_eps=1e-5)  # fmt: skip
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, feedforward_size=48, max_length=24)
VARIANTS = {
    "backbone": ("Roberta", "backbone", {}),
    "masked, relu in the blocks": ("Roberta", "masked_lm", {"hidden_act": "relu"}),
    "classifier": ("Roberta", "sequence_classifier", {"num_labels": 5}),
    "tokens": ("Roberta", "token_classifier", {"num_labels": 3}),
    "answers, two segments": ("Roberta", "question_answerer", {"type_vocab_size": 2, "layer_norm_eps": 0.05}),
    "XLM-R": ("XLMRoberta", "masked_lm", {}),
    "XLM-R classifier": ("XLMRoberta", "sequence_classifier", {}),
}


def reference(task="masked_lm", stem="Roberta", **changes):
    return check.reference(stem, FIELDS | changes, task)


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    stem, task, changes = VARIANTS[variant]
    batch = check.batch_of(VOCAB, changes.get("type_vocab_size", 1), pad=PAD)
    check.check(reference(task, stem, **changes), tmp_path, batch)


def test_positions_depend_on_ids_and_not_on_the_mask(tmp_path):
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    model, batch = kn.from_pretrained(tmp_path), check.batch_of(VOCAB, 1, pad=PAD)
    batch["input_ids"][:, 3] = PAD
    batch["attention_mask"][:, 2:4] = 0
    parity.assert_close(check.real(model(batch), batch), check.real(check.outputs_of(theirs, batch)[1], batch))


def test_pooler_in_a_file_of_another_task_is_left(tmp_path):
    """As in roberta-base's: the masked LM does not read it, the backbone does."""
    import safetensors.torch
    import torch

    theirs = reference()
    theirs.save_pretrained(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors |= {"roberta.pooler.dense.weight": torch.ones(32, 32), "roberta.pooler.dense.bias": torch.ones(32)}
    tensors["roberta.embeddings.position_ids"] = torch.arange(26)[None]
    tensors["lm_head.decoder.weight"] = theirs.lm_head.decoder.weight.detach().clone()
    tensors["lm_head.decoder.bias"] = theirs.lm_head.decoder.bias.detach().clone()
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    batch = check.batch_of(VOCAB, 1, pad=PAD)
    states, logits = check.outputs_of(theirs, batch)
    parity.assert_close(check.real(kn.from_pretrained(tmp_path)(batch), batch), check.real(logits, batch))
    backbone = kn.from_pretrained(tmp_path, task="backbone")
    parity.assert_close(check.real(backbone(batch), batch), check.real(states[-1], batch))
    assert (parity.to_numpy(backbone.pooler.dense.kernel) == 1).all()


def test_absent_fields_mean_what_they_mean_in_transformers(tmp_path):
    theirs = reference(type_vocab_size=2, layer_norm_eps=1e-12)
    theirs.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for name in ("type_vocab_size", "layer_norm_eps", "pad_token_id"):
        del values[name]
    (tmp_path / "config.json").write_text(json.dumps(values))
    model = kn.from_pretrained(tmp_path)
    assert (model.config.num_segments, model.config.epsilon, model.config.pad_token_id) == (2, 1e-12, 1)


@pytest.mark.parametrize("changes", [{"pad_token_id": None}, {"max_position_embeddings": 2}, {"is_decoder": True}],
                         ids=lambda changes: next(iter(changes)))  # fmt: skip
def test_configs_that_cannot_be_followed_are_refused(changes, tmp_path):
    reference().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(ValueError, match=next(iter(changes))):
        kn.from_pretrained(tmp_path)


def test_refuses_what_is_too_long():
    model = kn.RoBERTaSequenceClassifier(**SMALL, num_labels=3)
    with pytest.raises(ValueError, match="at most 24 tokens"):
        model(np.full((1, 25), 5, "int32"))


def test_presets_have_the_published_sizes():
    model = kn.RoBERTa.from_preset("roberta-base", num_layers=1, vocab_size=100)
    block = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert model.count_params() == (100 + 514 + 1 + 2) * 768 + block + 768 * 769
    assert kn.RoBERTa.Config().vocab_size == 50265
    assert kn.RoBERTa.presets["xlm-roberta-large"]["vocab_size"] == 250002
