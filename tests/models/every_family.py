"""A small model of every family and task, and `python -m tests.models.every_family FOLDER`, which opens their files."""

import dataclasses
import json
import pathlib
import sys

import keras
import numpy as np

import kerasnets  # noqa: F401, I001  before Keras: it chooses the backend, and enters the families
from kerasnets.checkpoint import FAMILIES

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_size": 8,
    "feedforward_size": 48,
    "max_length": 32,
    "max_source_length": 6,
    "num_mels": 8,
}
CLASSES = {
    model.__name__: model for families in FAMILIES.values() for family in families for model in family.tasks.values()
}
IDS = np.random.default_rng(0).integers(3, 50, (2, 7)).astype("int32")
IDS[:, -1] = 2  # the end of a text, which some models look for


def make(name):
    known = {field.name for field in dataclasses.fields(CLASSES[name].Config)}
    return CLASSES[name](**{field: value for field, value in SMALL.items() if field in known})


def inputs(model):
    """What a model takes at least: ids, or each of the arrays that it asks for."""
    features = np.random.default_rng(1).normal
    wanted = model.smallest_inputs().items()
    return {name: IDS if x.dtype == "int32" else features(size=(2, *x.shape[1:])).astype("f4") for name, x in wanted}


def outputs(model):
    boxes = {"bbox": np.tile(np.int32([1, 20, 300, 40]), (*IDS.shape, 1))}
    return keras.ops.convert_to_numpy(model(inputs(model) | (boxes if "bbox" in model.inputs_taken else {})))


def save_all(folder):
    keras.utils.set_random_seed(1)
    for name in CLASSES:
        model = make(name)
        model.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.npy", outputs(model))


def differences(folder):
    """How far each loaded model's outputs are from the saved ones, by the largest of them."""
    found = {}
    for name in CLASSES:
        expected = np.load(folder / f"{name}.npy")
        found[name] = float(np.abs(outputs(keras.models.load_model(folder / f"{name}.keras")) - expected).max())
        found[name] /= float(np.abs(expected).max())
    return found


if __name__ == "__main__":
    print(json.dumps({"backend": keras.config.backend(), "differences": differences(pathlib.Path(sys.argv[1]))}))
