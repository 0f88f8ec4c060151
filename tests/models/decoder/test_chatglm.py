"""`ChatGLM`: no class of transformers has its names, so `GlmForCausalLM` is renamed and packed into them."""

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
VARIANTS = {  # what changes in the reference, what its config.json says of it in the old names
    "as published": ({}, {}),
    "stretched": ({"rope_theta": 5e5}, {"rope_ratio": 50}),
    "a ratio that is no integer": ({"rope_theta": 2.5e4}, {"rope_ratio": 2.5}),
    "one key head": ({"num_key_value_heads": 1}, {"multi_query_group_num": 1}),
    "a key head for each": ({"num_key_value_heads": 4}, {"multi_query_attention": False}),
    "wide heads": ({"head_dim": 16}, {"kv_channels": 16}),
    "no bias": ({"attention_bias": False}, {"add_qkv_bias": False}),
    "another epsilon": ({"rms_norm_eps": 0.05}, {"layernorm_epsilon": 0.05}),
}
PUBLISHED = {  # every field of the released files, with small numbers
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "classifier_dropout": None,
    "eos_token_id": [2, 7, 9],
    "ffn_hidden_size": 40,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 32,
    "kv_channels": 8,
    "layernorm_epsilon": 1e-5,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "original_rope": True,
    "pad_token_id": 0,
    "padded_vocab_size": VOCAB,
    "post_layer_norm": True,
    "pre_seq_len": None,
    "prefix_projection": False,
    "quantization_bit": 0,
    "rmsnorm": True,
    "seq_length": 48,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.43.4",
    "use_cache": True,
    "vocab_size": VOCAB,
}


def reference(**changes):
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    pytest.importorskip("torch", reason="the reference runs on torch")
    fields = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=8)
    fields |= dict(num_key_value_heads=2, intermediate_size=40, max_position_embeddings=48, rms_norm_eps=1e-5)
    fields |= dict(pad_token_id=0, eos_token_id=[2, 7, 9])
    return parity.randomized(transformers.GlmForCausalLM(transformers.GlmConfig(**{**fields, **changes})))


def renamed(name):
    """A name of `glm` in the words of `chatglm`; what is packed keeps its place in the name."""
    for old, new in (
        ("model.embed_tokens", "transformer.embedding.word_embeddings"),
        ("model.norm", "transformer.encoder.final_layernorm"),
        ("model.layers", "transformer.encoder.layers"),
        ("lm_head", "transformer.output_layer"),
        ("self_attn.o_proj", "self_attention.dense"),
        ("self_attn", "self_attention"),
        ("gate_up_proj", "dense_h_to_4h"),
        ("down_proj", "dense_4h_to_h"),
    ):
        name = name.replace(old, new)
    return name


def packed(theirs):
    """{name: array}: the tensors of `glm` as `chatglm` has them, query, key and value one below the other."""
    tensors = {renamed(name): weight.numpy() for name, weight in theirs.state_dict().items()}
    for name in [name for name in tensors if ".q_proj." in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        tensors[name.replace("q_proj", "query_key_value")] = np.concatenate(parts)
    tensors["transformer.rotary_pos_emb.inv_freq"] = np.ones(2, "float32")
    return tensors


def write(folder, tensors, config):
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    theirs, ours = VARIANTS[variant]
    theirs = reference(**theirs)
    tensors = packed(theirs)
    model = kn.from_pretrained(write(tmp_path / "theirs", tensors, {**PUBLISHED, **ours}))
    assert type(model) is kn.ChatGLMCausalLM
    assert model.config.eos_token_id == (2, 7, 9)
    parity.assert_agrees(model, theirs, parity.some_ids(VOCAB))
    parity.assert_padding_changes_nothing(model, VOCAB)
    parity.assert_cache_changes_nothing(model, VOCAB)
    assert_written_back(model, tensors, tmp_path / "ours")


def assert_written_back(model, tensors, folder):
    """The same tensors, bit by bit, and a config that makes the same model."""
    from safetensors.numpy import load_file

    kn.to_pretrained(model, folder)
    written = load_file(folder / "model.safetensors")
    del tensors["transformer.rotary_pos_emb.inv_freq"]
    assert set(written) == set(tensors)
    assert all(np.array_equal(written[name], tensors[name]) for name in tensors)
    again = kn.from_pretrained(folder)
    assert type(again) is type(model) and again.config == model.config
    ids = parity.some_ids(VOCAB)
    assert np.array_equal(parity.to_numpy(again(ids)), parity.to_numpy(model(ids)))


def test_written_config_has_the_old_names(tmp_path):
    kn.to_pretrained(kn.ChatGLMCausalLM(**SMALL, rope_theta=5e5), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert {name: values[name] for name in ("padded_vocab_size", "num_layers", "multi_query_group_num")} == {
        "padded_vocab_size": VOCAB,
        "num_layers": 2,
        "multi_query_group_num": 2,
    }
    assert values["multi_query_attention"] is True and values["rope_ratio"] == 50
    assert values["architectures"] == ["ChatGLMModel"]


def test_backbone_alone(tmp_path):
    theirs = reference()
    expected, _ = parity.reference_outputs(theirs, parity.some_ids(VOCAB))
    folder = write(tmp_path / "theirs", packed(theirs), PUBLISHED)
    model = kn.from_pretrained(folder, task="backbone")
    assert type(model) is kn.ChatGLM
    parity.assert_close(model(parity.some_ids(VOCAB)), expected[-1])
    kn.to_pretrained(model, tmp_path / "ours")
    again = kn.from_pretrained(tmp_path / "ours")
    assert type(again) is kn.ChatGLM
    assert all((a.numpy() == b.numpy()).all() for a, b in zip(again.weights, model.weights, strict=True))


REFUSED = {
    "layer norm": ({"rmsnorm": False}, "rmsnorm is False"),
    "no final norm": ({"post_layer_norm": False}, "post_layer_norm is False"),
    "bias everywhere": ({"add_bias_linear": True}, "add_bias_linear is True"),
    "residual after the norm": ({"apply_residual_connection_post_layernorm": True}, "post_layernorm is True"),
    "halves rotated": ({"original_rope": False}, "original_rope is False"),
    "residual in float32": ({"fp32_residual_connection": True}, "fp32_residual_connection is True"),
    "quantized": ({"quantization_bit": 4}, "quantization_bit is 4"),
    "prefix tuning": ({"pre_seq_len": 128}, "pre_seq_len is 128"),
    "an image part": ({"vision_config": {"hidden_size": 8}}, "vision_config"),
    "a negative ratio": ({"rope_ratio": -1}, "rope_ratio must be"),
    "no number": ({"rope_ratio": float("nan")}, "rope_ratio must be"),
    "no vocabulary": ({"padded_vocab_size": 0}, "padded_vocab_size must be a positive integer"),
    "positions divided": ({"rope_ratio": 4, "seq_length": 32768}, "chatglm2-6b-32k"),
    "positions divided, by name": ({"rope_ratio": 16, "_name_or_path": "THUDM/chatglm2-6b-32k"}, "chatglm2-6b-32k"),
    "heads that do not divide": ({"multi_query_group_num": 3}, "is not a multiple of num_kv_heads 3"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, tmp_path):
    changes, message = REFUSED[what]
    folder = write(tmp_path / "theirs", {"x": np.ones(1, "float32")}, {**PUBLISHED, **changes})
    with pytest.raises(ValueError, match=message):
        kn.from_pretrained(folder)


def test_first_chatglm_is_refused_by_name(tmp_path):
    config = {"model_type": "chatglm", "architectures": ["ChatGLMModel"], "vocab_size": VOCAB, "hidden_size": 32}
    config |= {"inner_hidden_size": 128, "layernorm_epsilon": 1e-5, "max_sequence_length": 48, "num_layers": 2}
    config |= {"num_attention_heads": 4, "position_encoding_2d": True, "gmask_token_id": 8, "pad_token_id": 3}
    folder = write(tmp_path / "theirs", {"x": np.ones(1, "float32")}, config)
    with pytest.raises(ValueError, match="the first ChatGLM-6B, which is not done here"):
        kn.from_pretrained(folder)


def test_tensors_that_do_not_fit_are_named_together(tmp_path):
    tensors = packed(reference())
    layer = "transformer.encoder.layers.1."
    del tensors[layer + "mlp.dense_4h_to_h.weight"]
    tensors[layer + "self_attention.dense.bias"] = np.ones(32, "float32")
    name = layer + "self_attention.query_key_value.weight"
    tensors[name] = tensors[name][:-1]
    with pytest.raises(ValueError) as error:
        kn.from_pretrained(write(tmp_path / "theirs", tensors, PUBLISHED))
    for text in (f"missing: {layer}mlp.dense_4h_to_h.weight", f"not expected: {layer}self_attention.dense.bias",
                 f"{name} has shape (63, 32), expected (64, 32)"):  # fmt: skip
        assert text in str(error.value)


def test_absent_fields_are_what_the_published_code_takes(tmp_path):
    """Without a word about groups each head has its own key; without one about biases there are none."""
    theirs = reference(num_key_value_heads=4, attention_bias=False)
    config = {name: value for name, value in PUBLISHED.items() if not name.startswith(("multi_query", "add_"))}
    model = kn.from_pretrained(write(tmp_path / "theirs", packed(theirs), config))
    parity.assert_agrees(model, theirs, parity.some_ids(VOCAB))


def test_trains():
    parity.assert_trains(kn.ChatGLMCausalLM(**SMALL), VOCAB)


def test_dropout_acts_in_training_only():
    model = kn.ChatGLMCausalLM(**SMALL, dropout=0.5, attention_dropout=0.5)
    ids = parity.some_ids(VOCAB)
    assert np.array_equal(parity.to_numpy(model(ids)), parity.to_numpy(model(ids)))
    assert not np.allclose(parity.to_numpy(model(ids, training=True)), parity.to_numpy(model(ids)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    model = kn.ChatGLMCausalLM(**SMALL, dtype=policy)
    logits = model(parity.some_ids(VOCAB))
    assert keras.backend.standardize_dtype(logits.dtype) == policy.removeprefix("mixed_")
    assert np.isfinite(parity.to_numpy(keras.ops.cast(logits, "float32"))).all()
    parity.assert_trains(model, VOCAB)


def test_presets_have_the_published_sizes():
    """One block is made, the others are counted."""
    assert set(kn.ChatGLM.presets) >= {"chatglm2-6b", "chatglm3-6b", "glm-4-9b", "glm-4-9b-chat"}
    with blank_weights():
        model = kn.ChatGLM.from_preset("chatglm3-6b", num_layers=1, vocab_size=7)
    block = model.count_params() - 8 * 4096
    for preset, published in (("chatglm3-6b", 6_243_584_000), ("glm-4-9b-chat", 9_399_951_360)):
        config = kn.ChatGLM.Config(**kn.ChatGLM.presets[preset])
        assert config.num_layers * block + 4096 + 2 * config.vocab_size * 4096 == published
