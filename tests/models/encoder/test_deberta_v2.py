"""`DeBERTaV2` and its tasks: agreement with transformers in every variant of v2 and v3, and the buckets."""

import json

import numpy as np
import pytest

import kerasnets as kn
from kerasnets.layers.disentangled import distances, log_buckets
from tests.models import parity
from tests.models.encoder import encoder_parity as check

VOCAB = 60
FIELDS = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
              max_position_embeddings=24, relative_attention=True, position_biased_input=False, pos_att_type="p2c|c2p",
              position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True)  # fmt: skip
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, feedforward_size=48, max_length=24)
CONVOLUTION = {"conv_kernel_size": 3, "conv_act": "gelu"}
VARIANTS = {
    "backbone of v3": ("backbone", {}),
    "masked, few buckets": ("masked_lm", {"position_buckets": 4, "max_relative_positions": 9}),
    "masked, as released": ("masked_lm", {"legacy": False}),
    "own projections, no norm": ("token_classifier", {"share_att_key": False, "norm_rel_ebd": "none"}),
    "no buckets": ("question_answerer", {"position_buckets": -1, "pos_att_type": ["c2p"], "share_att_key": False}),
    "buckets for more than there is": ("masked_lm", {"position_buckets": 40, "max_relative_positions": 99}),
    "v2": ("sequence_classifier", {**CONVOLUTION, "num_labels": 5}),
    "v2, groups, tanh": ("masked_lm", {"conv_kernel_size": 5, "conv_groups": 2}),
    "like BERT": ("masked_lm", {"relative_attention": False, "position_biased_input": True, "type_vocab_size": 2}),
}


def reference(task="masked_lm", **changes):
    return check.reference("DebertaV2", FIELDS | changes, task)


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    task, changes = VARIANTS[variant]
    batch = check.batch_of(VOCAB, changes.get("type_vocab_size", 0))
    check.check(reference(task, **changes), tmp_path, batch)


def test_long_texts(tmp_path):
    theirs = reference("backbone", position_buckets=8, max_relative_positions=16)
    theirs.save_pretrained(tmp_path)
    model, ids = kn.from_pretrained(tmp_path), parity.some_ids(VOCAB, 2, 40)
    theirs.embeddings.position_ids = theirs.embeddings.position_ids.new_zeros((1, 40))  # of which none is used
    parity.assert_close(model(ids), check.outputs_of(theirs, {"input_ids": ids})[0][-1])


def test_buckets_are_those_of_the_reference():
    modeling = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    found = parity.to_numpy(log_buckets(distances(1024), 256, 512))
    expected = modeling.make_log_bucket_position(__import__("torch").arange(-1023, 1024), 256, 512).numpy()
    assert (found[:, 0] == expected[1023:]).all() and (found[0] == expected[1023::-1]).all()


@pytest.mark.parametrize(
    "changes",
    [{"conv_kernel_size": 4}, {"norm_rel_ebd": "batch_norm"}, {"attention_head_size": 16}, {"position_buckets": "8"}],
    ids=lambda changes: next(iter(changes)),
)
def test_configs_that_cannot_be_followed_are_refused(changes, tmp_path):
    reference().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(ValueError, match=next(iter(changes))):
        kn.from_pretrained(tmp_path)


def test_trains():
    batch = check.batch_of(VOCAB, 0)
    labels = np.where(batch["attention_mask"] == 1, batch["input_ids"], -100)
    model = kn.DeBERTaV2MaskedLM(**SMALL, num_buckets=8, convolution_size=3)
    check.check_trains(model, batch, labels)


def test_presets_have_the_published_sizes():
    model = kn.DeBERTaV2.from_preset("deberta-v3-base", num_layers=1, vocab_size=100)
    block = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert model.count_params() == (100 + 512 + 2 + 2) * 768 + block
    assert kn.DeBERTaV2.Config().vocab_size == 128100
    assert kn.DeBERTaV2.presets["deberta-v2-xxlarge"]["num_layers"] == 48
