"""The files of a checkpoint: what each kind may hold, what is refused, and that nothing runs or is half-written."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

import kerasnets as kn
from kerasnets import formats
from tests.models.parity import to_numpy

SMALL = dict(vocab_size=20, hidden_size=8, num_layers=2, num_heads=2, max_length=16)
IDS = np.array([[3, 7, 2, 19]], "int32")
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


@pytest.fixture(scope="module")
def model():
    return kn.GPT2CausalLM(**SMALL)


@pytest.fixture
def folder(model, tmp_path):
    kn.to_pretrained(model, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def sharded(model, tmp_path):
    kn.to_pretrained(model, tmp_path / "sharded", max_shard_bytes=2000)
    return tmp_path / "sharded"


def tensors_of(folder):
    return safetensors.numpy.load_file(folder / ONE)


def assert_same(folder, model):
    np.testing.assert_array_equal(to_numpy(kn.from_pretrained(folder)(IDS)), to_numpy(model(IDS)))


def assert_refused(folder, *parts, kind=ValueError):
    with pytest.raises(kind) as error:
        kn.from_pretrained(folder)
    for part in (str(folder), *parts):
        assert part in str(error.value), str(error.value)


# safetensors


def test_shards_and_index(sharded, model):
    shards = sorted(sharded.glob("model-*-of-*.safetensors"))
    assert len(shards) > 2 and not (sharded / ONE).exists()
    index = json.loads((sharded / INDEX).read_text())
    held = {name: shard.name for shard in shards for name in safetensors.numpy.load_file(shard)}
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == 4 * model.count_params()
    sizes = [[tensor.nbytes for tensor in safetensors.numpy.load_file(shard).values()] for shard in shards]
    assert all(sum(size) <= 2000 or len(size) == 1 for size in sizes)
    assert_same(sharded, model)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_read_exactly(folder, kind):
    import ml_dtypes

    dtype = {"bfloat16": ml_dtypes.bfloat16}.get(kind, kind)
    tensors = {name: tensor.astype(dtype) for name, tensor in tensors_of(folder).items()}
    safetensors.numpy.save_file(tensors, folder / ONE)
    loaded = kn.from_pretrained(folder)
    kernel = tensors["transformer.h.1.mlp.c_fc.weight"].astype("float32")
    assert len(np.unique(kernel)) > 100
    np.testing.assert_array_equal(to_numpy(loaded.backbone.blocks[1].feedforward.wide.kernel), kernel)
    np.testing.assert_array_equal(
        to_numpy(loaded.backbone.token_embedding.embeddings), tensors["transformer.wte.weight"].astype("float32")
    )


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "int8", "int64", "bool"])
def test_other_kinds_of_numbers_are_refused(folder, kind):
    name, shape = "transformer.h.0.mlp.c_fc.weight", [8, 32]
    code, size = {"float8_e4m3fn": ("F8_E4M3", 1), "int8": ("I8", 1), "int64": ("I64", 8), "bool": ("BOOL", 1)}[kind]
    write_raw(folder / ONE, tensors_of(folder), {name: (code, shape, bytes(size * 256))})
    assert_refused(folder, f"{name} is stored as {code}")


def write_raw(path, tensors, raw):
    """A safetensors file by hand: {name: float32 array} and {name: (type, shape, bytes)}."""
    stored = {name: ("F32", list(t.shape), np.ascontiguousarray(t).tobytes()) for name, t in tensors.items()} | raw
    header, data = {}, b""
    for name, (code, shape, content) in stored.items():
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_written_by_hand_is_read(folder, model):
    write_raw(folder / ONE, tensors_of(folder), {})
    assert_same(folder, model)


DAMAGES = {
    "truncated": lambda data: data[:-4],
    "half of it": lambda data: data[: len(data) // 2],
    "something behind": lambda data: data + b"\0" * 8,
    "empty": lambda data: b"",
    "three bytes": lambda data: data[:3],
    "header of 2**63 bytes": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "header of a terabyte": lambda data: struct.pack("<Q", 10**12) + data[8:],
    "header longer than the file": lambda data: struct.pack("<Q", len(data)) + data[8:],
    "header cut short": lambda data: struct.pack("<Q", 40) + data[8:],
    "no JSON": lambda data: data[:8] + b"X" + data[9:],
    "overlapping": lambda data: data.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_safetensors(folder, damage):
    data = (folder / ONE).read_bytes()
    damaged = DAMAGES[damage](data)
    assert damaged != data
    (folder / ONE).write_bytes(damaged)
    assert_refused(folder, ONE, "not a whole safetensors file")


def test_a_read_that_fails_halfway(folder, model, monkeypatch):
    """No half-loaded model comes out of it, and the next one is whole."""
    fetch = formats.Safetensors.fetch

    def failing(self, path, name):
        if "h.1." in name and "weight" in name:
            raise OSError("Input/output error")
        return fetch(self, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(formats.Safetensors, "fetch", failing)
        assert_refused(folder, "transformer.h.1.mlp.c_fc.weight", "transformer.h.1.ln_1.weight", "Input/output error")
    assert_same(folder, model)


# index


def change_index(folder, index=INDEX, **places):
    content = json.loads((folder / index).read_text())
    content["weight_map"] |= places
    (folder / index).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "place", ["../elsewhere.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "C:\\x", "..\\x", 7, None]
)
def test_index_pointing_outside(sharded, place):
    (sharded.parent / "elsewhere.safetensors").write_bytes(next(sharded.glob("model-*")).read_bytes())
    change_index(sharded, **{"transformer.wte.weight": place})
    assert_refused(sharded, "transformer.wte.weight", repr(place), "not a file of this folder")


def test_link_out_of_the_folder(sharded):
    shard = sorted(sharded.glob("model-*"))[0]
    shard.rename(sharded.parent / "elsewhere.safetensors")
    shard.symlink_to(sharded.parent / "elsewhere.safetensors")
    assert_refused(sharded, shard.name, "leads out of the folder")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", ONE])
def test_link_in_place_of_a_file(folder, name):
    outside = folder.parent / "outside"
    outside.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    assert_refused(folder, name, "leads out of the folder")


def test_links_within_the_folder_and_the_hub_cache(folder, model):
    (folder / ONE).rename(folder / "blob")
    (folder / ONE).symlink_to("blob")
    assert_same(folder, model)
    snapshot = folder.parent / "models--a--b" / "snapshots" / "abc"
    blobs = snapshot.parent.parent / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, file in {"config.json": "config.json", ONE: "blob"}.items():
        shutil.copy(folder / file, blobs / name)
        (snapshot / name).symlink_to(os.path.join("..", "..", "blobs", name))
    assert_same(snapshot, model)


def test_lost_shards(sharded):
    lost = [shard.name for shard in sorted(sharded.glob("model-*"))[1:3]]
    for name in lost:
        (sharded / name).unlink()
    assert_refused(sharded, INDEX, *lost, kind=FileNotFoundError)


def test_folder_in_place_of_a_file(folder):
    (folder / ONE).unlink()
    (folder / ONE).mkdir()
    assert_refused(folder, ONE, "is not a file")


def test_index_and_files_that_contradict(sharded):
    """In another file than the index says, in two, in none, and not in the index: all are named."""
    first, second = sorted(sharded.glob("model-*"))[:2]
    extra = next(iter(safetensors.numpy.load_file(second)))
    one, two = safetensors.numpy.load_file(first), safetensors.numpy.load_file(second)
    safetensors.numpy.save_file(one | {extra: two[extra], "stray": two[extra]}, first)
    change_index(sharded, ghost=first.name)
    parts = f"tensor {extra} is in", f"tensor stray is in {first.name}, and the index says no file", "tensor ghost"
    assert_refused(sharded, *parts)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{"])
def test_index_without_a_map(sharded, text):
    (sharded / INDEX).write_text(text)
    assert_refused(sharded, INDEX)


def test_the_same_tensor_twice_in_an_index(sharded):
    text = (sharded / INDEX).read_text().replace('"weight_map": {', '"weight_map": {"transformer.wte.weight": "x",')
    (sharded / INDEX).write_text(text)
    assert_refused(sharded, INDEX, "transformer.wte.weight", "more than once")


# .bin


def to_bin(folder, change=lambda state: state, **settings):
    torch = pytest.importorskip("torch", reason="torch writes .bin files: pip install 'kerasnets[torch]'")
    state = {name: torch.tensor(tensor) for name, tensor in tensors_of(folder).items()}
    torch.save(change(state), folder / BIN, **settings)
    (folder / ONE).unlink()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
def test_bin(folder, model, zipped):
    to_bin(folder, _use_new_zipfile_serialization=zipped)
    assert_same(folder, model)


def test_bin_with_parameters_views_and_a_repeated_head(folder, model):
    import torch

    def odd(state):
        wte = torch.nn.Parameter(state["transformer.wte.weight"])
        wide = torch.cat([state["transformer.wpe.weight"], state["transformer.wpe.weight"]], 1)
        return state | {"transformer.wte.weight": wte, "lm_head.weight": wte, "transformer.wpe.weight": wide[:, :8]}

    to_bin(folder, odd)
    assert_same(folder, model)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_bin_of_other_precisions(folder, kind):
    torch = pytest.importorskip("torch", reason="torch writes .bin files: pip install 'kerasnets[torch]'")
    expected = torch.tensor(tensors_of(folder)["transformer.h.1.mlp.c_fc.weight"]).to(getattr(torch, kind)).float()
    to_bin(folder, lambda state: {name: t.to(getattr(torch, kind)) for name, t in state.items()})
    kernel = to_numpy(kn.from_pretrained(folder).backbone.blocks[1].feedforward.wide.kernel)
    np.testing.assert_array_equal(kernel, expected.numpy())


def test_bin_shards(folder, model):
    import torch

    state = {name: torch.tensor(tensor) for name, tensor in tensors_of(folder).items()}
    places = {name: f"pytorch_model-{i % 3}.bin" for i, name in enumerate(state)}
    for file in set(places.values()):
        torch.save({name: state[name] for name in state if places[name] == file}, folder / file)
    (folder / BIN_INDEX).write_text(json.dumps({"weight_map": places}))
    (folder / ONE).unlink()
    assert_same(folder, model)
    change_index(folder, BIN_INDEX, **{"transformer.wte.weight": "../x.bin"})
    assert_refused(folder, "transformer.wte.weight", "../x.bin")


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
def test_code_in_bin_is_not_run(folder, zipped):
    mark = folder.parent / "it ran".replace(" ", "_")
    to_bin(folder, lambda state: state | {"evil": Evil(mark)}, _use_new_zipfile_serialization=zipped)
    assert_refused(folder, BIN, "system")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()  # it would have run


def test_bare_pickle_is_not_run(folder):
    pytest.importorskip("torch")
    mark = folder.parent / "it_ran"
    (folder / BIN).write_bytes(pickle.dumps({"transformer.wte.weight": Evil(mark)}))
    (folder / ONE).unlink()
    assert_refused(folder, BIN)
    assert not mark.exists()


def test_bin_of_other_things(folder):
    to_bin(folder, lambda state: state | {"epoch": 3, "optimizer": {"lr": 0.1}})
    assert_refused(folder, BIN, "epoch", "optimizer")


def test_bin_that_is_no_dict(folder):
    to_bin(folder, lambda state: list(state.values()))
    assert_refused(folder, BIN, "list")


def test_bin_of_other_kinds_of_numbers(folder):
    def odd(state):
        return state | {
            "transformer.ln_f.bias": state["transformer.ln_f.bias"].int(),
            "transformer.wte.weight": state["transformer.wte.weight"].to_sparse(),
        }

    to_bin(folder, odd)
    assert_refused(folder, "transformer.ln_f.bias is stored as int32", "transformer.wte.weight is stored as sparse_coo")


@pytest.mark.parametrize("length", [0, 10, -100])
def test_damaged_bin(folder, length):
    to_bin(folder)
    (folder / BIN).write_bytes((folder / BIN).read_bytes()[:length])
    assert_refused(folder, BIN, "not a whole file")


def test_bin_without_torch(folder, monkeypatch):
    to_bin(folder)
    monkeypatch.setitem(sys.modules, "kerasnets.backend.torch", None)
    with pytest.raises(ModuleNotFoundError, match=rf"{BIN} .*needs torch.*kerasnets\[torch\]"):
        formats.opened(folder)


# writing


def test_files_are_replaced_when_all_are_whole(folder, model, monkeypatch):
    """A write that breaks off, in the first file or the last, leaves the checkpoint that was there."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = kn.GPT2CausalLM(**SMALL | {"num_layers": 1})
    save = safetensors.numpy.save_file
    for fail_at in (1, 2, 4):
        calls = []

        def failing(tensors, path, calls=calls, fail_at=fail_at, **kwargs):
            calls.append(path)
            save(tensors, path, **kwargs)
            if len(calls) == fail_at:
                raise OSError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(safetensors.numpy, "save_file", failing)
            with pytest.raises(OSError, match="No space"):
                kn.to_pretrained(other, folder, max_shard_bytes=1000)
        assert len(calls) == fail_at
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert_same(folder, model)


def test_interrupted_config(folder, model, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(type(model).family.__class__, "write_config", lambda *_: {"x": object()})
    with pytest.raises(TypeError):
        kn.to_pretrained(model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_superfluous_files_go(sharded, model):
    kn.to_pretrained(model, sharded)
    assert sorted(path.name for path in sharded.iterdir()) == ["config.json", ONE]
    assert_same(sharded, model)
    kn.to_pretrained(model, sharded, max_shard_bytes=4000)
    assert not (sharded / ONE).exists() and (sharded / INDEX).exists()
    kn.to_pretrained(model, sharded, max_shard_bytes=2000)
    counts = {path.name.split("-of-")[1] for path in sharded.glob("model-*")}
    assert len(counts) == 1
    assert_same(sharded, model)


# memory

LOADING = """
import pathlib, sys
import kerasnets as kn
def memory(kind):
    return int(pathlib.Path("/proc/self/status").read_text().split(kind)[1].split()[0]) * 1024
kn.from_pretrained(sys.argv[1])
before = memory("VmRSS:")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
model = kn.from_pretrained(sys.argv[2])
for weight in model.weights:  # JAX copies when it likes, unless it is asked for a number
    assert weight.numpy().flat[-1] is not None
print(model.count_params() * 4, memory("VmHWM:") - before)
"""


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_memory(folder, tmp_path, kind):
    """Tensor by tensor and mapped: at its peak, loading takes little more than the model it makes."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("only Linux tells a process its peak memory since a moment")
    large = tmp_path / "large"
    shutil.copytree(folder, large)
    sizes = {"vocab_size": 2000, "n_embd": 1024, "n_layer": 8, "n_positions": 64}
    (large / "config.json").write_text(json.dumps(json.loads((large / "config.json").read_text()) | sizes))
    tensors = {name: np.ones(shape, "float32") for name, shape in shapes_of(2000, 1024, 8, 64).items()}
    safetensors.numpy.save_file(tensors, large / ONE)
    if kind == "bin":
        to_bin(large)
        to_bin(folder)
    run = [sys.executable, "-c", LOADING, str(folder), str(large)]
    found = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    size, growth = map(int, found)
    print(f"{growth / size:.2f} times the model")
    assert size > 400e6
    assert size / 2 < growth < 1.3 * size, growth / size


def shapes_of(words, width, depth, length):
    shapes = {"wte.weight": (words, width), "wpe.weight": (length, width)}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    for i in range(depth):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{norm}.weight": (width,), f"h.{i}.{norm}.bias": (width,)}
        kernels = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}
        for name, (rows, columns) in kernels.items():
            shapes[f"h.{i}.{name}.weight"] = (rows * width, columns * width)
            shapes[f"h.{i}.{name}.bias"] = (columns * width,)
    return shapes
