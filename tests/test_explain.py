"""Why this token: against softmax by hand, and shown as a table and as a picture."""

import io

import numpy as np
import pytest

import kerasnets as kn
from kerasnets import explain
from tests.models import every_family

SAMPLER = (kn.samplers.Temperature(0.8), kn.samplers.TopK(7), kn.samplers.TopP(0.6))
NAMES = ["model", "RepetitionPenalty(penalty=1.5)", "Temperature(temperature=0.8)", "TopK(k=7)", "TopP(p=0.6)"]


@pytest.fixture(scope="module")
def steps():
    settings = dict(sampler=SAMPLER, repetition_penalty=1.5, stop_tokens=(), explain=True)
    return list(every_family.make("GPT2CausalLM").stream(every_family.IDS, 6, **settings))


def test_numbers(steps):
    assert len(steps) == 6
    for step in steps:
        assert list(step.stations) == NAMES
        p = np.exp(step.logits.astype("float64"))
        p /= p.sum(1, keepdims=True)
        rows = np.arange(2)
        np.testing.assert_allclose(step.probability, p[rows, step.ids], rtol=1e-6)
        np.testing.assert_allclose(step.entropy, -(p * np.log(p)).sum(1), rtol=1e-6)
        ids, probabilities = step.alternatives(3)
        np.testing.assert_array_equal(ids, np.argsort(-p, axis=1)[:, :3])
        np.testing.assert_allclose(probabilities, -np.sort(-p, axis=1)[:, :3], rtol=1e-6)
        assert (step.chance >= step.probability / 2).all() and (step.chance <= 1).all()


def test_what_was_removed(steps):
    for step in steps:
        assert list(step.removed) == NAMES[1:]
        assert (step.removed["TopK(k=7)"][0] == 50 - 7).all()
        assert (step.removed["Temperature(temperature=0.8)"][0] == 0).all()
        count, share = step.removed["TopP(p=0.6)"]
        left = np.isfinite(step.stations["TopP(p=0.6)"])
        np.testing.assert_array_equal(left.sum(1), 7 - count)
        assert left[np.arange(2), step.ids].all() and (share <= 0.4).all()
        gone = step.removed_ids("TopK(k=7)", row=1, count=50)
        before = step.stations["Temperature(temperature=0.8)"][1]
        assert len(gone) == 43 and (np.diff(before[gone]) <= 0).all()
        assert before[gone].max() < before[np.isfinite(step.stations["TopK(k=7)"][1])].min()


def test_table_and_picture(steps):
    rich = pytest.importorskip("rich.console")
    pytest.importorskip("matplotlib")
    text = io.StringIO()
    rich.Console(file=text, width=160).print(explain.table(steps, row=1))
    assert all(str(int(step.ids[1])) in text.getvalue() for step in steps) and "TopK(k=7): 43" in text.getvalue()
    figure = explain.picture(steps, row=1)
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == [str(step.ids[1]) for step in steps]
