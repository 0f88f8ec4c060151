"""`Qwen3`: agreement with transformers in every variant of its config."""

import shutil

import pytest

import kerasnets as kn
from tests.models import parity
from tests.models.decoder import llama_like
from tests.models.decoder.llama_like import VOCAB, rewrite

SMALL = llama_like.SMALL | {"num_kv_heads": 2, "head_size": 12}
SLIDING = {"use_sliding_window": True, "sliding_window": 3}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 500.0}
VARIANTS = {
    "as published": {},
    "tied": {"tie_word_embeddings": True},
    "one key head": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True},
    "yarn": {"rope_parameters": YARN},
    "window": {**SLIDING, "max_window_layers": 1},
    "gelu, another epsilon": {"hidden_act": "gelu", "rms_norm_eps": 0.05},
}


def reference(**changes):
    transformers = llama_like.transformers()
    fields = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)
    fields |= dict(max_position_embeddings=64, num_key_value_heads=2, head_dim=12)
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**fields | changes))


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    model = parity.check(reference(**VARIANTS[variant]), tmp_path, VOCAB)
    assert type(model) is kn.Qwen3CausalLM
    assert model.config.windowed_blocks == ((1, 2) if variant == "window" else ())


REFUSED = {
    "several positions": ({"rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2]}}, "mrope_section"),
    "dynamic": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic' is not known"),
    "unknown kind": ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types must be a list"),
    "activation": ({"hidden_act": "mish"}, "hidden_act must be one of"),
    "experts": ({"num_experts": 8}, "num_experts"),
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    kn.to_pretrained(kn.Qwen3CausalLM(**SMALL), folder)
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, ours, tmp_path):
    change, message = REFUSED[name]
    folder = shutil.copytree(ours, tmp_path / "changed")
    rewrite(folder, lambda values: values.update(change))
    with pytest.raises(ValueError, match=message):
        kn.from_pretrained(folder)


def test_half_precision():
    llama_like.assert_half_precision(kn.Qwen3CausalLM(**SMALL, dtype="mixed_float16"), "mixed_float16")


PUBLISHED = {  # parameters, as the model cards count them
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
}


def count(config):
    return llama_like.count(config, biases=2 * config.head_size)


def test_presets_have_the_published_sizes():
    model = kn.Qwen3CausalLM(**SMALL)
    assert model.count_params() == count(model.config)
    assert {name: count(kn.Qwen3.Config(**preset)) for name, preset in kn.Qwen3.presets.items()} == PUBLISHED
