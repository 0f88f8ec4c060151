"""A pytest plugin that puts our layers where Keras's tests look for them, and sees that they are the ones tested."""

import collections
import re
import sys

import keras
import pytest
from keras.src import layers as keras_layers

import kerasnets

# What is not ours, by the names of Keras's tests: its quantization and LoRA schemes.
NOT_OURS = re.compile("quantiz|int4|int8|float8|awq|gptq|lora", re.IGNORECASE)
SELECTED = 305

# Three of these concern quantization under another name. Two load stores of int8, int4, float8, GPTQ and AWQ weights;
# their first lines, a float32 store with numbers for keys, are in tests/layers/test_dense.py and test_embedding.py.
# One asks for int8 kernels by a map of dtypes; other maps are in tests/layers/test_multi_head_attention.py.
QUANTIZED = {
    "DenseTest::test_legacy_load_own_variables",
    "EmbeddingTest::test_legacy_load_own_variables",
    "MultiHeadAttentionTest::test_dtype_policy_map",
}

# By the classes' own names: Keras's tests say GroupedQueryAttention, what it exports is GroupQueryAttention.
PUBLIC = [getattr(kerasnets.layers, name) for name in kerasnets.layers.__all__]
OURS = {thing.__name__: thing for thing in PUBLIC if hasattr(keras_layers, thing.__name__)}
REPLACED = {getattr(keras_layers, name) for name in OURS} - set(OURS.values())

made = collections.Counter()  # how many of each class the tests have made


def skip_if_backend(given_backend, reason):
    """Keras's tests import this from a `conftest` at the root of its repository, which its wheel does not have."""
    return pytest.mark.skipif(keras.config.backend() == given_backend, reason=reason)


def pytest_configure(config):
    config.addinivalue_line("markers", "requires_trainable_backend: Keras's mark for tests that train")
    sys.modules["conftest"] = sys.modules[__name__]
    put_ours_in_place()
    count_layers_made()


def put_ours_in_place():
    """Each name in `keras.src.layers` and the modules below it that means a layer of Keras's means ours from now on."""
    modules = [module for name, module in sys.modules.items() if name.startswith(keras_layers.__name__)]
    for name, ours in OURS.items():
        theirs = getattr(keras_layers, name)
        for module in modules:
            if vars(module).get(name) is theirs:
                setattr(module, name, ours)


def count_layers_made():
    original = keras.layers.Layer.__new__

    def counting(cls, *args, **kwargs):
        made[cls] += 1
        return original(cls, *args, **kwargs)

    keras.layers.Layer.__new__ = counting


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Drop the tests of what is not ours, by name and nothing else, and see that as many as ever are left."""
    ours = [item for item in items if not NOT_OURS.search(item.name)]
    kept = [item for item in ours if item.nodeid.split("::", 1)[1] not in QUANTIZED]
    if (len(ours), len(kept)) != (SELECTED, SELECTED - len(QUANTIZED)):
        raise pytest.UsageError(
            f"Expected {SELECTED} of Keras {keras.__version__}'s tests to concern our layers, {len(QUANTIZED)} "
            f"of which quantize, but there are {len(ours)} and {len(ours) - len(kept)}."
        )
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail the run if a test made Keras's layer in place of ours, or if a layer of ours was never made."""
    config = session.config
    theirs = sorted(cls.__name__ for cls in REPLACED if made[cls])
    unused = sorted(name for name, cls in OURS.items() if not made[cls])
    is_whole_run = exitstatus == pytest.ExitCode.OK and not (config.option.keyword or config.option.collectonly)
    if theirs or (unused and is_whole_run):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nKeras's own layers were tested in place of ours: {theirs}; never made: {unused}", file=sys.stderr)
