"""`Model`: fields and config, what is refused, and a file written on this backend that opens on the others."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets.backend import select
from kerasnets.layers.layer import public


@public
class Line(kn.Model):
    """y = x W + b, for these tests."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        size: int
        shape: tuple = (1, (2, 3))
        scale: float = 1.0

    def make_layers(self):
        self.dense = kn.layers.Dense(self.config.size)

    def call(self, x):
        return self.dense(x) * self.config.scale


def test_fields_become_the_config():
    model = Line(size=3, scale=0.5)
    assert model.config == Line.Config(size=3, scale=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.config.size = 4


def test_numpy_and_lists_become_plain():
    config = Line(size=np.int64(3), shape=[1, np.array([2, 3])], scale=np.float32(0.5)).config
    assert config == Line.Config(size=3, shape=(1, (2, 3)), scale=0.5)
    assert [type(value) for value in (config.size, config.shape, config.scale)] == [int, tuple, float]
    assert hash(config) == hash(Line.Config(size=3, scale=0.5))


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"size": 3, "sise": 4, "a": 1},
            r"Line takes the fields \['size', 'shape', 'scale'\]; unknown \['a', 'sise'\]",
        ),
        ({}, r"missing \['size'\]"),
        ({"sise": 4}, r"unknown \['sise'\] and missing \['size'\]"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Line(**fields)


def test_config_survives_json_and_the_file(tmp_path):
    model = Line(size=3, shape=(4, (5, 6)), scale=0.5, name="our_line")
    model(np.zeros((1, 2), "float32"))
    again = Line.from_config(json.loads(json.dumps(model.get_config())))
    model.save(tmp_path / "line.keras")
    loaded = keras.models.load_model(tmp_path / "line.keras")
    for other in (again, loaded):
        assert (other.config, other.name) == (model.config, "our_line")


def test_the_layers_take_the_models_dtype(tmp_path):
    model = Line(size=3, dtype="mixed_bfloat16")
    y = model(np.zeros((1, 2), "float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16" and model.dense.kernel.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    model.save(tmp_path / "line.keras")
    assert keras.models.load_model(tmp_path / "line.keras").dense.compute_dtype == "bfloat16"


def test_the_dtype_outside_comes_back_after_an_error():
    with pytest.raises(ValueError):
        Line(size=-1, dtype="float16")
    assert keras.config.dtype_policy().name == "float32"


def test_frozen_models_train_nothing():
    model = Line(size=3, trainable=False)
    model(np.zeros((1, 2), "float32"))
    assert not model.trainable_weights and Line.from_config(model.get_config()).trainable is False


def classic_models():
    settings = {"mean": 33.0, "deviation": 79.0}
    return {
        "mlp": kn.MLP(num_classes=10, hidden_sizes=(16, 8), **settings),
        "cnn": kn.CNN(num_classes=10, filters=(4, 8), hidden_size=16, **settings),
        "autoencoder": kn.Autoencoder(latent_size=4, hidden_sizes=(16,), **settings),
    }


PREDICT = """
import sys, keras, numpy as np
import kerasnets
folder, *names = sys.argv[1:]
pictures = np.load(f"{folder}/pictures.npy")
models = {name: keras.models.load_model(f"{folder}/{name}.keras") for name in names}
outputs = {name: model.predict(pictures, verbose=0) for name, model in models.items()}
np.savez(f"{folder}/{keras.config.backend()}.npz", **outputs)
"""


@pytest.mark.parametrize("other", select.BACKENDS)
def test_a_file_opens_on_every_backend(other, tmp_path):
    if not select.is_installed(other):
        pytest.skip(f"{other} is not installed")
    pictures = kn.datasets.digits()[1][0][:8]
    models = classic_models()
    expected = {name: model.predict(pictures, verbose=0) for name, model in models.items()}
    np.save(tmp_path / "pictures.npy", pictures)
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
    environment = {**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", PREDICT, str(tmp_path), *models], env=environment, check=True)
    received = np.load(tmp_path / f"{other}.npz")
    for name in models:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(received[name] / scale, expected[name] / scale, atol=1e-5)
