"""`RNN`: the numbers of the same network from `keras.layers`, padding, files, and learning."""

import keras
import numpy as np
import pytest

import kerasnets as kn

KERAS_CELLS = {"simple": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


def keras_twin(cell, bidirectional):
    def block(**arguments):
        layer = KERAS_CELLS[cell](5, **arguments)
        return keras.layers.Bidirectional(layer) if bidirectional else layer

    return keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            keras.layers.Embedding(11, 4, mask_zero=True),
            block(return_sequences=True),
            block(),
            keras.layers.Dense(3),
        ]
    )


@pytest.fixture(scope="module")
def ids():
    random = np.random.default_rng(0)
    ids = random.integers(1, 11, (6, 7))
    ids[np.arange(7) >= random.integers(1, 8, 6)[:, None]] = 0
    return ids.astype("int32")


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", KERAS_CELLS)
def test_equals_the_same_network_of_keras(cell, bidirectional, ids):
    ours = kn.RNN(
        num_outputs=3, cell=cell, hidden_size=5, num_layers=2, bidirectional=bidirectional, vocab_size=11,
        embedding_size=4,
    )  # fmt: skip
    ours(ids)
    twin = keras_twin(cell, bidirectional)
    random = np.random.default_rng(1)
    ours.set_weights([random.normal(0, 0.5, w.shape) for w in ours.get_weights()])
    twin.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours.predict(ids, verbose=0), twin.predict(ids, verbose=0), atol=1e-5)


def test_padding_changes_nothing(ids):
    model = kn.RNN(num_outputs=2, cell="lstm", hidden_size=5, vocab_size=11, embedding_size=4)
    longer = np.pad(ids, [(0, 0), (0, 4)])
    np.testing.assert_allclose(model.predict(ids, verbose=0), model.predict(longer, verbose=0), atol=1e-6)


def test_return_sequences_answers_at_every_step():
    x = np.random.default_rng(2).normal(size=(2, 6, 3)).astype("float32")
    assert kn.RNN(num_outputs=4, return_sequences=True)(x).shape == (2, 6, 4)


def test_config_round_trip_and_file(ids, tmp_path):
    model = kn.RNN(num_outputs=3, cell="gru", hidden_size=5, bidirectional=True, vocab_size=11, embedding_size=4)
    expected = model.predict(ids, verbose=0)
    assert kn.RNN.from_config(model.get_config()).config == model.config
    model.save(tmp_path / "rnn.keras")
    loaded = keras.models.load_model(tmp_path / "rnn.keras")
    np.testing.assert_allclose(loaded.predict(ids, verbose=0), expected, atol=1e-6)


def test_learns_which_number_came_first():
    random = np.random.default_rng(3)
    x = random.normal(size=(64, 8, 1)).astype("float32")
    model = kn.RNN(num_outputs=1, cell="lstm", hidden_size=16)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    losses = model.fit(x, x[:, 0], batch_size=64, epochs=150, verbose=0).history["loss"]
    assert losses[-1] < 0.1 * losses[0]


def test_bad_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="cell='transformer'"):
        kn.RNN(num_outputs=1, cell="transformer")
    with pytest.raises(ValueError, match="unknown"):
        kn.RNN(num_outputs=1, units=3)


def test_an_id_outside_the_vocabulary_is_refused_at_the_door(ids):
    model = kn.RNN(num_outputs=2, vocab_size=9, embedding_size=4, hidden_size=5)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"\[0, 9\)"):
        model.fit(np.maximum(ids, 10), np.zeros(len(ids)), verbose=0)
