"""The files of a checkpoint, opened tensor by tensor: safetensors, .bin, GGUF; one file or several with an index.

Nothing is executed and nothing outside the folder is read. `opened` gives a checkpoint's config.json as a dict and its
tensors as an object with `names()`, `shape(name)` and `read(name)` → NumPy array.
"""

import contextlib
import json
import os
import pathlib

import numpy as np


def opened(source):
    """(config.json as a dict, its tensors) of a folder, a GGUF file or a hub id."""
    path = located(source)
    if path.is_file():
        from kerasnets import gguf

        return gguf.opened(path)
    values = read_json(path / "config.json")
    extra = path / "generation_config.json"
    if extra.exists():
        values["eos_token_id"] = all_ends(values.get("eos_token_id"), read_json(extra).get("eos_token_id"))
    return values, tensors_of(path)


def all_ends(*found):
    """Every end-of-sequence id that one of the two files names; None where neither does."""
    ids = [i for value in found if value is not None for i in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(ids)) or None


def located(source):
    """The folder or file on this machine; a hub id is downloaded once."""
    path = pathlib.Path(source)
    if path.exists():
        return path
    if path.is_absolute() or len(path.parts) != 2 or str(source).startswith("."):
        raise FileNotFoundError(f"{source} is neither a folder nor a file here, nor a hub id like 'owner/name'.")
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{source} is not a folder here; hub ids need: pip install 'kerasnets[hub]'"
        ) from None
    try:
        patterns = ["*.json", "*.safetensors", "*.bin", "*.txt", "*.model"]
        return pathlib.Path(huggingface_hub.snapshot_download(str(source), allow_patterns=patterns))
    except Exception as error:
        raise FileNotFoundError(f"{source} is not a folder here, and the hub did not give it: {error}") from None


def read_json(path):
    """A JSON file as a dict, or one error that names it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} has no {path.name}.") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object; it holds {type(values).__name__}.")
    return values


def tensors_of(folder):
    """The tensors of a folder: safetensors where there are any, else .bin."""
    for stem, kind in (("model.safetensors", Safetensors), ("pytorch_model.bin", Bins)):
        if (folder / stem).exists():
            return kind({None: folder / stem})
        if (folder / f"{stem}.index.json").exists():
            return kind(shards_of(folder, f"{stem}.index.json"))
    raise FileNotFoundError(f"{folder} has no model.safetensors and no pytorch_model.bin, nor an index of either.")


def shards_of(folder, index):
    """{tensor: file} of an index; every file lies in the folder itself."""
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{folder / index} has no weight_map.")
    for name, file in weight_map.items():
        if not isinstance(file, str) or pathlib.PurePath(file).name != file or file in ("", ".", ".."):
            raise ValueError(f"{folder / index}: tensor {name} points to {file!r}, which is not a file of this folder.")
        if not (folder / file).exists():
            raise FileNotFoundError(f"{folder / index}: tensor {name} is in {file}, which is not there.")
    return {name: folder / file for name, file in weight_map.items()}


class Tensors:
    """What the kinds of files share: which file a tensor is in. `files` is {tensor: file}, or {None: the one file}."""

    def __init__(self, files):
        self.open_files = {path: self.open(path) for path in dict.fromkeys(files.values())}
        found = {name: path for path, file in self.open_files.items() for name in self.keys(file)}
        lost = [name for name, path in files.items() if name is not None and found.get(name) != path]
        if lost:
            raise ValueError(f"{files[lost[0]]} does not hold the tensor {lost[0]}, as the index says it does.")
        self.found = found

    def names(self):
        return list(self.found)

    def equal(self, name, twin, prefix=""):
        """Whether a repeated tensor is the one it repeats."""
        twin = next((n for n in (twin, prefix + twin, twin.removeprefix(prefix)) if n in self.found), None)
        return twin is not None and np.array_equal(self.read(name), self.read(twin))


class Safetensors(Tensors):
    """huggingface/safetensors: a header of names, types, shapes and places, then the numbers; read where they lie."""

    def open(self, path):
        import safetensors

        try:
            return safetensors.safe_open(path, framework="np")
        except Exception as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from None

    def keys(self, file):
        return file.keys()

    def shape(self, name):
        return self.open_files[self.found[name]].get_slice(name).get_shape()

    def read(self, name):
        try:
            return self.open_files[self.found[name]].get_tensor(name)
        except Exception as error:
            raise ValueError(f"{self.found[name]}: tensor {name} cannot be read: {error}") from None


class Bins(Tensors):
    """torch's .bin files, through its `weights_only` reader, which executes nothing; needs torch on every backend."""

    def open(self, path):
        from kerasnets.backend import pickled

        return pickled.read(path)

    def keys(self, file):
        return list(file)

    def shape(self, name):
        return tuple(self.open_files[self.found[name]][name].shape)

    def read(self, name):
        return self.open_files[self.found[name]][name].float().numpy()


def write_shards(folder, shards, tensor_of):
    """Write model.safetensors, or several with an index; each is renamed when it is whole, old ones go last."""
    from safetensors.numpy import save_file

    number = len(shards)
    names = (
        ["model.safetensors"]
        if number == 1
        else [f"model-{i + 1:05}-of-{number:05}.safetensors" for i in range(number)]
    )
    total = 0
    for file, rows in zip(names, shards, strict=True):
        tensors = {name: tensor_of(row) for name, row in rows.items()}
        total += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, folder / f"{file}.part", metadata={"format": "pt"})
        os.replace(folder / f"{file}.part", folder / file)
    index = folder / "model.safetensors.index.json"
    for old in {*folder.glob("model-*-of-*.safetensors"), index, folder / "model.safetensors"} - {
        folder / n for n in names
    }:
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    if number > 1:
        weight_map = {name: file for file, rows in zip(names, shards, strict=True) for name in rows}
        part = index.with_suffix(".part")
        part.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}), encoding="utf-8")
        os.replace(part, index)
