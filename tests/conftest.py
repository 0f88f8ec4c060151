"""What all tests share: nothing from the network, the same random numbers each time, one way to compare."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # on a GPU, products in float32 as on the CPU

import kerasnets  # noqa: E402, F401, I001  before Keras: it chooses a backend that is installed
import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("kerasnets", deadline=None, print_blob=True)
settings.load_profile("kerasnets")


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def forgetful():
    """After each file, memory is given back: JAX would keep every program that any test compiled.

    What was there before is not looked through again: the modules of a backend and of transformers are a million
    objects, which Keras has collected whenever a session is cleared.
    """
    gc.freeze()
    yield
    keras.utils.clear_session()
    if keras.config.backend() == "jax":
        import jax

        jax.clear_caches()


@pytest.fixture
def random():
    return np.random.default_rng(0)


def assert_same_as_keras(ours, theirs, x, tolerance=1e-6, **call_arguments):
    """With the weights of `theirs`, `ours` gives its outputs, and its shapes; returns the outputs."""
    expected = keras.ops.convert_to_numpy(theirs(x, **call_arguments))
    ours.build(x.shape)
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    ours.set_weights(theirs.get_weights())
    y = keras.ops.convert_to_numpy(ours(x, **call_arguments))
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    assert ours.compute_output_shape(x.shape) == expected.shape
    assert ours.compute_output_shape((None, *x.shape[1:])) == (None, *expected.shape[1:])
    return y


@pytest.fixture
def same_as_keras():
    return assert_same_as_keras
