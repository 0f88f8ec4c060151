"""What the tests of LLaMA and of those built like it share."""

import json

import keras
import numpy as np
import pytest

from tests.models import parity

VOCAB = 99
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, feedforward_size=48, max_length=64)


def transformers():
    pytest.importorskip("torch", reason="the reference runs on torch")
    return pytest.importorskip("transformers", reason="the reference runs on torch")


def rewrite(folder, change):
    """`change` the values of a config.json."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def count(config, biases=0, norms=2):
    """Parameters of a causal LM, without making it: `biases` and norms of a head's size or so, in each block."""
    heads, kv_heads = config.num_heads, config.num_kv_heads or config.num_heads
    size = config.head_size or config.hidden_size // heads
    matrices = size * (heads + 2 * kv_heads + heads) + 3 * config.feedforward_size
    block = config.hidden_size * (matrices + norms) + biases
    tables = 1 if config.tied else 2
    return config.hidden_size * (tables * config.vocab_size + 1) + config.num_layers * block


def assert_half_precision(model, policy):
    """Finite logits of that type, and three steps of training."""
    logits = model(parity.some_ids(VOCAB))
    assert keras.backend.standardize_dtype(logits.dtype) == policy.removeprefix("mixed_")
    assert np.isfinite(parity.to_numpy(keras.ops.cast(logits, "float32"))).all()
    parity.assert_trains(model, VOCAB)
