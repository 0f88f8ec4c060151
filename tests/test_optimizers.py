"""Adam in one pass: Keras's numbers, on every backend, with all that Keras's optimizers can be asked for."""

import keras
import numpy as np
import pytest

import kerasnets as kn

SETTINGS = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "clipped": {"clipnorm": 0.1},
    "decayed": {"weight_decay": 0.01},
    "averaged": {"use_ema": True, "ema_overwrite_frequency": 2},
    "accumulated": {"gradient_accumulation_steps": 2},
    "scheduled": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)},
}
WEIGHTS = [(7, 4), (12, 5), (5,), (5, 2), (2,)]


def trained(optimizer, ids, targets, dtype="float32"):
    """The weights after six steps from the same beginning."""
    random = np.random.default_rng(1)
    stack = [keras.layers.Embedding(7, 4), keras.layers.Flatten(), keras.layers.Dense(5, "tanh"), keras.layers.Dense(2)]
    for layer in stack:
        layer.dtype_policy = keras.DTypePolicy(dtype)
    model = keras.Sequential([keras.Input((3,), dtype="int32"), *stack])
    model.set_weights([random.normal(size=shape) * 0.3 for shape in WEIGHTS])
    model.compile(optimizer, "mse")
    model.fit(ids, targets, batch_size=8, epochs=3, shuffle=False, verbose=0)
    return [keras.ops.convert_to_numpy(weight) for weight in model.get_weights()]


def data():
    """(16, 3) ids, most of them several times in a batch of 8, and their targets."""
    random = np.random.default_rng(0)
    return random.integers(0, 7, (16, 3)), random.normal(size=(16, 2))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_numbers_are_those_of_keras(kind, name, monkeypatch):
    if keras.config.backend() == "tensorflow":  # which keeps gradients of tables as rows, and squares each of these
        monkeypatch.setattr(keras.layers.Embedding, "call", by_product)
    settings = {"learning_rate": 0.05} | SETTINGS[name]
    expected = trained(getattr(keras.optimizers, kind)(**settings), *data())
    found = trained(getattr(kn.optimizers, kind)(**settings), *data())
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("name", ["plain", "accumulated"])
def test_weights_of_a_checkpoint_lie_the_other_way_round_and_are_trained_all_the_same(name, tmp_path):
    made = kn.LLaMACausalLM(vocab_size=13, hidden_size=8, num_layers=1, num_heads=2, feedforward_size=12, max_length=8)
    kn.to_pretrained(made, tmp_path)
    ids = np.random.default_rng(0).integers(0, 13, (16, 6))
    after = []
    for model in (made, kn.from_pretrained(tmp_path)):
        model.compile(kn.optimizers.Adam(0.05, **SETTINGS[name]), kn.losses.TokenCrossEntropy())
        model.fit(ids[:, :-1], ids[:, 1:], batch_size=8, epochs=3, shuffle=False, verbose=0)
        moments = model.optimizer.variables[2:]
        after.append([keras.ops.convert_to_numpy(x) for x in (*model.weights, *moments)])
    for ours, theirs in zip(*after, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def by_product(layer, ids):
    """The same rows, with a gradient that is whole."""
    return keras.ops.matmul(keras.ops.one_hot(ids, layer.input_dim), layer.embeddings)


def test_gradients_of_a_token_that_comes_twice_are_added_before_they_are_squared(monkeypatch):
    found = trained(kn.optimizers.Adam(0.05), *data())
    monkeypatch.setattr(keras.layers.Embedding, "call", by_product)
    expected = trained(kn.optimizers.Adam(0.05), *data())
    np.testing.assert_allclose(found[0], expected[0], atol=2e-6)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_dtypes(dtype):
    before = trained(kn.optimizers.Adam(0.0), *data(), dtype)
    after = trained(kn.optimizers.Adam(0.05), *data(), dtype)
    assert all(np.isfinite(w.astype("float32")).all() for w in after)
    assert any((a != b).any() for a, b in zip(after, before, strict=True))


def test_it_is_saved_with_its_moments(tmp_path):
    ids, targets = data()
    model = kn.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(kn.optimizers.AdamW(0.05, weight_decay=0.1), "mse")
    model.fit(ids.astype("float32"), targets, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is kn.optimizers.AdamW and again.optimizer.weight_decay == 0.1
    for part in (model, again):
        part.fit(ids.astype("float32"), targets, shuffle=False, verbose=0)
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.skipif(keras.config.backend() != "jax", reason="only JAX writes into what it is given")
def test_no_matrix_is_copied_before_its_step_is_written():
    import jax

    random = np.random.default_rng(0)
    weights = [keras.Variable(random.normal(size=shape)) for shape in ((12, 24), (24, 8))]
    x, y = (random.normal(size=(16, size)).astype("float32") for size in (12, 8))

    def copies(optimizer):
        optimizer.build(weights)

        def loss(matrices):
            return ((jax.numpy.tanh(x @ matrices[0]) @ matrices[1] - y) ** 2).mean()

        def step(matrices, states):
            return optimizer.stateless_apply(states, jax.grad(loss)(matrices), matrices)

        state = [[variable.value for variable in variables] for variables in (weights, optimizer.variables)]
        program = jax.jit(step, donate_argnums=(0, 1)).lower(*state).compile().as_text()
        return [line for line in program.splitlines() if " copy(" in line and "f32[24,8]" in line]

    assert copies(keras.optimizers.Adam()) and not copies(kn.optimizers.Adam())
