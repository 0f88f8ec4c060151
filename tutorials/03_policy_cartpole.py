# %% [markdown]
# # 03 · No data, no answers: learning to balance a pole
# A cart carries a pole. Push it left or right, fifty times a second, and the pole must not fall: each step it stands
# earns 1, and after 500 steps the game is won. Nobody tells the network what to do. It plays, counts what it earned,
# and does more of what went better than usual. This is reinforcement learning, and REINFORCE is its simplest form.
#
# # 03 · 没有数据，没有答案：学会让杆子不倒
# 小车上立着一根杆子。每秒向左或向右推五十次，杆子不能倒：每坚持一步得 1 分，坚持 500 步就赢了。
# 没有人告诉网络该怎么做。它自己玩，数一数得了多少分，然后多做那些比平时效果好的动作。
# 这就是强化学习，REINFORCE 是其中最简单的算法。

# %%
from pathlib import Path

import kerasnets as kn
from kerasnets.models.classic.policy import discounted_returns

import gymnasium
import keras
import matplotlib.pyplot as plt
import numpy as np

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)

# %% [markdown]
# ## What an action earns
# An action is to be thanked for what comes after it, and sooner more than later: G_t = r_t + γ G_{t+1}. Three steps
# that earn 1 each, with γ = 0.9:
#
# ## 一个动作值多少
# 一个动作的功劳是它之后得到的奖励，越近的越算数：G_t = r_t + γ G_{t+1}。三步各得 1 分，γ = 0.9：

# %%
G = [0.0]
for reward in [1.0, 1.0, 1.0]:
    G.insert(0, reward + 0.9 * G[0])

assert np.allclose(G[:-1], discounted_returns(np.ones((3, 1)), 0.9)[:, 0])
print("Returns 回报:", np.round(G[:-1], 2))

# %% [markdown]
# ## The gradient
# The network gives a logit for each action, and softmax makes them probabilities π. After action a with advantage A
# (how much better than usual it went) the loss is −A log π(a). Its gradient with respect to the logits is A (π − a),
# with a as a one-hot vector: where A > 0 the action becomes likelier, where A < 0 rarer. That is the cross-entropy of a
# classifier whose label is the action taken and whose sample weight is A. So Keras's training step will do; we take one
# by hand and let Keras take the same.
#
# ## 梯度
# 网络给每个动作一个 logit，softmax 把它们变成概率 π。做了动作 a，优势是 A（比平时好多少），损失就是 −A · log π(a)。
# 它对 logits 的梯度是 A · (π − a)，其中 a 是 one-hot 向量：A > 0 时这个动作更常出现，A < 0 时更少出现。
# 这正是分类器的交叉熵：标签是做过的动作，样本权重是 A。所以用 Keras 的训练步骤就行；
# 先手算一步，再让 Keras 走同样的一步。

# %%
random = np.random.RandomState(0)
observations = random.normal(size=(8, 4)).astype("float32")
actions, A = random.randint(0, 2, size=8), random.normal(size=8).astype("float32")
linear = kn.PolicyNetwork(num_actions=2, num_layers=0)
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
linear.compile(keras.optimizers.SGD(0.1), cross_entropy)
linear(observations)
W, b = linear.get_weights()

exp = np.exp(observations @ W + b)
pi = exp / exp.sum(axis=1, keepdims=True)
gradient = A[:, None] * (pi - np.eye(2)[actions]) / 8
W_by_hand = W - 0.1 * observations.T @ gradient

linear.train_on_batch(observations, actions, sample_weight=A)
assert np.allclose(W_by_hand, linear.get_weights()[0], atol=1e-5)
print("The step by hand is Keras's step. 手算的一步和 Keras 的一步相同。")

# %% [markdown]
# ## Training
# Sixteen carts play at once. The network sees four numbers: the cart's position and velocity, the pole's angle and
# angular velocity. "Usual" is the baseline: what the sixteen earned on average from this step on. Training ends when
# the mean of three rounds in a row is 475 or more.
#
# ## 训练
# 十六辆小车同时玩。网络看到四个数：小车的位置和速度，杆子的角度和角速度。“平时”就是基线：
# 十六辆小车从这一步起平均得到的分数。连续三轮的平均分都不低于 475，训练就结束。

# %%
carts = gymnasium.make_vec("CartPole-v1", num_envs=16)
policy = kn.PolicyNetwork(num_actions=2)
policy.compile(keras.optimizers.Adam(0.01), cross_entropy)
history = policy.reinforce(carts, num_updates=100, goal=475, max_steps=500, discount=0.99, seed=0)
print(f"{len(history)} rounds, {16 * len(history)} games 共 {len(history)} 轮，{16 * len(history)} 局")

# %% [markdown]
# ## Twenty games
# Now the network always takes its best action, in twenty games that it has not played before. Beside it, a player that
# pushes at random.
#
# ## 二十局比赛
# 现在网络总是选它认为最好的动作，玩二十局没玩过的游戏。旁边是随机乱推的玩家，作为对照。

# %%
twenty = gymnasium.make_vec("CartPole-v1", num_envs=20)
untrained = kn.PolicyNetwork(num_actions=2, num_layers=0)
untrained(observations)
untrained.set_weights([np.zeros_like(w) for w in untrained.get_weights()])  # equal logits: every action is as likely
at_random = untrained.play(twenty, seed=12345, explore=True).rewards.sum(axis=0)
games = policy.play(twenty, seed=12345, explore=False)
returns = games.rewards.sum(axis=0)  # (20,)
print(f"at random 随机: {at_random.mean():.1f}   trained 训练后: {returns.mean():.1f} of 500")
assert returns.mean() >= 400

# %% [markdown]
# ## What it has learned
# Left: the mean return of each round. Middle: one game before and after. Right: how likely it is to push right for each
# angle and angular velocity of the pole. It found out by itself what one does with a broom on one's hand: follow it to
# where it is falling, and look at where it moves more than at where it leans.
#
# ## 它学到了什么
# 左：每一轮的平均分。中：训练前后各一局。右：对于杆子的每个角度和角速度，它向右推的概率。
# 它自己学会了人用手托扫帚时的做法：杆子往哪边倒，就往哪边追；比起杆子歪在哪边，更要看它正往哪边动。

# %%
angle, spin = np.meshgrid(np.linspace(-0.2, 0.2, 61), np.linspace(-1.5, 1.5, 61))
situations = np.stack([0 * angle, 0 * angle, angle, spin], axis=-1).reshape(-1, 4).astype("float32")
logits = policy.predict(situations, batch_size=len(situations), verbose=0)
push_right = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1])).reshape(angle.shape)
before = untrained.play(twenty, seed=12345, explore=True)

figure, (curve, game, chart) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
curve.plot(range(1, len(history) + 1), history, color="tab:blue", marker=".")
curve.axhline(500, color="0.6", linestyle=":")
curve.set(xlabel="round of 16 games", ylabel="mean return", title="Learning")
for episodes, color, label in ((before, "0.6", "at random"), (games, "tab:blue", "trained")):
    steps = int(episodes.alive[:, 0].sum())
    game.plot(np.degrees(episodes.observations[:steps, 0, 2]), color=color, label=f"{label}: {steps} steps")
game.set(xlabel="step", ylabel="angle of the pole (degrees)", title="One game")
game.axhspan(-12, 12, color="tab:green", alpha=0.08)  # beyond 12 degrees the pole counts as fallen
game.legend(frameon=False)
picture = chart.pcolormesh(np.degrees(angle), spin, push_right, cmap="RdBu_r", vmin=0, vmax=1)
chart.set(xlabel="angle of the pole (degrees)", ylabel="angular velocity", title="Probability of a push to the right")
figure.colorbar(picture, ax=chart)
for axes in (curve, game):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(folder / "policy_cartpole.png", dpi=120)

# %%
policy.save(folder / "policy_cartpole.keras")
again = keras.models.load_model(folder / "policy_cartpole.keras")
assert np.array_equal(again.act(situations), policy.act(situations))
print(f"Mean return of 20 games 二十局平均分: {returns.mean():.1f}")
print(f"Saved 已保存: {folder / 'policy_cartpole.keras'}, {folder / 'policy_cartpole.png'}")
