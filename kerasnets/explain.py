"""Why this token: what the model thought of all tokens, and what each step between it and the choice took away.

    for why in model.stream(batch, explain=True):
        why.ids, why.probability, why.alternatives(), why.entropy, why.removed

    explain.table(steps, tokenizer)      a rich table, a line for each token
    explain.picture(steps, tokenizer)    a picture of the same

p = softmax(z) of the logits z; entropy −Σ p ln p in nats: 0 where one token is certain, ln V where all are alike.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One step of a batch: the ids (B,) that were chosen, and the logits (B, V) at each station on the way there.

    `stations` {name: logits}: "model", then each processor and sampler by its own name; −∞ stands where it removed.
    """

    ids: np.ndarray
    stations: dict

    @property
    def logits(self):
        """The model's own.   (B, V)."""
        return self.stations["model"]

    @property
    def probability(self):
        """p of the chosen tokens as the model has it.   (B,)."""
        return chosen(softmax(self.logits), self.ids)

    @property
    def chance(self):
        """With which probability they were drawn in the end.   (B,)."""
        return chosen(softmax([*self.stations.values()][-1]), self.ids)

    @property
    def entropy(self):
        """−Σ p ln p of the model, in nats.   (B,)."""
        p = softmax(self.logits)
        return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=-1)

    def alternatives(self, count=5):
        """The most probable tokens and their p as the model has it, falling: ids (B, count), p (B, count)."""
        p = softmax(self.logits)
        best = np.argsort(-p, axis=-1, kind="stable")[:, :count]
        return best.astype("int32"), np.take_along_axis(p, best, axis=-1)

    @property
    def removed(self):
        """{name: (how many tokens this station removed (B,), how much of the probability that it was given (B,))}."""
        found, stations = {}, list(self.stations.items())
        for (_, before), (name, after) in zip(stations[:-1], stations[1:], strict=True):
            gone = np.isneginf(after) & ~np.isneginf(before)
            found[name] = gone.sum(-1), np.sum(softmax(before) * gone, axis=-1)
        return found

    def removed_ids(self, name, row=0, count=5):
        """The most probable of the tokens that a station removed from a row, falling."""
        names = list(self.stations)
        before, after = self.stations[names[names.index(name) - 1]][row], self.stations[name][row]
        gone = np.flatnonzero(np.isneginf(after) & ~np.isneginf(before))
        return gone[np.argsort(-before[gone], kind="stable")][:count].astype("int32")


def softmax(z):
    z = np.exp(np.subtract(z, z.max(-1, keepdims=True), dtype="float64"))
    return z / z.sum(-1, keepdims=True)


def chosen(p, ids):
    return np.take_along_axis(p, ids[:, None], axis=-1)[:, 0]


def text_of(tokenizer, token):
    """A token as it is shown: its text with the spaces visible, or its number without a tokenizer."""
    return str(token) if tokenizer is None else repr(tokenizer.decode([int(token)]))[1:-1].replace(" ", "·")


def table(steps, tokenizer=None, row=0, count=4):
    """A `rich.table.Table`: the token, its p, the entropy, the alternatives, and what each step removed."""
    from rich.table import Table

    shown = Table("token", "p", "drawn with", "entropy", "most probable", "removed")
    for step in steps:
        best, p = step.alternatives(count)
        numbers = [f"{value[row]:.3f}" for value in (step.probability, step.chance, step.entropy)]
        others = "  ".join(f"{text_of(tokenizer, i)} {q:.2f}" for i, q in zip(best[row], p[row], strict=True))
        removed = [f"{name}: {n[row]:,} ({q[row]:.1%})" for name, (n, q) in step.removed.items() if n[row]]
        shown.add_row(escaped(text_of(tokenizer, step.ids[row])), *numbers, escaped(others), "\n".join(removed))
    return shown


def escaped(text):
    """rich reads [words] as colours; a token may look like one."""
    from rich.markup import escape

    return escape(text)


def picture(steps, tokenizer=None, row=0, count=8):
    """A matplotlib figure: a column for each step, the most probable tokens stacked by p, the chosen one framed."""
    import matplotlib.pyplot as plt

    steps = list(steps)
    figure, (above, below) = plt.subplots(
        2, 1, sharex=True, figsize=(max(6, 0.7 * len(steps)), 6), height_ratios=(4, 1), layout="constrained"
    )
    for place, step in enumerate(steps):
        best, p = step.alternatives(count)
        bottom = 0.0
        for rank, (token, q) in enumerate(zip(best[row], p[row], strict=True)):
            is_chosen = token == step.ids[row]
            edge = {"edgecolor": "black", "linewidth": 2, "zorder": 3} if is_chosen else {"edgecolor": "white"}
            above.bar(place, q, bottom=bottom, color=plt.cm.viridis(rank / count), width=0.9, **edge)
            if q > 0.06:
                above.text(place, bottom + q / 2, text_of(tokenizer, token), ha="center", va="center", color="white")
            bottom += q
    below.plot([step.entropy[row] for step in steps], marker="o")
    above.set(ylabel="p", ylim=(0, 1))
    below.set(ylabel="entropy", xticks=range(len(steps)))
    below.set_xticklabels([text_of(tokenizer, step.ids[row]) for step in steps], rotation=60, ha="right")
    return figure
