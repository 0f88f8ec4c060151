"""Run Keras's tests on the active backend (`KERAS_BACKEND`); exits non-zero on any failure or a changed selection.

python -m tests.conformance [pytest's arguments, such as -x or -k lstm]
"""

import importlib.util
import os
import pathlib
import sys

import pytest

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
    keras_folder = pathlib.Path(importlib.util.find_spec("keras").submodule_search_locations[0])
    files = [str(keras_folder / "src" / "layers" / f"{name}_test.py") for name in TESTED]
    # Neither our pytest settings nor our conftest.py may touch Keras's tests, so its folder is pytest's root.
    root = ["--rootdir", str(keras_folder), "-c", os.devnull]
    plugins = ["-p", "tests.conformance.plugin", "-p", "no:cacheprovider"]
    return pytest.main([*root, *plugins, "-q", *arguments, *files])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
