"""`PolicyNetwork`: REINFORCE's gradient by hand, acting, files, and learning a game whose best move is known."""

import types

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets.models.classic.policy import advantages, discounted_returns


class ChooseTheSign:
    """A vector environment: action 1 earns 1 where the one number seen is positive, action 0 where it is negative."""

    def __init__(self, count=32, steps=4):
        self.count, self.steps = count, steps

    def reset(self, seed=None):
        self.random, self.step_number = np.random.default_rng(seed), 0
        return self.look(), {}

    def look(self):
        self.seen = self.random.choice([-1.0, 1.0], (self.count, 1)).astype("float32")
        return self.seen

    def step(self, actions):
        rewards = (actions == (self.seen[:, 0] > 0)).astype("float32")
        self.step_number += 1
        ended = np.full(self.count, self.step_number >= self.steps)
        return self.look(), rewards, ended, np.zeros(self.count, bool), {}


def make_model(**fields):
    return kn.PolicyNetwork(num_actions=2, hidden_size=8, num_layers=1, **fields)


def test_discounted_returns_by_hand():
    rewards = np.array([[1.0], [2.0], [4.0]])
    np.testing.assert_allclose(discounted_returns(rewards, 0.5), [[1 + 0.5 * (2 + 0.5 * 4)], [2 + 0.5 * 4], [4]])


def test_advantages_are_centred_at_each_step_and_nothing_after_the_end():
    rewards = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    alive = np.arange(5)[:, None] < np.array([5, 5, 5, 5, 5, 2])
    weights = advantages(types.SimpleNamespace(rewards=rewards * alive, alive=alive), discount=0.9)
    assert (weights[~alive] == 0).all()
    np.testing.assert_allclose(weights[:2].mean(axis=1), 0, atol=1e-6)


def test_a_step_is_the_policy_gradient_by_hand():
    random = np.random.default_rng(1)
    seen, actions = random.normal(size=(6, 3)).astype("float32"), random.integers(0, 2, 6)
    weights = random.normal(size=6).astype("float32")
    model = kn.PolicyNetwork(num_actions=2, num_layers=0)
    model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model(seen)
    W, b = model.get_weights()
    exp = np.exp(seen @ W + b)
    p = exp / exp.sum(axis=1, keepdims=True)
    d_logits = weights[:, None] * (p - np.eye(2)[actions]) / len(seen)  # −A ∇ log π(a|s)
    model.train_on_batch(seen, actions, sample_weight=weights)
    np.testing.assert_allclose(model.get_weights()[0], W - seen.T @ d_logits, atol=1e-5)
    np.testing.assert_allclose(model.get_weights()[1], b - d_logits.sum(axis=0), atol=1e-5)


def test_act_is_the_best_action_or_one_drawn_from_the_policy():
    model = kn.PolicyNetwork(num_actions=3, num_layers=0)
    seen = np.zeros((4000, 2), "float32")
    model(seen)
    p = np.array([0.2, 0.5, 0.3])
    model.set_weights([np.zeros((2, 3)), np.log(p)])
    assert (model.act(seen) == 1).all()
    drawn = np.bincount(model.act(seen, seed=0), minlength=3) / len(seen)
    np.testing.assert_allclose(drawn, p, atol=0.03)


def test_reinforce_learns_a_game_of_signs():
    keras.utils.set_random_seed(0)
    model, game = make_model(), ChooseTheSign()
    model.compile(keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    returns = model.reinforce(game, num_updates=30, max_steps=4, verbose=0)
    assert returns[0] < 3 and returns[-1] > 3.5  # of 4; 2 is chance
    assert model.play(game, max_steps=4, explore=False).rewards.sum(axis=0).mean() == 4


def test_config_round_trip_and_file(tmp_path):
    model, seen = make_model(), np.ones((3, 4), "float32")
    expected = model.predict(seen, verbose=0)
    assert kn.PolicyNetwork.from_config(model.get_config()).config == model.config
    model.save(tmp_path / "policy.keras")
    loaded = keras.models.load_model(tmp_path / "policy.keras")
    np.testing.assert_allclose(loaded.predict(seen, verbose=0), expected, atol=1e-6)


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="unknown"):
        kn.PolicyNetwork(num_actions=2, depth=3)
