"""The loss of language models: transformers' numbers and gradients, whatever is ignored, weighted, masked or halved."""

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets.losses import TokenCrossEntropy

B, T, V = 3, 7, 11


@pytest.fixture
def logits(random):
    return random.normal(size=(B, T, V), scale=5).astype("float32")


@pytest.fixture
def labels(random):
    labels = random.integers(0, V, (B, T))
    labels[0, 4:] = labels[2, 1] = -100
    return labels


def by_hand(logits, labels):
    """(the loss of each token in float64, which of them count)."""
    z, counts = logits.astype("float64"), labels != -100
    picked = np.take_along_axis(z, np.where(counts, labels, 0)[..., None], axis=-1)[..., 0]
    highest = z.max(axis=-1)
    return highest + np.log(np.exp(z - highest[..., None]).sum(axis=-1)) - picked, counts


class Plus(keras.layers.Layer):
    """x + w with w = 0, so that a step of size 1 leaves in w minus the gradient of x."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=input_shape[1:], initializer="zeros")

    def call(self, x):
        return x + self.w


def step(loss, logits, labels):
    """(the loss, its gradient with respect to the logits) of a compiled step."""
    plus = Plus()
    model = keras.Sequential([keras.layers.Reshape((1, -1, V)), plus, keras.layers.Reshape((-1, V))])
    model.compile(keras.optimizers.SGD(1.0), loss)
    value = model.train_on_batch(logits.reshape(1, -1, V), labels.reshape(1, -1))
    return float(value), -keras.ops.convert_to_numpy(plus.w).reshape(logits.shape)


def assert_close(found, expected, tolerance=1e-6):
    found, expected = keras.ops.convert_to_numpy(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_transformers_loss_with_its_gradient(logits, labels, smoothing):
    torch = pytest.importorskip("torch", reason="the reference runs on torch")
    reference = pytest.importorskip("transformers.loss.loss_utils", reason="transformers is the reference")
    theirs = torch.tensor(logits, requires_grad=True)
    if smoothing:
        smoothed = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
        expected = smoothed(theirs.reshape(-1, V), torch.tensor(labels).reshape(-1))
    else:
        shifted = torch.tensor(np.pad(labels, ((0, 0), (1, 0))))  # they move the labels by one themselves
        expected = reference.ForCausalLMLoss(theirs, shifted[:, :-1], V, shift_labels=shifted[:, 1:].contiguous())
    expected.backward()
    value, gradient = step(TokenCrossEntropy(label_smoothing=smoothing), logits, labels)
    assert value == pytest.approx(expected.item(), rel=1e-6)
    assert_close(gradient, theirs.grad.numpy())
    assert not gradient[labels == -100].any()


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum", "none"])
def test_weights_and_reductions_are_those_of_keras(logits, random, reduction):
    labels, weights = random.integers(0, V, (B, T)), random.uniform(size=(B, T))
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    expected = theirs(labels, logits, weights)
    ours = TokenCrossEntropy(reduction=reduction)
    assert_close(ours(labels, logits, weights), keras.ops.convert_to_numpy(expected), 2e-6)
    assert_close(ours(labels[..., None], logits, weights), keras.ops.convert_to_numpy(expected), 2e-6)


def test_ignored_labels_masks_and_weights_leave_tokens_out(logits, labels, random):
    losses, counts = by_hand(logits, labels)
    assert_close(TokenCrossEntropy()(labels, logits), losses[counts].mean())
    other = np.where(labels == -100, 0, labels + 1)
    wider = np.pad(logits, ((0, 0), (0, 0), (1, 0)), constant_values=-1e30)
    assert_close(TokenCrossEntropy(ignored_label=0)(other, wider), losses[counts].mean())
    weights = random.uniform(size=(B, T))
    assert_close(TokenCrossEntropy()(labels, logits, weights), (losses * weights)[counts].sum() / counts.sum())
    assert_close(TokenCrossEntropy(reduction="none")(labels, logits), np.where(counts, losses, 0))


def test_the_mask_of_an_embedding_leaves_tokens_out(random):
    ids = random.integers(1, V, (B, T))
    ids[0, 3:] = 0
    model = keras.Sequential([kn.layers.Embedding(V, V, "random_normal", mask_zero=True), kn.layers.Dense(V)])
    model(ids)
    model.set_weights([random.normal(size=weight.shape) for weight in model.get_weights()])
    losses, _ = by_hand(keras.ops.convert_to_numpy(model(ids)), ids)
    model.compile(loss=TokenCrossEntropy())
    expected = losses[ids != 0].mean()
    assert abs(expected - losses.mean()) > 1e-3
    assert model.evaluate(ids, ids, verbose=0) == pytest.approx(expected, rel=1e-5)
    assert_close(TokenCrossEntropy()(ids, model(ids)), expected, 1e-5)


def test_where_nothing_counts_the_loss_and_its_gradient_are_zero(logits):
    value, gradient = step(TokenCrossEntropy(), logits, np.full((B, T), -100))
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_summed_in_float32(random, dtype):
    """4,000 logits around 40: their exp overflows in float16, and in bfloat16 the sum would lose its last terms."""
    half = keras.ops.cast(random.normal(size=(2, 5, 4000), loc=40), dtype)
    labels = random.integers(0, 4000, (2, 5))
    exact = keras.ops.convert_to_numpy(keras.ops.cast(half, "float32"))
    loss = TokenCrossEntropy()(labels, half)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert_close(loss, by_hand(exact, labels)[0].mean())


def test_enormous_and_impossible_logits_stay_finite():
    logits = np.full((1, 3, V), -np.inf, "float32")
    logits[0, :, :3] = [[1e4, -1e4, 0], [3e38, 0, -3e38], [2, -np.inf, 2]]
    losses = TokenCrossEntropy(reduction="none")(np.array([[0, 0, 2]]), logits)
    assert_close(losses, [[0, 0, np.log(2)]])
    value, gradient = step(TokenCrossEntropy(), logits[:, :1], np.array([[1]]))
    assert value == 2e4
    assert_close(gradient, [[[1, -1, *[0] * (V - 2)]]])


def test_a_model_keeps_it_in_its_file(tmp_path, logits, labels):
    model = keras.Sequential([keras.Input((T, V)), kn.layers.Dense(V)])
    model.compile("sgd", TokenCrossEntropy(ignored_label=-1, label_smoothing=0.2))
    model.fit(logits, np.maximum(labels, -1), verbose=0)
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    assert (again.loss.ignored_label, again.loss.label_smoothing) == (-1, 0.2)
    assert again.evaluate(logits, np.maximum(labels, -1), verbose=0) == pytest.approx(
        model.evaluate(logits, np.maximum(labels, -1), verbose=0), rel=1e-6
    )


def test_what_cannot_be_is_refused_in_words(logits, labels):
    with pytest.raises(ValueError, match=r"label_smoothing=1\.5"):
        TokenCrossEntropy(label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"labels \(3, 6\) do not fit logits \(3, 7, 11\)"):
        TokenCrossEntropy()(labels[:, 1:], logits)
    with pytest.raises(ValueError, match=r"\[0, 11\), but the id at position \(1, 2\) is 11"):
        TokenCrossEntropy()(np.where(np.arange(B * T).reshape(B, T) == 9, V, labels), logits)
