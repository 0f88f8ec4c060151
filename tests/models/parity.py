"""What every family owes its reference: the same numbers, padded or not, cached or not, there and back again."""

import keras
import numpy as np

import kerasnets as kn
from kerasnets.layers.attention import Cache

TOLERANCE = 1e-5  # of the largest value of the reference


def to_numpy(x):
    return keras.ops.convert_to_numpy(x)


def assert_close(found, expected, tolerance=TOLERANCE):
    """Every value within `tolerance` of the largest expected one, which is not tiny."""
    found, expected = np.asarray(to_numpy(found), "float64"), np.asarray(expected, "float64")
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert np.isfinite(found).all()
    largest = np.abs(expected).max()
    assert largest > 1e-3
    assert np.abs(found - expected).max() <= tolerance * largest, np.abs(found - expected).max() / largest


def randomized(reference, seed=0, spread=0.4):
    """A transformers model whose weights, biases and norms are all random and far from where they begin."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, weight in reference.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        is_norm = weight.ndim == 1 and name.endswith("weight")
        weight.data = 1 + 0.3 * noise if is_norm else spread * noise
    return reference.eval()


def some_ids(vocab_size, rows=3, length=11, seed=0):
    return np.random.default_rng(seed).integers(3, vocab_size, (rows, length)).astype("int32")


def hidden_states(model, inputs):
    """(the states before the first block, after each block, and what the backbone returns), and the model's output."""
    backbone = getattr(model, "backbone", model)
    seen, calls = [], []
    for block in backbone.blocks:
        call = block.call
        calls.append((block, call))

        def recording(x, *args, _call=call, **kwargs):
            result = _call(x, *args, **kwargs)
            if not seen:
                seen.append(to_numpy(x))
            seen.append(to_numpy(result[0] if isinstance(result, tuple) else result))
            return result

        object.__setattr__(block, "call", recording)
    try:
        output = to_numpy(model(inputs))
    finally:
        for block, _ in calls:
            object.__delattr__(block, "call")
    return seen, output


def reference_outputs(reference, ids, **inputs):
    """(hidden states, logits) of a transformers causal LM as NumPy."""
    import torch

    with torch.no_grad():
        given = {name: torch.tensor(np.asarray(value), dtype=torch.long) for name, value in inputs.items()}
        out = reference(input_ids=torch.tensor(ids, dtype=torch.long), output_hidden_states=True, **given)
    return [state.numpy() for state in out.hidden_states], out.logits.numpy()


def assert_agrees(model, reference, ids):
    """Logits and every hidden state: [0] before the first block, [k] after block k, the last after the final norm."""
    expected_states, expected = reference_outputs(reference, ids)
    states, logits = hidden_states(model, ids)
    assert_close(logits, expected)
    states = [*states[:-1], to_numpy(model.backbone(ids))]
    assert len(states) == len(expected_states)
    for state, expected_state in zip(states, expected_states, strict=True):
        assert_close(state, expected_state)
    return logits


def assert_padding_changes_nothing(model, vocab_size, lengths=(4, 9, 7)):
    """Rows padded on the right or on the left give at their real tokens what they give alone."""
    ids = some_ids(vocab_size, len(lengths), max(lengths), seed=3)
    alone = [to_numpy(model(ids[i : i + 1, :n]))[0] for i, n in enumerate(lengths)]
    for side in ("right", "left"):
        padded, mask = np.zeros_like(ids), np.zeros_like(ids)
        for i, n in enumerate(lengths):
            place = slice(0, n) if side == "right" else slice(ids.shape[1] - n, None)
            padded[i, place], mask[i, place] = ids[i, :n], 1
        together = to_numpy(model({"input_ids": padded, "attention_mask": mask}))
        for i in range(len(lengths)):
            assert_close(together[i][mask[i] == 1], alone[i])


def assert_cache_changes_nothing(model, vocab_size, length=9, prompt=4):
    """A prompt and then token by token, with keys and values remembered, is the same as all at once."""
    ids = some_ids(vocab_size, 2, length, seed=4)
    expected = to_numpy(model(ids))
    backbone = model.backbone
    size = length + 3  # more places than tokens: those not written yet are not seen
    zero = keras.ops.convert_to_tensor(0)
    cache = [
        Cache(*(keras.ops.zeros((2, size, *shape)) for shape in shapes), zero) for shapes in cache_shapes(model, ids)
    ]
    logits, start = [], 0
    for stop in [prompt, *range(prompt + 1, length + 1)]:
        positions = np.broadcast_to(np.arange(start, stop), (2, stop - start)).astype("int32")
        visible = (np.arange(size)[None] <= np.arange(start, stop)[:, None])[None, None]
        hidden, cache = backbone.decode(ids[:, start:stop], positions, keras.ops.convert_to_tensor(visible), cache)
        logits.append(to_numpy(model.predict_next(hidden)))
        start = stop
    assert_close(np.concatenate(logits, axis=1), expected)


def cache_shapes(model, ids):
    """((K, H), (K, H′)) of each block's keys and values, as one forward pass over nothing remembered shows them."""
    seen = []
    original = kn.layers.attention.remember

    def remember(cache, key, value):
        seen.append(((*key.shape[2:],), (*value.shape[2:],)))
        return original(cache, key, value)

    modules = [m for m in __import__("sys").modules.values() if getattr(m, "remember", None) is original]
    for module in modules:
        module.remember = remember
    try:
        model(ids)
    finally:
        for module in modules:
            module.remember = original
    return seen


def assert_round_trip(model, reference, folder, ids):
    """`to_pretrained` → the reference's class reads it, uses every tensor, and agrees."""
    import torch

    kn.to_pretrained(model, folder)
    again, info = type(reference).from_pretrained(folder, output_loading_info=True)
    assert not any(info.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        found = again.eval()(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    assert_close(found, to_numpy(model(ids)))


def assert_trains(model, vocab_size, steps=3):
    """Three steps of `fit` on one batch lower its loss."""
    ids = some_ids(vocab_size, 4, 9, seed=5)
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert_loss_falls(model, ids[:, :-1], ids[:, 1:], steps)


def assert_loss_falls(model, inputs, labels, steps):
    """Each step of `fit` lowers the loss of its batch, as it is where nothing is dropped."""
    losses = [model.evaluate(inputs, labels, batch_size=4, verbose=0)]
    for _ in range(steps):
        model.fit(inputs, labels, batch_size=4, verbose=0)
        losses.append(model.evaluate(inputs, labels, batch_size=4, verbose=0))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0], losses


def check(reference, folder, vocab_size):
    """All of it, for a causal LM of transformers with random weights."""
    randomized(reference).save_pretrained(folder / "theirs")
    model = kn.from_pretrained(folder / "theirs")
    ids = some_ids(vocab_size)
    assert_agrees(model, reference, ids)
    assert_padding_changes_nothing(model, vocab_size)
    assert_cache_changes_nothing(model, vocab_size)
    assert_round_trip(model, reference, folder / "ours", ids)
    return model
