"""Hidden words 掩码: how a text becomes an exercise of its own, without anybody's labels.

Devlin et al. 2018, arXiv:1810.04805, 3.1: of 15 % of the tokens, 80 % become [MASK], 10 % some other token, so that no
token is above suspicion, and 10 % stay what they are. Whole words (`words`) are hidden or shown together, since half of
a word gives the other half away: Cui et al. 2019, arXiv:1906.08101.
"""

from typing import NamedTuple

import numpy as np

IGNORED = -100  # the label of a token that is not asked for


class MaskedWords(NamedTuple):
    """Ids with hidden words (B, T), their labels (B, T), −100 where nothing is asked."""

    input_ids: object
    labels: object


def mask_words(input_ids, mask_token_id, vocab_size, special_ids=(), words=None, rate=0.15, seed=0):
    """Hide `rate` of the tokens of each row.   (B, T) → `MaskedWords`, (B, T) each.

    Tokens of `special_ids` ([CLS], [SEP], [PAD], …) are never hidden, nor become what another one turns into; a row
    that has any others hides at least one. words: (B, T), a number for each token, equal within a word; where it is
    below 0 the token is in none and stays. The same `seed` gives the same exercise; take another one each epoch.

    Raises `ValueError` for shapes that do not fit, and for ids or rates that are none.
    """
    ids = np.asarray(input_ids)
    check(ids, mask_token_id, vocab_size, words, rate)
    random = np.random.default_rng(seed)
    allowed = ~np.isin(ids, list(special_ids))
    units = np.broadcast_to(np.arange(ids.shape[1]), ids.shape) if words is None else np.asarray(words)
    allowed &= units >= 0
    chosen = np.stack([chosen_of(*row, rate, random) for row in zip(units, allowed, strict=True)])
    dice, others = random.random(ids.shape), ordinary_ids(vocab_size, special_ids)
    hidden = np.where(chosen & (dice < 0.8), mask_token_id, ids)
    hidden = np.where(chosen & (dice >= 0.9), random.choice(others, ids.shape), hidden)
    return MaskedWords(hidden.astype("int32"), np.where(chosen, ids, IGNORED).astype("int32"))


def chosen_of(units, allowed, rate, random):
    """Units drawn at random until `rate` of a row's tokens are in them.   (T,), (T,) → (T,)."""
    names, inverse, sizes = np.unique(units[allowed], return_inverse=True, return_counts=True)
    if not len(names):
        return allowed
    order = random.permutation(len(names))
    wanted = max(1, round(rate * allowed.sum()))
    before = np.cumsum(sizes[order]) - sizes[order]
    taken = np.zeros(len(names), bool)
    taken[order[before < wanted]] = True
    chosen = np.zeros(len(units), bool)
    chosen[allowed] = taken[inverse]
    return chosen


def ordinary_ids(vocab_size, special_ids):
    return np.setdiff1d(np.arange(vocab_size), list(special_ids))


def asked_places(labels, width=None):
    """Only what is asked: labels (B, T) → `mask_positions` (B, P) and their labels (B, P), −100 filling the rows up.

    P is the most that any row asks, or `width`, for which rows of more than that leave some out. A model that is given
    `mask_positions` computes logits there and nowhere else.
    """
    labels = np.asarray(labels)
    asked = labels != IGNORED
    width = max(1, int(asked.sum(1).max(initial=1))) if width is None else width
    places = np.argsort(~asked, axis=1, kind="stable")[:, :width]
    return places.astype("int32"), np.take_along_axis(labels, places, axis=1).astype("int32")


def check(ids, mask_token_id, vocab_size, words, rate):
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"input_ids must be integers (B, T); received {ids.dtype} of shape {ids.shape}.")
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise ValueError(f"input_ids must lie in [0, {vocab_size}); received {ids.min()} … {ids.max()}.")
    if mask_token_id is None or not 0 <= mask_token_id < vocab_size:
        raise ValueError(f"mask_token_id must lie in [0, {vocab_size}); received {mask_token_id!r}.")
    if words is not None and np.shape(words) != ids.shape:
        raise ValueError(f"words must have the shape of input_ids, {ids.shape}; it has {np.shape(words)}.")
    if not 0 < rate < 1:
        raise ValueError(f"rate must lie between 0 and 1; received {rate!r}.")
