"""The recurrent layers: values and gradients against `keras.layers`, the fast path against the cell's own loop."""

import contextlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import kerasnets as kn

NAMES = ("SimpleRNN", "LSTM", "GRU")
FAST = dict(max_examples=12, deadline=None, derandomize=True)


def spread(layer, seed=0):
    """Weights of large spread, biases included."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, 0.6, w.shape) for w in layer.get_weights()])


def flat(outputs):
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def cell_loop(layer, x, mask, states):
    """What the layer must compute, one call of its cell after the other."""
    rng = range(x.shape[1] - 1, -1, -1) if layer.go_backwards else range(x.shape[1])
    states = [ops.convert_to_tensor(s) for s in states]
    outputs, output = [], None
    for t in rng:
        new_output, new_states = layer.cell(ops.convert_to_tensor(x[:, t]), states)
        counts = ops.convert_to_tensor(np.ones((len(x), 1), bool) if mask is None else mask[:, t : t + 1])
        output = ops.where(counts, new_output, states[0] if output is None else output)
        states = [ops.where(counts, new, old) for new, old in zip(new_states, states, strict=True)]
        outputs.append(output)
    return ops.stack(outputs, axis=1), *states


def masks(kind, rng, batch, steps):
    lengths = rng.integers(0, steps + 1, batch)
    return {
        "none": None,
        "right": np.arange(steps) < lengths[:, None],
        "left": np.arange(steps) >= lengths[:, None],
        "holes": rng.random((batch, steps)) < 0.6,
    }[kind]


@pytest.mark.parametrize("name", NAMES)
@settings(**FAST)
@given(
    batch=st.integers(1, 5),
    steps=st.integers(1, 6),
    width=st.integers(1, 4),
    units=st.integers(1, 5),
    mask=st.sampled_from(["none", "right", "left", "holes"]),
    backwards=st.booleans(),
    use_bias=st.booleans(),
    given_states=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_fast_path_is_the_cell_loop(name, batch, steps, width, units, mask, backwards, use_bias, given_states, seed):
    rng = np.random.default_rng(seed)
    layer = getattr(kn.layers, name)(
        units, return_sequences=True, return_state=True, go_backwards=backwards, use_bias=use_bias
    )
    x = rng.normal(size=(batch, steps, width)).astype("float32")
    mask = masks(mask, rng, batch, steps)
    if given_states and mask is not None:  # what stands before the first step that counts is the backend's own affair
        mask[:, -1 if backwards else 0] = True
    states = [rng.normal(size=(batch, units)).astype("float32") * given_states for _ in range(layer.cell.num_states)]
    layer.build(x.shape)
    spread(layer, seed)
    expected = cell_loop(layer, x, mask, states)
    assert_close(layer(x, mask=mask, initial_state=states), expected)
    assert layer.path_taken.startswith("fast")
    with without_gradients():
        assert_close(layer(x, mask=mask, initial_state=states), expected)


def without_gradients():
    """As in `predict`: torch has a way of its own where no gradient is wanted."""
    if keras.config.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


@pytest.mark.parametrize("kind", ["right", "left", "holes"])
@pytest.mark.parametrize("name", NAMES)
def test_layers_that_share_a_mask_are_their_cell_loops(name, kind):
    rng = np.random.default_rng(3)
    x, mask = rng.normal(size=(37, 12, 3)).astype("float32"), masks(kind, rng, 37, 12)
    mask[:, 0] = True
    stacked = [getattr(kn.layers, name)(units, return_sequences=True) for units in (5, 4)]
    h, shared = x, ops.convert_to_tensor(mask)
    for layer in stacked:
        layer.build(h.shape)
        spread(layer)
        zeros = [np.zeros((37, layer.units), "float32")] * layer.cell.num_states
        h = ops.convert_to_numpy(cell_loop(layer, h, mask, zeros)[0])
    with without_gradients():
        first = stacked[0](x, mask=shared)
        assert_close(stacked[1](first, mask=shared), h)


@pytest.mark.parametrize("zero_output_for_mask", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_output_equals_keras(name, return_sequences, zero_output_for_mask):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 6, 3)).astype("float32")
    for kind in ("none", "right", "left", "holes"):
        mask = masks(kind, rng, 4, 6)
        states = [rng.normal(size=(4, 5)).astype("float32") for _ in range(2 if name == "LSTM" else 1)]
        arguments = dict(
            return_sequences=return_sequences, return_state=True, zero_output_for_mask=zero_output_for_mask
        )
        ours, theirs = getattr(kn.layers, name)(5, **arguments), getattr(keras.layers, name)(5, **arguments)
        ours.build(x.shape)
        theirs.build(x.shape)
        spread(ours)
        theirs.set_weights(ours.get_weights())
        outputs = ours(x, mask=mask, initial_state=states)
        assert_close(outputs, theirs(x, mask=mask, initial_state=states))


def trained(layers, name, weights, mask, x, y):
    """Predictions and the weights' changes of one step of gradient descent, two layers deep."""
    inputs, padding = keras.Input(x.shape[1:]), keras.Input((x.shape[1],), dtype="bool")
    h = getattr(layers, name)(5, return_sequences=True)(inputs, mask=padding)
    h = getattr(layers, name)(5, return_sequences=True, go_backwards=True)(h, mask=padding)
    model = keras.Model([inputs, padding], h)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    if weights is None:
        rng = np.random.default_rng(0)
        weights = [w + rng.normal(0, 0.3, w.shape) for w in model.get_weights()]
    model.set_weights(weights)
    before = model.get_weights()
    predictions = model.predict_on_batch([x, mask])
    model.train_on_batch([x, mask], y)
    return weights, predictions, [a - b for a, b in zip(model.get_weights(), before, strict=True)]


@pytest.mark.parametrize("kind", ["right", "holes"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_keras_in_a_compiled_step(name, kind):
    """37 rows: TensorFlow cuts the batch in parts, and they are not equal."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(37, 7, 3)).astype("float32"), rng.normal(size=(37, 7, 5)).astype("float32")
    mask = masks(kind, rng, 37, 7)
    weights, ours, our_steps = trained(kn.layers, name, None, mask, x, y)
    _, theirs, their_steps = trained(keras.layers, name, weights, mask, x, y)
    assert_close(ours, theirs)
    largest = max(abs(s).max() for s in their_steps)
    for a, b in zip(our_steps, their_steps, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * largest)  # differences of weights near 1 in float32


def test_gates_of_a_subclass_are_what_is_computed():
    """Not the equation of the class that it began with, which a backend may have a kernel for."""

    class LeakyCell(kn.layers.LSTMCell):
        def gates(self, seen, states):
            h, c = super().gates(seen, states)
            return h, 0.5 * c

    class Leaky(kn.layers.LSTM):
        Cell = LeakyCell

    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    layer, loop = Leaky(6), Leaky(6, unroll=True)
    for one in (layer, loop):
        one.build(x.shape)
    loop.set_weights(layer.get_weights())
    found, expected = (keras.ops.convert_to_numpy(one(x)) for one in (layer, loop))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.skipif(keras.config.backend() != "torch", reason="the others have no kernel that minds")
def test_weights_of_an_lstm_stay_as_its_kernel_reads_them(tmp_path):
    """Made, set, trained and loaded: to turn them over at each call took 6 to 8 % of its time."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 5, 3)).astype("float32"), rng.normal(size=(8, 4)).astype("float32")
    model = keras.Sequential([keras.Input((5, 3)), kn.layers.LSTM(4)])

    def lie_turned_over(model):
        return [weight.value.t().is_contiguous() for weight in model.weights if len(weight.shape) == 2]

    assert lie_turned_over(model) == [True, True]
    spread(model)
    model.compile("adam", "mse")
    model.fit(x, y, verbose=0)
    assert lie_turned_over(model) == [True, True]
    model.save(tmp_path / "lstm.keras")
    loaded = keras.saving.load_model(tmp_path / "lstm.keras")
    assert lie_turned_over(loaded) == [True, True]
    assert_close(loaded(x), model(x), 0)


def test_path_taken_says_why():
    x = np.ones((2, 3, 4), "float32")
    for arguments, path in [
        ({}, "fast"),
        ({"unroll": True}, "cell loop: unroll=True"),
        ({"use_cudnn": False}, "cell loop: use_cudnn=False"),
    ]:
        layer = kn.layers.LSTM(5, **arguments)
        assert layer.path_taken == "not called yet"
        layer(x)
        assert layer.path_taken.startswith(path)
    layer = kn.layers.LSTM(5, recurrent_dropout=0.5)
    layer(x, training=True)
    assert layer.path_taken == "cell loop: recurrent_dropout"
    layer = kn.layers.GRU(5, reset_after=False)
    layer(x)
    assert layer.path_taken.startswith("cell loop")


@pytest.mark.parametrize("arguments", [{}, {"reset_after": False}, {"recurrent_activation": "hard_sigmoid"}])
def test_gru_variants_equal_keras(arguments):
    x = np.random.default_rng(3).normal(size=(4, 6, 3)).astype("float32")
    ours, theirs = kn.layers.GRU(5, **arguments), keras.layers.GRU(5, **arguments)
    ours.build(x.shape)
    theirs.build(x.shape)
    spread(ours)
    theirs.set_weights(ours.get_weights())
    assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", NAMES)
def test_dropout_draws_one_mask_a_sequence_and_only_in_training(name):
    x = np.ones((64, 5, 8), "float32")
    layer = getattr(kn.layers, name)(4, dropout=0.5, seed=1)
    quiet = flat(layer(x))[0]
    assert np.ptp(quiet, axis=0).max() < 1e-6
    noisy = flat(layer(x, training=True))[0]
    assert layer.path_taken.startswith("fast")
    assert np.ptp(noisy, axis=0).max() > 1e-3
    assert abs(flat(layer(x, training=True))[0] - noisy).max() > 1e-3, "the next batch draws anew"


@pytest.mark.parametrize("name", NAMES)
def test_recurrent_dropout_trains(name):
    rng = np.random.default_rng(4)
    model = keras.Sequential([getattr(kn.layers, name)(4, dropout=0.2, recurrent_dropout=0.3), kn.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = rng.normal(size=(8, 5, 3)).astype("float32"), rng.normal(size=(8, 1)).astype("float32")
    assert np.isfinite(model.train_on_batch(x, y))


@pytest.mark.parametrize("name", NAMES)
def test_stateful_continues_where_it_stopped(name):
    x = np.random.default_rng(5).normal(size=(2, 6, 3)).astype("float32")
    whole = getattr(kn.layers, name)(4)
    parts = getattr(kn.layers, name)(4, stateful=True)
    whole.build(x.shape)
    parts.build(x.shape)
    parts.set_weights(whole.get_weights() + parts.get_weights()[3:])
    parts(x[:, :4])
    assert_close(parts(x[:, 4:]), whole(x))
    parts.reset_state()
    assert_close(parts(x[:, :4]), whole(x[:, :4]))


@pytest.mark.parametrize("name", NAMES)
def test_cells_run_in_keras_rnn_and_stacked(name):
    x = np.random.default_rng(6).normal(size=(3, 5, 4)).astype("float32")
    cell = getattr(kn.layers, f"{name}Cell")
    stacked = keras.layers.RNN([cell(4, dropout=0.1), cell(3)], return_sequences=True)
    assert flat(stacked(x, training=True))[0].shape == (3, 5, 3)


def test_a_row_that_is_all_padding_gives_no_nan():
    x = np.full((2, 4, 3), np.float32(1e3))
    mask = np.array([[True] * 4, [False] * 4])
    for name in NAMES:
        for kind in ("float32", "mixed_bfloat16"):
            outputs = getattr(kn.layers, name)(3, return_sequences=True, dtype=kind)(x, mask=mask)
            assert np.isfinite(ops.convert_to_numpy(ops.cast(outputs, "float32"))).all()


def test_bidirectional_reads_both_ways():
    x = np.random.default_rng(7).normal(size=(3, 5, 4)).astype("float32")
    mask = np.arange(5) < np.array([[5], [2], [3]])
    for name in NAMES:
        ours = kn.layers.Bidirectional(getattr(kn.layers, name)(4, return_sequences=True))
        theirs = keras.layers.Bidirectional(getattr(keras.layers, name)(4, return_sequences=True))
        ours.build(x.shape)
        theirs.build(x.shape)
        theirs.set_weights(ours.get_weights())
        assert_close(ours(x, mask=mask), theirs(x, mask=mask))
