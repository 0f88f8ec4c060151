"""`import kerasnets` is `import keras` and hardly more: 0.15 s at most, no other backend, no package besides."""

import os
import re
import subprocess
import sys

import keras

LIMIT = 0.15  # seconds
ATTEMPTS = 5  # the machine may be busy with something else; one quiet run shows what the import needs


def python(*arguments):
    environment = {**os.environ, "KERAS_BACKEND": keras.config.backend(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as where it is installed: nothing is compiled anew each time
    result = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def seconds_added():
    """The cumulative time of `kerasnets` after `keras`, as `-X importtime` gives it in microseconds."""
    log = python("-X", "importtime", "-c", "import keras; import kerasnets").stderr
    lines = re.findall(r"^import time: +\d+ \| +(\d+) \| kerasnets$", log, flags=re.MULTILINE)
    assert len(lines) == 1, "one line of the log is the import of kerasnets as a whole"
    return int(lines[0]) / 1e6


def test_import_time():
    times = []
    while len(times) < ATTEMPTS and min(times, default=LIMIT + 1) > LIMIT:
        times.append(seconds_added())
    assert min(times) <= LIMIT, f"import kerasnets adds {times} s to import keras"


def test_no_other_backend_and_no_other_package():
    """What Keras has not brought already: on every backend it imports JAX, matplotlib and others where they are."""
    code = "import keras, sys; before = set(sys.modules); import kerasnets; print(*set(sys.modules) - before)"
    added = set(python("-c", code).stdout.split())
    assert {name.split(".")[0] for name in added} - set(sys.stdlib_module_names) == {"kerasnets"}
    others = {"tensorflow", "jax", "torch"} - {keras.config.backend()}
    assert not added & {f"kerasnets.backend.{name}" for name in others}
