"""Run Keras's tests on each backend named, side by side, or on the active one (`KERAS_BACKEND`).

python -m tests.conformance [backend …] [pytest's arguments, such as -x or -k lstm]

Exits non-zero on any failure or a changed selection.
"""

import contextlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from tests.__main__ import BACKENDS

TESTED = (
    "attention/grouped_query_attention",
    "attention/multi_head_attention",
    "convolutional/conv",
    "core/dense",
    "core/embedding",
    "normalization/layer_normalization",
    "normalization/rms_normalization",
    "pooling/average_pooling",
    "pooling/global_average_pooling",
    "pooling/global_max_pooling",
    "pooling/max_pooling",
    "reshaping/flatten",
    "reshaping/zero_padding2d",
    "rnn/bidirectional",
    "rnn/gru",
    "rnn/lstm",
    "rnn/simple_rnn",
)


def main(arguments):
    asked = [name for name in arguments if name in BACKENDS]
    rest = [argument for argument in arguments if argument not in BACKENDS]
    return side_by_side(asked, rest) if asked else on_active_backend(rest)


def side_by_side(backends, arguments):
    """Each backend in a process of its own, all at once; 1 if one of them failed."""
    command = [sys.executable, "-m", "tests.conformance", *arguments]
    with contextlib.ExitStack() as stack:
        logs = {name: stack.enter_context(tempfile.TemporaryFile("w+")) for name in backends}
        runs = {
            name: subprocess.Popen(
                command, env={**os.environ, "KERAS_BACKEND": name}, stdout=log, stderr=subprocess.STDOUT
            )
            for name, log in logs.items()
        }
        for name, process in runs.items():
            process.wait()
            logs[name].seek(0)
            print(f"\n=== {name}\n{logs[name].read()}", flush=True)
    failed = [name for name, process in runs.items() if process.returncode]
    if failed:
        print(f"conformance failed on: {', '.join(failed)}")
    return int(bool(failed))


def on_active_backend(arguments):
    keras_folder = pathlib.Path(importlib.util.find_spec("keras").submodule_search_locations[0])
    files = [str(keras_folder / "src" / "layers" / f"{name}_test.py") for name in TESTED]
    # Neither our pytest settings nor our conftest.py may touch Keras's tests, so its folder is pytest's root.
    root = ["--rootdir", str(keras_folder), "-c", os.devnull]
    plugins = ["-p", "tests.conformance.plugin", "-p", "no:cacheprovider"]
    return pytest.main([*root, *plugins, "-q", *arguments, *files])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
