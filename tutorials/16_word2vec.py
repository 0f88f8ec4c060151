# %% [markdown]
# # 16 · Word2vec: a word is known by the company it keeps
#
# Give every word a vector, and let it foretell the words around it. Words in like company must foretell the same, so
# they get like vectors: meaning, learned from nothing but text (Mikolov et al. 2013). Skip-gram: the centre word
# foretells each neighbour. CBOW: the neighbours together foretell the centre word. Both are `kn.Word2Vec`.
#
# # 16 · Word2vec：观其伴，知其义
#
# 给每个词一个向量，让它预测周围的词。处在相似环境里的词要预测相同的东西，于是得到相似的向量：
# 仅凭文本就学到了词义（Mikolov 等，2013）。Skip-gram：中心词预测每个邻居；CBOW：邻居们一起预测中心词。
# 两者都是 `kn.Word2Vec`。

# %%
import re
from collections import Counter
from pathlib import Path

import kerasnets as kn

import keras
import matplotlib
import numpy as np
from scipy.stats import spearmanr
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Text
# Articles of Wikipedia, news, and the Bible in Basic English: 1.4 million words, sentence by sentence.
#
# ## 文本
# 维基百科的文章、新闻和基础英语版《圣经》：一百四十万词，逐句排列。

# %%
texts = [*kn.datasets.english_articles(), *kn.datasets.english_prose()]
sentences = [re.findall(r"[a-z]+", part) for text in texts for part in re.split(r"[.!?\n]+", text.lower())]
sentences = [sentence for sentence in sentences if len(sentence) > 1]
print(f"{len(sentences):,} sentences 句, {sum(map(len, sentences)):,} words 词")

# %% [markdown]
# ## Who foretells whom
# In a window around each word the pairs are made. The window is drawn anew for each place, from 1 to its full width:
# near words count more often than far ones.
#
# ## 谁预测谁
# 在每个词周围的窗口里组成词对。窗口大小每次随机，从 1 到最大：近的词比远的词更常被用到。

# %%
sentence = ["the", "king", "gave", "water", "to", "the", "people"]
random = np.random.RandomState(1)
for place, word in enumerate(sentence[:4]):
    b = random.randint(1, 3)
    near = [sentence[j] for j in range(max(0, place - b), min(len(sentence), place + b + 1)) if j != place]
    print(f"skip-gram: {word} → {', '.join(near)};   CBOW: {' + '.join(near)} → {word}")

# %% [markdown]
# ## The full softmax, by hand
# Two tables: v for the word that is looked at, u for the word that is foretold. p(o | c) = softmax(U v_c)[o], and the
# loss is −log p. Its gradient for the logits is p − y, as in every classifier (tutorial 01). The model is a Keras one:
# its outputs are these logits, and a step of Keras is the step by hand.
#
# ## 手算完整的 softmax
# 两张表：v 给“看着的词”，u 给“被预测的词”。p(o | c) = softmax(U v_c)[o]，损失是 −log p，对 logits 的梯度是 p − y，
# 和所有分类器一样（教程 01）。这个模型就是 Keras 模型：输出即 logits，Keras 的一步就是手算的一步。

# %%
small = kn.Word2Vec.from_sentences([sentence] * 5, hidden_size=4, window=2, subsample=0)
v, u = (random.normal(size=w.shape).astype("float32") for w in small.get_weights())
small.set_weights([v, u])
c, o = next(small.examples([sentence]))  # the pairs: centre, neighbour

logits = v[c] @ u.T  # (B, V)
assert np.allclose(logits, to_numpy(small(c)), atol=1e-5)
p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
loss, error = -np.log(p[np.arange(len(c)), o]).mean(), p - np.eye(len(u))[o]
u_by_hand = u - 0.1 * error.T @ v[c] / len(c)

small.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
assert np.isclose(small.train_on_batch(c, o), loss, rtol=1e-4)
assert np.allclose(small.get_weights()[1], u_by_hand, atol=1e-5)
print(f"Loss by hand 手算损失 {loss:.4f}, Keras's step is the step by hand 一步一致")

# %% [markdown]
# ## Negative sampling, by hand
# For 10,000 words the softmax costs 10,000 products a pair. Instead, ask a simpler question: is this pair real, or was
# the second word drawn at random? A logistic regression: log σ(u_o · v_c) + Σ log σ(−u_w · v_c) over a few drawn words
# w. Its gradient is (y − σ(u · v)) times the other vector, y = 1 for the real word and 0 for a drawn one.
#
# In `kn.Word2Vec.learn`, places side by side share the words that were drawn, each counting for as many as every pair
# would draw of its own: then a whole step is three products of matrices. Pair by pair, by hand, it is the same.
#
# ## 手算负采样
# 一万个词的 softmax，每个词对要算一万个内积。换个简单的问题：这一对是真的，还是第二个词是随机抽的？
# 这是逻辑回归：log σ(u_o · v_c) + Σ log σ(−u_w · v_c)，w 是抽到的几个词。梯度是 (y − σ(u · v)) 乘以另一个向量，
# 真词 y = 1，抽来的 y = 0。
#
# 在 `kn.Word2Vec.learn` 里，相邻的位置共用抽到的词，每个词按“每对各抽各的”应有的次数计数：一步就成了三次矩阵乘法。
# 一对一对手算，结果相同。

# %%
blocks = next(small.blocks(*small.read([sentence]), np.random.RandomState(0)))[1]
convert = keras.ops.convert_to_tensor
rate = 0.01
rates = convert(np.full(len(blocks["ids"]), rate, "float32"))  # of the steps that go in one call
pairs = small.pairs(**{name: convert(x) for name, x in blocks.items()}, rate=rates)
by_model = small.small_step(convert(v.copy()), convert(u.copy()), **{n: x[0] for n, x in pairs.items()})  # the first

dv, du = np.zeros_like(v), np.zeros_like(u)
ids, windows, drawn = blocks["ids"][0, 0, 2:], blocks["windows"][0, 0], blocks["negatives"][0, 0]
for place in range(len(sentence)):
    for j in range(max(0, place - windows[place]), min(len(sentence), place + windows[place] + 1)):
        if j != place:
            c, others = ids[place], drawn[drawn != ids[j]]
            for word, y, times in [(ids[j], 1, 1), *((w, 0, 5 / len(drawn)) for w in others)]:
                g = rate * times * (y - 1 / (1 + np.exp(-u[word] @ v[c])))
                dv[c] += g * u[word]
                du[word] += g * v[c]
assert np.allclose(to_numpy(by_model[0]), v + dv, atol=1e-5) and np.allclose(to_numpy(by_model[1]), u + du, atol=1e-5)
print("A step of negative sampling by hand and by the model: the same. 负采样的一步，手算与模型一致。")

# %% [markdown]
# ## Frequent words
# "the" stands everywhere and says little. So frequent words are left out now and then: a word of frequency f stays with
# probability √(t/f) + t/f, t = 0.001. And the drawn words come with P ∝ count^0.75: rare ones a little more often.
#
# ## 高频词
# “the”到处都是，却说明不了什么。所以高频词有时被略去：频率为 f 的词以 √(t/f) + t/f 的概率保留，t = 0.001。
# 负样本按 P ∝ 次数^0.75 抽取：罕见词略多一点。

# %%
counts = Counter(word for sentence in sentences for word in sentence)
f = np.array([counts[word] for word in ("the", "king", "water", "anarchism")]) / counts.total()
for word, share, stays in zip(("the", "king", "water", "anarchism"), f, np.sqrt(1e-3 / f) + 1e-3 / f, strict=True):
    print(f"{word:>10}: {share:.5f} of the text 占比, stays 保留 {min(1, stays):.0%}")

# %% [markdown]
# ## Learn
# Skip-gram and CBOW over the same text; a baseline that counts instead of learning (tutorial 08: how often two words
# stand together, against chance, and the 100 strongest directions); and vectors drawn at random. People have said of
# 353 pairs how alike the two words are; Spearman's ρ says how well the cosines put the pairs in the same order. On so
# small a text counting is still ahead; but it needs a table of V × V; learning does not, and gains with more text.
#
# ## 训练
# 同一文本上的 skip-gram 和 CBOW；一个只数不学的基线（教程 08：两词同现的次数与随机相比，取 100 个最强方向）；
# 以及随机向量。有人给 353 对词的相似程度打过分；斯皮尔曼 ρ 说明余弦值的排序与人的排序有多一致。
# 文本这么小的时候，计数仍然领先；但它要一张 V × V 的表，学习则不用，而且文本越多越好。


# %%
def learn(kind, epochs=5):
    model = kn.Word2Vec.from_sentences(sentences, kind=kind, hidden_size=100)
    with tqdm(total=1.0, desc=kind, bar_format="{desc} {percentage:3.0f}%|{bar:30}| {elapsed}") as bar:
        model.learn(sentences, epochs=epochs, progress=lambda done: bar.update(done - bar.n))
        bar.update(1 - bar.n)
    return model


def rho(number, vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    known = [(number[a], number[b], likeness) for a, b, likeness in similar if a in number and b in number]
    return spearmanr([unit[a] @ unit[b] for a, b, _ in known], [row[2] for row in known])[0]


similar = kn.datasets.word_similarity()
skip_gram, cbow = learn("skip_gram"), learn("cbow")

V = 5000
ids, sentence_of = skip_gram.read(sentences)
together = np.zeros((V, V), "float32")
for distance in range(1, 6):
    pair = np.stack([ids[:-distance], ids[distance:]])
    pair = pair[:, (pair < V).all(axis=0) & (sentence_of[:-distance] == sentence_of[distance:])]
    together += np.bincount(pair[0] * V + pair[1], minlength=V * V).reshape(V, V) / distance
together += together.T
by_chance = together.sum(axis=1, keepdims=True) * together.sum(axis=0) / together.sum()
information = np.log(np.maximum(together, 1e-9) / by_chance).clip(min=0)  # (V, V)
sketch = information @ random.normal(size=(V, 120)).astype("float32")
for _ in range(3):  # the strongest directions, by a few products with a random start
    sketch = information @ (information.T @ np.linalg.qr(sketch)[0])
basis = np.linalg.qr(sketch)[0]
U, S, _ = np.linalg.svd(basis.T @ information, full_matrices=False)
counted = (basis @ U)[:, :100] * np.sqrt(S[:100])
frequent = {word: id for word, id in skip_gram.number.items() if id < V}

scores = {
    "skip-gram": rho(frequent, skip_gram.vectors),
    "CBOW": rho(frequent, cbow.vectors),
    "counted 计数": rho(frequent, counted),
    "random 随机": rho(frequent, random.normal(size=counted.shape)),
}
for name, score in scores.items():
    print(f"Spearman ρ = {score:+.3f}: {name}")
assert scores["skip-gram"] > 0.1 and scores["skip-gram"] > scores["random 随机"] + 0.05

# %% [markdown]
# ## Neighbours and sums
# The nearest words, and the famous sum: as man is to king, so is woman to …? A small text gives small wonders; with a
# hundred thousand times as many words it is right most of the time.
#
# ## 近邻与加减
# 最近的词，以及著名的算式：man 之于 king，如同 woman 之于……？文本小，奇迹也小；有十万倍的文本时，多数情况下都对。

# %%
for word in ("water", "king", "monday", "london", "physics"):
    near = (f"{w} {cosine:.2f}" for w, cosine in skip_gram.most_similar(word, count=6))
    print(f"{word}:", *near)
for a, b, c in (("man", "king", "woman"), ("father", "mother", "son"), ("he", "his", "she")):
    print(f"{a} : {b} = {c} :", *(w for w, _ in skip_gram.most_similar([b, c], [a], count=4)))
assert skip_gram.similarity("father", "son") > skip_gram.similarity("father", "water")

# %% [markdown]
# ## A map
# The two strongest directions of some words: what belongs together stands together, and nobody told it.
#
# ## 一张地图
# 取一些词最强的两个方向画图：属于一类的站在一起，没有人教过它。

# %%
groups = {
    "days": ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"],
    "family": ["father", "mother", "son", "daughter", "brother", "sister", "wife"],
    "countries": ["australia", "france", "germany", "india", "china", "pakistan", "afghanistan"],
    "science": ["physics", "theory", "mathematics", "chemistry", "biology", "philosophy"],
    "food": ["bread", "wine", "meat", "fruit", "honey", "grain"],
}
words = [word for group in groups.values() for word in group]
points = np.stack([skip_gram.vector(word) for word in words])
points = points / np.linalg.norm(points, axis=1, keepdims=True)
cosines = points @ points.T
of = np.repeat(np.arange(len(groups)), [len(group) for group in groups.values()])
within, between = cosines[(of[:, None] == of) & ~np.eye(len(of), dtype=bool)].mean(), cosines[of[:, None] != of].mean()
print(f"Mean cosine within a group 组内余弦 {within:.2f}, between groups 组间 {between:.2f}")
assert within > between + 0.15

points = points - points.mean(axis=0)
x, y = (points @ np.linalg.svd(points)[2][:2].T).T
figure, axis = plt.subplots(figsize=(11, 7), layout="constrained")
for i, name in enumerate(groups):
    axis.scatter(x[of == i], y[of == i], label=name)
for word, a, b in zip(words, x, y, strict=True):
    axis.annotate(word, (a, b), xytext=(4, 3), textcoords="offset points", fontsize=9)
axis.set(title=f"skip-gram, two of 100 dimensions; Spearman on wordsim353: {scores['skip-gram']:.3f}")
axis.legend()
figure.savefig(folder / "word2vec.png", dpi=120)

# %% [markdown]
# ## Keep it
# As a Keras model, and in the format of the original word2vec, which gensim and others open.
#
# ## 保存
# 存成 Keras 模型，以及原版 word2vec 的格式，gensim 等工具都能打开。

# %%
skip_gram.save(folder / "word2vec.keras")
again = keras.models.load_model(folder / "word2vec.keras")
assert again.most_similar("king") == skip_gram.most_similar("king")
skip_gram.to_word2vec(folder / "word2vec.bin", binary=True)
again = kn.Word2Vec.from_word2vec(folder / "word2vec.bin", binary=True)
assert np.array_equal(again.vectors, skip_gram.vectors)
print(f"Spearman ρ: {scores['skip-gram']:.3f} (counted 计数 {scores['counted 计数']:.3f})")
print(f"Saved 已保存: {folder / 'word2vec.keras'}, {folder / 'word2vec.bin'}, {folder / 'word2vec.png'}")
