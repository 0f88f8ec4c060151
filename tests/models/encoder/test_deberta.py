"""`DeBERTa` and its tasks: agreement with transformers, both names of the head, distances beyond the table."""

import json

import numpy as np
import pytest

import kerasnets as kn
from kerasnets.layers.attention import attend
from tests.models import parity
from tests.models.encoder import encoder_parity as check

VOCAB = 60
FIELDS = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
              max_position_embeddings=24, relative_attention=True, position_biased_input=False,
              pos_att_type="c2p|p2c")  # fmt: skip
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, feedforward_size=48, max_length=24)
VARIANTS = {
    "backbone": ("backbone", {}),
    "masked": ("masked_lm", {}),
    "masked, as released": ("masked_lm", {"legacy": False, "hidden_act": "relu"}),
    "few distances": ("masked_lm", {"max_relative_positions": 5}),
    "content to position": ("token_classifier", {"pos_att_type": ["c2p"], "num_labels": 3}),
    "position to content": ("question_answerer", {"pos_att_type": ["p2c"], "layer_norm_eps": 0.05}),
    "like BERT": ("masked_lm", {"relative_attention": False, "position_biased_input": True, "type_vocab_size": 2}),
    "classifier": ("sequence_classifier", {"num_labels": 5, "pooler_hidden_act": "tanh"}),
}


def reference(task="masked_lm", **changes):
    return check.reference("Deberta", FIELDS | changes, task)


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    task, changes = VARIANTS[variant]
    batch = check.batch_of(VOCAB, changes.get("type_vocab_size", 0))
    check.check(reference(task, **changes), tmp_path, batch)


def test_reads_more_than_it_has_distances(tmp_path):
    theirs = reference("backbone")
    theirs.save_pretrained(tmp_path)
    model, ids = kn.from_pretrained(tmp_path), parity.some_ids(VOCAB, 2, 40)
    theirs.embeddings.position_ids = theirs.embeddings.position_ids.new_zeros((1, 40))  # of which none is used
    parity.assert_close(model(ids), check.outputs_of(theirs, {"input_ids": ids})[0][-1])


def test_released_files(tmp_path):
    """No architectures, no `legacy`, tensors that nothing reads, the head under its other name."""
    import safetensors.torch
    import torch

    theirs = reference(legacy=False)
    theirs.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for name in ("architectures", "legacy"):
        del values[name]
    values |= {"pos_att_type": "c2p|p2c", "padding_idx": 0}
    (tmp_path / "config.json").write_text(json.dumps(values))
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for name in ("embeddings.position_embeddings.weight", "embeddings.word_embeddings._weight"):
        tensors[f"deberta.{name}"] = torch.ones(3, 32)
    tensors["mask_predictions.dense.weight"] = torch.ones(3, 32)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    batch = check.batch_of(VOCAB, 0)
    states, logits = check.outputs_of(theirs, batch)
    parity.assert_close(check.real(kn.from_pretrained(tmp_path)(batch), batch), check.real(logits, batch))
    backbone = kn.from_pretrained(tmp_path, task="backbone")
    parity.assert_close(check.real(backbone(batch), batch), check.real(states[-1], batch))


@pytest.mark.parametrize(
    "changes",
    [{"pos_att_type": ["p2p"]}, {"talking_head": True}, {"embedding_size": 16}, {"pooler_hidden_size": 16}],
    ids=lambda changes: next(iter(changes)),
)
def test_configs_that_cannot_be_followed_are_refused(changes, tmp_path):
    reference().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(ValueError, match=next(iter(changes))):
        kn.from_pretrained(tmp_path)


def test_scores_are_the_three_terms():
    """As the paper writes them, one query and one key at a time."""
    model, ids = kn.DeBERTa(**SMALL | {"num_layers": 1}), parity.some_ids(VOCAB, 1, 5)
    for weight in model.weights:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape) * 0.3)
    attention, x = model.blocks[0].attention, model.embedding(ids)
    q, k, v = (parity.to_numpy(part)[0] for part in attention.project(x))
    table, span = parity.to_numpy(model.distance_embedding.embeddings), model.span
    keys = (table @ parity.to_numpy(attention.position_key.kernel)).reshape(-1, 4, 8)
    queries = table @ parity.to_numpy(attention.position_query.kernel) + parity.to_numpy(attention.position_query.bias)
    queries = queries.reshape(-1, 4, 8)
    scores = np.array([
        [[(q[i, n] @ k[j, n] + q[i, n] @ keys[i - j + span, n] + k[j, n] @ queries[i - j + span, n]) / np.sqrt(3 * 8)
          for j in range(5)] for i in range(5)] for n in range(4)])  # fmt: skip
    expected = parity.to_numpy(attend(q[None], k[None], v[None], bias=scores[None], scale=0.0).output)
    y = attention(x, *model.distances_within(ids))
    parity.assert_close(y, parity.to_numpy(attention.out(expected.reshape(1, 5, 32).astype("float32"))))


def test_presets_have_the_published_sizes():
    model = kn.DeBERTa.from_preset("deberta-base", num_layers=1, vocab_size=100)
    block = 4 * 768 * 768 + 3 * 768 + (2 * 768 + 1) * 768 + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert model.count_params() == (100 + 1024 + 2) * 768 + block
    assert kn.DeBERTa.Config().vocab_size == 50265
