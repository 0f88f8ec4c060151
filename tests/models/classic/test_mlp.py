"""`MLP`: the numbers of the same network from `keras.layers`, files, and learning."""

import keras
import numpy as np
import pytest

import kerasnets as kn

MEAN, DEVIATION = 33.0, 79.0


@pytest.fixture(scope="module")
def digits():
    (pictures, labels), _ = kn.datasets.digits()
    return pictures[:32], labels[:32]


def make_model(**fields):
    return kn.MLP(num_classes=10, hidden_sizes=(64, 32), mean=MEAN, deviation=DEVIATION, **fields)


def keras_twin():
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Normalization(axis=None, mean=MEAN, variance=DEVIATION**2),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(32, activation="tanh"),
            keras.layers.Dense(10),
        ]
    )


def test_equals_the_same_network_of_keras(digits):
    model, twin = make_model(activation="tanh"), keras_twin()
    logits = model(digits[0])
    twin.set_weights(model.get_weights())
    assert logits.shape == (32, 10)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(logits), keras.ops.convert_to_numpy(twin(digits[0])), atol=1e-6
    )


def test_dropout_only_in_training(digits):
    model = make_model(dropout=0.5)
    first, second = (keras.ops.convert_to_numpy(model(digits[0])) for _ in range(2))
    trained = keras.ops.convert_to_numpy(model(digits[0], training=True))
    assert np.array_equal(first, second) and np.abs(trained - first).max() > 0.01


def test_overfits_one_batch(digits):
    keras.utils.set_random_seed(0)
    model = make_model()
    model.compile(
        keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    history = model.fit(*digits, epochs=40, batch_size=32, verbose=0).history
    assert history["accuracy"][0] < 0.5
    assert history["accuracy"][-1] == 1.0 and history["loss"][-1] < 0.1


def test_config_round_trip():
    model = make_model(dropout=0.1)
    assert kn.MLP.from_config(model.get_config()).config == model.config


def test_save_and_load(digits, tmp_path):
    model = make_model(dropout=0.1)
    expected = model.predict(digits[0], verbose=0)
    model.save(tmp_path / "mlp.keras")
    loaded = keras.models.load_model(tmp_path / "mlp.keras")
    assert type(loaded) is kn.MLP and loaded.config == model.config
    assert np.array_equal(loaded.predict(digits[0], verbose=0), expected)


def test_takes_rows_of_features():
    table = np.random.RandomState(0).normal([10, 200], [1, 50], (64, 2)).astype("float32")
    model = kn.MLP(num_classes=3, hidden_sizes=(), mean=table.mean(axis=0), deviation=table.std(axis=0))
    logits = keras.ops.convert_to_numpy(model(table))
    weights, bias = model.get_weights()
    np.testing.assert_allclose(logits, (table - table.mean(0)) / table.std(0) @ weights + bias, atol=1e-5)


def test_unknown_fields_raise():
    with pytest.raises(ValueError, match=r"MLP takes the fields .*unknown \['hidden_size'\]"):
        kn.MLP(num_classes=10, hidden_size=64)
