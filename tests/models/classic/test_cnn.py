"""`CNN`: the numbers of the same network from `keras.layers`, files, and learning."""

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
    return kn.CNN(num_classes=10, filters=(8, 16), hidden_size=32, mean=MEAN, deviation=DEVIATION, **fields)


def keras_twin(shape, kernel_size):
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Normalization(axis=None, mean=MEAN, variance=DEVIATION**2),
            keras.layers.Conv2D(8, kernel_size, padding="same", activation="tanh"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(16, kernel_size, padding="same", activation="tanh"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="tanh"),
            keras.layers.Dense(10),
        ]
    )


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(28, 28, 1), (11, 9, 3)])
def test_equals_the_same_network_of_keras(shape, kernel_size):
    pictures = np.random.RandomState(0).randint(0, 256, (4, *shape)).astype("uint8")
    model, twin = make_model(activation="tanh", kernel_size=kernel_size), keras_twin(shape, kernel_size)
    logits = model(pictures)
    twin.set_weights(model.get_weights())
    assert logits.shape == (4, 10)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(logits), keras.ops.convert_to_numpy(twin(pictures)), atol=1e-6
    )


def test_grey_pictures_need_no_channel(digits):
    model = make_model()
    logits = [keras.ops.convert_to_numpy(model(pictures)) for pictures in (digits[0], digits[0][..., None])]
    assert np.array_equal(*logits)


def test_block_shapes():
    model = make_model()
    model(np.zeros((2, 28, 28), "uint8"))
    first, second = model.blocks
    assert first.compute_output_shape((2, 28, 28, 1)) == first(np.zeros((2, 28, 28, 1))).shape == (2, 14, 14, 8)
    assert second.compute_output_shape((2, 15, 15, 8)) == second(np.zeros((2, 15, 15, 8))).shape == (2, 7, 7, 16)


def test_dropout_only_in_training(digits):
    model = make_model(dropout=0.5)
    first, second = (keras.ops.convert_to_numpy(model(digits[0])) for _ in range(2))
    trained = keras.ops.convert_to_numpy(model(digits[0], training=True))
    assert np.array_equal(first, second) and np.abs(trained - first).max() > 0.01


def test_overfits_one_batch(digits):
    keras.utils.set_random_seed(0)
    model = make_model()
    model.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    history = model.fit(*digits, epochs=40, batch_size=32, verbose=0).history
    assert history["accuracy"][0] < 0.5
    assert history["accuracy"][-1] == 1.0 and history["loss"][-1] < 0.1


def test_config_round_trip():
    model = make_model(dropout=0.1)
    assert kn.CNN.from_config(model.get_config()).config == model.config


def test_save_and_load(digits, tmp_path):
    model = make_model(dropout=0.1)
    expected = model.predict(digits[0], verbose=0)
    model.save(tmp_path / "cnn.keras")
    loaded = keras.models.load_model(tmp_path / "cnn.keras")
    assert type(loaded) is kn.CNN and loaded.config == model.config
    assert np.array_equal(loaded.predict(digits[0], verbose=0), expected)


@pytest.mark.parametrize("kernel_size", [0, 2, -1])
def test_kernels_need_a_middle(kernel_size):
    with pytest.raises(ValueError, match=f"`kernel_size` must be odd and positive; received kernel_size={kernel_size}"):
        make_model(kernel_size=kernel_size)


def test_unknown_fields_raise():
    with pytest.raises(ValueError, match=r"CNN takes the fields .*unknown \['hidden_sizes'\]"):
        kn.CNN(num_classes=10, hidden_sizes=(64,))
