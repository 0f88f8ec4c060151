"""Hidden words: how many, which, what they become; the same for the same seed."""

import numpy as np
import pytest

from kerasnets.preprocessing.masked_words import IGNORED, asked_places, mask_words

MASK, VOCAB, SPECIAL = 4, 500, (0, 1, 2, 3, 4)


def texts(rows=200, length=60):
    ids = np.random.default_rng(0).integers(5, VOCAB, (rows, length))
    ids[:, 0], ids[:, -1], ids[::2, 40:] = 1, 2, 0
    return ids


def test_shares_are_those_of_the_paper():
    ids = texts()
    hidden, labels = mask_words(ids, MASK, VOCAB, SPECIAL)
    asked = labels != IGNORED
    ordinary = ~np.isin(ids, SPECIAL)
    assert not asked[~ordinary].any() and (labels[asked] == ids[asked]).all() and (hidden[~asked] == ids[~asked]).all()
    assert abs(asked.sum() / ordinary.sum() - 0.15) < 0.005
    assert abs((hidden[asked] == MASK).mean() - 0.8) < 0.03
    assert abs((hidden[asked] == ids[asked]).mean() - 0.1) < 0.03
    changed = asked & (hidden != ids) & (hidden != MASK)
    assert not np.isin(hidden[changed], SPECIAL).any() and len(np.unique(hidden[changed])) > 50


def test_seed():
    ids = texts()
    first, again, other = (mask_words(ids, MASK, VOCAB, SPECIAL, seed=seed).input_ids for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


def test_whole_words_are_hidden_together():
    ids = texts()
    words = np.broadcast_to(np.arange(60) // 3, ids.shape).copy()
    words[:, 30:33] = -1
    asked = mask_words(ids, MASK, VOCAB, SPECIAL, words, rate=0.3).labels != IGNORED
    ordinary = ~np.isin(ids, SPECIAL) & (words >= 0)
    for word in range(20):
        inside = asked[:, word * 3 : word * 3 + 3] | ~ordinary[:, word * 3 : word * 3 + 3]
        shown = ~asked[:, word * 3 : word * 3 + 3]
        assert (inside.all(1) | shown.all(1)).all()
    assert not asked[:, 30:33].any() and abs(asked.sum() / ordinary.sum() - 0.3) < 0.05


def test_short_rows_hide_one_and_empty_ones_none():
    labels = mask_words(np.array([[1, 7, 2], [1, 2, 0]]), MASK, VOCAB, SPECIAL).labels
    assert labels.tolist() == [[IGNORED, 7, IGNORED], [IGNORED] * 3]


def test_asked_places():
    labels = np.full((3, 6), IGNORED)
    labels[0, 4], labels[0, 1], labels[2, 5] = 9, 8, 7
    places, asked = asked_places(labels)
    assert places[0].tolist() == [1, 4] and asked.tolist() == [[8, 9], [IGNORED] * 2, [7, IGNORED]]
    assert places[2, 0] == 5 and asked_places(labels, 4)[1].shape == (3, 4)
    assert asked_places(labels, 1)[1].tolist() == [[8], [IGNORED], [7]]


@pytest.mark.parametrize(
    "change", [{"input_ids": [[1.5]]}, {"input_ids": [[500]]}, {"mask_token_id": None}, {"rate": 0}, {"words": [[1]]}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_wrong_arguments_are_refused(change):
    right = {"input_ids": [[1, 7, 2]], "mask_token_id": MASK, "vocab_size": VOCAB}
    with pytest.raises(ValueError, match=next(iter(change))):
        mask_words(**right | change)
