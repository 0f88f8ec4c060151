"""`from_pretrained` and `to_pretrained`: exactly, or not at all and with every reason named."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

import kerasnets as kn
from tests.models.parity import to_numpy

SMALL = dict(vocab_size=20, hidden_size=8, num_layers=2, num_heads=2, max_length=16)
IDS = np.array([[3, 7, 2, 19]], "int32")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint of every kind of weight, none of which is zero or one."""
    folder = tmp_path_factory.mktemp("whole")
    kn.to_pretrained(kn.GPT2CausalLM(**SMALL), folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    random = np.random.default_rng(0)
    tensors = {name: random.normal(size=t.shape).astype("float32") for name, t in tensors.items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(whole, tmp_path / "checkpoint")


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text()) | values
    config = {name: value for name, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder, changes=(), /, **renamed):
    """Tensors put in place or added, dropped where None."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors") | dict(changes)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items() if tensor is not None}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def rename_tensors(folder, rename):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file({rename(n): t for n, t in tensors.items()}, folder / "model.safetensors")


def assert_refused(folder, *parts, task=None, kind=ValueError):
    with pytest.raises(kind) as error:
        kn.from_pretrained(folder, task=task)
    for part in (str(folder), *parts):
        assert part in str(error.value), str(error.value)
    return str(error.value)


def tensors_of(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def test_every_tensor_arrives(whole, tmp_path):
    model = kn.from_pretrained(whole)
    assert type(model) is kn.GPT2CausalLM
    kn.to_pretrained(model, tmp_path / "again")
    first, again = tensors_of(whole), tensors_of(tmp_path / "again")
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(again[name], tensor)
    assert json.loads((tmp_path / "again/config.json").read_text()) == json.loads((whole / "config.json").read_text())


CONFIGS = {  # what is changed in config.json: what the error says
    "unknown model_type": (dict(model_type="gpt99"), "gpt99"),
    "model_type of another kind": (dict(model_type=["gpt2"]), "model_type ['gpt2']"),
    "no model_type": (dict(model_type=...), "model_type None"),
    "unknown activation": (dict(activation_function="swish9"), "activation_function", "swish9"),
    "unknown architecture": (dict(architectures=["GPT2DoubleHeads"]), "architectures ['GPT2DoubleHeads']"),
    "architectures is no list": (dict(architectures="GPT2LMHeadModel"), "architectures 'GPT2LMHeadModel'"),
    "quantized": (dict(quantization_config={"bits": 4}), "quantization_config", "bits"),
    "NaN": (dict(n_embd=float("nan")), "n_embd", "nan"),
    "negative": (dict(n_layer=-1), "n_layer", "-1"),
    "infinite": (dict(layer_norm_epsilon=float("inf")), "layer_norm_epsilon", "inf"),
    "heads do not fit": (dict(n_head=3), "hidden_size 8 is not a multiple of num_heads 3"),
    "unknown field": (dict(mixture_of_experts=8), "mixture_of_experts"),
    "cross-attention": (dict(add_cross_attention=True), "add_cross_attention"),
    "absurdly deep": (dict(n_layer=10**9), "num_layers 1000000000"),
    "absurdly wide": (dict(n_embd=2 * 10**9), "hidden_size 2000000000"),
    "absurdly many words": (dict(vocab_size=10**15), "vocab_size"),
    "absurdly long": (dict(n_positions=10**15), "no model that can be made"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_wrong_config(folder, name):
    changes, *parts = CONFIGS[name]
    change_config(folder, **changes)
    assert_refused(folder, *parts)


def test_all_of_a_config_is_said_at_once(folder):
    change_config(folder, n_embd=-8, activation_function="x", quantization_config={}, surprise=1)
    assert (
        len(assert_refused(folder, "n_embd", "activation_function", "quantization_config", "surprise").splitlines())
        == 5
    )


@pytest.mark.parametrize("text", ["[1, 2]", '"gpt2"', "{", "", "{" * 100000, '{"n_embd": 8, "n_embd": 16}'])
def test_config_that_is_no_object(folder, text):
    (folder / "config.json").write_text(text)
    assert_refused(folder, "config.json")


def test_tensors_missing_extra_and_odd_at_once(folder):
    odd = {
        "transformer.wpe.weight": None,
        "transformer.h.1.ln_1.bias": None,
        "transformer.h.2.ln_1.bias": np.ones(8, "float32"),
        "score.weight": np.ones((2, 8), "float32"),
        "transformer.wte.weight": np.ones((21, 8), "float32"),
        "transformer.ln_f.bias": np.ones(8, "int32"),
    }
    change_tensors(folder, odd)
    message = assert_refused(
        folder,
        "missing: transformer.wpe.weight",
        "missing: transformer.h.1.ln_1.bias",
        "not expected: transformer.h.2.ln_1.bias",
        "not expected: score.weight",
        "transformer.wte.weight has shape (21, 8), expected (20, 8)",
        "transformer.ln_f.bias is stored as I32",
    )
    assert len(message.splitlines()) == 7


def test_transposed_is_not_a_fit(folder):
    kernel = tensors_of(folder)["transformer.h.0.attn.c_attn.weight"]
    change_tensors(folder, {"transformer.h.0.attn.c_attn.weight": kernel.T})
    assert_refused(folder, "transformer.h.0.attn.c_attn.weight has shape (24, 8), expected (8, 24)")


def test_the_same_weight_twice(folder):
    change_tensors(folder, {"wte.weight": tensors_of(folder)["transformer.wte.weight"]})
    assert_refused(folder, "wte.weight and", "are the same weight")


def test_buffers_that_hold_nothing_learned_are_ignored(folder):
    change_tensors(folder, {"transformer.h.0.attn.bias": np.ones((1, 1, 16, 16), "uint8")})
    kn.from_pretrained(folder)


def test_numbers_that_are_not_finite_come_as_they_are(folder):
    gamma = np.array([np.nan, np.inf, -np.inf, 1, 2, 3, 4, 5], "float32")
    change_tensors(folder, {"transformer.ln_f.weight": gamma})
    np.testing.assert_array_equal(to_numpy(kn.from_pretrained(folder).backbone.final_norm.gamma), gamma)


def test_tied_head_repeated(folder):
    table = tensors_of(folder)["transformer.wte.weight"]
    change_tensors(folder, {"lm_head.weight": table})
    expected = to_numpy(kn.from_pretrained(folder)(IDS))
    change_tensors(folder, {"lm_head.weight": table + np.eye(20, 8, dtype="float32") * 1e-6})
    assert_refused(folder, "lm_head.weight is not equal to transformer.wte.weight")
    backbone = kn.from_pretrained(folder, task="backbone")  # whose head it is does not matter without one
    np.testing.assert_allclose(to_numpy(backbone(IDS)) @ table.T, expected, rtol=1e-4, atol=1e-4)


def test_tied_head_repeated_in_another_shape_or_precision(folder):
    table = tensors_of(folder)["transformer.wte.weight"]
    for other in (table[:19], table.astype("float16")):
        change_tensors(folder, {"lm_head.weight": other})
        assert_refused(folder, "lm_head.weight is not equal to transformer.wte.weight")


def test_untied_head(folder):
    change_config(folder, tie_word_embeddings=False)
    assert_refused(folder, "missing: lm_head.weight")
    head = np.random.default_rng(1).normal(size=(20, 8)).astype("float32")
    change_tensors(folder, {"lm_head.weight": head})
    model = kn.from_pretrained(folder)
    np.testing.assert_allclose(to_numpy(model(IDS)), to_numpy(model.backbone(IDS)) @ head.T, rtol=1e-4, atol=1e-4)


def test_backbone_of_a_task(folder):
    expected = to_numpy(kn.from_pretrained(folder).backbone(IDS))
    backbone = kn.from_pretrained(folder, task="backbone")
    assert type(backbone) is kn.GPT2
    np.testing.assert_array_equal(to_numpy(backbone(IDS)), expected)


def test_bare_backbone(folder):
    """A file of the backbone alone has no prefix, and becomes a task if no tensor is wanting."""
    expected = to_numpy(kn.from_pretrained(folder)(IDS))
    rename_tensors(folder, lambda name: name.removeprefix("transformer."))
    change_config(folder, architectures=["GPT2Model"])
    assert type(kn.from_pretrained(folder)) is kn.GPT2
    np.testing.assert_array_equal(to_numpy(kn.from_pretrained(folder, task="causal_lm")(IDS)), expected)
    change_config(folder, tie_word_embeddings=False)
    assert type(kn.from_pretrained(folder)) is kn.GPT2
    assert_refused(folder, "missing: lm_head.weight", task="causal_lm")


def test_without_architectures_the_tensors_decide(folder):
    change_config(folder, architectures=..., tie_word_embeddings=False)
    assert type(kn.from_pretrained(folder)) is kn.GPT2
    change_tensors(folder, {"lm_head.weight": np.ones((20, 8), "float32")})
    assert type(kn.from_pretrained(folder)) is kn.GPT2CausalLM


def test_unknown_task(folder):
    assert_refused(folder, "backbone", "causal_lm", "'translator'", task="translator")


def test_a_weight_that_no_tensor_reaches_is_said(folder, monkeypatch):
    """A gap in a family's table would leave zeros behind."""
    family = kn.GPT2.family
    monkeypatch.setattr(kn.checkpoint, "expanded", gap(kn.checkpoint.expanded))
    change_tensors(folder, {"transformer.ln_f.bias": None})
    assert family.weights
    assert_refused(folder, "no tensor is known for", "/beta")


def gap(expanded):
    def without(table, model, prefix):
        return {name: row for name, row in expanded(table, model, prefix).items() if not name.endswith("ln_f.bias")}

    return without


@pytest.mark.parametrize("source", ["nowhere", "/nowhere/at/all", "a/b/c", "./nowhere", "../x"])
def test_nothing_there(source):
    with pytest.raises(FileNotFoundError, match="nowhere|a/b/c|x"):
        kn.from_pretrained(source)


def test_empty_folder(tmp_path):
    assert_refused(tmp_path, "config.json", kind=FileNotFoundError)


def test_no_tensors(folder):
    (folder / "model.safetensors").unlink()
    assert_refused(folder, "model.safetensors", "pytorch_model.bin", kind=FileNotFoundError)


def test_ends_of_generation_config_are_added(folder):
    change_config(folder, eos_token_id=5)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert kn.from_pretrained(folder).config.eos_token_id == (5, 7)
    (folder / "generation_config.json").write_text('{"eos_token_id": "end"}')
    assert_refused(folder, "eos_token_id")


def test_a_model_without_a_format(tmp_path):
    with pytest.raises(ValueError, match="MLP has no checkpoint format"):
        kn.to_pretrained(kn.MLP(num_classes=2), tmp_path)
    assert not list(tmp_path.iterdir())
