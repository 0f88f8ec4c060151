"""Choose the backend before Keras is imported, so that a missing TensorFlow never breaks `import kerasnets`."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys

BACKENDS = ("tensorflow", "jax", "torch")


def installed():
    """The backends installed here, in the order they are preferred."""
    return [name for name in BACKENDS if is_installed(name)]


def is_installed(name):
    """Whether the package is there; a folder of its name without code, as an uninstall leaves it, is not."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def configured():
    """The backend that `keras.json` names, or None where there is no such file."""
    home = os.environ.get("KERAS_HOME", os.path.join("~", ".keras"))
    try:
        return json.loads(pathlib.Path(os.path.expanduser(home), "keras.json").read_text()).get("backend")
    except (OSError, ValueError, AttributeError):
        return None


def choose_backend():
    """Set `KERAS_BACKEND` unless it is set, Keras is imported already, or `keras.json` names an installed backend.

    Keras writes "tensorflow" into `keras.json` by itself on its first import, so a name that is not installed there
    is nobody's choice and gives way to the first backend installed.

    Raises `ImportError` where no backend is installed, or not the one that `KERAS_BACKEND` asks for, and `ValueError`
    where it asks for one that kerasnets does not have.
    """
    if "keras" in sys.modules:
        return
    asked = os.environ.get("KERAS_BACKEND")
    if asked:
        return check(asked)
    available = installed()
    if not available:
        raise ImportError(
            "kerasnets needs one of TensorFlow, JAX or PyTorch, and none is installed. "
            "Install one of them: pip install tensorflow, pip install jax or pip install torch."
        )
    if configured() not in available:
        os.environ["KERAS_BACKEND"] = available[0]


def check(name):
    """Raise unless `name` is a backend of ours that is installed."""
    if name not in BACKENDS:
        raise ValueError(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}; received {name!r}.")
    if not is_installed(name):
        raise ImportError(
            f"KERAS_BACKEND asks for {name!r}, which is not installed: pip install {name}, "
            f"or choose one that is: {', '.join(installed()) or 'none'}."
        )


def elsewhere(name, *arguments):
    """Run Python with these arguments on backend `name`, and say how it exits; None where that one is active here."""
    import keras

    if name in (None, keras.config.backend()):
        return None
    check(name)
    answers = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the other process alone, which goes on
    try:
        return subprocess.run([sys.executable, *arguments], env={**os.environ, "KERAS_BACKEND": name}).returncode
    finally:
        signal.signal(signal.SIGINT, answers)
