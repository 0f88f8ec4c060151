"""The choice of the backend: from the environment, from `keras.json`, else the first one installed."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys

import keras
import pytest

from kerasnets.backend import select

ALL = ["tensorflow", "jax", "torch"]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with these backends, this `keras.json` and this `KERAS_BACKEND`; Keras is not imported yet."""
    find_spec = importlib.util.find_spec

    def describe(present, keras_json=None, environment=None):
        def find(name, package=None):
            if name not in ALL:
                return find_spec(name, package)
            return importlib.machinery.ModuleSpec(name, None, origin=f"{name}.py") if name in present else None

        monkeypatch.setattr(importlib.util, "find_spec", find)
        monkeypatch.delitem(sys.modules, "keras")
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        monkeypatch.setenv("KERAS_BACKEND", environment or "")
        if environment is None:
            monkeypatch.delenv("KERAS_BACKEND")
        if keras_json is not None:
            tmp_path.joinpath("keras.json").write_text(keras_json)

    return describe


def chosen():
    """What `KERAS_BACKEND` is after the choice; None leaves the choice to `keras.json`."""
    select.choose_backend()
    return os.environ.get("KERAS_BACKEND")


@pytest.mark.parametrize("present", [ALL, ["jax", "torch"], ["torch"], ["tensorflow", "torch"]])
def test_first_installed(machine, present):
    machine(present)
    assert select.installed() == present
    assert chosen() == present[0]


@pytest.mark.parametrize("name", ALL)
def test_environment_wins(machine, name):
    machine(ALL, keras_json='{"backend": "torch"}' if name != "torch" else '{"backend": "jax"}', environment=name)
    assert chosen() == name


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("environment", [None, ""])  # Keras, too, reads an empty variable as none
def test_keras_json_is_left_to_keras(machine, name, environment):
    machine(ALL, keras_json=json.dumps({"backend": name}), environment=environment)
    assert chosen() == environment


@pytest.mark.parametrize("text", ['{"backend": "tensorflow"}', '{"backend": "numpy"}', "{}", "[]", "not JSON", ""])
def test_keras_json_without_an_installed_backend_gives_way(machine, text):
    machine(["jax", "torch"], keras_json=text)
    assert chosen() == "jax"


def test_keras_json_of_the_user(machine, tmp_path, monkeypatch):
    machine(ALL)
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text('{"backend": "torch"}')
    assert select.configured() == "torch"
    assert chosen() is None


def test_keras_imported_first_has_chosen(machine, monkeypatch):
    machine(ALL)
    monkeypatch.setitem(sys.modules, "keras", keras)
    assert chosen() is None


def test_a_leftover_folder_is_no_backend(tmp_path, monkeypatch):
    (tmp_path / "uninstalled").mkdir()  # what an uninstall may leave: a package without code
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert [select.is_installed(name) for name in ("uninstalled", "whole", "never_there")] == [False, True, False]


def test_no_backend_at_all(machine):
    machine([])
    with pytest.raises(ImportError, match=r"needs one of TensorFlow, JAX or PyTorch, and none .* pip install jax"):
        select.choose_backend()


def test_asked_for_but_not_installed(machine):
    machine(["jax"], environment="torch")
    with pytest.raises(ImportError, match=r"asks for 'torch'.* pip install torch, or .*that is: jax\."):
        select.choose_backend()


def test_asked_for_a_backend_that_is_not_ours(machine):
    machine(ALL, environment="numpy")
    with pytest.raises(ValueError, match="must be one of tensorflow, jax, torch; received 'numpy'"):
        select.choose_backend()


# Stands for a machine without these packages, so that the import is tried where TensorFlow is absent.
HIDE = """
import importlib.abc, importlib.util, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {absent} else find_spec(name, package)
"""


def test_import_where_only_this_backend_is_installed(tmp_path):
    active = keras.config.backend()
    absent = [name for name in ALL if name != active]
    code = HIDE.format(absent=absent) + "import kerasnets, keras; print(keras.config.backend(), *sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment |= {"KERAS_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    backend, *modules = result.stdout.split()
    assert backend == active
    assert active in modules and not set(absent) & set(modules)
