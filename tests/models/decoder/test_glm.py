"""`GLM` and `GLM4`: agreement with transformers in every variant of their configs."""

import json

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets.layers.layer import blank_weights
from tests.models import parity

VOCAB = 99
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_size=8)
SMALL |= dict(feedforward_size=40, max_length=48)
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 12}
VARIANTS = {
    "as published": {},
    "one key head": {"num_key_value_heads": 1},
    "a key head for each": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 16},
    "no bias": {"attention_bias": False},
    "tied, another base": {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 500.0}},
    "all channels rotated": {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "yarn": {"rope_parameters": YARN},
    "another epsilon": {"rms_norm_eps": 0.05},
}
CLASSES = {"glm": (kn.GLM, kn.GLMCausalLM), "glm4": (kn.GLM4, kn.GLM4CausalLM)}
FAMILIES = pytest.mark.parametrize("family", CLASSES)
CASES = [("glm", variant) for variant in VARIANTS]
CASES += [("glm4", variant) for variant in ("as published", "no bias", "tied, another base", "another epsilon")]


def reference(family, **changes):
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    pytest.importorskip("torch", reason="the reference runs on torch")
    fields = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=8)
    fields |= dict(num_key_value_heads=2, intermediate_size=40, max_position_embeddings=48)
    fields |= dict(pad_token_id=0, eos_token_id=[2, 7, 9])
    name = family.capitalize()
    config = getattr(transformers, f"{name}Config")(**{**fields, **changes})
    return getattr(transformers, f"{name}ForCausalLM")(config)


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_agrees_with_transformers(family, variant, tmp_path):
    model = parity.check(reference(family, **VARIANTS[variant]), tmp_path, VOCAB)
    assert type(model) is CLASSES[family][1]
    assert model.config.eos_token_id == (2, 7, 9)
    assert kn.from_pretrained(tmp_path / "ours").config == model.config


@FAMILIES
def test_backbone_alone(family, tmp_path):
    theirs = parity.randomized(reference(family))
    theirs.save_pretrained(tmp_path / "task")
    theirs.model.save_pretrained(tmp_path / "bare")
    expected, _ = parity.reference_outputs(theirs, parity.some_ids(VOCAB))
    for folder, task in (("task", "backbone"), ("bare", None)):
        model = kn.from_pretrained(tmp_path / folder, task=task)
        assert type(model) is CLASSES[family][0]
        parity.assert_close(model(parity.some_ids(VOCAB)), expected[-1])
    kn.to_pretrained(model, tmp_path / "ours")
    again = type(theirs.model).from_pretrained(tmp_path / "ours")
    for name, weight in theirs.model.state_dict().items():
        assert (again.state_dict()[name] == weight).all()


def rewritten(folder, changes, without=()):
    """The folder with another config.json."""
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k not in without}))
    return folder


@pytest.mark.parametrize("scaling", [None, {"type": "yarn", "factor": 4.0}, {"rope_type": "linear", "factor": 2.0}])
def test_names_of_version_4(scaling, tmp_path):
    """rope_theta and partial_rotary_factor stand alone there; yarn's length is the model's unless it is given."""
    single = {"rope_theta": 700.0, "partial_rotary_factor": 1.0}
    kind = {"rope_type": "default"} if scaling is None else {"rope_type": scaling.get("type", "linear"), **scaling}
    theirs = parity.randomized(reference("glm4", rope_parameters={**kind, **single}))
    theirs.save_pretrained(tmp_path)
    rewritten(tmp_path, {**single, "rope_scaling": scaling, "torch_dtype": "bfloat16"}, ("rope_parameters", "dtype"))
    model = kn.from_pretrained(tmp_path)
    parity.assert_agrees(model, theirs, parity.some_ids(VOCAB))
    kn.to_pretrained(model, tmp_path / "ours")
    values = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert {name: values[name] for name in single} == single


def test_absent_fields_are_what_transformers_takes(tmp_path):
    transformers = pytest.importorskip("transformers")
    kn.to_pretrained(kn.GLM(**SMALL), tmp_path)
    absent = (
        "rope_theta",
        "partial_rotary_factor",
        "rope_parameters",
        "attention_bias",
        "rms_norm_eps",
        "tie_word_embeddings",
        "hidden_act",
    )
    config = kn.from_pretrained(rewritten(tmp_path, {}, (*absent, "eos_token_id", "pad_token_id"))).config
    again = transformers.GlmConfig.from_pretrained(tmp_path)
    assert config.rope_theta == again.rope_parameters["rope_theta"]
    assert config.rotary_share == again.rope_parameters["partial_rotary_factor"]
    assert config.attention_bias == again.attention_bias and config.epsilon == again.rms_norm_eps
    assert config.tied == again.tie_word_embeddings and config.pad_token_id == again.pad_token_id
    assert again.eos_token_id == [*config.eos_token_id]


REFUSED = {
    "another scaling": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
    "no factor": ({"rope_parameters": {"rope_type": "linear"}}, "needs .'factor'"),
    "numbers of no scaling": ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "rope_type 'default'"),
    "no table": ({"rope_parameters": [1]}, "must be a dict"),
    "base that is no number": ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta 'big'"),
    "base not finite": ({"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta nan"),
    "more than all channels": ({"rope_parameters": {"partial_rotary_factor": 1.5}}, "partial_rotary_factor .* 1.5"),
    "share that is no number": ({"rope_parameters": {"partial_rotary_factor": "half"}}, "partial_rotary_factor .*half"),
    "half a pair": ({"partial_rotary_factor": 0.4, "rope_parameters": None}, "even number of 8 channels; it is 0.4"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "an unknown field": ({"attention_sinks": 4}, "attention_sinks"),
    "negative size": ({"intermediate_size": -40}, "intermediate_size must be a positive integer"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantization_config"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, tmp_path):
    changes, message = REFUSED[what]
    kn.to_pretrained(kn.GLM4(**{**SMALL, "num_layers": 1}), tmp_path)
    with pytest.raises(ValueError, match=message):
        kn.from_pretrained(rewritten(tmp_path, changes))


def test_norms_of_glm4_are_not_ignored(tmp_path):
    kn.to_pretrained(kn.GLM4CausalLM(**SMALL), tmp_path)
    with pytest.raises(ValueError, match="not expected: model.layers.0.post_mlp_layernorm.weight"):
        kn.from_pretrained(rewritten(tmp_path, {"model_type": "glm"}), task="causal_lm")


@FAMILIES
def test_trains(family):
    parity.assert_trains(CLASSES[family][1](**SMALL), VOCAB)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    model = kn.GLM4CausalLM(**SMALL, dtype=policy)
    logits = model(parity.some_ids(VOCAB))
    assert keras.backend.standardize_dtype(logits.dtype) == policy.removeprefix("mixed_")
    assert np.isfinite(parity.to_numpy(keras.ops.cast(logits, "float32"))).all()
    parity.assert_trains(model, VOCAB)


def test_presets_have_the_published_sizes():
    """One block is made, the others are counted."""
    assert set(kn.GLM.presets) == {"glm-4-9b-hf", "glm-4-9b-chat-hf"}
    assert set(kn.GLM4.presets) == {"glm-4-9b-0414", "glm-4-32b-0414"}
    with blank_weights():
        model = kn.GLM4.from_preset("glm-4-9b-0414", num_layers=1, vocab_size=7)
    block = model.count_params() - 8 * 4096
    assert 40 * block + 4096 + 2 * 151552 * 4096 == 9_399_951_360 + 40 * 2 * 4096
    big = kn.GLM4.Config(**kn.GLM4.presets["glm-4-32b-0414"])
    assert (big.num_layers, big.hidden_size, big.num_heads, big.num_kv_heads) == (61, 6144, 48, 2)
