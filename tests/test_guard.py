"""The guard: one clear error for a beginner's mistake, on every backend, in eager calls and at the door."""

import os
import pathlib
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras import ops

import kerasnets as kn
from kerasnets import guard, layers

BACKEND = keras.config.backend()
ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def guard_off():
    previous = kn.set_guard(False)
    yield
    kn.set_guard(previous)


def refuses(message):
    return pytest.raises(ValueError, match=message)


# --- eager calls

IDS = np.array([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("wrong", [-1, 7, 1000])
@pytest.mark.parametrize("wrap", [np.asarray, ops.convert_to_tensor], ids=["numpy", "tensor"])
@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
def test_token_id_outside_the_vocabulary(wrong, wrap, dtype):
    ids = IDS.astype(dtype)
    ids[1, 2] = wrong
    layer = layers.Embedding(7, 2, name="words")
    with refuses(rf"Layer 'words': token ids must lie in \[0, 7\), but the id at position \(1, 2\) is {wrong}"):
        layer(wrap(ids))
    assert layer(wrap(IDS.astype(dtype))).shape == (2, 3, 2)


def test_float_ids_are_cut_off_as_in_keras():
    layer = layers.Embedding(7, 2, weights=np.arange(14.0).reshape(7, 2))
    y = ops.convert_to_numpy(layer(np.array([6.9, -0.5, 2.0], "float32")))
    np.testing.assert_array_equal(y[:, 0], [12, 0, 4])
    with refuses("is nan"):
        layer(np.array([1.0, np.nan], "float32"))


PICTURE, SEQUENCE, ROW = (2, 6, 6, 4), (2, 6, 4), (2, 4)
WIDE = {
    "Dense": ((3,), ROW),
    "Conv1D": ((3, 2), SEQUENCE),
    "Conv2D": ((3, 2), PICTURE),
    "LayerNormalization": ((), SEQUENCE),
    "RMSNormalization": ((), SEQUENCE),
    "SimpleRNN": ((3,), SEQUENCE),
    "LSTM": ((3,), SEQUENCE),
    "GRU": ((3,), SEQUENCE),
}
OTHERS = {"Embedding": ((7, 2), (2, 3)), "Flatten": ((), PICTURE), "MaxPooling2D": ((), PICTURE)}


def make(name):
    arguments, shape = {**WIDE, **OTHERS}[name]
    return getattr(layers, name)(*arguments), shape


@pytest.mark.parametrize("width", [1, 3, 5])
@pytest.mark.parametrize("name", WIDE)
def test_wrong_feature_width(name, width):
    layer, shape = make(name)
    layer(np.ones(shape, "float32"))
    with refuses(f"expected axis -1 of input shape to have value 4, but received input with shape .*{width}"):
        layer(np.ones((*shape[:-1], width), "float32"))


@pytest.mark.parametrize("name", [*WIDE, *OTHERS])
def test_empty_batch(name):
    layer, shape = make(name)
    with refuses(rf"Layer '{layer.name}': the batch is empty: received shape \(0, {shape[1]}"):
        layer(np.ones((0, *shape[1:]), "float32"))


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU", "GlobalAveragePooling1D"])
@pytest.mark.parametrize("shape", [(2, 5), (3, 6), (2, 6, 1), (6,)])
def test_mask_of_the_wrong_shape(name, shape):
    layer = layers.GlobalAveragePooling1D() if name not in WIDE else make(name)[0]
    with refuses(r"`mask` must have shape \(batch, time\) = \(2, 6\) .* but it has shape " + rf"\({shape[0]},"):
        layer(np.ones(SEQUENCE, "float32"), mask=np.ones(shape, bool))


def test_mask_of_the_wrong_shape_in_a_bidirectional_layer():
    with refuses(r"`mask` must have shape \(batch, time\) = \(2, 6\)"):
        layers.Bidirectional(layers.LSTM(3))(np.ones(SEQUENCE, "float32"), mask=np.ones((2, 5), bool))


# --- the door of fit, evaluate and predict


class Words(kn.Model):
    """Two inputs by name, and layers that are made late."""

    def build(self, shapes):
        self.first, self.second = layers.Embedding(7, 4), layers.Embedding(5, 4)
        self.head = layers.Dense(2)

    def call(self, inputs):
        return self.head(self.first(inputs["a"])[:, 0] + self.second(inputs["b"])[:, 0])


class Recurrent(keras.Model):
    """Any Keras model, with masks from its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = layers.Embedding(7, 4, mask_zero=True)
        self.recurrent, self.head = layers.LSTM(3), layers.Dense(2)

    def call(self, inputs):
        return self.head(self.recurrent(self.embedding(inputs)))


def functional():
    ids = keras.Input((None,))  # of float32, Keras's default
    return keras.Model(ids, layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.Embedding(7, 4)(ids))))


def nested():
    ids = keras.Input((None,), dtype="int32")
    words = keras.Sequential([layers.Embedding(7, 4), layers.GlobalMaxPooling1D()])
    return keras.Model(ids, layers.Dense(2)(words(ids)))


MODELS = {
    "kn.Sequential": lambda: kn.Sequential([layers.Embedding(7, 4), layers.Flatten(), layers.Dense(2)]),
    "kn.Model": Words,
    "functional": lambda: kn.guarded(functional()),
    "nested": lambda: kn.guarded(nested()),
    "keras.Model": lambda: kn.guarded(Recurrent()),
    "keras.Sequential": lambda: kn.guarded(keras.Sequential([layers.Embedding(7, 4), layers.LSTM(2)])),
}
GOOD = np.tile(IDS, (4, 1))
BAD = GOOD.copy()
BAD[5, 1] = -1
Y = np.ones((8, 2), "float32")


def compiled(name):
    model = MODELS[name]()
    model.compile("sgd", "mse")
    return model


def inputs_for(name, ids, wrap=np.asarray):
    if name == "kn.Model":
        return {"a": wrap(ids), "b": wrap(np.zeros_like(ids))}
    return wrap(ids)


@pytest.mark.parametrize("name", MODELS)
def test_the_door_refuses_ids_outside_the_vocabulary(name):
    model = compiled(name)
    bad, good = inputs_for(name, BAD), inputs_for(name, GOOD)
    where = r"x\['a'\]" if name == "kn.Model" else "x"
    message = rf"^{model.name}: {where}: token ids must lie in \[0, 7\), but the id at position \(5, 1\) is -1"
    with refuses(message):
        model.fit(bad, Y, verbose=0)
    model.fit(good, Y, verbose=0)
    with refuses(message):
        model.evaluate(bad, Y, verbose=0)
    with refuses(message):
        model.predict(bad, verbose=0)
    with refuses(message):
        model.train_on_batch(bad, Y)
    with refuses(message):
        model.test_on_batch(bad, Y)
    with refuses(message):
        model.predict_on_batch(bad)
    before = model.get_weights()
    with refuses(message):
        model.fit(x=good, y=Y, validation_data=(bad, Y), verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])  # refused before the first step
    assert model.predict(good, verbose=0).shape == (8, 2)


def test_the_door_names_the_input_that_is_wrong():
    model = compiled("kn.Model")
    inputs = {"a": GOOD, "b": GOOD}  # 5 and 6 are words of a, not of b
    with refuses(rf"^{model.name}: x\['b'\]: token ids must lie in \[0, 5\), but the id at position \(1, 1\) is 5"):
        model.fit(inputs, Y, verbose=0)


WRAPS = {"numpy": np.asarray, "tensor": ops.convert_to_tensor, "list of arrays": lambda ids: [ids]}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_the_door_looks_at_arrays_tensors_and_lists(wrap):
    model = compiled("functional")
    with refuses("token ids must lie in"):
        model.predict(wrap(BAD), verbose=0)
    assert model.predict(wrap(GOOD), verbose=0).shape == (8, 2)


@pytest.mark.parametrize("name", MODELS)
def test_the_door_refuses_an_empty_batch(name):
    model = compiled(name)
    with refuses("the batch is empty: received shape"):
        model.fit(inputs_for(name, GOOD[:0]), Y[:0], verbose=0)
    with refuses("the batch is empty: received shape"):
        model.predict(inputs_for(name, GOOD[:0]), verbose=0)


def test_the_door_is_open_for_datasets_and_generators():
    def batches():
        for _ in range(2):
            yield GOOD, Y

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return GOOD, Y

    model = compiled("functional")
    model.fit(batches(), steps_per_epoch=2, verbose=0)
    model.fit(Data(), verbose=0)
    assert model.predict(Data(), verbose=0).shape == (16, 2)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        model.fit(tf.data.Dataset.from_tensor_slices((GOOD, Y)).batch(4), verbose=0)


@pytest.mark.parametrize("name", WIDE)
def test_a_wrong_width_is_refused_by_fit_and_predict(name):
    layer, shape = make(name)
    model = kn.Sequential([keras.Input(shape[1:]), layer])
    model.compile("sgd", "mse")
    y = np.zeros((2, *model.output_shape[1:]), "float32")
    model.fit(np.ones(shape, "float32"), y, verbose=0)
    wrong = np.ones((*shape[:-1], 3), "float32")
    with refuses(r"incompatible with the layer: expected .*4.*shape.*\(2, .*3\)"):
        model.fit(wrong, y, verbose=0)
    with refuses(r"incompatible with the layer: expected .*4.*shape.*\(2, .*3\)"):
        model.predict(wrong, verbose=0)


def test_a_wrong_width_is_refused_by_a_model_of_ours():
    class Recurrent(kn.Model):
        def make_layers(self):
            self.recurrent = layers.LSTM(2)

        def call(self, x):
            return self.recurrent(x)

    model = Recurrent()
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 6, 4), "float32"), Y, verbose=0)
    with refuses("expected axis -1 of input shape to have value 4, but received input with shape"):
        model.predict(np.ones((8, 6, 3), "float32"), verbose=0)
    with refuses("expected axis -1 of input shape to have value 4, but received input with shape"):
        model.fit(np.ones((8, 6, 3), "float32"), Y, verbose=0)
    assert model.predict(np.ones((8, 9, 4), "float32"), verbose=0).shape == (8, 2)


def functional_with_mask():
    x, keep = keras.Input((6, 4), name="x"), keras.Input((None,), dtype="bool", name="keep")
    return kn.guarded(keras.Model({"x": x, "keep": keep}, layers.LSTM(2)(x, mask=keep)))


class Masked(kn.Model):
    def make_layers(self):
        self.recurrent = layers.LSTM(2)

    def call(self, inputs):
        return self.recurrent(inputs["x"], mask=inputs["keep"])


@pytest.mark.parametrize("make", [functional_with_mask, Masked])
def test_a_mask_of_the_wrong_shape_is_refused_by_fit_and_predict(make):
    model = make()
    model.compile("sgd", "mse")
    inputs = {"x": np.ones((8, 6, 4), "float32"), "keep": np.ones((8, 5), bool)}
    with refuses(r"`mask` must have shape \(batch, time\) = "):
        model.fit(inputs, Y, verbose=0)
    with refuses(r"`mask` must have shape \(batch, time\) = "):
        model.predict(inputs, verbose=0)
    assert model.predict({**inputs, "keep": np.ones((8, 6), bool)}, verbose=0).shape == (8, 2)


# --- what the door must not do


def test_ids_that_the_model_changes_first_are_its_own_business():
    class Shifted(kn.Model):
        def make_layers(self):
            self.embedding = layers.Embedding(7, 2)

        def call(self, ids):
            return self.embedding(ids + 1)[:, 0]

    model = Shifted()
    model.compile("sgd", "mse")
    assert model.predict(np.full((8, 3), -1), verbose=0).shape == (8, 2)


def test_other_inputs_of_the_same_shape_are_no_token_ids():
    ids, counts = keras.Input((3,), name="ids"), keras.Input((3,), name="counts")
    y = layers.Dense(2)(keras.layers.Concatenate()([layers.Flatten()(layers.Embedding(7, 2)(ids)), counts]))
    model = kn.guarded(keras.Model([ids, counts], y))
    model.compile("sgd", "mse")
    model.fit([GOOD, GOOD * 1000 - 5000], Y, verbose=0)
    with refuses(r"x\[0\]: token ids"):
        model.fit([BAD, GOOD], Y, verbose=0)


def test_inputs_that_are_no_arrays_of_numbers_are_left_to_keras():
    words = kn.Sequential([keras.layers.TextVectorization(vocabulary=["a", "b"]), layers.Embedding(4, 2)])
    model = kn.guarded(functional())
    for inputs in (np.array(["a b", "b"]), [["a b"], ["b"]], None):
        guard.check_inputs(words, inputs)
        guard.check_inputs(model, inputs)


def with_and_without_guard(function):
    results = []
    for enabled in (True, False):
        previous = kn.set_guard(enabled)
        keras.utils.set_random_seed(3)
        try:
            results.append(function())
        finally:
            kn.set_guard(previous)
    return results


@pytest.mark.parametrize("build_first", [True, False])
def test_looking_leaves_weights_and_random_numbers_alone(build_first):
    def train():
        first = [keras.Input((3,), dtype="int32")] if build_first else []
        model = kn.Sequential([*first, layers.Embedding(7, 4), keras.layers.Dropout(0.5), layers.LSTM(2)])
        model.compile("sgd", "mse")
        model.fit(GOOD, Y, epochs=2, verbose=0)
        return model.get_weights() + [keras.random.normal((3,), seed=model.layers[1].seed_generator)]

    for guarded, plain in zip(*with_and_without_guard(train), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(guarded), ops.convert_to_numpy(plain))


def test_looking_leaves_states_alone():
    def read():
        # The second input is no token id: the door's call never sees it at an embedding, and goes through to the end.
        ids, other = keras.Input(batch_shape=(4, 3), dtype="int32"), keras.Input(batch_shape=(4, 3, 4))
        x = keras.layers.Add()([layers.Embedding(7, 4)(ids), other])
        model = kn.guarded(keras.Model([ids, other], layers.LSTM(2, stateful=True)(x)))
        inputs = [GOOD, np.zeros((8, 3, 4), "float32")]
        predicted = model.predict(inputs, batch_size=4, verbose=0)
        return [predicted, *(ops.convert_to_numpy(model([x[:4] for x in inputs])) for _ in range(2))]

    guarded, plain = with_and_without_guard(read)
    for ours, expected in zip(guarded, plain, strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert not np.array_equal(plain[1], plain[2])  # there are states to be left alone


def test_a_model_that_fails_says_so_itself():
    class Broken(kn.Model):
        def make_layers(self):
            self.embedding = layers.Embedding(7, 2)

        def call(self, ids):
            raise KeyError("my own mistake")

    model = Broken()
    model.compile("sgd", "mse")
    with pytest.raises(Exception, match="my own mistake"):
        model.fit(GOOD, Y, verbose=0)


def test_guarded_returns_the_model_and_keeps_its_results():
    model = functional()
    expected = model.predict(GOOD, verbose=0)
    assert kn.guarded(model) is model
    np.testing.assert_array_equal(model.predict(GOOD, verbose=0), expected)


# --- the switch, and the cost


def test_the_switch(guard_off):
    assert not guard.guard_enabled()
    layers.Dense(2)(np.ones((0, 4), "float32"))
    if BACKEND == "jax":  # the others refuse or break down by themselves
        layers.Embedding(7, 2)(np.array([[1, -1]]))
        compiled("functional").predict(BAD, verbose=0)


def test_set_guard_returns_the_previous_setting():
    assert kn.set_guard(False) is True
    assert kn.set_guard(True) is False


def test_the_switch_in_the_environment():
    script = "from kerasnets import guard; print(guard.guard_enabled())"
    environment = {**os.environ, "KERASNETS_GUARD": "0"}
    answer = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True, cwd=ROOT)
    assert answer.split()[-1] == "False"
    assert guard.guard_enabled()


def compiled_step(model, ids):
    """The compiled step's operations, as text."""
    if BACKEND == "jax":
        import jax

        return str(jax.make_jaxpr(lambda x: model(x))(ids))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        graph = tf.function(lambda x: model(x)).get_concrete_function(tf.convert_to_tensor(ids)).graph
        return "\n".join(f"{node.type} {[t.shape for t in node.outputs]}" for node in graph.get_operations())
    import torch

    return str(torch.export.export(model, (torch.as_tensor(ids),)).graph)


def test_nothing_is_added_to_a_compiled_step():
    model = keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(7, 4), layers.Dense(2)])
    ids = GOOD.astype("int32")
    with_guard = compiled_step(model, ids)
    previous = kn.set_guard(False)
    without = compiled_step(model, ids)
    kn.set_guard(previous)
    assert with_guard == without
    assert len(with_guard.splitlines()) > 3


def test_an_eager_check_takes_microseconds():
    ids = ops.convert_to_tensor(np.zeros((32, 100), "int32"))
    layer = layers.Embedding(7, 4)
    layer(ids)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        guard.check_token_ids(ids, 7, "here")
        guard.check_not_empty(ids.shape, "here")
        times.append(time.perf_counter() - start)
    assert np.median(times) < 100e-6
