"""`GPT2`: agreement with transformers in every variant of its config."""

import keras
import numpy as np
import pytest

import kerasnets as kn
from tests.models import parity

VOCAB = 99
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, max_length=48)
VARIANTS = {
    "as published": {},
    "narrow, relu": {"n_inner": 40, "activation_function": "relu"},
    "exact gelu": {"activation_function": "gelu"},
    "scaled by depth": {"scale_attn_by_inverse_layer_idx": True},
    "unscaled": {"scale_attn_weights": False},
    "untied": {"tie_word_embeddings": False},
    "another epsilon": {"layer_norm_epsilon": 0.05},
}


def reference(**changes):
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    pytest.importorskip("torch", reason="the reference runs on torch")
    fields = dict(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=48, bos_token_id=1, eos_token_id=2)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**fields, **changes))


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    parity.check(reference(**VARIANTS[variant]), tmp_path, VOCAB)


def test_backbone_alone(tmp_path):
    theirs = parity.randomized(reference())
    theirs.save_pretrained(tmp_path / "task")
    theirs.transformer.save_pretrained(tmp_path / "bare")
    ids = parity.some_ids(VOCAB)
    expected, _ = parity.reference_outputs(theirs, ids)
    for folder, task in (("task", "backbone"), ("bare", None)):
        model = kn.from_pretrained(tmp_path / folder, task=task)
        assert type(model) is kn.GPT2
        parity.assert_close(model(ids), expected[-1])
    kn.to_pretrained(model, tmp_path / "ours")
    again = type(theirs.transformer).from_pretrained(tmp_path / "ours")
    for name, weight in theirs.transformer.state_dict().items():
        assert (again.state_dict()[name] == weight).all()


def test_trains():
    parity.assert_trains(kn.GPT2CausalLM(**SMALL), VOCAB)


def test_presets_have_the_published_sizes():
    """Counted, not made: 124 million parameters and more need seconds and gigabytes."""
    config = kn.GPT2.presets
    assert set(config) == {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}
    model = kn.GPT2.from_preset("gpt2", num_layers=1)
    assert model.count_params() == 50257 * 768 + 1024 * 768 + 12 * 768**2 + 13 * 768 + 2 * 768


def test_dropout_acts_in_training_only():
    model = kn.GPT2CausalLM(**SMALL, dropout=0.5, attention_dropout=0.5)
    ids = parity.some_ids(VOCAB)
    assert np.array_equal(parity.to_numpy(model(ids)), parity.to_numpy(model(ids)))
    assert not np.allclose(parity.to_numpy(model(ids, training=True)), parity.to_numpy(model(ids)))


def test_too_long_is_refused():
    model = kn.GPT2CausalLM(**SMALL)
    with pytest.raises(ValueError, match="48"):
        model(np.ones((1, 49), "int32"))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    model = kn.GPT2CausalLM(**SMALL, dtype=policy)
    logits = model(parity.some_ids(VOCAB))
    assert keras.backend.standardize_dtype(logits.dtype) == policy.removeprefix("mixed_")
    assert np.isfinite(parity.to_numpy(keras.ops.cast(logits, "float32"))).all()
    parity.assert_trains(model, VOCAB)
