"""Checkpoints in the Hugging Face format: the weights are a table, read in both directions, exactly or not at all.

    model = kn.from_pretrained("folder, GGUF file or hub id")     kn.to_pretrained(model, "folder")

A family says which fields its config.json has, and which tensor is which weight; `Family` holds both tables. Every
field is used, known to do nothing, or refused; every tensor is used or known to be superfluous. Whatever is wrong is
one `ValueError` that lists it all, and nothing is loaded then.
"""

import dataclasses
import functools
import json
import math
import re
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from kerasnets import formats, quantization
from kerasnets.fields import TOKENS, Fields, kept, refuse
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
    heads: dict = dataclasses.field(default_factory=dict)  # task, or task/variant: rows as above, in the task's model
    prefix: str = ""  # what precedes a backbone's names in the file of a task
    choices: dict = dataclasses.field(default_factory=dict)  # field of `Config`: the values that are done here
    expected: dict = dataclasses.field(default_factory=dict)  # name in config.json: the only values that are done here
    harmless: tuple = ()  # names in config.json without effect on the outputs
    ignored: tuple = ()  # patterns of tensors that hold nothing learned
    renamed: tuple = ()  # (pattern, replacement) for the names of older files
    repeated: dict = dataclasses.field(default_factory=dict)  # tensor: the one it must equal where the head is tied
    read: object = None  # (Fields, {field: value} so far) → {field: value}: what a table cannot say
    write: object = None  # (config, {name: value} so far) → {name: value}
    look: object = None  # (the tensors, {field: value} so far) → {field: value}: what only the tensors say
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
        config = fields.read_more(self.read, config) if self.read else config
        fields.divide(self.tasks["backbone"].Config, config)
        fields.finish()
        return config

    def write_config(self, model):
        values = {"model_type": self.model_types[0]}
        values |= {theirs: getattr(model.config, ours) for theirs, ours in self.fields.items()}
        values |= {name: getattr(model.config, name) for name in TOKENS if hasattr(model.config, name)}
        values |= {name: allowed[0] for name, allowed in self.expected.items()}
        values["architectures"] = [name for name, task in self.architectures.items() if task == model.task][:1]
        values = self.write(model.config, values) if self.write else values
        return kept(model.config, values, self.read_config)

    def rows(self, model):
        """{name in the file: (transform, weights)} of a model."""
        if model.task == "backbone":
            return expanded(self.weights, model, "")
        heads = self.heads.get(getattr(model, "heads_key", model.task), [])
        return expanded(self.weights, model.backbone, self.prefix) | expanded(heads, model, "")

    def known_heads(self, model):
        """Names of the tensors that another task's model would take."""
        own = getattr(model, "heads_key", model.task)
        return {row[0] for key, rows in self.heads.items() if key != own for row in rows}


def expanded(table, model, prefix):
    rows = {}
    depth = max(model.config.num_layers, getattr(model.config, "num_decoder_layers", None) or 0)
    for name, paths, *transform in table:
        for i in range(depth) if "{i}" in name else [0]:
            paths_here = [path.format(i=i) for path in ([paths] if isinstance(paths, str) else paths)]
            weights = [weight for weight in (follow(model, path) for path in paths_here) if weight is not None]
            if weights:
                rows[prefix + name.format(i=i)] = (*(transform or [same]), weights)
    return rows


def follow(thing, path):
    """The weight at a dotted path, None where a layer on the way or the weight is None, or there are fewer blocks."""
    for step in path.split("."):
        if thing is None:
            return None
        thing = dict(enumerate(thing)).get(int(step)) if step.isdigit() else getattr(thing, step)
    return thing


def from_pretrained(source, task=None, dtype=None, quantize=None):
    """The model of a checkpoint, on the active backend.

    source: a folder with config.json and its tensors (safetensors or .bin, in shards or not), a GGUF file, or a hub id.
    task: "backbone", "causal_lm", …; config.json decides where it is None. dtype: a Keras dtype policy.
    quantize: "int8" keeps the matrices in 8 bits (see `kn.quantize`).

    Raises `FileNotFoundError` where nothing is there, and `ValueError` for what cannot be loaded exactly.
    """
    quantization.check_scheme(quantize, also=None)
    values, tensors = formats.opened(source)
    with keras.StatelessScope():  # on leaving it, each weight takes its memory and its numbers, one after the other
        model = described(values, tensors, source, task, dtype)
        rows, names, errors = compared(model, tensors)
        refuse(f"{source}: the tensors do not fit {type(model).__name__}", errors)
        for name, (transform, weights) in rows.items():
            for i, weight in enumerate(weights):
                weight.blank.source = functools.partial(part, tensors, names[name], transform, weights, i)
    errors = [str(weight.blank.error) for weight in model.weights if weight.blank.error]
    for weight in model.weights:
        weight.blank = None  # and with it the files
    refuse(f"{source}: the tensors cannot be read", errors)
    return quantization.quantize(model, quantize) if quantize else model


def part(tensors, name, transform, weights, i):
    """The numbers of weight i of those that stand in one tensor."""
    return transform.read(tensors.read(name), [weight.shape for weight in weights])[i]


def described(values, tensors, source, task=None, dtype=None):
    """The model that a config.json describes, its weights still blank."""
    family = family_of(values, source)
    task = task or task_of(family, values, tensors, source)
    if task not in family.tasks:
        raise ValueError(f"{source}: {family.model_types[0]} has the tasks {[*family.tasks]}; received task={task!r}.")
    fields = family.read_config(values, source)
    fields |= family.look(tensors, fields) if family.look else {}
    tensors.check_sizes(fields, source)
    try:
        with blank_weights(tensors.total()):
            return family.tasks[task](**fields, dtype=dtype)
    except Exception as error:
        raise ValueError(f"{source}: config.json describes no model that can be made: {error}") from error


def family_of(values, source):
    """The family that a config.json names."""
    kind = values.get("model_type")
    for family in FAMILIES.get(kind, []) if isinstance(kind, str) else []:
        if family.recognises is None or family.recognises(values):
            return family
    raise ValueError(f"{source}: config.json has model_type {kind!r}; known are {sorted(FAMILIES)}.")


def task_of(family, values, tensors, source):
    """The task that a config.json names; where it names none, the one whose own tensors are all there."""
    names = values.get("architectures")
    if names:
        known = list(family.architectures)
        if not isinstance(names, list) or names[0] not in known:
            raise ValueError(f"{source}: config.json has architectures {names!r}; known are {known}, or give task=.")
        return family.architectures[names[0]]
    heads = [(key.split("/")[0], {row[0] for row in rows}) for key, rows in family.heads.items()]
    return next((t for t, names in heads if t in family.tasks and names <= {*tensors.names()}), "backbone")


def compared(model, tensors):
    """(rows, {name as in `rows`: name in the file}, all that is missing, superfluous or odd); nothing is changed."""
    family, rows, seen, errors = model.family, model.family.rows(model), {}, []
    known_heads, prefix = family.known_heads(model), family.prefix
    for original in tensors.names():
        name = original
        for pattern, replacement in family.renamed:
            name = re.sub(pattern, replacement, name)
        bare = name.removeprefix(prefix)
        name = next((n for n in (name, bare, prefix + bare) if n in rows), name)
        if name not in rows and any(re.fullmatch(pattern, bare) for pattern in family.ignored):
            continue
        if name in seen:
            errors.append(f"{tensors.label(seen[name])} and {tensors.label(original)} are the same weight")
        seen[name] = original
    for name in seen.keys() - rows.keys():
        twin = family.repeated.get(name)
        if name in known_heads and (model.task == "backbone" or twin is None):
            continue
        twin = next((seen[n] for n in (twin, f"{prefix}{twin}") if n in seen), None)
        if twin is None:
            errors.append(f"not expected: {tensors.label(seen[name])}")
        elif not tensors.equal(seen[name], twin):
            errors.append(f"{tensors.label(seen[name])} is not equal to {tensors.label(twin)}, to which it is tied")
    errors += [f"missing: {tensors.label(name)}" for name in rows if name not in seen]
    taken = {id(weight) for _, weights in rows.values() for weight in weights}
    errors += [f"no tensor is known for {weight.path}" for weight in model.weights if id(weight) not in taken]
    for name in rows.keys() & seen.keys():
        transform, weights = rows[name]
        expected = transform.write([np.broadcast_to(np.int8(0), weight.shape) for weight in weights]).shape
        errors += tensors.problems(seen[name], expected)
    return rows, {name: seen[name] for name in rows if name in seen}, sorted(errors)


def to_pretrained(model, folder, max_shard_bytes=SHARD):
    """Write `model` as a Hugging Face checkpoint, config.json and safetensors, that transformers loads and agrees with.

    All files are written under other names first and renamed when they are whole. Raises `ValueError` for a model
    without a checkpoint format.
    """
    if getattr(model, "family", None) is None:
        raise ValueError(f"{type(model).__name__} has no checkpoint format; model.save('x.keras') keeps any model.")
    if quantization.is_quantized(model):
        raise ValueError("A model in 8 bits is no checkpoint: write it before kn.quantize, or model.save('x.keras').")
    rows = model.family.rows(model)
    sizes = {name: 4 * sum(math.prod(weight.shape) for weight in weights) for name, (_, weights) in rows.items()}

    def tensor(name):
        transform, weights = rows[name]
        arrays = [ops.convert_to_numpy(weight).astype("float32") for weight in weights]
        return np.ascontiguousarray(transform.write(arrays))

    text = json.dumps(model.family.write_config(model) | {"dtype": "float32"}, indent=2) + "\n"
    formats.write(folder, sizes, tensor, max_shard_bytes, {"config.json": text})
