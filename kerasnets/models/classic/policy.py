"""Reinforcement learning: a policy network that learns by REINFORCE, from nothing but the reward of its own actions.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
doi:10.1007/BF00992696.
- No data and no answers: the policy π(a|s) = softmax(f(s)) plays episodes and is told only how much it earned.
- An action earns what comes after it: G_t = r_t + γ r_{t+1} + γ² r_{t+2} + …
- ∇ E[G] = E[ Σ_t ∇ log π(a_t|s_t) · (G_t − b_t) ]: −log π(a|s) is the cross-entropy against the action taken, so
  Keras's own training step is the policy gradient, when each step counts with its advantage A_t = G_t − b_t.
- The baseline b_t, the mean return of all episodes at step t, leaves the gradient's mean alone and calms its noise.
"""

import dataclasses

import keras
import numpy as np

from kerasnets import layers
from kerasnets.layers.layer import public
from kerasnets.model import Model


@dataclasses.dataclass(frozen=True)
class Episodes:
    """What B players saw, did and earned in T steps; after a player's end its rewards are 0 and `alive` is False."""

    observations: np.ndarray  # (T, B, O) float32
    actions: np.ndarray  # (T, B) int32
    rewards: np.ndarray  # (T, B) float32
    alive: np.ndarray  # (T, B) bool


@public
class PolicyNetwork(Model):
    """π(a|s) = softmax(f(s)), where f is a stack of Dense layers.   (B, O) → logits (B, num_actions)."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        num_actions: int
        hidden_size: int = 64
        num_layers: int = 2
        activation: str = "tanh"

    def make_layers(self):
        config = self.config
        self.blocks = [layers.Dense(config.hidden_size, activation=config.activation) for _ in range(config.num_layers)]
        self.head = layers.Dense(config.num_actions)

    def call(self, observations, training=None):
        x = observations
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def act(self, observations, seed=None):
        """The best actions (B,) for observations (B, O) or, with a seed or a `RandomState`, actions drawn from π.

        log π plus Gumbel noise is largest at action a with probability π(a).   Gumbel 1954.
        """
        logits = keras.ops.convert_to_numpy(self.predict_on_batch(observations))
        if seed is not None:
            random = seed if isinstance(seed, np.random.RandomState) else np.random.RandomState(seed)
            logits = logits + random.gumbel(size=logits.shape)
        return logits.argmax(-1)

    def play(self, environments, max_steps=500, seed=0, explore=True):
        """One episode in each of B environments, actions drawn from π, or the best ones where `explore` is False.

        `environments` is a gymnasium vector environment of discrete actions: `gymnasium.make_vec(name, num_envs=B)`.
        """
        random = np.random.RandomState(seed) if explore else None
        observation, _ = environments.reset(seed=seed)
        seen = np.zeros((max_steps, *observation.shape), "float32")
        actions, rewards = np.zeros((max_steps, len(observation)), "int32"), np.zeros(seen.shape[:2], "float32")
        alive = np.zeros(seen.shape[:2], bool)
        playing = np.ones(len(observation), bool)
        for t in range(max_steps):
            seen[t], actions[t], alive[t] = observation, self.act(observation, seed=random), playing
            observation, reward, terminated, truncated, _ = environments.step(actions[t])
            rewards[t] = reward * playing  # an ended environment starts anew by itself: that is another episode
            playing = playing & ~(terminated | truncated)
            if not playing.any():
                break
        return Episodes(seen, actions, rewards, alive)

    def reinforce(self, environments, num_updates=100, goal=np.inf, max_steps=500, discount=0.99, seed=0, verbose=1):
        """REINFORCE: play, weigh each action by its advantage, one gradient step, again; returns each mean return.

        Ends after `num_updates`, or when the mean return of three updates in a row reaches `goal`.
        """
        history, bar = [], keras.utils.Progbar(num_updates, verbose=verbose, stateful_metrics=["mean_return"])
        for update in range(num_updates):
            episodes = self.play(environments, max_steps, seed=seed + update)
            weights = advantages(episodes, discount)
            # (T, B, …) → (T · B, …): every update has the same shape, so that nothing is compiled twice.
            flat = [x.reshape(-1, *x.shape[2:]) for x in (episodes.observations, episodes.actions, weights)]
            self.train_on_batch(flat[0], flat[1], sample_weight=flat[2])
            history.append(float(episodes.rewards.sum(axis=0).mean()))
            is_done = len(history) >= 3 and min(history[-3:]) >= goal
            bar.update(update + 1, [("mean_return", history[-1])], finalize=is_done or update + 1 == num_updates)
            if is_done:
                break
        return history


def discounted_returns(rewards, discount):
    """G_t = r_t + γ G_{t+1}.   (T, B) → (T, B)."""
    returns = np.zeros_like(rewards)
    following = np.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        returns[t] = following = rewards[t] + discount * following
    return returns


def advantages(episodes, discount):
    """A_t = (G_t − b_t) / σ_G, and 0 after an episode's end.   (T, B) → (T, B).

    Divided by the deviation of A itself, episodes that all went well would differ as much as those of a beginner.
    """
    returns = discounted_returns(episodes.rewards, discount)
    difference = returns - returns.mean(axis=1, keepdims=True)
    scale = returns[episodes.alive].std() + 1e-8
    return np.where(episodes.alive, difference / scale, 0).astype("float32")
