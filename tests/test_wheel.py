"""The wheel in an empty venv with one backend alone: it brings no other, and trains an LSTM. (`pytest -m slow`)"""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAIN = """
import importlib.util, sys
import numpy as np
import kerasnets as kn
import keras

backend, others = sys.argv[1], sys.argv[2:]
assert keras.config.backend() == backend, keras.config.backend()
assert not [name for name in others if importlib.util.find_spec(name)], "another backend came along"
assert "site-packages" in kn.__file__, kn.__file__

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(256, 10, 4)).astype("float32")
y = (x[:, :, 0].sum(axis=1) > 0).astype("float32")  # a sum over time: to be carried along in the cell's state
model = keras.Sequential([kn.layers.LSTM(16), kn.layers.Dense(1, activation="sigmoid")])
model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
losses = model.fit(x, y, batch_size=32, epochs=10, verbose=0).history["loss"]
print(losses[0], losses[-1])
assert losses[-1] < 0.5 * losses[0]
"""


def run(*command, **kwargs):
    environment = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "PYTHONPATH")}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", **kwargs.pop("environment", {})}
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_contents(wheel):
    """The package, all of it, and nothing else."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {path.relative_to(ROOT).as_posix() for path in (ROOT / "kerasnets").rglob("*.py")}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_one_backend_alone(wheel, tmp_path, backend):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    index = ["--extra-index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    requirement = f"kerasnets[{backend}] @ {wheel.as_uri()}"
    run(python, "-m", "pip", "install", "--constraint", ROOT / "constraints.txt", *index, requirement)
    others = {"tensorflow", "jax", "torch"} - {backend}
    # From another folder, with no backend named anywhere, as on the day it is installed.
    home = {"KERAS_HOME": str(tmp_path / "keras")}
    print(run(python, "-c", TRAIN, backend, *sorted(others), cwd=tmp_path, environment=home))
