"""Samplers and processors: held against transformers', and what is drawn against its probabilities."""

import keras
import numpy as np
import pytest

from kerasnets import processors, samplers
from tests.models.parity import to_numpy

VOCAB = 40
KINDS = {
    "temperature": (samplers.Temperature(0.7), "TemperatureLogitsWarper", {"temperature": 0.7}),
    "top k": (samplers.TopK(5), "TopKLogitsWarper", {"top_k": 5}),
    "top k of more than there are": (samplers.TopK(99), "TopKLogitsWarper", {"top_k": 99}),
    "top p": (samplers.TopP(0.8), "TopPLogitsWarper", {"top_p": 0.8}),
    "top p, little": (samplers.TopP(0.01), "TopPLogitsWarper", {"top_p": 0.01}),
    "top p, all": (samplers.TopP(1.0), "TopPLogitsWarper", {"top_p": 1.0}),
    "min p": (samplers.MinP(0.1), "MinPLogitsWarper", {"min_p": 0.1}),
}


def theirs(name, **arguments):
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    pytest.importorskip("torch", reason="the reference runs on torch")
    return getattr(transformers.generation.logits_process, name)(**arguments)


def some_logits(rows=6):
    return (3 * np.random.default_rng(1).normal(size=(rows, VOCAB))).astype("float32")


@pytest.mark.parametrize("kind", KINDS)
def test_as_transformers(kind):
    import torch

    sampler, name, arguments = KINDS[kind]
    logits = some_logits()
    expected = theirs(name, **arguments)(None, torch.tensor(logits)).numpy()
    found = to_numpy(sampler(keras.ops.convert_to_tensor(logits)))
    assert np.array_equal(np.isneginf(found), np.isneginf(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_greedy_keeps_the_first_of_equal_ones():
    found = to_numpy(samplers.Greedy()(keras.ops.convert_to_tensor(np.array([[1.0, 3, 3], [2, 0, 1]], "float32"))))
    assert np.isfinite(found).tolist() == [[False, True, False], [True, False, False]]


IDS = np.array([[3, 5, 3, 7, 5, 3], [1, 1, 1, 1, 1, 1], [9, 8, 7, 6, 5, 4]], "int32")


def padded(ids, before=2, after=3):
    """As the loop holds them: nothing before the prompt, nothing yet behind it."""
    return keras.ops.convert_to_tensor(np.pad(ids, [(0, 0), (before, after)], constant_values=-1))


@pytest.mark.parametrize(
    ("processor", "name", "arguments"),
    [
        (processors.RepetitionPenalty(1.7), "RepetitionPenaltyLogitsProcessor", {"penalty": 1.7}),
        (processors.NoRepeatNGram(1), "NoRepeatNGramLogitsProcessor", {"ngram_size": 1}),
        (processors.NoRepeatNGram(2), "NoRepeatNGramLogitsProcessor", {"ngram_size": 2}),
        (processors.NoRepeatNGram(3), "NoRepeatNGramLogitsProcessor", {"ngram_size": 3}),
    ],
)
def test_processors_as_transformers(processor, name, arguments):
    import torch

    logits = some_logits(len(IDS))
    expected = theirs(name, **arguments)(torch.tensor(IDS).long(), torch.tensor(logits).clone()).numpy()
    found = to_numpy(processor(keras.ops.convert_to_tensor(logits), padded(IDS), keras.ops.convert_to_tensor(0)))
    assert not np.array_equal(expected, logits)
    assert np.array_equal(np.isneginf(found), np.isneginf(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [2, 4, 20])
def test_nothing_repeats_where_little_is_written(size):
    """One token, or as many as the n-gram has before its last: padding is not taken for text."""
    logits = keras.ops.convert_to_tensor(some_logits(2))
    for ids in (IDS[:2, :1], IDS[:2, : size - 1]):
        if size == 2 or ids.shape[1] == 1:
            found = processors.NoRepeatNGram(size)(logits, padded(ids, before=4), keras.ops.convert_to_tensor(0))
            assert np.array_equal(to_numpy(found), to_numpy(logits))


def test_suppressed_and_forced_tokens():
    logits = keras.ops.convert_to_tensor(some_logits(1))

    def left(processor, step):
        found = to_numpy(processor(logits, padded(IDS[:1]), keras.ops.convert_to_tensor(step)))[0]
        return set(np.flatnonzero(np.isfinite(found)))

    everything = set(range(VOCAB))
    assert left(processors.SuppressTokens((3, 9)), 7) == everything - {3, 9}
    assert left(processors.SuppressTokens((3, 9), 1, 2), 2) == everything - {3, 9}
    assert (
        left(processors.SuppressTokens((3, 9), 1, 2), 0) == left(processors.SuppressTokens((3,), 1, 2), 3) == everything
    )
    assert left(processors.ForcedToken(4, 1), 1) == {4} and left(processors.ForcedToken(4, 1), 2) == everything


def test_draws_as_often_as_is_probable():
    """u in equal steps finds each token in proportion to its p; 0 and 1 find the first and the last."""
    logits = some_logits(1)
    logits[0, -3:] = -np.inf
    p = np.exp(logits[0]) / np.exp(logits[0]).sum()

    def drawn(uniform):
        rows = np.repeat(logits, len(uniform), axis=0)
        arrays = (keras.ops.convert_to_tensor(array.astype("float32")) for array in (rows, uniform))
        return to_numpy(samplers.draw(*arrays))

    count = np.bincount(drawn((np.arange(5000) + 0.5) / 5000), minlength=VOCAB)
    np.testing.assert_allclose(count / 5000, p, atol=2 / 5000)
    assert drawn(np.array([0, 1 - 2**-24, 1])).tolist() == [0, VOCAB - 4, VOCAB - 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.Temperature(0.0), "take Greedy"),
        (lambda: samplers.Temperature(-1.0), "temperature must be"),
        (lambda: samplers.TopK(0), "k must be a positive integer"),
        (lambda: samplers.TopK(2.5), "k must be a positive integer"),
        (lambda: samplers.TopP(0.0), "p must be above 0 and at most 1"),
        (lambda: samplers.TopP(1.5), "p must be above 0 and at most 1"),
        (lambda: samplers.MinP(float("nan")), "p must be above 0 and at most 1"),
        (lambda: samplers.chain((samplers.Greedy(), samplers.TopK(3))), "whatever the others do"),
        (lambda: samplers.chain((samplers.TopP(0.9), samplers.TopP(0.8))), "may stand once"),
        (lambda: samplers.chain(()), "must be one of"),
        (lambda: samplers.chain("greedy"), "must be one of"),
        (lambda: samplers.chain(samplers.TopP), "must be one of"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_are_values():
    assert samplers.TopP(0.9) == samplers.TopP(0.9) and hash(samplers.TopK(3)) == hash(samplers.TopK(3))
    assert repr(samplers.MinP(0.1)) == "MinP(p=0.1)"
