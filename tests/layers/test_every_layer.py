"""What every layer owes: its config, its file on the other backends, half precision."""

import importlib.util
import inspect
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from kerasnets import layers
from tests.layers import every_layer

BACKENDS = ("tensorflow", "jax", "torch")
OTHERS = [name for name in BACKENDS if name != keras.config.backend()]
ROOT = pathlib.Path(__file__).parents[2]


def test_no_layer_is_left_out():
    public = {name for name in layers.__all__ if inspect.isclass(getattr(layers, name))}
    assert public == set(every_layer.CASES)


@pytest.mark.parametrize("name, number", every_layer.ALL)
def test_config_makes_the_same_layer_again(name, number):
    layer = every_layer.make_layer(name, number)
    config = layer.get_config()
    twin = type(layer).from_config(json.loads(json.dumps(config)))
    assert json.dumps(twin.get_config()) == json.dumps(config)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert json.dumps(again.get_config()) == json.dumps(config)


@pytest.mark.parametrize("name, number", [case for case in every_layer.ALL if hasattr(keras.layers, case[0])])
def test_config_is_that_of_keras(name, number):
    ours = every_layer.make_layer(name, number).get_config()
    theirs = every_layer.make_layer(name, number, library=keras.layers).get_config()
    for config in (ours, theirs):
        for of_this_object in ("name", "layer", "backward_layer"):
            config.pop(of_this_object, None)
    assert without_none(ours) == without_none(theirs)


def without_none(config):
    """Keras's configs leave some of the arguments out that are None, and not the same ones in every layer."""
    return {name: value for name, value in json.loads(json.dumps(config)).items() if value is not None}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("every_layer")
    every_layer.save_all(folder)
    return folder


def test_file_loads_here(saved):
    found = every_layer.differences(saved)
    assert max(found.values()) <= 1e-6, found


@pytest.mark.parametrize("backend", OTHERS)
def test_file_loads_on_the_other_backend(backend, saved):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    command = [sys.executable, "-m", "tests.layers.every_layer", str(saved)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["backend"] == backend
    assert set(answer["differences"]) == {f"{name}_{number}" for name, number in every_layer.ALL}
    far = {name: difference for name, difference in answer["differences"].items() if not difference <= 1e-5}
    assert not far


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    """One model with a branch for each layer, so that one step is compiled, not one for each."""
    branches = {f"{name}_{number}": every_layer.make_branch(name, number, policy) for name, number in every_layer.ALL}
    for name, (_, output) in branches.items():
        assert output.dtype == policy.removeprefix("mixed_"), name
    heads = [keras.layers.Dense(1)(keras.layers.Flatten()(output)) for _, output in branches.values()]
    inputs = [symbol for symbol, _ in branches.values()]
    model = keras.Model(inputs, keras.layers.Add()(heads))
    x = [every_layer.example(name, number) for name, number in every_layer.ALL]

    forward = keras.Model(inputs, [output for _, output in branches.values()])
    for name, output in zip(branches, forward.predict(x, verbose=0), strict=True):
        output = output.astype("float32")
        assert np.isfinite(output).all() and output.any(), name

    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    history = model.fit(x, np.ones((3, 1), "float32"), epochs=1, batch_size=3, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert all(np.isfinite(w).all() for w in model.get_weights())
    pairs = zip(model.weights, before, model.get_weights(), strict=True)
    assert not [weight.path for weight, old, new in pairs if np.array_equal(old, new)]
