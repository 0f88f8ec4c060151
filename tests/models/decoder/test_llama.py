"""`LLaMA`: agreement with transformers in every variant of its config."""

import shutil

import numpy as np
import pytest

import kerasnets as kn
from tests.models import parity
from tests.models.decoder import llama_like
from tests.models.decoder.llama_like import VOCAB, rewrite

SMALL = llama_like.SMALL | {"num_kv_heads": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
TUNED = {"beta_fast": 8.0, "beta_slow": 2.0, "mscale": 1.3, "mscale_all_dim": 0.7, "truncate": False}
VARIANTS = {
    "one key head for each query head": {},
    "groups": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "wide heads": {"head_dim": 16, "num_key_value_heads": 2},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "gelu, another epsilon": {"hidden_act": "gelu", "rms_norm_eps": 0.05},
    "another theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}},
    "llama3": {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}, "head_dim": 16},
    "yarn": {"rope_parameters": {**YARN, "rope_theta": 500.0}, "head_dim": 16, "num_key_value_heads": 2},
    "yarn, all numbers": {"rope_parameters": {**YARN, **TUNED, "rope_theta": 500.0}, "head_dim": 16},
    # Above 1 its square sharpens the softmax: with 1.7, float32 itself is 1.6e-5 from float64 with these weights.
    "yarn, its factor": {"rope_parameters": {**YARN, "attention_factor": 0.7, "rope_theta": 500.0}},
}


def reference(**changes):
    transformers = llama_like.transformers()
    fields = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)
    fields |= dict(max_position_embeddings=64, eos_token_id=[2, 5])
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields | changes))


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    model = parity.check(reference(**VARIANTS[variant]), tmp_path, VOCAB)
    assert type(model) is kn.LLaMACausalLM and model.config.eos_token_id == (2, 5)


def saved(folder, **changes):
    """(the reference, the folder it was saved in)."""
    theirs = parity.randomized(reference(**changes))
    theirs.save_pretrained(folder)
    return theirs, folder


OLDER = {  # how transformers 4 spelt rope_parameters
    "llama3": {"rope_theta": 500.0, "rope_scaling": LLAMA3},
    "linear by type": {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "original length beside": {
        "rope_theta": 500.0,
        "rope_scaling": {"type": "yarn", "factor": 4.0},
        "original_max_position_embeddings": 16,
    },
    "original length is the length": {"rope_theta": 500.0, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "none": {"rope_theta": 500.0, "rope_scaling": None},
    "no theta": {},
}


@pytest.mark.parametrize("name", OLDER)
def test_older_spellings(name, tmp_path):
    """transformers reads them too: what it makes of them is the measure."""
    theirs, folder = saved(tmp_path)
    rewrite(folder, lambda values: (values.pop("rope_parameters"), values.update(OLDER[name], torch_dtype="float32")))
    again = type(theirs).from_pretrained(folder)
    model = kn.from_pretrained(folder)
    ids = parity.some_ids(VOCAB)
    parity.assert_agrees(model, again.eval(), ids)
    assert (model.config.rope_theta == 10000.0) == (name == "no theta")


def test_older_tensors(tmp_path):
    """The frequencies that old files hold are computed, not read."""
    import safetensors.numpy

    theirs, folder = saved(tmp_path)
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.full(4, 99, "float32")
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    ids = parity.some_ids(VOCAB)
    parity.assert_close(kn.from_pretrained(folder)(ids), parity.reference_outputs(theirs, ids)[1])


def test_backbone_alone(tmp_path):
    theirs, _ = saved(tmp_path / "task")
    theirs.model.save_pretrained(tmp_path / "bare")
    ids = parity.some_ids(VOCAB)
    expected, _ = parity.reference_outputs(theirs, ids)
    for folder, task in (("task", "backbone"), ("bare", None)):
        model = kn.from_pretrained(tmp_path / folder, task=task)
        assert type(model) is kn.LLaMA
        parity.assert_close(model(ids), expected[-1])


REFUSED = {  # what is wrong: (changes of config.json, what the error names)
    "dynamic": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic' is not known"),
    "longrope": ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type 'longrope' is not known"),
    "no factor": ({"rope_parameters": {"rope_type": "linear"}}, "needs .'factor'"),
    "unknown number": ({"rope_parameters": {**YARN, "sharpness": 2.0}}, "sharpness"),
    "a number that does nothing": ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "rope_type 'default'"),
    "NaN": ({"rope_parameters": {"rope_type": "linear", "factor": float("nan")}}, "positive finite.*nan"),
    "factor 0": ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "positive finite"),
    "bands crossed": ({"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}}, "low_freq_factor must be less"),
    "theta": ({"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}, "theta=-1.0"),
    "no dict": ({"rope_scaling": "linear"}, "rope_scaling must be a dict"),
    "part of a head": ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary"),
    "pairs side by side": ({"rope_interleaved": True}, "rope_interleaved"),
    "activation": ({"hidden_act": "mish"}, "hidden_act must be one of"),
    "heads": ({"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
    "unknown": ({"residual_multiplier": 0.2}, "residual_multiplier"),
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    kn.to_pretrained(kn.LLaMACausalLM(**SMALL), folder)
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, ours, tmp_path):
    change, message = REFUSED[name]
    folder = shutil.copytree(ours, tmp_path / "changed")
    rewrite(folder, lambda values: values.update(change))
    with pytest.raises(ValueError, match=message):
        kn.from_pretrained(folder)


def test_harmless(ours, tmp_path):
    """A product cut into parts has the same sum."""
    folder = shutil.copytree(ours, tmp_path / "changed")
    rewrite(folder, lambda values: values.update(pretraining_tp=2, rope_interleaved=False))
    kn.from_pretrained(folder)


def test_heads_that_cannot_share():
    for wrong in ({"num_kv_heads": 3}, {"hidden_size": 30, "num_heads": 4, "num_kv_heads": 4}):
        with pytest.raises(ValueError, match="must be a multiple"):
            kn.LLaMA(**SMALL | wrong)


def test_dropout_acts_in_training_only():
    model = kn.LLaMACausalLM(**SMALL, attention_dropout=0.5)
    ids = parity.some_ids(VOCAB)
    assert np.array_equal(parity.to_numpy(model(ids)), parity.to_numpy(model(ids)))
    assert not np.allclose(parity.to_numpy(model(ids, training=True)), parity.to_numpy(model(ids)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    llama_like.assert_half_precision(kn.LLaMACausalLM(**SMALL, dtype=policy), policy)


PUBLISHED = {  # parameters, as the model cards count them
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "tinyllama-1.1b": 1_100_048_384,
}


def test_presets_have_the_published_sizes():
    for changes in ({}, {"tied": True, "head_size": 16}):
        model = kn.LLaMACausalLM(**SMALL | changes)
        assert model.count_params() == llama_like.count(model.config)
    counted = {name: llama_like.count(kn.LLaMA.Config(**preset)) for name, preset in kn.LLaMA.presets.items()}
    assert counted == PUBLISHED


def test_preset():
    model = kn.LLaMA.from_preset("smollm2-135m", num_layers=1)
    assert model.config.rope_theta == 100000.0 and len(model.blocks) == 1
