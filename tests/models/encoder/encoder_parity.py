"""What every encoder owes its reference: each task's logits and hidden states, padded or not, there and back again."""

import keras
import numpy as np
import pytest

import kerasnets as kn
from tests.models.parity import assert_close, assert_loss_falls, randomized, some_ids, to_numpy

TASKS = {
    "backbone": "Model",
    "masked_lm": "ForMaskedLM",
    "sequence_classifier": "ForSequenceClassification",
    "token_classifier": "ForTokenClassification",
    "question_answerer": "ForQuestionAnswering",
}


def reference(stem, config, task):
    """A transformers model of the family `stem` for a task, every weight of it random."""
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    pytest.importorskip("torch", reason="the reference runs on torch")
    config = getattr(transformers, f"{config.pop('stem', stem)}Config")(**config)
    config._attn_implementation = "eager"
    return randomized(getattr(transformers, stem + TASKS[task])(config))


def batch_of(vocab_size, segments=2, rows=3, length=11, pad=0, **extra):
    """Rows of 11, 6 and 8 real tokens, padded on the right, in two segments."""
    ids, mask = some_ids(vocab_size, rows, length), np.ones((rows, length), "int32")
    for row, real in enumerate((length, 6, 8)[:rows]):
        ids[row, real:], mask[row, real:] = pad, 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if segments:
        batch["token_type_ids"] = (np.arange(length)[None] >= np.array([[4], [3], [5]])[:rows]).astype("int32")
        batch["token_type_ids"] = np.minimum(batch["token_type_ids"] * mask, segments - 1)
    return batch | extra


def outputs_of(reference, batch):
    """(hidden states, logits or None) of a transformers model as NumPy."""
    import torch

    with torch.no_grad():
        out = reference(**{n: torch.tensor(a, dtype=torch.long) for n, a in batch.items()}, output_hidden_states=True)
    if "start_logits" in out:
        logits = torch.stack([out.start_logits, out.end_logits], -1)
    else:
        logits = out.logits if "logits" in out else None
    return [state.numpy() for state in out.hidden_states], None if logits is None else logits.numpy()


def states_of(model, batch):
    """What goes into each block, and what the backbone returns."""
    seen = []
    backbone = getattr(model, "backbone", model)
    for block in backbone.blocks:

        def recording(x, *args, _call=block.call, **kwargs):
            seen.append(to_numpy(x))
            return _call(x, *args, **kwargs)

        object.__setattr__(block, "call", recording)
    try:
        last = backbone({name: array for name, array in batch.items() if name in backbone.inputs_taken})
    finally:
        for block in backbone.blocks:
            object.__delattr__(block, "call")
    return [*seen, to_numpy(last)]


def real(array, batch):
    """What stands at real tokens: the rest is rubbish in any model."""
    array = to_numpy(array)
    return array[batch["attention_mask"] == 1] if array.ndim == 3 else array


def check(theirs, folder, batch):
    """Loading, agreement of logits and every hidden state, the way back, and rows alone or padded on either side."""
    theirs.save_pretrained(folder / "theirs")
    model = kn.from_pretrained(folder / "theirs")
    states, logits = outputs_of(theirs, batch)
    for found, expected in zip(states_of(model, batch), states, strict=True):
        assert_close(real(found, batch), real(expected, batch))
    if logits is not None:
        assert_close(real(model(batch), batch), real(logits, batch))
    check_padding(model, batch)
    check_back(model, theirs, folder / "ours", batch)
    return model


def check_padding(model, batch):
    """Rows padded on the left, and one alone, give at their real tokens what they give padded on the right."""
    expected, counts = to_numpy(model(batch)), batch["attention_mask"].sum(1)
    left = {
        name: np.stack([np.roll(row, -n, axis=0) for row, n in zip(a, counts, strict=True)])
        for name, a in batch.items()
    }
    assert_close(real(model(left), left), real(expected, batch))
    alone = to_numpy(model({name: array[1:2, : counts[1]] for name, array in batch.items()}))[0]
    assert_close(expected[1, : counts[1]] if expected.ndim == 3 else expected[1], alone)
    nothing = {**batch, "attention_mask": batch["attention_mask"] * np.array([[1], [0], [1]])}
    assert np.isfinite(to_numpy(model(nothing))).all()


def check_back(model, theirs, folder, batch):
    """`to_pretrained` → the reference's class reads it, uses every tensor, and agrees."""
    kn.to_pretrained(model, folder)
    again, info = type(theirs).from_pretrained(folder, output_loading_info=True)
    assert not any(info.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    for name, weight in theirs.state_dict().items():
        assert (again.state_dict()[name] == weight).all(), name
    assert again.config.num_labels == theirs.config.num_labels


def check_trains(model, batch, labels, steps=3):
    """Three steps of `fit` on one batch lower its loss."""
    model.compile(keras.optimizers.Adam(1e-3), model.make_loss())
    assert_loss_falls(model, batch, labels, steps)
