# %% [markdown]
# # 08 · Attention by hand
#
# A recurrent network carries everything it has read in one state. Attention (Vaswani et al. 2017) looks back instead:
# each word asks all the others "how much do you matter to me?" and takes a mean of them, weighted by the answers. No
# step depends on the one before, and the first word is as near as the last. The whole of it is one line:
#
# A = softmax(Q Kᵀ / √d), output = A V
#
# We compute it by hand on a real sentence, piece by piece, then with our layer, and at the end let it learn.
#
# # 08 · 手算注意力机制
#
# 循环网络把读过的一切都塞进一个状态里。注意力（Vaswani 等，2017）则是回头看：每个词问其他所有的词
# “你对我有多重要？”，再按答案加权求平均。没有哪一步要等前一步，第一个词和最后一个词一样近。全部内容就是一行：
#
# A = softmax(Q Kᵀ / √d)，输出 = A V
#
# 我们在一个真实的句子上一点一点手算，再用我们的层，最后让它自己学习。

# %%
import re
from collections import Counter
from pathlib import Path

import kerasnets as kn
from kerasnets.layers.attention import attend

import keras
import matplotlib
import numpy as np
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Words to vectors
# The Bible in Basic English uses about a thousand plain words. Each becomes a vector: we count which words stand
# within two places of which, compare the counts with what chance would give, and keep the 64 strongest directions
# (singular vectors). Words that keep the same company get similar vectors.
#
# ## 从词到向量
# 基础英语版《圣经》大约只用一千个常用词。给每个词一个向量：数一数哪些词出现在哪些词的前后两格之内，
# 与随机情况下的次数比较，再保留 64 个最强的方向（奇异向量）。常与同样的词作伴的词，向量也相近。

# %%
V, D = 1000, 64


def split_words(text):
    return re.findall(r"[a-z'-]+|[.,;:?!()]", text.lower())


train_words, test_words = (split_words(text) for text in kn.datasets.english_prose())
vocabulary = ["□"] + [word for word, _ in Counter(train_words).most_common(V - 1)]  # □: any other word
number = {word: i for i, word in enumerate(vocabulary)}
train_ids, test_ids = (np.array([number.get(w, 0) for w in words], "int32") for words in (train_words, test_words))
print(f"{len(train_ids):,} words to learn from 用来学习, {len(test_ids):,} to test 用来测试")

counts = np.zeros((V, V))
for distance in (1, 2):
    np.add.at(counts, (train_ids[:-distance], train_ids[distance:]), 1)
counts = counts + counts.T
by_chance = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
U, S, _ = np.linalg.svd(np.log((counts + 1) / (by_chance + 1)))
vectors = U[:, :D] * np.sqrt(S[:D])  # (V, D)

unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
for word in ("king", "water", "said"):
    print(f"{word}:", *(vocabulary[i] for i in np.argsort(-unit @ unit[number[word]])[1:7]))

# %% [markdown]
# ## Scores, softmax, weighted mean
# In the plainest attention the vectors are queries, keys and values at once. The score of two words is the product of
# their vectors; softmax makes each row positive with sum 1; the output is the weighted mean. Five lines by hand, and
# `attend`, the equation that all our models share, gives the same.
#
# ## 分数、softmax、加权平均
# 在最朴素的注意力里，这些向量同时充当查询、键和值。两个词的分数是它们向量的内积；softmax 让每一行为正且和为 1；
# 输出就是加权平均。手算五行，与我们所有模型共用的 `attend` 结果相同。

# %%
sentence = split_words("And the king of Egypt said to the priests, Give me bread and water.")
X = vectors[[number[word] for word in sentence]]  # (T, D)

Q = K = values = X
scores = Q @ K.T / np.sqrt(D)  # (T, T)
exp = np.exp(scores - scores.max(axis=1, keepdims=True))
A = exp / exp.sum(axis=1, keepdims=True)
output = A @ values  # (T, D)

one_head = X[None, :, None].astype("float32")  # (B, T, N, H): one text, one head
attended = attend(one_head, one_head, one_head)
assert np.allclose(A, to_numpy(attended.probabilities)[0, 0], atol=1e-5)
assert np.allclose(output, to_numpy(attended.output)[0, :, 0], atol=1e-4)
for word, row in list(zip(sentence, A, strict=True))[:-1]:
    print(f"{word:>8} looks at 看", *(f"{sentence[j]} {row[j]:.2f} " for j in np.argsort(-row)[:4]))

# %% [markdown]
# ## Why √d?
# The product of two random vectors of d numbers has the standard deviation √d. Without the division the scores grow
# with the width, one weight takes everything, and softmax has no slope left: dA/dscore = A (1 − A) → 0, nothing is
# learned. Divided by √d, the scores stay of size 1 whatever the width.
#
# ## 为什么除以 √d？
# 两个 d 维随机向量的内积，标准差是 √d。不除的话，向量越宽分数越大，一个权重独占全部，softmax 就没有坡度了：
# dA/d分数 = A (1 − A) → 0，什么也学不到。除以 √d，无论多宽，分数的大小都在 1 左右。

# %%
random = np.random.RandomState(0)


def softmax(x):
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


print("width   std of scores   largest weight   slope       … each divided by √d 除以 √d 之后")
slopes = {}
for d in (4, 64, 1024):
    products = random.normal(size=(1000, d)) @ random.normal(size=(16, d)).T  # 1000 queries, 16 keys
    cells = []
    for scaled in (products, products / np.sqrt(d)):
        weights = softmax(scaled)
        slope = (weights * (1 - weights)).sum(axis=1).mean()
        cells.append(f"{scaled.std():13.2f}   {weights.max(axis=1).mean():14.2f}   {slope:5.2f}")
    slopes[d] = slope
    print(f"{d:5}   " + "    ".join(cells))
assert max(slopes.values()) < 1.2 * min(slopes.values())

# %% [markdown]
# ## Masks
# A language model must not see the word that it is to guess: scores of later words become −10⁹, and softmax makes
# them 0 (causal mask). Texts of different lengths share an array: nobody looks at the padding behind the shorter one
# (padding mask), and then each text comes out as if it were alone.
#
# ## 掩码
# 语言模型不能看到它要猜的词：后面的词的分数设为 −10⁹，softmax 之后就是 0（因果掩码）。长短不同的句子放进同一个数组时，
# 谁也不看短句后面的填充（填充掩码），于是每句的结果都和单独计算时一样。

# %%
T = len(sentence)
earlier = np.tril(np.ones((T, T), bool))  # True: j ≤ i
assert np.array_equal(earlier, to_numpy(kn.layers.masking.causal_mask(T))[0])
causal = softmax(np.where(earlier, scores, -1e9))
assert np.allclose(causal, to_numpy(attend(one_head, one_head, one_head, earlier).probabilities)[0, 0], atol=1e-5)
assert causal[0, 0] == 1 and not np.triu(causal, 1).any()  # the first word sees itself alone

real = np.arange(T) < 5  # a sentence of five words, and padding of whatever stands there
padded = attend(one_head, one_head, one_head, np.broadcast_to(real, (T, T))).output
alone = attend(*[one_head[:, :5]] * 3).output
assert np.allclose(to_numpy(padded)[:, :5], to_numpy(alone), atol=1e-5)
print("Causal and padding mask by hand and by our function: the same. 两种掩码，手算与函数一致。")

# %% [markdown]
# ## Heads
# One mean can follow only one thread. So the model looks with several heads at once: each has matrices of its own that
# make queries, keys and values from x, all are put side by side and mixed by one more matrix. This is
# `kn.layers.MultiHeadAttention`, drop-in for Keras's. By hand with its weights:
#
# ## 多头
# 一次平均只能跟一条线索。所以模型同时用几个“头”来看：每个头用自己的矩阵从 x 得到查询、键和值，
# 结果并排放好，再用一个矩阵混合。这就是 `kn.layers.MultiHeadAttention`，可以直接替换 Keras 的层。用它的权重手算：

# %%
layer = kn.layers.MultiHeadAttention(num_heads=4, key_dim=16)
x = X[None].astype("float32")  # (B, T, D)
by_layer = to_numpy(layer(x, x, use_causal_mask=True))
W_q, b_q, W_k, b_k, W_v, b_v, W, b = layer.get_weights()  # (D, N, H) and (N, H) thrice; (N, H, D) and (D,)

heads = []
for n in range(4):
    q, k, v = (X @ W_n[:, n] + b_n[n] for W_n, b_n in ((W_q, b_q), (W_k, b_k), (W_v, b_v)))  # (T, H)
    heads.append(softmax(np.where(earlier, q @ k.T / np.sqrt(16), -1e9)) @ v)
by_hand = np.concatenate(heads, axis=1) @ W.reshape(64, D) + b  # (T, N · H) → (T, D)
assert np.allclose(by_hand, by_layer[0], atol=1e-4)
print("Four heads by hand and by our layer: the same. 四个头，手算与我们的层一致。")

# %% [markdown]
# ## Let it learn
# Three small language models guess the next word. The first sees only the current word; the second adds the plain mean
# of all words so far (queries of zero: all scores equal); the third adds attention. The rest is the same for all: the
# word vectors, a learned vector for each position, and a matrix that turns the result into 1,000 logits.
#
# ## 让它学习
# 三个小语言模型猜下一个词。第一个只看当前的词；第二个加上此前所有词的普通平均（查询为零：分数全相等）；
# 第三个加上注意力。其余完全相同：词向量、每个位置一个学到的向量，以及把结果变成 1,000 个 logits 的矩阵。


# %%
length, batch_size, steps = 32, 64, 400


def build(looks_back):
    ids = keras.Input((length,), dtype="int32")
    x = kn.layers.Embedding(V, D, name="words")(ids)
    x = x + kn.layers.PositionEmbedding(length, name="positions")(x)
    if looks_back != "at nothing":
        query = x if looks_back == "with attention" else keras.ops.zeros_like(x)
        attention = kn.layers.MultiHeadAttention(4, 16, use_bias=False, name="attention")
        x = x + attention(query, x, use_causal_mask=True)
    return keras.Model(ids, kn.layers.Dense(V, name="head")(x), name=looks_back.replace(" ", "_"))


def windows(ids, starts):
    rows = ids[starts[:, None] + np.arange(length + 1)]
    return rows[:, :-1], rows[:, 1:]  # the words, and for each the word that follows


random = np.random.RandomState(0)
train_x, train_y = windows(train_ids, random.randint(0, len(train_ids) - length, steps * batch_size))
test_x, test_y = windows(test_ids, np.arange(0, len(test_ids) - length, length))

models, losses = {}, {}
for looks_back in ("at nothing", "with a plain mean", "with attention"):
    keras.utils.set_random_seed(0)
    model = models[looks_back] = build(looks_back)
    model.get_layer("words").set_weights([vectors])
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, decay_steps=steps)
    model.compile(keras.optimizers.Adam(schedule), kn.losses.TokenCrossEntropy())
    with tqdm(total=steps, desc=f"Looking back {looks_back}") as bar:
        each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs, bar=bar: bar.update())
        model.fit(train_x, train_y, batch_size=batch_size, shuffle=False, verbose=0, callbacks=[each_batch])
    losses[looks_back] = model.evaluate(test_x, test_y, batch_size=256, verbose=0)
for looks_back, loss in losses.items():
    print(f"{loss:.3f} nats a word, as if choosing among {np.exp(loss):3.0f} 相当于从这么多词里选: {looks_back}")
assert losses["with attention"] < min(losses["with a plain mean"], losses["at nothing"]) - 0.03

# %% [markdown]
# ## What it looks at
# `kn.trace` shows everything that was computed on the way, the probabilities of each head too. A sentence of the books
# that were held out, with a row for each word: where does it look to guess the next one?
#
# ## 它在看哪里
# `kn.trace` 给出途中算过的一切，包括每个头的概率。下面是留作测试的书中的一句话，每个词一行：
# 为了猜下一个词，它看向哪里？

# %%
chosen = np.flatnonzero((test_x != 0).all(axis=1))[0]
trace = kn.trace(models["with attention"], test_x[chosen : chosen + 1])
learned = trace["attention.probabilities"][0]  # (N, T, S)
assert np.allclose(learned.sum(axis=-1), 1, atol=1e-5) and not np.triu(learned, 1).any()
words = [vocabulary[i] for i in test_x[chosen]]
print("The text 文字:", *words)

figure, axes = plt.subplots(1, 5, figsize=(22, 5), layout="constrained")
axes[0].imshow(A, cmap="Blues")
axes[0].set(title="by hand: vectors that keep like company")
axes[0].set_xticks(range(T), sentence, rotation=90, fontsize=7)
axes[0].set_yticks(range(T), sentence, fontsize=7)
for n, axis in enumerate(axes[1:]):
    axis.imshow(learned[n], cmap="Blues", vmax=0.6)
    axis.set(title=f"learned: head {n + 1}")
    axis.set_xticks(range(length), words, rotation=90, fontsize=6)
    axis.set_yticks(range(length), words, fontsize=6)
figure.suptitle("; ".join(f"{name} {loss:.2f} nats" for name, loss in losses.items()))
figure.savefig(folder / "attention_by_hand.png", dpi=110)

# %%
models["with attention"].save(folder / "attention_by_hand.keras")
again = keras.models.load_model(folder / "attention_by_hand.keras")
assert np.allclose(again.predict(test_x[:4], verbose=0), models["with attention"].predict(test_x[:4], verbose=0))
print(
    f"Held-out loss 测试损失: {losses['with attention']:.3f} nats a word (plain mean {losses['with a plain mean']:.3f})"
)
print(f"Saved 已保存: {folder / 'attention_by_hand.keras'}, {folder / 'attention_by_hand.png'}")
