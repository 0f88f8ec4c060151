"""`kn.trace`: names, values and nothing changed by looking."""

import fnmatch
import threading

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets import layers
from kerasnets.layers import attention, layer
from kerasnets.trace import Trace
from tests.models import parity

VOCAB = 61
SMALL = dict(vocab_size=VOCAB, hidden_size=24, num_layers=2, num_heads=3, max_length=20)
BLOCK = "backbone.blocks.1"


def to_numpy(x):
    return keras.ops.convert_to_numpy(x)


def gpt2(**changes):
    model = kn.GPT2CausalLM(**{**SMALL, **changes})
    random = np.random.default_rng(5)
    for weight in model.weights:
        weight.assign(random.normal(scale=0.4, size=weight.shape))
    return model


def ids(rows=2, length=7):
    return parity.some_ids(VOCAB, rows, length)


def padded():
    mask = np.ones((2, 7), "int32")
    mask[0, :3], mask[1, 5:] = 0, 0
    return {"input_ids": ids(), "attention_mask": mask}


def pictures(random):
    return random.normal(size=(2, 12, 12, 1)).astype("float32")


def sequences(random):
    return random.normal(size=(3, 5, 4)).astype("float32")


def shared(random):
    """A functional model whose one dense layer is called twice, and its input."""
    x = keras.Input((4,))
    dense = layers.Dense(4, name="same")
    return keras.Model(x, layers.Dense(2, name="last")(dense(dense(x)))), random.normal(size=(3, 4)).astype("float32")


MODELS = {
    "gpt2": lambda random: (gpt2(), ids()),
    "gpt2, padded": lambda random: (gpt2(), padded()),
    "gpt2, half": lambda random: (gpt2(dtype="mixed_bfloat16"), ids()),
    "cnn": lambda random: (kn.CNN(num_classes=3, filters=(4, 5)), pictures(random)),
    "autoencoder": lambda random: (kn.Autoencoder(picture_shape=(12, 12), hidden_sizes=(9,)), pictures(random)[..., 0]),
    "rnn": lambda random: (kn.RNN(num_outputs=2, cell="gru", hidden_size=3, bidirectional=True), sequences(random)),
    "sequential": lambda random: (kn.Sequential([layers.LSTM(3), layers.Dense(2)]), sequences(random)),
    "functional": shared,
    "layer": lambda random: (layers.GRU(3, return_state=True), sequences(random)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_pass_stays_as_it_is(name, random):
    """The same bits, and in a model that was not built yet each layer is seen once."""
    model, inputs = MODELS[name](random)
    trace = kn.trace(model, inputs)
    again = kn.trace(model, inputs)
    expected = [to_numpy(keras.ops.cast(x, "float32")) for x in keras.tree.flatten(model(inputs))]
    found = keras.tree.flatten(trace.output)
    assert len(found) == len(expected)
    assert all(isinstance(a, np.ndarray) and np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert np.array_equal(trace["output"], expected[0])
    assert list(trace) == list(again)
    assert all(array.dtype.kind in "biuf" for array in trace.values())
    twice = [n for n in trace if "#" in n and not n.startswith(("dropout", "backbone.blocks", "same"))]
    assert not twice, twice


def test_names_of_gpt2():
    trace = kn.trace(gpt2(), ids())
    inside = ["attention_norm", "attention", "feedforward_norm", "feedforward", "dropout", "dropout#2"]
    inside += [f"attention.{name}" for name in ("query_key_value", "q", "k", "v", "scores", "probabilities", "out")]
    inside += ["feedforward.wide", "feedforward.narrow"]
    expected = {f"backbone.blocks.{i}.{name}" for i in range(2) for name in inside}
    expected |= {"backbone.blocks.0", "backbone.blocks.1", "backbone", "head", "output"}
    expected |= {f"backbone.{name}" for name in ("token_embedding", "position_embedding", "dropout", "final_norm")}
    assert {name for name in trace if not name.endswith("input")} == expected


def test_attention_and_residual_stream():
    trace = kn.trace(gpt2(), padded())
    q, k, v, scores, probabilities = (trace[f"{BLOCK}.attention.{name}"] for name in attention.SHOWN)
    visible = np.tril(np.ones((7, 7), bool)) & padded()["attention_mask"].astype(bool)[:, None, None]
    expected = np.where(visible, np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(8), -1e9)
    parity.assert_close(np.where(visible, scores, 0), np.where(visible, expected, 0))
    assert (scores[~np.broadcast_to(visible, scores.shape)] < -1e8).all()
    weights = np.exp(expected - expected.max(axis=-1, keepdims=True))
    parity.assert_close(probabilities, weights / weights.sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-6)
    mixed = np.einsum("bnts,bsnh->btnh", probabilities, v).reshape(2, 7, 24)
    real = padded()["attention_mask"] == 1
    parity.assert_close(trace[f"{BLOCK}.attention.out.input"][real], mixed[real])
    middle = trace[f"{BLOCK}.feedforward_norm.input"]
    parity.assert_close(trace[f"{BLOCK}.input"] + trace[f"{BLOCK}.attention"], middle)
    parity.assert_close(middle + trace[f"{BLOCK}.feedforward"], trace[BLOCK])
    assert np.array_equal(trace[f"{BLOCK}.input"], trace["backbone.blocks.0"])


def test_agrees_with_transformers(tmp_path):
    """Hidden states and attention probabilities of every layer."""
    torch = pytest.importorskip("torch", reason="the reference runs on torch")
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    config = transformers.GPT2Config(vocab_size=VOCAB, n_embd=24, n_layer=2, n_head=3, n_positions=20)
    config._attn_implementation = "eager"
    reference = parity.randomized(transformers.GPT2LMHeadModel(config))
    reference.save_pretrained(tmp_path)
    trace = kn.trace(kn.from_pretrained(tmp_path), ids())
    with torch.no_grad():
        expected = reference(torch.tensor(ids(), dtype=torch.long), output_attentions=True, output_hidden_states=True)
    states = ["backbone.blocks.0.input", "backbone.blocks.1.input", "backbone.final_norm"]
    assert len(expected.hidden_states) == len(states) and len(expected.attentions) == 2
    for name, state in zip(states, expected.hidden_states, strict=True):
        parity.assert_close(trace[name], state.numpy())
    for i, probabilities in enumerate(expected.attentions):
        parity.assert_close(trace[f"backbone.blocks.{i}.attention.probabilities"], probabilities.numpy())
    parity.assert_close(trace.output, expected.logits.numpy())


def test_feature_maps(random):
    model, inputs = MODELS["cnn"](random)
    trace = kn.trace(model, inputs)
    assert trace["blocks.0.convolve"].shape == (2, 12, 12, 4)
    assert trace["blocks.1"].shape == (2, 3, 3, 5)
    kernel, bias = model.blocks[0].convolve.get_weights()
    x = trace["blocks.0.pad"]
    expected = sum(x[:, i : i + 12, j : j + 12] @ kernel[i, j] for i in range(3) for j in range(3)) + bias
    parity.assert_close(trace["blocks.0.convolve"], np.maximum(expected, 0))
    tiles = trace["blocks.0.convolve"].reshape(2, 6, 2, 6, 2, 4)
    assert np.array_equal(trace["blocks.0.pool"], tiles.max(axis=(2, 4)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_steps(weights, x, mask, size):
    """The gates and states of each step, in NumPy and in the order in which they come."""
    kernel, recurrent, bias = weights
    h = c = np.zeros((len(x), size))
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=-1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        new_c = f * c + i * g
        counts = mask[:, t, None]
        h, c = np.where(counts, o * np.tanh(new_c), h), np.where(counts, new_c, c)
        yield {"i": i, "f": f, "g": g, "o": o, "h": h, "c": c}


def gru_steps(weights, x, mask, size):
    kernel, recurrent, bias = weights
    reset_after = bias.ndim == 2
    h = np.zeros((len(x), size))
    for t in range(x.shape[1]):
        a, b = x[:, t] @ kernel + (bias[0] if reset_after else bias), h @ recurrent + (bias[1] if reset_after else 0)
        z, r = np.split(sigmoid(a[:, : 2 * size] + b[:, : 2 * size]), 2, axis=-1)
        within = r * b[:, 2 * size :] if reset_after else (r * h) @ recurrent[:, 2 * size :]
        candidate = np.tanh(a[:, 2 * size :] + within)
        h = np.where(mask[:, t, None], z * h + (1 - z) * candidate, h)
        yield {"z": z, "r": r, "candidate": candidate, "h": h}


def simple_steps(weights, x, mask, size):
    kernel, recurrent, bias = weights
    h = np.zeros((len(x), size))
    for t in range(x.shape[1]):
        h = np.where(mask[:, t, None], np.tanh(x[:, t] @ kernel + h @ recurrent + bias), h)
        yield {"h": h}


RECURRENT = {"LSTM": ({}, lstm_steps), "GRU": ({}, gru_steps), "SimpleRNN": ({}, simple_steps)}
RECURRENT |= {
    "GRU, reset before": ({"reset_after": False}, gru_steps),
    "LSTM, loop": ({"use_cudnn": False}, lstm_steps),
}


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
@pytest.mark.parametrize("name", RECURRENT)
def test_gates_and_states_over_time(name, backwards, masked, random):
    arguments, steps_of = RECURRENT[name]
    made = getattr(layers, name.split(",")[0])
    made = made(3, bias_initializer="random_normal", go_backwards=backwards, return_sequences=True, **arguments)
    x, mask = sequences(random), np.ones((3, 5), bool)
    if masked:
        mask[0, 3:] = mask[1, :2] = False
    zeroed = np.where(mask[..., None], x, 0)
    model = keras.Sequential([*([keras.layers.Masking()] if masked else []), made])
    trace = kn.trace(model, zeroed)
    order = slice(None, None, -1 if backwards else 1)
    steps = list(steps_of(made.get_weights(), zeroed[:, order].astype("float64"), mask[:, order], 3))
    found = {n.removeprefix(f"{made.name}."): a for n, a in trace.matching(f"{made.name}.*").items()}
    assert set(found) == {"input", *steps[0]}
    for gate in steps[0]:
        parity.assert_close(found[gate], np.stack([step[gate] for step in steps], axis=1))
    read = np.broadcast_to(mask[:, order, None], found["h"].shape)
    parity.assert_close(np.where(read, trace.output, 0), np.where(read, found["h"], 0))


def test_bidirectional_and_initial_state(random):
    x = sequences(random)
    model = kn.RNN(num_outputs=2, cell="lstm", hidden_size=3, bidirectional=True)
    trace = kn.trace(model, x)
    assert trace["blocks.0.forward_layer.c"].shape == trace["blocks.0.backward_layer.f"].shape == (3, 5, 3)
    last = [trace[f"blocks.0.{way}_layer.h"][:, -1] for way in ("forward", "backward")]
    parity.assert_close(trace["blocks.0"], np.concatenate(last, axis=-1))

    class FromOnes(keras.layers.Layer):
        """A recurrent layer that does not begin with zeros."""

        def __init__(self):
            super().__init__()
            self.inner = layers.GRU(3)

        def call(self, x):
            return self.inner(x, initial_state=keras.ops.ones((3, 3)))

    trace = kn.trace(FromOnes(), x)
    z, candidate, h = (trace[f"inner.{name}"] for name in ("z", "candidate", "h"))
    parity.assert_close(z[:, 0] + (1 - z[:, 0]) * candidate[:, 0], h[:, 0])
    parity.assert_close(trace["inner"], h[:, -1])


def test_paths_of_layers_in_lists_dictionaries_and_elsewhere(random):
    class Odd(keras.Model):
        """Layers at every kind of place; one that is called by another layer than the one that holds it."""

        def __init__(self):
            super().__init__()
            self.towers = {"left": [layers.Dense(4)], "right": (layers.Dense(4),)}
            self.inner = kn.Sequential([layers.Dense(4, name="first"), layers.Dense(4, name="second")], name="pair")
            self._hidden = layers.Dense(4, name="secret")

        def call(self, x):
            x = self.towers["left"][0](x) + self.towers["right"][0](x)
            x = self.inner.layers[1](self._hidden(self.inner(x)))
            return {"a": x, "b": [x + 1, x + 2]}

    trace = kn.trace(Odd(), random.normal(size=(2, 4)).astype("float32"))
    names = ["towers.left.0", "towers.right.0", "inner.first", "inner.second", "inner", "secret", "inner.second#2"]
    assert [name for name in trace if not name.endswith("input")] == [*names, "output.a", "output.b.0", "output.b.1"]
    assert np.array_equal(trace.output["b"][1], trace["inner.second#2"] + 2)


def test_only_what_is_asked_for_is_kept_and_computed(monkeypatch):
    model, shown = gpt2(), []
    original = attention.shown
    monkeypatch.setattr(attention, "shown", lambda *args: shown.append(1) or original(*args))
    everything = kn.trace(model, ids())
    assert len(shown) == 2
    wanted = "backbone.blocks.0.attention.probabilities"
    trace = kn.trace(model, ids(), only="*.0.attention.probabilities")
    assert len(shown) == 3 and list(trace) == [wanted]
    assert np.array_equal(trace[wanted], everything[wanted])
    trace = kn.trace(model, ids(), only=["*_norm", "head"])
    assert len(shown) == 3
    assert set(trace) == {n for n in everything if fnmatch.fnmatchcase(n, "*_norm")} | {"head"}
    assert np.array_equal(trace.output, everything.output)
    with pytest.raises(ValueError, match=r"only='\*\.probabilitys'.*attention\.probabilities"):
        kn.trace(model, ids(), only=["head", "*.probabilitys"])


def test_only_unrolls_the_recurrent_layers_asked_for(monkeypatch, random):
    model, made = kn.RNN(num_outputs=2, cell="lstm", hidden_size=3, num_layers=2), []
    original = layers.LSTMCell.call
    monkeypatch.setattr(layers.LSTMCell, "call", lambda *args, **kw: made.append(1) or original(*args, **kw))
    kn.trace(model, sequences(random), only="head")
    before = len(made)
    assert list(kn.trace(model, sequences(random), only="blocks.1.c")) == ["blocks.1.c"]
    assert len(made) - before == before + 5, "one layer, five steps"


def test_no_cost_without_a_trace(monkeypatch, random):
    """No recorder is called, nothing is wrapped, and the compiled step is the one from before any trace."""
    model, inputs = gpt2(), ids()
    before = compiled(model, inputs)
    kn.trace(model, inputs)
    monkeypatch.setattr(attention, "shown", None)  # calling it would raise
    monkeypatch.setattr("kerasnets.layers.recurrence.unrolled", None)
    assert compiled(model, inputs) == before
    model(inputs)
    parity.assert_trains(gpt2(), VOCAB)
    recurrent = kn.RNN(num_outputs=2, hidden_size=3)
    recurrent(sequences(random))
    recurrent.compile("sgd", "mse")
    recurrent.fit(sequences(random), np.zeros((3, 2)), verbose=0)
    assert layer._recorder.get() is None


def compiled(model, inputs):
    """What the backend makes of one call; on torch, which compiles nothing, the operations that it runs."""
    match keras.config.backend():
        case "jax":
            import jax

            values = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
            return str(jax.make_jaxpr(model.stateless_call)(*values, inputs))
        case "tensorflow":
            import tensorflow as tf

            graph = tf.function(model).get_concrete_function(tf.TensorSpec(inputs.shape, "int32")).graph
            return [operation.type for operation in graph.get_operations()]
    import torch

    with torch.profiler.profile() as profile:
        model(inputs)
    return [event.name for event in profile.events()]


class Fails(keras.layers.Layer):
    """Calls a layer of its own, then raises."""

    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(2)

    def call(self, x):
        self.inner(x)
        raise RuntimeError("broken on purpose")


def test_all_is_as_before_even_after_an_error():
    original = keras.layers.Layer.__call__
    model = Fails()
    model.built = True
    with pytest.raises(RuntimeError, match="on purpose"):
        kn.trace(model, np.ones((1, 2), "float32"))
    assert keras.layers.Layer.__call__ is original and layer._recorder.get() is None
    with pytest.raises(ValueError, match="names nothing"):
        kn.trace(gpt2(), ids(), only="nothing.of.the.sort")
    assert keras.layers.Layer.__call__ is original and layer._recorder.get() is None
    assert "head" in kn.trace(gpt2(), ids())


def test_other_threads_are_not_seen(random):
    """A model that runs elsewhere meanwhile leaves no names, and gets its own numbers."""
    other, x, found = layers.Dense(2), np.ones((1, 2), "float32"), []
    expected = to_numpy(other(x))

    class Waits(keras.layers.Layer):
        def call(self, x):
            thread = threading.Thread(target=lambda: found.append(to_numpy(other(np.ones((1, 2), "float32")))))
            thread.start()
            thread.join()
            return x + 1

    model = Waits()
    model.built = True
    assert list(kn.trace(model, x)) == ["input", "output"]
    assert np.array_equal(found[0], expected)


def test_writing_into_an_input_does_not_change_what_was_seen():
    class Adds(keras.layers.Layer):
        """On torch `+=` writes into the array that the layer before it gave."""

        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(2, use_bias=False, kernel_initializer="ones")

        def call(self, x):
            x = self.inner(x)
            x += 1
            return x

    trace = kn.trace(Adds(), np.ones((1, 2), "float32"))
    assert trace["inner"].tolist() == [[2, 2]]
    assert trace["output"].tolist() == trace.output.tolist() == [[3, 3]]


def test_mapping():
    trace = Trace({"a.b.scores": np.zeros(2), "a.b": np.ones((2, 3))}, None, "Model")
    assert len(trace) == 2 and list(trace) == ["a.b.scores", "a.b"] and "a.b" in trace and "scores" not in trace
    assert list(trace.matching("*.sc?res")) == ["a.b.scores"]
    assert repr(trace) == "<Trace of Model: 2 arrays>"
    with pytest.raises(KeyError, match=r"'b\.score' is not in this trace; close to it: a\.b\.scores"):
        trace["b.score"]
    with pytest.raises(KeyError, match="print"):
        trace["zzzz"]


def test_table():
    odd = np.array([[1.0, np.nan], [3.0, np.nan]], "float32")
    arrays = {"x": odd, "x.input": odd, "y": np.array([True, False]), "z": np.full(3, np.nan), "e": np.zeros((0, 2))}
    lines = [line.split() for line in str(Trace(arrays, None, "Model")).splitlines()]
    assert lines[0] == ["Trace", "of", "Model"]
    assert lines[1] == ["name", "shape", "mean", "std", "min", "max", "NaN"]
    assert lines[2] == ["x", "2×2", "2", "1", "1", "3", "2"]
    assert lines[3] == ["y", "2", "0.5", "0.5", "0", "1", "0"]
    assert lines[4] == ["z", "3", "-", "-", "-", "-", "3"]
    assert lines[5] == ["e", "0×2", "-", "-", "-", "-", "0"]
    assert len(lines) == 6, "an input that stands there already is left out"


def test_something_else_is_refused():
    with pytest.raises(ValueError, match="Keras model or layer; received function"):
        kn.trace(lambda x: x, np.ones(2))
