"""`Autoencoder`: the numbers of the same network from `keras.layers`, files, and learning without labels."""

import keras
import numpy as np
import pytest

import kerasnets as kn

MEAN, DEVIATION = 33.0, 79.0


@pytest.fixture(scope="module")
def digits():
    return kn.datasets.digits()[0][0][:32]


def make_model(**fields):
    return kn.Autoencoder(latent_size=6, hidden_sizes=(64, 32), mean=MEAN, deviation=DEVIATION, **fields)


def keras_twin():
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Normalization(axis=None, mean=MEAN, variance=DEVIATION**2),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(32, activation="tanh"),
            keras.layers.Dense(6, name="latent"),
            keras.layers.Dense(32, activation="tanh"),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(784),
            keras.layers.Rescaling(DEVIATION, MEAN),
            keras.layers.Reshape((28, 28)),
        ]
    )


def test_equals_the_same_network_of_keras(digits):
    model, twin = make_model(activation="tanh"), keras_twin()
    drawn = model(digits)
    twin.set_weights(model.get_weights())
    encoder = keras.Model(twin.inputs, twin.get_layer("latent").output)
    assert drawn.shape == (32, 28, 28) and model.encode(digits).shape == (32, 6)
    latent, drawn, expected_latent, expected = map(
        keras.ops.convert_to_numpy, (model.encode(digits), drawn, encoder(digits), twin(digits))
    )
    np.testing.assert_allclose(latent, expected_latent, atol=1e-6)
    np.testing.assert_allclose(drawn / DEVIATION, expected / DEVIATION, atol=1e-6)


def test_call_is_decode_of_encode(digits):
    model = make_model()
    drawn = keras.ops.convert_to_numpy(model.decode(model.encode(digits)))
    assert np.array_equal(keras.ops.convert_to_numpy(model(digits)), drawn)


def test_overfits_one_batch(digits):
    keras.utils.set_random_seed(0)
    model = make_model()
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    losses = model.fit(digits, digits, epochs=300, batch_size=32, verbose=0).history["loss"]
    assert losses[0] > 0.8 * digits.var() and losses[-1] < 0.1 * digits.var()


def test_config_round_trip():
    model = make_model()
    assert kn.Autoencoder.from_config(model.get_config()).config == model.config


def test_save_and_load(digits, tmp_path):
    model = make_model()
    expected = model.predict(digits, verbose=0)
    model.save(tmp_path / "autoencoder.keras")
    loaded = keras.models.load_model(tmp_path / "autoencoder.keras")
    assert type(loaded) is kn.Autoencoder and loaded.config == model.config
    assert np.array_equal(loaded.predict(digits, verbose=0), expected)
    latent = [keras.ops.convert_to_numpy(m.encode(digits)) for m in (model, loaded)]
    np.testing.assert_array_equal(*latent)


def test_other_picture_shapes():
    model = make_model(picture_shape=(5, 4, 3))
    assert model(np.zeros((2, 5, 4, 3), "uint8")).shape == (2, 5, 4, 3)
    with pytest.raises(ValueError, match=r"must have the shape \(5, 4, 3\); received .* \(2, 4, 5, 3\)"):
        model(np.zeros((2, 4, 5, 3), "uint8"))


def test_unknown_fields_raise():
    with pytest.raises(ValueError, match=r"Autoencoder takes the fields .*unknown \['latent'\]"):
        kn.Autoencoder(latent=3)
