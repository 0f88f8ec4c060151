"""What every encoder–decoder owes its reference: the same numbers, however it is asked for them."""

import keras
import numpy as np

import kerasnets as kn
from kerasnets.layers.attention import Cache
from kerasnets.seq2seq import shift_right
from tests.models.parity import assert_close, assert_loss_falls, randomized, some_ids, to_numpy

LENGTHS = (11, 6, 9)


def some_inputs(vocab_size, padded=True, target=8):
    """A batch of sources of different lengths, padded on the right, and targets."""
    inputs = {"input_ids": some_ids(vocab_size), "decoder_input_ids": some_ids(vocab_size, length=target, seed=1)}
    if padded:
        inputs["attention_mask"] = (np.arange(11) < np.array(LENGTHS)[:, None]).astype("int32")
    return inputs


def reference_outputs(reference, inputs):
    """What transformers computes: {"encoder": states, "decoder": states}, logits or None."""
    import torch

    with torch.no_grad():
        kinds = {name: torch.float32 if value.dtype.kind == "f" else torch.long for name, value in inputs.items()}
        given = {name: torch.tensor(value, dtype=kinds[name]) for name, value in inputs.items()}
        out = reference(**given, output_hidden_states=True)
    states = {"encoder": out.encoder_hidden_states, "decoder": out.decoder_hidden_states}
    logits = getattr(out, "logits", None)
    return {k: [state.numpy() for state in v] for k, v in states.items()}, None if logits is None else logits.numpy()


def assert_agrees(model, reference, inputs):
    """Logits and every hidden state of both: before the first block, after each, the last after the final norm."""
    expected, expected_logits = reference_outputs(reference, inputs)
    backbone = getattr(model, "backbone", model)
    trace = kn.trace(model, inputs)
    if expected_logits is not None:
        assert_close(trace.output, expected_logits)
    final = {"encoder": backbone.encode(inputs)[0], "decoder": backbone(inputs)}
    prefix = "" if backbone is model else "backbone."
    for part, states in expected.items():
        names = [f"{prefix}{part}_blocks.{i}.input" for i in range(len(states) - 1)]
        real = inputs["attention_mask"] == 1 if part == "encoder" and "attention_mask" in inputs else ...
        for found, state in zip([*(trace[n] for n in names), to_numpy(final[part])], states, strict=True):
            assert_close(found[real], state[real])


def on_the_left(ids, lengths):
    """Rows whose padding stands behind them, with it before them; and where they are real."""
    size = ids.shape[1]
    rows = [np.concatenate([np.zeros(size - n, "int32"), row[:n]]) for row, n in zip(ids, lengths, strict=True)]
    return np.stack(rows), (np.arange(size) >= size - np.array(lengths)[:, None]).astype("int32")


def assert_padding_changes_nothing(model, inputs, row=2):
    """A source and a target padded on the right or on the left give at their real tokens what they give alone."""
    lengths = (5, 8, 3)
    targets = inputs["decoder_input_ids"]
    right = {**inputs, "decoder_attention_mask": (np.arange(targets.shape[1]) < np.array(lengths)[:, None]) * 1}
    left = dict(right)
    left["decoder_input_ids"], left["decoder_attention_mask"] = on_the_left(targets, lengths)
    alone = {name: value[row : row + 1] for name, value in inputs.items() if name != "attention_mask"}
    alone["decoder_input_ids"] = alone["decoder_input_ids"][:, : lengths[row]]
    if "attention_mask" in inputs:
        left["input_ids"], left["attention_mask"] = on_the_left(inputs["input_ids"], LENGTHS)
        alone["input_ids"] = alone["input_ids"][:, : LENGTHS[row]]
    expected = to_numpy(model(alone))[0]
    for padded in (right, left):
        assert_close(to_numpy(model(padded))[row][padded["decoder_attention_mask"][row] == 1], expected)


def assert_cache_changes_nothing(model, inputs, prompt=3):
    """A target begun with a few tokens and then token by token, the source remembered once, is the same as at once."""
    expected, ids = to_numpy(model(inputs)), inputs["decoder_input_ids"]
    batch, length = ids.shape
    memory = model.remember_source({name: x for name, x in inputs.items() if name != "decoder_input_ids"})
    zero, size = keras.ops.convert_to_tensor(0), length + 3
    cache = [Cache(*(keras.ops.zeros((batch, size, *space)) for space in pair), zero) for pair in model.cache_spaces()]
    logits, start = [], 0
    for stop in [prompt, *range(prompt + 1, length + 1)]:
        positions = np.broadcast_to(np.arange(start, stop), (batch, stop - start)).astype("int32")
        visible = keras.ops.convert_to_tensor((np.arange(size) <= np.arange(start, stop)[:, None])[None, None])
        hidden, cache = model.backbone.decode(ids[:, start:stop], positions, visible, cache, memory=memory)
        logits.append(to_numpy(model.predict_next(hidden)))
        start = stop
    assert_close(np.concatenate(logits, axis=1), expected)


def assert_round_trip(model, reference, folder, inputs):
    """`to_pretrained` → the reference's class reads it, uses every tensor, and agrees."""
    kn.to_pretrained(model, folder)
    again, info = type(reference).from_pretrained(folder, output_loading_info=True)
    assert not any(info.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    _, logits = reference_outputs(again.eval(), inputs)
    assert_close(logits, to_numpy(model(inputs)))


def assert_generates(model, reference, inputs, length=30):
    """Greedy ids are those of transformers, for rows of different lengths; no pair comes twice, so that many do."""
    import torch

    inputs = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    kinds = {name: torch.float32 if value.dtype.kind == "f" else torch.long for name, value in inputs.items()}
    given = {name: torch.tensor(value, dtype=kinds[name]) for name, value in inputs.items()}
    settings = {"max_new_tokens": length, "min_new_tokens": length}
    expected = reference.generate(**given, **settings, do_sample=False, no_repeat_ngram_size=2)[:, -length:].numpy()
    assert len(np.unique(expected)) > 4
    assert np.array_equal(model.generate(inputs, **settings, no_repeat_ngram=2), expected)


def check(reference, folder, inputs, spread=0.4, briefly=False):
    """All of it, for a model of transformers with random weights and a language model's head; or only the numbers."""
    randomized(reference, spread=spread).save_pretrained(folder / "theirs")
    model = kn.from_pretrained(folder / "theirs")
    assert_agrees(model, reference, inputs)
    if not briefly:
        assert_padding_changes_nothing(model, inputs)
        assert_cache_changes_nothing(model, inputs)
    assert_round_trip(model, reference, folder / "ours", inputs)
    return model


def assert_trains(model, inputs, start, vocab_size, steps=3):
    """Three steps of `fit` on one batch lower its loss."""
    labels = some_ids(vocab_size, length=6, seed=7)
    inputs = {**inputs, "decoder_input_ids": shift_right(labels, start, 0)}
    model.compile(keras.optimizers.Adam(1e-3), kn.losses.TokenCrossEntropy())
    assert_loss_falls(model, inputs, labels, steps)
