"""What every family owes: a `.keras` file that opens on the other backends, a config that makes it again, `fit`."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import kerasnets as kn
from tests.models import every_family, parity

OTHERS = [name for name in ("tensorflow", "jax", "torch") if name != keras.config.backend()]
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("every_family")
    every_family.save_all(folder)
    return folder


def test_every_class_of_a_family_is_public():
    assert {name for name in every_family.CLASSES} <= set(kn.__all__)


def test_file_loads_here(saved):
    found = every_family.differences(saved)
    assert max(found.values()) <= 1e-6, found


@pytest.mark.parametrize("backend", OTHERS)
def test_file_loads_on_the_other_backend(backend, saved):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    command = [sys.executable, "-m", "tests.models.every_family", str(saved)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["backend"] == backend
    assert set(answer["differences"]) == set(every_family.CLASSES)
    assert max(answer["differences"].values()) <= 1e-5, answer["differences"]


@pytest.mark.parametrize("name", every_family.CLASSES)
def test_config_makes_the_same_model_again(name):
    model = every_family.make(name)
    again = type(model).from_config(json.loads(json.dumps(model.get_config())))
    assert again.config == model.config
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]
    assert all(field.name in model.get_config() for field in dataclasses.fields(model.Config))


@pytest.mark.parametrize("name", every_family.CLASSES)
def test_nothing_is_left_to_build(name):
    """Keras traces a model anew at each `train_on_batch` as long as one layer within it is not built."""
    assert not [layer.name for layer in every_family.make(name)._flatten_layers() if not layer.built]


@pytest.mark.parametrize("name", every_family.CLASSES)
def test_layers_that_are_alike_are_built_as_if_each_were_called(name, monkeypatch):
    def built():
        keras.utils.clear_session()
        model = every_family.make(name)
        shapes = {layer.path: layer.get_build_config() for layer in model._flatten_layers(include_self=False)}
        return [(w.path, tuple(w.shape), w.dtype, w.trainable) for w in model.weights], shapes

    of_one_each = built()
    monkeypatch.setattr("kerasnets.model.calling_one_of_each", contextlib.nullcontext)
    assert of_one_each == built()


def test_of_layers_that_are_alike_one_is_called(monkeypatch):
    from kerasnets.models.decoder import gpt2

    called, call = [], gpt2.GPT2Block.call
    monkeypatch.setattr(
        gpt2.GPT2Block, "call", lambda self, *args, **kwargs: called.append(self) or call(self, *args, **kwargs)
    )
    kn.GPT2CausalLM(vocab_size=50, hidden_size=32, num_layers=4, num_heads=4, max_length=32)
    assert len(called) == 1


@pytest.mark.parametrize("name", [name for name in every_family.CLASSES if name.endswith("CausalLM")])
def test_trains(name):
    parity.assert_trains(every_family.make(name), every_family.SMALL["vocab_size"])


@pytest.mark.parametrize("name", every_family.CLASSES)
def test_wrong_inputs_are_refused_in_words(name):
    model = every_family.make(name)
    inputs = every_family.inputs(model)
    ids = [name for name in inputs if name.endswith("input_ids")][0]
    mask = ids.replace("input_ids", "attention_mask")
    with pytest.raises(ValueError, match="token ids must lie in"):
        model({**inputs, ids: np.array([[50, 2], [1, 2]], "int32")})
    with pytest.raises(ValueError, match="takes the inputs"):
        model({**inputs, "attention_maks": np.ones_like(every_family.IDS)})
    with pytest.raises(ValueError, match=mask):
        model({**inputs, mask: np.ones((2, 5), "int32")})
