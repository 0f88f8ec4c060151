"""`Baichuan`: transformers has no class for it; its LLaMA, unpacked, is a reference, and NumPy for what LLaMA lacks."""

import json
import shutil

import keras
import numpy as np
import pytest

import kerasnets as kn
from tests.models import parity
from tests.models.decoder import llama_like
from tests.models.decoder.llama_like import VOCAB, rewrite

EPSILON = 1e-6
COMMON = dict(model_type="baichuan", hidden_act="silu", rms_norm_eps=EPSILON, tie_word_embeddings=False)
COMMON |= dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, use_cache=True, initializer_range=0.02)
COMMON |= dict(auto_map={"AutoConfig": "configuration_baichuan.BaichuanConfig"}, torch_dtype="bfloat16")
OF_7B = COMMON | {"architectures": ["BaiChuanForCausalLM"], "max_position_embeddings": 64}
OF_13B = COMMON | {"architectures": ["BaichuanForCausalLM"], "model_max_length": 64, "gradient_checkpointing": [False]}
SECOND = {"architectures": ["BaichuanForCausalLM"], "z_loss_weight": 0, "_from_model_config": True}
PUBLISHED_CONFIGS = {  # model: (its config.json but for the sizes, position, normalized head)
    "baichuan-7b": (OF_7B, "rotary", False),
    "baichuan-13b": (OF_13B, "alibi", False),
    "baichuan2-7b": (OF_7B | SECOND | {"model_max_length": 4096}, "rotary", True),
    "baichuan2-13b": (OF_13B | SECOND, "alibi", True),
}


def checkpoint(folder, config, num_heads=4, head_size=8, seed=0, **changes):
    """({name: random tensor}, config.json), written to a folder in the original names."""
    import safetensors.numpy

    random = np.random.default_rng(seed)
    width, deep = num_heads * head_size, 48
    shapes = {"model.embed_tokens": (VOCAB, width), "model.norm": (width,), "lm_head": (VOCAB, width)}
    for i in range(2):
        name = f"model.layers.{i}."
        shapes |= {f"{name}input_layernorm": (width,), f"{name}post_attention_layernorm": (width,)}
        shapes |= {f"{name}self_attn.W_pack": (3 * width, width), f"{name}self_attn.o_proj": (width, width)}
        shapes |= {f"{name}mlp.gate_proj": (deep, width), f"{name}mlp.up_proj": (deep, width)}
        shapes |= {f"{name}mlp.down_proj": (width, deep)}
    drawn = {name: random.normal(size=shape) for name, shape in shapes.items()}
    drawn = {name: 0.4 * value if value.ndim == 2 else 1 + 0.3 * value for name, value in drawn.items()}
    tensors = {f"{name}.weight": value.astype("float32") for name, value in drawn.items()}
    config = config | dict(vocab_size=VOCAB, hidden_size=width, num_hidden_layers=2, num_attention_heads=num_heads)
    config |= dict(intermediate_size=deep, **changes)
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return tensors, config


def slopes(n):
    """As the ALiBi authors' code has it."""
    if n & (n - 1) == 0:
        start = 2 ** -(2 ** -(np.log2(n) - 3))
        return [start ** (i + 1) for i in range(n)]
    below = 2 ** int(np.floor(np.log2(n)))
    return slopes(below) + slopes(2 * below)[::2][: n - below]


def by_hand(tensors, config, ids, position, normalized_head):
    """(hidden states, logits) in NumPy, float64: equations written from the papers, nothing of ours."""
    w = {name.removeprefix("model.").removesuffix(".weight"): t.astype("float64") for name, t in tensors.items()}
    n, length = config["num_attention_heads"], ids.shape[1]
    size = config["hidden_size"] // n

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * w[name]

    def turned(x):
        angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
        c, s = np.cos(angles)[None, None], np.sin(angles)[None, None]
        a, b = x[..., : size // 2], x[..., size // 2 :]
        return np.concatenate([a * c - b * s, b * c + a * s], -1)

    distance = np.arange(length)[:, None] - np.arange(length)[None]
    x = w["embed_tokens"][ids]
    states = [x]
    for i in range(config["num_hidden_layers"]):
        at = f"layers.{i}."
        packed = norm(x, at + "input_layernorm") @ w[at + "self_attn.W_pack"].T
        q, k, v = (p.reshape(*p.shape[:2], n, size).transpose(0, 2, 1, 3) for p in np.split(packed, 3, axis=-1))
        if position == "rotary":
            q, k = turned(q), turned(k)
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(size)
        if position == "alibi":
            scores = scores - np.array(slopes(n))[:, None, None] * distance
        scores = np.where(distance >= 0, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        y = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + y.transpose(0, 2, 1, 3).reshape(x.shape) @ w[at + "self_attn.o_proj"].T
        y = norm(x, at + "post_attention_layernorm")
        gate = y @ w[at + "mlp.gate_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w[at + "mlp.up_proj"].T)) @ w[at + "mlp.down_proj"].T
        states.append(x)
    states[-1] = norm(x, "norm")
    table = w["lm_head"] / (np.linalg.norm(w["lm_head"], axis=1, keepdims=True) if normalized_head else 1)
    return states, states[-1] @ table.T


@pytest.mark.parametrize("name", PUBLISHED_CONFIGS)
def test_agrees_with_numpy(name, tmp_path):
    """ALiBi with six heads, no power of two."""
    pytest.importorskip("safetensors")
    config, position, normalized_head = PUBLISHED_CONFIGS[name]
    tensors, config = checkpoint(tmp_path / "theirs", config, num_heads=6 if position == "alibi" else 4)
    model = kn.from_pretrained(tmp_path / "theirs")
    assert type(model) is kn.BaichuanCausalLM
    assert (model.config.position, model.config.normalized_head) == (position, normalized_head)
    ids = parity.some_ids(VOCAB)
    expected_states, expected = by_hand(tensors, config, ids, position, normalized_head)
    states, logits = parity.hidden_states(model, ids)
    parity.assert_close(logits, expected)
    for state, expected_state in zip([*states[:-1], model.backbone(ids)], expected_states, strict=True):
        parity.assert_close(state, expected_state)
    parity.assert_padding_changes_nothing(model, VOCAB)
    parity.assert_cache_changes_nothing(model, VOCAB)
    assert_written_back(model, tensors, tmp_path / "ours")


def assert_written_back(model, tensors, folder):
    """Every tensor as it came, and a config that says the same, in our words and without them."""
    import safetensors.numpy

    kn.to_pretrained(model, folder)
    written = safetensors.numpy.load_file(folder / "model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(np.array_equal(written[name], tensors[name]) for name in tensors)
    assert kn.from_pretrained(folder).config == model.config
    rewrite(folder, lambda values: (values.pop("position"), values.pop("normalized_head")))
    assert kn.from_pretrained(folder).config == model.config  # and what others would guess is right


def test_agrees_with_llama(tmp_path):
    """The 7B model is LLaMA: transformers' LLaMA with these tensors unpacked gives the same."""
    transformers = llama_like.transformers()
    import torch

    tensors, config = checkpoint(tmp_path, OF_7B)
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    fields = {name: config[name] for name in (*sizes, "rms_norm_eps", "max_position_embeddings")}
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields)).eval()
    unpacked = {name: torch.tensor(tensor) for name, tensor in tensors.items() if "W_pack" not in name}
    for name, tensor in tensors.items():
        if "W_pack" in name:
            parts = zip("qkv", torch.tensor(tensor).chunk(3), strict=True)
            unpacked |= {name.replace("W_pack", f"{letter}_proj"): part for letter, part in parts}
    reference.load_state_dict(unpacked)
    parity.assert_agrees(kn.from_pretrained(tmp_path), reference, parity.some_ids(VOCAB))


OVERRIDES = {  # what a config says in our words, against what would be guessed
    "alibi in spite of positions": (OF_7B, {"position": "alibi"}, ("alibi", False)),
    "rotary without positions": (OF_13B, {"position": "rotary"}, ("rotary", False)),
    "plain head in spite of z_loss_weight": (OF_7B | SECOND, {"normalized_head": False}, ("rotary", False)),
    "normalized head": (OF_7B, {"normalized_head": True}, ("rotary", True)),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_guesses_can_be_overridden(name, tmp_path):
    pytest.importorskip("safetensors")
    config, override, expected = OVERRIDES[name]
    tensors, config = checkpoint(tmp_path, config, **override)
    model = kn.from_pretrained(tmp_path)
    assert (model.config.position, model.config.normalized_head) == expected
    ids = parity.some_ids(VOCAB)
    parity.assert_close(model(ids), by_hand(tensors, config, ids, *expected)[1])
    assert_written_back(model, tensors, tmp_path / "ours")


def test_the_second_vocabulary_means_a_normalized_head():
    """Where training's z_loss_weight is absent, the size of the vocabulary tells."""
    family = kn.Baichuan.family
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    for vocab_size, expected in ((64000, False), (125696, True)):
        config = family.read_config(OF_13B | sizes | {"vocab_size": vocab_size}, "here")
        assert config["normalized_head"] == expected


def test_older_tensors(tmp_path):
    """The frequencies that the first 7B files hold are computed, not read."""
    import safetensors.numpy

    tensors, config = checkpoint(tmp_path, OF_7B)
    held = tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.full(4, 99, "float32")}
    safetensors.numpy.save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    ids = parity.some_ids(VOCAB)
    parity.assert_close(kn.from_pretrained(tmp_path)(ids), by_hand(tensors, config, ids, "rotary", False)[1])


REFUSED = {
    "position": ({"position": "learned"}, "position must be one of"),
    "head": ({"normalized_head": 1}, "normalized_head must be true or false"),
    "scaling": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    "activation": ({"hidden_act": "mish"}, "hidden_act must be one of"),
    "groups": ({"num_key_value_heads": 2}, "num_key_value_heads"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantization_config"),
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    kn.to_pretrained(kn.BaichuanCausalLM(**llama_like.SMALL), folder)
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, ours, tmp_path):
    change, message = REFUSED[name]
    folder = shutil.copytree(ours, tmp_path / "changed")
    rewrite(folder, lambda values: values.update(change))
    with pytest.raises(ValueError, match=message):
        kn.from_pretrained(folder)


UNWRITABLE = [{"num_kv_heads": 2}, {"head_size": 4}, {"attention_bias": True}, {"rope_theta": 500.0}]


@pytest.mark.parametrize("changes", UNWRITABLE, ids=lambda changes: next(iter(changes)))
def test_what_its_files_cannot_say_is_not_written(changes, tmp_path):
    model = kn.BaichuanCausalLM(**llama_like.SMALL | changes)
    with pytest.raises(ValueError, match="has no place for.*\n.*" + next(iter(changes))):
        kn.to_pretrained(model, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_unknown_position():
    with pytest.raises(ValueError, match="learned"):
        kn.Baichuan(**llama_like.SMALL, position="learned")


def test_half_precision():
    model = kn.BaichuanCausalLM(**llama_like.SMALL, position="alibi", normalized_head=True, dtype="mixed_float16")
    llama_like.assert_half_precision(model, "mixed_float16")


def test_normalized_head_does_not_see_lengths():
    model = kn.BaichuanCausalLM(**llama_like.SMALL, normalized_head=True)
    ids = parity.some_ids(VOCAB)
    before = parity.to_numpy(model(ids))
    model.head.kernel.assign(keras.ops.multiply(model.head.kernel, np.linspace(0.1, 9, VOCAB, dtype="float32")))
    parity.assert_close(model(ids), before)


PUBLISHED = {
    "baichuan-7b": 7_000_559_616,
    "baichuan-13b": 13_264_901_120,
    "baichuan2-7b": 7_505_973_248,
    "baichuan2-13b": 13_896_668_160,
}


def test_presets_have_the_published_sizes():
    model = kn.BaichuanCausalLM(**llama_like.SMALL)
    assert model.count_params() == llama_like.count(model.config)
    counted = {name: llama_like.count(kn.Baichuan.Config(**preset)) for name, preset in kn.Baichuan.presets.items()}
    assert counted == PUBLISHED
    for name, (_, position, normalized_head) in PUBLISHED_CONFIGS.items():
        config = kn.Baichuan.Config(**kn.Baichuan.presets[name])
        assert (config.position, config.normalized_head) == (position, normalized_head)
