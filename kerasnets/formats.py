"""The files of a checkpoint, opened tensor by tensor: safetensors, .bin, GGUF; one file or several with an index.

Nothing is executed and nothing outside the folder is read. `opened` gives a checkpoint's config.json as a dict and its
tensors as an object with `names()`, `shape(name)` and `read(name)` → NumPy array.
"""

import json
import math
import os
import pathlib

import numpy as np

from kerasnets.fields import refuse

PART = 1 / 16  # of a mapped file may be read before it is mapped anew, since what was read stays in memory
OF_TARGETS = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
OF_TARGETS += ("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids")


def opened(source):
    """(config.json as a dict, its tensors) of a folder, a GGUF file or a hub id."""
    path = located(source)
    if path.is_file():
        from kerasnets import gguf

        return gguf.opened(path)
    values = read_json(within(path, "config.json"))
    if (path / "generation_config.json").exists():
        extra = read_json(within(path, "generation_config.json"))
        values["eos_token_id"] = all_ends(values.get("eos_token_id"), extra.get("eos_token_id"))
        if values.get("is_encoder_decoder"):  # newer files say only here how a target is to be written
            values |= {name: extra[name] for name in OF_TARGETS if values.get(name) is None and name in extra}
    return values, tensors_of(path)


def all_ends(*found):
    """Every end-of-sequence id that one of the two files names; None where neither does."""
    ids = [i for value in found if value is not None for i in (value if isinstance(value, list) else [value])]
    return [end for n, end in enumerate(ids) if end not in ids[:n]] or None


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
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        folder = pathlib.Path(huggingface_hub.snapshot_download(str(source), allow_patterns=patterns))
        if not list(folder.glob("*.safetensors")):
            huggingface_hub.snapshot_download(str(source), allow_patterns=["pytorch_model*.bin"])
        return folder
    except Exception as error:
        raise FileNotFoundError(f"{source} is not a folder here, and the hub did not give it: {error}") from None


def within(folder, name):
    """The path of a file of `folder`, which a link must not lead out of; the hub's cache links to its own blobs."""
    home, path = folder.resolve(), folder / name
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in homes):
        raise ValueError(f"{path} is a link that leads out of the folder, to {path.resolve()}.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file.")
    return path


def read_json(path):
    """A JSON file as a dict, or one error that names it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_repeats)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} has no {path.name}.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object; it holds {type(values).__name__}.")
    return values


def without_repeats(pairs):
    """The dict of a JSON object, which must not say the same thing twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{sorted({name for name in names if names.count(name) > 1})} more than once")
    return values


def tensors_of(folder):
    """The tensors of a folder: safetensors where there are any, else .bin."""
    for stem, kind in (("model.safetensors", Safetensors), ("pytorch_model.bin", Bins)):
        if (folder / stem).exists():
            return kind([within(folder, stem)])
        if (folder / f"{stem}.index.json").exists():
            return kind(*shards_of(folder, f"{stem}.index.json"))
    raise FileNotFoundError(f"{folder} has no model.safetensors and no pytorch_model.bin, nor an index of either.")


def shards_of(folder, index):
    """(files, {tensor: file}) of an index; every file lies in the folder itself."""
    weight_map = read_json(within(folder, index)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder / index} has no weight_map.")
    for name, file in weight_map.items():
        if not isinstance(file, str) or pathlib.PureWindowsPath(file).name != file or file in ("", ".", ".."):
            raise ValueError(f"{folder / index}: tensor {name} points to {file!r}, which is not a file of this folder.")
    lost = sorted(file for file in set(weight_map.values()) if not (folder / file).exists())
    if lost:
        raise FileNotFoundError(f"{folder / index} names the files {lost}, which are not there.")
    places = {name: within(folder, file) for name, file in weight_map.items()}
    return list(dict.fromkeys(places.values())), places


class Tensors:
    """What the kinds of files share: which file a tensor is in, its shape and how its numbers are stored.

    A kind of file says what `contents(path)` are, (name, shape, stored as) each, and what it can `fetch(path, name)`.
    """

    readable = ()  # ways of storing numbers that `fetch` turns into floats, exactly

    def __init__(self, files, index=None):
        self.found, self.shapes, self.stored, errors = {}, {}, {}, []
        for path in files:
            for name, shape, stored in self.contents(path):
                if name in self.found:
                    errors.append(f"tensor {name} is in {self.found[name].name} and in {path.name}")
                self.found[name], self.shapes[name], self.stored[name] = path, tuple(shape), stored
        for name in sorted({*index, *self.found} if index is not None else ()):
            claimed, real = (getattr(places.get(name), "name", "no file") for places in (index, self.found))
            errors += [f"tensor {name} is in {real}, and the index says {claimed}"] if claimed != real else []
        refuse(f"{files[0].parent}: the files contradict each other", errors)

    def names(self):
        return list(self.found)

    def shape(self, name):
        return self.shapes[name]

    def total(self):
        """How many numbers there are in all."""
        return sum(map(math.prod, self.shapes.values()))

    def check_sizes(self, fields, source):
        """Refuse sizes in {field: value} that these tensors cannot fill, before memory is asked for."""
        limits = dict.fromkeys(("vocab_size", "hidden_size", "feedforward_size"), self.total())
        limits |= {name: len(self.shapes) for name in fields if name.endswith("layers")}
        found = [f"{name} {fields[name]}" for name, limit in limits.items() if (fields.get(name) or 0) > limit]
        if found:
            raise ValueError(f"{source}: config.json asks for {', '.join(found)}, more than the tensors could fill.")

    def label(self, name):
        """What the file itself calls this tensor."""
        return name

    def problems(self, name, shape):
        """Why a tensor is not one of this shape that can be read here."""
        label, stored, found = self.label(name), self.stored[name], self.shapes[name]
        problems = [f"{label} has shape {found}, expected {shape}"] if found != shape else []
        unread = f"{label} is stored as {stored}; what is read here is {', '.join(self.readable)}"
        return problems + [unread] * (stored not in self.readable)

    def read(self, name):
        try:
            return self.fetch(self.found[name], name)
        except Exception as error:
            raise ValueError(f"{self.found[name]}: tensor {self.label(name)} cannot be read: {error}") from error

    def equal(self, name, twin):
        """Whether two tensors are the same."""
        if any(self.problems(n, self.shapes[twin]) for n in (name, twin)):
            return False
        return np.array_equal(self.read(name), self.read(twin), equal_nan=True)


class Safetensors(Tensors):
    """huggingface/safetensors: a header of names, types, shapes and places, then the numbers.

    The file is mapped anew for each tensor, so that what was read does not stay in memory.
    """

    readable = ("F32", "F16", "BF16", "F64")

    def contents(self, path):
        import safetensors

        try:
            with safetensors.safe_open(path, framework="np") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no dict
                return [(name, s.get_shape(), s.get_dtype()) for name, s in slices.items()]
        except Exception as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error

    def fetch(self, path, name):
        import safetensors

        with safetensors.safe_open(path, framework="np") as file:
            return file.get_tensor(name)


class Bins(Tensors):
    """torch's .bin files, through its `weights_only` reader, which executes nothing; needs torch on every backend."""

    readable = ("float32", "float16", "bfloat16", "float64")

    def __init__(self, files, index=None):
        self.mapped, self.fetched = {}, 0
        super().__init__(files, index)
        self.mapped.clear()

    def contents(self, path):
        return [(name, tensor.shape, stored_as(tensor)) for name, tensor in self.tensors(path).items()]

    def fetch(self, path, name):
        tensor = self.tensors(path)[name].detach()
        array = tensor.numpy() if self.stored[name].startswith("float") else tensor.float().numpy()
        self.fetched += array.nbytes
        return array

    def tensors(self, path):
        """{name: torch tensor} of one file, mapped anew once much of it has been read."""
        if path not in self.mapped or self.fetched > PART * path.stat().st_size:
            self.mapped, self.fetched = {path: torch_reader(path)(path)}, 0
        return self.mapped[path]


def stored_as(tensor):
    """A torch tensor's way of storing numbers: float32, or sparse_coo float32."""
    dtype, layout = (str(text).removeprefix("torch.") for text in (tensor.dtype, tensor.layout))
    return dtype if layout == "strided" else f"{layout} {dtype}"


def torch_reader(path):
    """torch's reader of .bin files, whichever backend is active."""
    try:
        from kerasnets.backend.torch import read_bin
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path} is in torch's format and needs torch on every backend: pip install 'kerasnets[torch]'"
        ) from None
    return read_bin


def write(folder, sizes, tensor_of, max_shard_bytes, texts):
    """Write the tensors of `sizes`, {name: bytes}, as model.safetensors or as several with an index, and {file: text}.

    No file is replaced until all are written under other names; what the new ones make superfluous goes last.
    """
    from safetensors.numpy import save_file

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = shards_by_size(sizes, max_shard_bytes)
    number, one, index = len(shards), "model.safetensors", "model.safetensors.index.json"
    files = [one] if number == 1 else [f"model-{i + 1:05}-of-{number:05}.safetensors" for i in range(number)]
    if number > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        content = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        texts = {index: json.dumps(content, indent=2) + "\n", **texts}
    new = [*files, *texts]
    try:
        for file, names in zip(files, shards, strict=True):
            save_file({name: tensor_of(name) for name in names}, folder / f"{file}.part", metadata={"format": "pt"})
        for file, text in texts.items():
            (folder / f"{file}.part").write_text(text, encoding="utf-8")
        for file in new:
            os.replace(folder / f"{file}.part", folder / file)
    finally:
        for file in new:
            (folder / f"{file}.part").unlink(missing_ok=True)
    for old in {*folder.glob("model-*-of-*.safetensors"), folder / one, folder / index}:
        if old.name not in new:
            old.unlink(missing_ok=True)


def shards_by_size(sizes, max_shard_bytes):
    """The names of each file, in order; a file is no longer than asked for, unless by a single tensor."""
    shards, size = [[]], 0
    for name, nbytes in sizes.items():
        if shards[-1] and size + nbytes > max_shard_bytes:
            shards, size = [*shards, []], 0
        shards[-1].append(name)
        size += nbytes
    return shards
