"""The command line: what there is, what a checkpoint holds, and why it would be refused."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets import cli

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("safetensors")
SMALL = dict(vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, max_length=20)


def invoke(*arguments):
    from typer.testing import CliRunner

    return CliRunner().invoke(cli.make_app(), list(map(str, arguments)))


def python(*arguments, **environment):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": keras.config.backend(), **environment}
    return subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    kn.to_pretrained(kn.GPT2CausalLM(**SMALL), tmp_path / "gpt2")
    return tmp_path / "gpt2"


def change_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def change_tensors(folder, change):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def rows(output):
    """{first cell: the other cells} of what was printed."""
    lines = [line.split() for line in output.splitlines() if line.strip()]
    return {line[0]: line[1:] for line in lines}


def test_list():
    result = invoke("list")
    assert result.exit_code == 0
    found = rows(result.output)
    assert found["GPT2"][:5] == ["gpt2", "backbone:", "GPT2,", "causal_lm:", "GPT2CausalLM"]
    assert "gpt2-xl" in found["GPT2"]
    assert set(kn.layers.__all__) <= set(found)
    assert {"CNN", "MLP", "RNN"} <= set(found) and "Model" not in found
    assert found["04_cnn_digits.py"][:3] == ["04", "·", "Small"]


def test_every_family_that_can_be_loaded_is_listed():
    from kerasnets.checkpoint import FAMILIES

    output = invoke("list").output
    for model_type, families in FAMILIES.items():
        assert model_type in output
        assert all(model.__name__ in output for family in families for model in family.tasks.values())


def test_inspect_shows_every_tensor_and_the_weight_it_becomes(folder):
    result = invoke("inspect", folder)
    assert result.exit_code == 0, result.output
    assert "GPT2CausalLM: gpt2, causal_lm" in result.output and "Nothing is refused." in result.output
    found = rows(result.output)
    assert found["hidden_size"] == ["16"]
    place = "backbone.blocks.1.attention.query_key_value.kernel"
    assert found["transformer.h.1.attn.c_attn.weight"] == ["16×48", "F32", place, "16×48"]
    model = kn.from_pretrained(folder)
    places = set(cli.weight_places(model).values())
    assert len(places) == len(model.weights) and places <= set(result.output.split())
    assert f"{model.count_params():,} parameters" in result.output
    assert f"{4 * model.count_params() / 1e6:.1f} MB of memory as float32" in result.output
    assert "28 tensors" in result.output


def test_inspect_of_another_task(folder):
    result = invoke("inspect", folder, "--task", "backbone")
    assert result.exit_code == 0, result.output
    assert rows(result.output)["transformer.ln_f.bias"] == ["16", "F32", "final_norm.beta", "16"]
    result = invoke("inspect", folder, "--task", "translator")
    assert result.exit_code == 1 and "translator" in result.output


def test_all_problems_of_the_tensors_are_told_at_once(folder):
    def spoil(tensors):
        del tensors["transformer.ln_f.bias"]
        tensors["transformer.h.0.ln_1.weight"] = np.ones(17, "float32")
        tensors["transformer.h.0.ln_1.bias"] = np.ones(16, "int32")
        tensors["odd"] = np.ones(1, "float32")

    change_tensors(folder, spoil)
    result = invoke("inspect", folder)
    assert result.exit_code == 1
    for problem in (
        "missing: transformer.ln_f.bias",
        "not expected: odd",
        "transformer.h.0.ln_1.weight has shape (17,), expected (16,)",
        "transformer.h.0.ln_1.bias is stored as I32",
    ):
        assert problem in result.output
    assert "Refused, 4 problems" in result.output
    assert rows(result.output)["odd"] == ["1", "F32", "refused"]
    with pytest.raises(ValueError, match="missing: transformer.ln_f.bias"):
        kn.from_pretrained(folder)


def test_more_problems_than_an_error_shows(folder):
    change_tensors(folder, lambda tensors: tensors.update({f"odd.{i}": np.ones(1, "float32") for i in range(60)}))
    result = invoke("inspect", folder)
    assert result.exit_code == 1 and all(f"not expected: odd.{i}\n" in result.output for i in range(60))


def test_what_is_not_needed_is_named(folder):
    change_tensors(folder, lambda tensors: tensors.update({"h.0.attn.bias": np.ones((1, 1, 20, 20), "float32")}))
    result = invoke("inspect", folder)
    assert result.exit_code == 0, result.output
    assert rows(result.output)["h.0.attn.bias"] == ["1×1×20×20", "F32", "not", "needed"]


def test_a_config_that_cannot_be_followed(folder):
    change_config(folder, n_head=-1, quantization_config={"bits": 4})
    result = invoke("inspect", folder)
    assert result.exit_code == 1
    assert "n_head must be a positive integer; it is -1" in result.output and "quantization_config" in result.output
    assert rows(result.output)["transformer.ln_f.bias"] == ["16", "F32", "-"], "the tensors are shown all the same"
    change_config(folder, model_type="unheard of")
    result = invoke("inspect", folder)
    assert result.exit_code == 1 and "'unheard of'" in result.output


@pytest.mark.parametrize("name", ["nowhere", "empty", "cut", "not json"])
def test_files_that_are_none(folder, name):
    if name == "nowhere":
        folder = folder / "nowhere"
    elif name == "empty":
        (folder / "model.safetensors").unlink()
    elif name == "cut":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-9])
    else:
        (folder / "config.json").write_text("{")
    result = invoke("inspect", folder)
    assert result.exit_code == 1 and "Refused, 1 problem:" in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception


def test_a_model_larger_than_it_may_be_takes_no_memory(tmp_path):
    """Two gigabytes of tensors in a file of which only the header is written."""
    pytest.importorskip("resource", reason="Windows tells no peak memory")
    config = dict(SMALL, vocab_size=1_000_000, hidden_size=512)
    kn.to_pretrained(kn.GPT2CausalLM(**SMALL), tmp_path)
    change_config(tmp_path, vocab_size=config["vocab_size"], n_embd=config["hidden_size"])
    header, end = {}, 0
    for name, shape in gpt2_shapes(config).items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    code = """
import resource, sys
from kerasnets import cli
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
assert cli.inspect(sys.argv[1]) == 0
print("took", (peak() - before) // 10**6)
"""
    result = python("-c", code, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2,073.3 MB of memory" in result.stdout
    assert int(result.stdout.split()[-1]) < 600, "megabytes"


def gpt2_shapes(config):
    """{tensor: shape} of a GPT-2 of these sizes."""
    d = config["hidden_size"]
    shapes = {"wte.weight": (config["vocab_size"], d), "wpe.weight": (20, d)}
    parts = {"ln_1": (d,), "attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "ln_2": (d,), "mlp.c_fc": (d, 4 * d)}
    parts["mlp.c_proj"] = (4 * d, d)
    parts = {f"h.{i}.{name}": shape for i in range(config["num_layers"]) for name, shape in parts.items()}
    for name, shape in {**parts, "ln_f": (d,)}.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}
    return {f"transformer.{name}": shape for name, shape in shapes.items()}


def test_version_and_help():
    assert invoke("--version").output == f"kerasnets {kn.__version__}\n"
    result = invoke("--help")
    assert result.exit_code == 0 and "inspect" in result.output and "list" in result.output


def test_wrong_backend():
    result = invoke("list", "--backend", "abacus")
    assert result.exit_code == 2 and "abacus" in result.output


def test_another_backend_takes_another_process(folder):
    """As a program of its own; what that process prints and how it exits are the answer."""
    others = [name for name in ("jax", "torch", "tensorflow") if importlib.util.find_spec(name)]
    other = next((name for name in others if name != keras.config.backend()), keras.config.backend())
    change_config(folder, n_layer=3)
    result = python("-m", "kerasnets.cli", "inspect", folder, "--backend", other)
    assert result.returncode == 1 and "missing: transformer.h.2.attn.c_attn.weight" in result.stdout


def test_the_backend_is_the_one_that_was_asked_for():
    from kerasnets.backend.select import elsewhere

    assert elsewhere(None, "-c", "raise SystemExit(7)") is None
    assert elsewhere(keras.config.backend(), "-c", "raise SystemExit(7)") is None
    other = "jax" if keras.config.backend() != "jax" else "torch"
    if importlib.util.find_spec(other):
        code = f"import os; raise SystemExit(5 if os.environ['KERAS_BACKEND'] == {other!r} else 6)"
        assert elsewhere(other, "-c", code) == 5


def test_without_typer_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == "The command line of kerasnets needs typer: pip install 'kerasnets[hub]'"


CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)


@pytest.fixture
def writer(tmp_path):
    """A folder with a model of random weights that writes any bytes, and its tokenizer."""
    pytest.importorskip("tokenizers")
    tokenizer = kn.Tokenizer.train(["the cat sat on the mat, 猫坐在垫子上"] * 5, "bpe", vocab_size=300)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path / "writer")
    keras.utils.set_random_seed(3)
    model = kn.GPT2CausalLM(**SMALL | {"vocab_size": tokenizer.vocab_size, "max_length": 128})
    for weight in model.weights:
        weight.assign(weight * 8 if len(weight.shape) == 2 else weight)
    kn.to_pretrained(model, tmp_path / "writer")
    return tmp_path / "writer"


def test_generate_shows_what_the_model_writes(writer):
    model, tokenizer = kn.from_pretrained(writer), kn.Tokenizer.from_pretrained(writer)
    prompt = "猫 sat"
    ids = tokenizer.encode(prompt)
    settings = dict(sampler=(kn.samplers.Temperature(1.5), kn.samplers.TopK(250)), seed=4)
    new = model.generate([ids], 40, stop_tokens=(tokenizer.eos_token_id,), **settings)[0].tolist()
    options = ["--temperature", 1.5, "--top-k", 250, "--seed", 4]
    result = invoke("generate", writer, prompt, "--max-new-tokens", 40, *options)
    assert result.exit_code == 0, result.output
    text = tokenizer.decode(ids + new)
    assert "\ufffd" in text and result.stdout == text + "\n"  # some bytes make no character, those alone are shown so
    assert f"{len(new)} tokens, the first after" in result.output and "tokens/s" in result.output


def test_half_a_character_waits_for_its_other_half(writer, capsys, monkeypatch):
    from kerasnets import chat

    writes = chat.Writer(writer)
    ids = writes.tokenizer.encode("a 子 b")
    assert len(ids) > 5 or "\ufffd" in writes.tokenizer.decode(ids[:3]), "no character is cut"
    shown = []
    monkeypatch.setattr(writes.model, "stream", lambda *_, **__: iter([[i] for i in ids]))
    monkeypatch.setattr("builtins.print", lambda text, **_: shown.append(text))
    assert writes.write([1]) == "a 子 b"
    assert "".join(shown) == "a 子 b" and not any("\ufffd" in text for text in shown)


def test_generate_explained_and_in_8_bits(writer):
    result = invoke("generate", writer, "the", "--max-new-tokens", 4, "--explain", "--quantize", "int8")
    assert result.exit_code == 0, result.output
    model, tokenizer = kn.from_pretrained(writer, quantize="int8"), kn.Tokenizer.from_pretrained(writer)
    new = model.generate([tokenizer.encode("the")], 4)
    assert result.stdout.startswith(tokenizer.decode([*tokenizer.encode("the"), *new[0].tolist()]))
    assert "entropy" in result.stdout and "most probable" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "0", "--top-k", "5"], "leave top-k"),
        (["--quantize", "int3"], "received 'int3'"),
        (["--max-new-tokens", "1000"], "exceed the 128"),
        (["--top-p", "2"], "TopP"),
    ],
)
def test_generate_refuses_in_one_line(writer, arguments, words):
    result = invoke("generate", writer, "the", *arguments)
    assert result.exit_code == 1 and words in result.output, result.output
    assert isinstance(result.exception, SystemExit)


def test_chat_remembers_what_was_said(writer, monkeypatch):
    from kerasnets import chat

    prompts, answer = [], chat.Writer.write

    def write(self, prompt, before=()):
        prompts.append(self.tokenizer.decode(list(prompt)))
        return answer(self, prompt, before)

    monkeypatch.setattr(chat.Writer, "write", write)
    said = ["the cat", "/explain", "a mat", "/reset", "/what", "", "the mat", "/exit", "not read"]
    result = talk(writer, said, "--system", "be a cat", "--max-new-tokens", 5)
    assert result.exit_code == 0, result.output
    first = "<system>be a cat<user>the cat<answer>"
    assert prompts[0] == first and prompts[2] == "<system>be a cat<user>the mat<answer>" and len(prompts) == 3
    assert prompts[1].startswith("<system>be a cat<user>the cat<assistant>") and prompts[1].endswith("a mat<answer>")
    assert result.output.count("tokens/s") == 3 and "entropy" in result.output and "forgotten" in result.output


def talk(folder, lines, *options):
    from typer.testing import CliRunner

    arguments = list(map(str, ["chat", folder, *options]))
    return CliRunner().invoke(cli.make_app(), arguments, input="\n".join(lines) + "\n")


def test_chat_forgets_the_oldest_when_it_grows_too_long(writer):
    result = talk(writer, ["the cat sat on the mat"] * 6, "--max-new-tokens", 20)
    assert result.exit_code == 0 and "oldest question" in result.output, result.output
    assert result.output.count("tokens/s") == 6
    result = talk(writer, ["the cat sat on the mat" * 20, "the cat"], "--max-new-tokens", 20)
    assert "exceed the 128" in result.output and result.output.count("tokens/s") == 1


def test_an_interrupted_answer_is_kept(writer, capsys, monkeypatch):
    from kerasnets import chat

    writes = chat.Writer(writer, max_new_tokens=9)
    stream = type(writes.model).stream

    def interrupted(*arguments, **settings):
        steps = stream(writes.model, *arguments, **settings)
        yield next(steps)
        yield next(steps)
        raise KeyboardInterrupt

    monkeypatch.setattr(writes.model, "stream", interrupted, raising=False)
    text = writes.write([40, 41])
    monkeypatch.undo()
    assert len(writes.ids) == 2 and text == writes.tokenizer.decode(writes.ids)
    begun = list(writes.ids)
    assert writes.write([40, 41]).startswith(text.rstrip("\ufffd")) and writes.ids[:2] == begun  # it goes on as ever


def test_no_chat_without_a_template(writer):
    (writer / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((writer / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (writer / "tokenizer_config.json").write_text(json.dumps(settings))
    result = talk(writer, ["the cat"])
    assert result.exit_code == 1 and "no chat template" in result.output
