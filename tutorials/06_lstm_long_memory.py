# %% [markdown]
# # 06 · LSTM: a memory that lasts
# "How did the quotation begin?" To answer, a network that reads one character at a time must notice an opening
# quotation mark, keep the character that follows it, and carry that through up to ninety characters of newspaper, while
# nothing on the way reminds it. SimpleRNN forgets; LSTM does not. We look inside to see why.
#
# # 06 · LSTM：持久的记忆
# “刚才那段引文的第一个字是什么？”网络一次只读一个字。要回答，它必须注意到前引号，记住引号后面的那个字，
# 再带着它读过最多九十个字的报纸，途中没有任何提醒。SimpleRNN 会忘，LSTM 不会。我们打开网络看看为什么。

# %%
from collections import Counter
from pathlib import Path

import kerasnets as kn

import keras
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)

# %% [markdown]
# ## The equations, forward
# SimpleRNN makes its state anew at each step. LSTM carries a cell state c from step to step, and three gates between 0
# and 1 decide: forget gate f, how much of c stays; input gate i, how much of the candidate g is written; output gate o,
# how much is shown as h.
#
# ## 公式：向前
# SimpleRNN 每一步都重新计算状态。LSTM 则带着单元状态 c 一步步往前走，由三个 0 到 1 之间的门决定：
# 遗忘门 f——c 保留多少；输入门 i——候选值 g 写入多少；输出门 o——作为 h 输出多少。


# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simple_forward(x, W, U, b):
    """(B, T, D) → the state h of each step, each (B, H)."""
    h, steps = np.zeros((len(x), len(U))), []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ W + h @ U + b)
        steps.append(h)
    return steps


def lstm_forward(x, W, U, b):
    """(B, T, D) → (i, f, g, o, c before, c, h) of each step, each (B, H)."""
    h, c, steps = np.zeros((len(x), len(U))), np.zeros((len(x), len(U))), []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ W + h @ U + b, 4, axis=1)
        i, f, g, o, before = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o), c
        c = f * c + i * g
        h = o * np.tanh(c)
        steps.append((i, f, g, o, before, c, h))
    return steps


x = np.random.RandomState(0).normal(size=(2, 6, 3))
simple, lstm = kn.layers.SimpleRNN(4), kn.layers.LSTM(4)
simple_output, lstm_output = (keras.ops.convert_to_numpy(layer(x)) for layer in (simple, lstm))
assert np.allclose(simple_forward(x, *simple.get_weights())[-1], simple_output, atol=1e-5)
assert np.allclose(lstm_forward(x, *lstm.get_weights())[-1][-1], lstm_output, atol=1e-5)
print("By hand and by our layers the same. 手算与我们的层相同。")

# %% [markdown]
# ## The equations, backward
# How much does an early input matter for the last state? Walk back by the chain rule. In SimpleRNN every step
# multiplies the gradient by (1 − h²) and by Uᵀ: after many steps it has vanished or exploded. In LSTM there is a second
# road, along c, and on it every step multiplies by f alone: where the forget gate is 1 nothing is lost. We check both
# against a difference quotient of our layers.
#
# ## 公式：向后
# 很早的输入对最后的状态有多大影响？用链式法则往回走。SimpleRNN 每退一步，梯度就乘一次 (1 − h²) Uᵀ：
# 退得多了，不是消失就是爆炸。LSTM 还有第二条路，沿着 c 走，每退一步只乘 f：遗忘门为 1 时什么也不会丢。
# 两者都用我们的层的差商来检验。


# %%
def simple_backward(dh, steps, W, U):
    """The gradient of each input, (T, B, D), from that of the last state, (B, H)."""
    dx = []
    for h in reversed(steps):
        dz = dh * (1 - h**2)
        dx.insert(0, dz @ W.T)
        dh = dz @ U.T
    return np.stack(dx)


def lstm_backward(dh, steps, W, U):
    """The gradient of each input, (T, B, D), from that of the last state, (B, H)."""
    dx, dc = [], 0
    for i, f, g, o, before, c, _ in reversed(steps):
        dc = dc + dh * o * (1 - np.tanh(c) ** 2)
        gates = [dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g**2), dh * np.tanh(c) * o * (1 - o)]
        dz = np.concatenate(gates, axis=1)
        dx.insert(0, dz @ W.T)
        dh, dc = dz @ U.T, dc * f
    return np.stack(dx)


nudge = np.zeros_like(x)
nudge[:, 1, 2] = 0.01  # the second step's third number, a little up and down
for layer, forward, backward in ((simple, simple_forward, simple_backward), (lstm, lstm_forward, lstm_backward)):
    W, U, b = layer.get_weights()
    by_hand = backward(np.ones((2, 4)), forward(x, W, U, b), W, U)[1, :, 2]
    quotient = keras.ops.convert_to_numpy(layer(x + nudge) - layer(x - nudge)).sum(axis=1) / 0.02
    assert np.allclose(by_hand, quotient, atol=1e-3), (by_hand, quotient)

# %% [markdown]
# ## Real text
# People's Daily of January 1998, 1.8 million characters. The question is asked at places up to ninety characters after
# the first character of a quotation, about equally often for each distance and for each of the eight most frequent
# answers. The last fifth of the month is for the test.
#
# ## 真实文本
# 1998 年 1 月的《人民日报》，180 万字。提问的位置在引文第一个字之后 0 到 89 个字；各种距离、
# 八个最常见的答案出现的次数大致相同。一个月的最后五分之一留作测试。

# %%
length, distances = 100, np.arange(90)
text = np.array(list("".join(kn.datasets.chinese_news())))
split = len(text) * 4 // 5
places = np.arange(len(text))
first = np.maximum.accumulate(np.where(text == "“", places, 0)) + 1  # where the latest quotation began
first = np.minimum(first, len(text) - 1)
answers = [character for character, _ in Counter(text[1:split][text[: split - 1] == "“"]).most_common(8)]
vocabulary = [character for character, _ in Counter(text[:split]).most_common(1000)]
index = {character: number for number, character in enumerate(vocabulary, start=2)}  # 0 is padding, 1 any other
ids = np.array([index.get(character, 1) for character in text], "int32")


def questions(start, stop, times, seed):
    """Windows (n, 100) of ids, the answers (n,) and how far back each stands (n,)."""
    random, chosen = np.random.RandomState(seed), []
    for distance in distances:
        here = np.flatnonzero(places - first == distance)
        here = here[(here >= start + length) & (here < stop)]
        for answer in answers:
            pool = here[text[first[here]] == answer]
            chosen.extend(random.choice(pool, min(times, len(pool)), replace=False))
    chosen = np.array(chosen)
    windows = ids[chosen[:, None] - np.arange(length)[::-1]]
    return windows, np.array([answers.index(text[first[place]]) for place in chosen]), chosen - first[chosen]


train_windows, train_answers, _ = questions(0, split, times=12, seed=0)
test_windows, test_answers, test_distances = questions(split, len(text), times=5, seed=0)
chance = np.bincount(test_answers).max() / len(test_answers)
print("A window 一个窗口:", "".join(vocabulary[i - 2] if i > 1 else "□" for i in test_windows[-1]))
print("Its answer 它的答案:", answers[test_answers[-1]], " all answers 所有答案:", *answers)
print(f"{len(train_windows)} to learn from, {len(test_windows)} to test; always the same answer: {chance:.2f} right")

# %% [markdown]
# ## Two networks, the same in all but the cell
# Both hold 64 numbers as their state. Each character is a row of 32 random numbers of mean 0 and variance 1 to begin
# with. One thing we do for LSTM: its forget gates start with the bias ln 100, so f is about 0.99 and it begins by
# remembering for about 100 steps (Tallec & Ollivier 2018). Keras's own default is a bias of 1, f about 0.73.
#
# ## 除了单元，两个网络完全一样
# 状态都是 64 个数。每个字一开始是 32 个随机数，均值 0，方差 1。我们只为 LSTM 做一件事：遗忘门的偏置从 ln 100 开始，
# 于是 f 约为 0.99，它一开始就会记住大约 100 步（Tallec & Ollivier 2018）。Keras 的默认偏置是 1，f 约为 0.73。


# %%
def build(cell, forget_bias=1.0):
    model = kn.RNN(num_outputs=8, cell=cell, hidden_size=64, vocab_size=1002, embedding_size=32, name=cell)
    model(train_windows[:1])
    weights = model.get_weights()  # embeddings, W, U, b, and W, b of the head
    weights[0] = np.random.RandomState(0).normal(size=weights[0].shape)
    if cell == "lstm":
        weights[3][64:128] = forget_bias  # b holds the biases of i, f, g, o
    model.set_weights(weights)
    return model


def look_inside(cell, weights, windows, labels):
    """The steps of the forward pass by hand, the logits (B, 8), and the gradient's norm at each character (T, B)."""
    embeddings, W, U, b, head_kernel, head_bias = (weight.astype("float64") for weight in weights)
    forward, backward = {"simple": (simple_forward, simple_backward), "lstm": (lstm_forward, lstm_backward)}[cell]
    steps = forward(embeddings[windows], W, U, b)
    h = steps[-1] if cell == "simple" else steps[-1][-1]
    gradient = backward(head_kernel.T[labels], steps, W, U)  # (T, B, D)
    return steps, h @ head_kernel + head_bias, np.linalg.norm(gradient, axis=-1)


# %% [markdown]
# ## The gradient vanishes
# Before any training: how much does the logit of the right answer depend on a character k steps back? In SimpleRNN the
# answer falls by about a third with every step; after twenty steps nothing is left that could teach it. In LSTM it
# depends on the forget gate, and with f near 1 the last character matters hardly more than the first.
#
# ## 梯度消失
# 训练之前：正确答案的 logit 对 k 步之前的字有多敏感？在 SimpleRNN 里，每退一步大约减少三分之一；
# 退二十步，就没有什么能教它的了。在 LSTM 里，这取决于遗忘门：f 接近 1 时，最后一个字并不比第一个字重要多少。

# %%
models = {"SimpleRNN": build("simple"), "LSTM": build("lstm", forget_bias=np.log(length))}
fresh = {**models, "LSTM, forget bias 1": build("lstm")}
sample, sample_answers = test_windows[test_distances >= 75], test_answers[test_distances >= 75]
norms = {}
for name, model in fresh.items():
    _, logits, gradient = look_inside(model.config.cell, model.get_weights(), sample, sample_answers)
    assert np.allclose(logits, model.predict(sample, batch_size=512, verbose=0), atol=1e-3)  # the same network by hand
    norms[name] = gradient.mean(axis=1)[::-1]  # (T,): k steps back
    shown = "  ".join(f"{k}: {norms[name][k]:.0e}" for k in (0, 10, 20, 40, 80))
    print(f"gradient by steps back 各回退步数的梯度  {shown}   {name}")
assert norms["SimpleRNN"][80] < 1e-6 * norms["SimpleRNN"][0] and norms["LSTM"][80] > 0.1 * norms["LSTM"][0]

# %% [markdown]
# ## Training
# Both see every window five times, and the answer is asked for at the last character only.
#
# ## 训练
# 两个网络都把每个窗口看五遍，只在读完最后一个字时提问。

# %%
epochs, batch_size, right = 5, 64, {}
for name, model in models.items():
    schedule = keras.optimizers.schedules.CosineDecay(4e-3, decay_steps=epochs * len(train_windows) // batch_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), loss)
    with tqdm(total=epochs, desc=f"Training 训练 {name}") as bar:
        each_epoch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, bar=bar: bar.update())
        model.fit(train_windows, train_answers, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[each_epoch])
    right[name] = model.predict(test_windows, batch_size=512, verbose=0).argmax(axis=1) == test_answers

# %%
bins = np.arange(0, 90, 15)
by_distance = {
    name: [r[(test_distances >= k) & (test_distances < k + 15)].mean() for k in bins] for name, r in right.items()
}
print("right answers by distance 按距离的正确率")
for k, simple_right, lstm_right in zip(bins, by_distance["SimpleRNN"], by_distance["LSTM"], strict=True):
    print(f"{k:3}–{k + 14:2}   SimpleRNN {simple_right:.2f}   LSTM {lstm_right:.2f}")
accuracy = {name: r.mean() for name, r in right.items()}
print(f"all     SimpleRNN {accuracy['SimpleRNN']:.3f}   LSTM {accuracy['LSTM']:.3f}   chance 随便猜 {chance:.3f}")
assert accuracy["LSTM"] > 0.9 and accuracy["LSTM"] > accuracy["SimpleRNN"] + 0.2

# %% [markdown]
# ## Gates over time
# Training has taught the gates what to wait for. At the opening quotation mark the forget gates drop: what was kept is
# thrown away. At the next character the input gates open and it is written into the cell state. From then on the forget
# gates stay near 1 and the cells hold it to the end. The gradient now singles that character out, too.
#
# ## 门随时间的变化
# 训练教会了这些门该等什么。读到前引号时遗忘门降下来：旧内容被丢掉。读到下一个字时输入门打开，
# 把它写进单元状态。之后遗忘门一直接近 1，单元把它保存到最后。梯度现在也特别关注这个字。

# %%
sample_first = length - 1 - test_distances[test_distances >= 75]  # where the answer stands in each window
steps = {}
for name, model in models.items():
    steps[name], _, gradient = look_inside(model.config.cell, model.get_weights(), sample, sample_answers)
    at_answer = gradient[sample_first, np.arange(len(sample))].mean()
    print(f"gradient at the answer 答案处的梯度 {at_answer:.3f}, anywhere 平均 {gradient.mean():.3f}   {name}")
i, f, g, o, before, c, h = (np.stack(values) for values in zip(*steps["LSTM"], strict=True))  # (T, B, H) each

after = np.arange(length)[:, None] > sample_first + 1  # (T, B): the time of keeping
now = np.arange(length)[:, None] == sample_first
print(f"input gate 输入门:  {i[now].mean():.2f} at the answer 答案处, {i[after].mean():.2f} later 之后")
print(
    f"forget gate 遗忘门: {f[np.roll(now, -1, axis=0)].mean():.2f} at the mark 引号处, {f[after].mean():.2f} later 之后"
)

# %%
example = np.flatnonzero(right["LSTM"][test_distances >= 75])[0]
characters = ["·" if number == 1 else vocabulary[number - 2] for number in sample[example]]
print("The text of the picture 图中的文字:", "".join(characters))
marks = [t for t, character in enumerate(characters) if character in "“”"]

figure, ((fading, answering), (gating, holding)) = plt.subplots(2, 2, figsize=(13, 8), layout="constrained")
colors = {"SimpleRNN": "tab:red", "LSTM": "tab:blue", "LSTM, forget bias 1": "tab:cyan"}
for name, norm in norms.items():
    fading.semilogy(norm, color=colors[name], label=name)
fading.set(ylim=(1e-16, 10), xlabel="steps back", ylabel="norm of the gradient", title="Before training")
fading.legend(frameon=False)
for name, values in by_distance.items():
    answering.plot(bins + 7, values, color=colors[name], marker="o", label=name)
answering.axhline(chance, color="0.6", linestyle=":", label="chance")
answering.set(ylim=(0, 1.05), xlabel="characters to remember across", ylabel="right answers", title="After training")
answering.legend(frameon=False)
for name, gate, color in (("forget", f, "tab:orange"), ("input", i, "tab:green"), ("output", o, "tab:purple")):
    gating.plot(gate[:, example].mean(axis=1), color=color, label=f"{name} gate")
gating.set(ylim=(0, 1.05), ylabel="mean of 64 cells", title="The gates of the LSTM, reading")
gating.legend(frameon=False, ncols=3, loc="lower right")
order = np.argsort(c[-1, example])
picture = holding.imshow(c[:, example, order].T, aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3, origin="lower")
holding.set(ylabel="cell", title="The cell state of the LSTM, reading")
figure.colorbar(picture, ax=holding)
for axes in (gating, holding):
    axes.set(xlim=(0, length - 1), xlabel="the text, character by character (its quotation marks)")
    axes.set_xticks(marks, [characters[t] for t in marks], fontsize=14)
    axes.axvline(sample_first[example], color="0.3", linestyle=":")
for axes in (fading, answering, gating):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(folder / "lstm_long_memory.png", dpi=120)

# %%
models["LSTM"].save(folder / "lstm_long_memory.keras")
print(f"Test accuracy 测试准确率: {accuracy['LSTM']:.3f} (SimpleRNN {accuracy['SimpleRNN']:.3f})")
print(f"Saved 已保存: {folder / 'lstm_long_memory.keras'}, {folder / 'lstm_long_memory.png'}")
