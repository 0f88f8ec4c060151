"""`Qwen2`: agreement with transformers in every variant of its config."""

import shutil

import numpy as np
import pytest

import kerasnets as kn
from tests.models import parity
from tests.models.decoder import llama_like
from tests.models.decoder.llama_like import VOCAB, rewrite

SMALL = llama_like.SMALL | {"num_kv_heads": 2, "window": 3, "windowed_blocks": (1,)}
SLIDING = {"use_sliding_window": True, "sliding_window": 3}
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 500.0}
VARIANTS = {
    "as published": {},
    "tied": {"tie_word_embeddings": True},
    "wide heads": {"head_dim": 16},
    "yarn": {"rope_parameters": YARN},
    "window": {**SLIDING, "max_window_layers": 0},
    "window in the last blocks": {**SLIDING, "max_window_layers": 2},
    "window in no block": {**SLIDING, "max_window_layers": 3},
    "window in listed blocks": {**SLIDING, "layer_types": KINDS},
    "window not used": {"sliding_window": 3, "max_window_layers": 0},
    "gelu, another epsilon": {"hidden_act": "gelu_new", "rms_norm_eps": 0.05},
}


def reference(**changes):
    transformers = llama_like.transformers()
    fields = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)
    fields |= dict(max_position_embeddings=64, num_key_value_heads=2)
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**fields | changes))


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    changes = VARIANTS[variant]
    model = parity.check(reference(**changes), tmp_path, VOCAB)
    assert type(model) is kn.Qwen2CausalLM
    has_window = "window" in variant and "no" not in variant.split()[-2:] and "not" not in variant
    assert bool(model.config.windowed_blocks) == has_window


def test_older_spelling_of_the_window(tmp_path):
    theirs = parity.randomized(reference(**SLIDING, max_window_layers=1))
    theirs.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda values: values.pop("layer_types"))
    model = kn.from_pretrained(tmp_path)
    assert model.config.window == 3 and model.config.windowed_blocks == (1, 2)
    parity.assert_agrees(model, theirs, parity.some_ids(VOCAB))


def test_window_is_seen():
    """Behind two windows of three, the last token does not see the first."""
    model = kn.Qwen2(**SMALL | {"windowed_blocks": (0, 1)})
    ids = parity.some_ids(VOCAB, rows=1, length=8)
    other = np.concatenate([ids[:, :1] % 90 + 5, ids[:, 1:]], axis=1)
    before, after = parity.to_numpy(model(ids))[0], parity.to_numpy(model(other))[0]
    assert np.array_equal(before[5:], after[5:]) and not np.allclose(before[4], after[4])


REFUSED = {
    "list too short": ({"layer_types": KINDS[:1]}, "layer_types must be a list of 2"),
    "unknown kind": ({"layer_types": ["full_attention", "chunked_attention"]}, "layer_types must be a list"),
    "window without a size": ({"use_sliding_window": False}, "while use_sliding_window is false"),
    "window 0": ({"sliding_window": 0}, "sliding_window must be a positive integer"),
    "bias": ({"attention_bias": False}, "attention_bias"),
    "several positions": ({"use_mrope": True}, "use_mrope"),
    "dynamic": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic' is not known"),
    "rope by kind": ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_type 'default'"),
    "activation": ({"hidden_act": "mish"}, "hidden_act must be one of"),
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    kn.to_pretrained(kn.Qwen2CausalLM(**SMALL), folder)
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, ours, tmp_path):
    change, message = REFUSED[name]
    folder = shutil.copytree(ours, tmp_path / "changed")
    rewrite(folder, lambda values: values.update(change))
    with pytest.raises(ValueError, match=message):
        kn.from_pretrained(folder)


def test_half_precision():
    llama_like.assert_half_precision(kn.Qwen2CausalLM(**SMALL, dtype="mixed_float16"), "mixed_float16")


PUBLISHED = {  # parameters, as the model cards count them
    "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304,
    "qwen2-7b": 7_615_616_512,
    "qwen2-72b": 72_706_203_648,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
}


def count(config):
    size = config.head_size or config.hidden_size // config.num_heads
    return llama_like.count(config, biases=size * (config.num_heads + 2 * config.num_kv_heads))


def test_presets_have_the_published_sizes():
    model = kn.Qwen2CausalLM(**SMALL)
    assert model.count_params() == count(model.config)
    assert {name: count(kn.Qwen2.Config(**preset)) for name, preset in kn.Qwen2.presets.items()} == PUBLISHED
