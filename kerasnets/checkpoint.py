"""Checkpoints in the Hugging Face format: the weights are a table, read in both directions, exactly or not at all.

    model = kn.from_pretrained("folder, GGUF file or hub id")     kn.to_pretrained(model, "folder")

A family says which fields its config.json has, and which tensor is which weight; `Family` holds both tables. Every
field is used, known to do nothing, or refused; every tensor is used or known to be superfluous. Whatever is wrong is
one `ValueError` that lists it all, and nothing is loaded then.
"""

import dataclasses
import json
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np
from keras import ops

from kerasnets import formats
from kerasnets.fields import Fields
from kerasnets.layers.layer import blank_weights

FAMILIES = {}  # model_type: its family; each family's file enters itself
SHARD = 5 * 10**9  # bytes of one file


class Transform(NamedTuple):
    """How a tensor of the file becomes the weights of a row, and back."""

    read: object  # (tensor, shapes of the weights) → arrays
    write: object  # arrays → tensor


same = Transform(lambda tensor, shapes: [tensor], lambda arrays: arrays[0])
# A torch Linear is [out, in] where a kernel is (in, out); several weights stand in one tensor one below the other.
transposed = Transform(
    lambda tensor, shapes: np.split(tensor.T, np.cumsum([shape[-1] for shape in shapes])[:-1], axis=-1),
    lambda arrays: np.concatenate(arrays, axis=-1).T if len(arrays) > 1 else arrays[0].T,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What a family's checkpoints hold: the fields of config.json and the names of the tensors.

    `weights` rows are (name in the file, path in the backbone, transform); `{i}` counts the blocks, a tuple of paths
    means several weights in one tensor, and a weight that this model's config does without drops its row.
    """

    model_types: tuple
    tasks: dict  # task: class
    architectures: dict  # name in config.json: task
    fields: dict  # name in config.json: field of `Config`
    weights: list
    heads: dict = dataclasses.field(
        default_factory=dict
    )  # task: rows like those of `weights`, paths in the task's model
    prefix: str = ""  # what precedes a backbone's names in the file of a task
    choices: dict = dataclasses.field(default_factory=dict)  # field of `Config`: the values that are done here
    expected: dict = dataclasses.field(default_factory=dict)  # name in config.json: the only values that are done here
    harmless: tuple = ()  # names in config.json without effect on the outputs
    ignored: tuple = ()  # patterns of tensors that hold nothing learned
    renamed: tuple = ()  # (pattern, replacement) for the names of older files
    repeated: dict = dataclasses.field(default_factory=dict)  # tensor: the one it must equal where the head is tied
    read: object = None  # (Fields, {field: value} so far) → {field: value}: what a table cannot say
    write: object = None  # (config, {name: value} so far) → {name: value}
    recognises: object = None  # (config.json as a dict) → bool, where several families share a model_type

    def register(self):
        for name in self.model_types:
            FAMILIES.setdefault(name, []).append(self)
        for task, model in self.tasks.items():
            model.family, model.task = self, task
        return self

    def read_config(self, values, source):
        """config.json → the fields of `Config`; raises for all that is wrong or not done here."""
        fields = Fields(values, source)
        config = fields.read_all(self.tasks["backbone"].Config, self.fields, self.choices)
        fields.expect(self.expected)
        fields.skip(self.harmless)
        config = self.read(fields, config) if self.read else config
        fields.finish()
        return config

    def write_config(self, model):
        values = {theirs: getattr(model.config, ours) for theirs, ours in self.fields.items()}
        values |= {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        values |= {name: allowed[0] for name, allowed in self.expected.items()}
        values["architectures"] = [name for name, task in self.architectures.items() if task == model.task][:1]
        values = {"model_type": self.model_types[0], **values}
        return self.write(model.config, values) if self.write else values

    def rows(self, model):
        """{name in the file: (transform, weights)} of a model."""
        is_backbone = model.task == "backbone"
        prefix, body = ("", model) if is_backbone else (self.prefix, model.backbone)
        rows = expanded(self.weights, body, prefix)
        return rows | expanded(self.heads.get(model.task, []), model, "")

    def known_heads(self, model):
        """Names of the tensors that another task's model would take."""
        return {row[0] for task, rows in self.heads.items() if task != model.task for row in rows}


def expanded(table, model, prefix):
    rows = {}
    for name, paths, *transform in table:
        for i in range(model.config.num_layers) if "{i}" in name else [0]:
            paths_here = [path.format(i=i) for path in ([paths] if isinstance(paths, str) else paths)]
            weights = [weight for weight in (follow(model, path) for path in paths_here) if weight is not None]
            if weights:
                rows[prefix + name.format(i=i)] = (*(transform or [same]), weights)
    return rows


def follow(thing, path):
    """The weight at a dotted path, None where a layer on the way or the weight is None."""
    for step in path.split("."):
        thing = thing[int(step)] if step.isdigit() else getattr(thing, step)
        if thing is None:
            return None
    return thing


def from_pretrained(source, task=None, dtype=None):
    """The model of a checkpoint, on the active backend.

    source: a folder with config.json and its tensors (safetensors or .bin, in shards or not), a GGUF file, or a hub id.
    task: "backbone", "causal_lm", …; config.json decides where it is None. dtype: a Keras dtype policy.

    Raises `FileNotFoundError` where nothing is there, and `ValueError` for what cannot be loaded exactly.
    """
    values, tensors = formats.opened(source)
    family = family_of(values, source)
    task = task or family.architectures.get((values.get("architectures") or [None])[0], "backbone")
    if task not in family.tasks:
        raise ValueError(
            f"{source}: {values['model_type']} has the tasks {sorted(family.tasks)}; received task={task!r}."
        )
    fields = family.read_config(values, source)
    with blank_weights():
        model = family.tasks[task](**fields, dtype=dtype)
    load(model, tensors, source)
    return model


def family_of(values, source):
    """The family that a config.json names."""
    candidates = FAMILIES.get(values.get("model_type"), [])
    found = [family for family in candidates if family.recognises is None or family.recognises(values)]
    if not found:
        raise ValueError(
            f"{source}: config.json has model_type {values.get('model_type')!r}; known are {sorted(FAMILIES)}."
        )
    return found[0]


def load(model, tensors, source):
    """Give each weight its tensor, one after the other; nothing is changed if one is missing, superfluous or odd."""
    rows = model.family.rows(model)
    names = named(model, tensors, rows)
    errors = [f"missing: {name}" for name in rows if name not in names]
    errors += [f"not expected: {names[name]}" for name in names if name not in rows]
    for name in rows.keys() & names.keys():
        transform, weights = rows[name]
        expected = transform.write([np.empty(tuple(weight.shape), "int8") for weight in weights]).shape
        found = tuple(tensors.shape(names[name]))
        errors += [f"{names[name]} has shape {found}, expected {expected}"] if found != expected else []
    if errors:
        shown = "\n  ".join(sorted(errors)[:40]) + (f"\n  … and {len(errors) - 40} more" if len(errors) > 40 else "")
        raise ValueError(f"{source}: the tensors do not fit {type(model).__name__}:\n  {shown}")
    for name, (transform, weights) in rows.items():
        arrays = transform.read(tensors.read(names[name]), [weight.shape for weight in weights])
        for weight, array in zip(weights, arrays, strict=True):
            weight.assign(array)


def named(model, tensors, rows):
    """{name as in `rows`: name in the file}, without those that are known to be superfluous."""
    family, names = model.family, {}
    prefix = family.prefix
    for original in tensors.names():
        name = original
        for pattern, replacement in family.renamed:
            name = re.sub(pattern, replacement, name)
        bare = name.removeprefix(prefix) if prefix else name
        if any(re.fullmatch(pattern, bare) for pattern in family.ignored):
            continue
        name = next((n for n in (name, bare, prefix + bare) if n in rows), name)
        if name not in rows and model.task == "backbone" and name in family.known_heads(model):
            continue
        twin = family.repeated.get(name)
        if name not in rows and twin and tensors.equal(original, twin, prefix):
            continue
        names[name] = original
    return names


def to_pretrained(model, folder, max_shard_bytes=SHARD):
    """Write `model` as a Hugging Face checkpoint, config.json and safetensors, that transformers loads and agrees with.

    Each file is written under another name and renamed when it is whole. Raises `ValueError` for a model without
    a checkpoint format.
    """
    if getattr(model, "family", None) is None:
        raise ValueError(f"{type(model).__name__} has no checkpoint format; model.save('x.keras') keeps any model.")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards, size = [{}], 0
    for name, (transform, weights) in model.family.rows(model).items():
        shape = transform.write([np.empty(tuple(weight.shape), "int8") for weight in weights])
        if size and size + 4 * shape.size > max_shard_bytes:
            shards, size = [*shards, {}], 0
        shards[-1][name], size = (transform, weights), size + 4 * shape.size
    formats.write_shards(folder, shards, lambda row: written(*row))
    text = json.dumps(model.family.write_config(model) | {"dtype": "float32"}, indent=2) + "\n"
    temporary = folder / "config.json.part"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / "config.json")


def written(transform, weights):
    """The tensor of one row."""
    return np.ascontiguousarray(transform.write([ops.convert_to_numpy(weight).astype("float32") for weight in weights]))
