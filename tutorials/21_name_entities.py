# %% [markdown]
# # 21 · Who, where, which body? Named entities
#
# A newspaper is full of names. To find them is to say something of each token: here a person's name begins (B), goes on
# (I), or there is none (O), as Ramshaw & Marcus wrote it in 1995 (arXiv:cmp-lg/9505040). An encoder with a head for
# each token does this (Devlin et al. 2018, arXiv:1810.04805). We train one from nothing on the People's Daily of
# January 1998, in which people marked every name (Peking University), with characters as tokens, and ask: is it better
# than a list of all names that it has seen?
#
# # 21 · 何人、何地、何机构？命名实体
#
# 报纸上到处是名字。要找出它们，就是对每个词元说一句话：这里有个人名开始（B）、继续（I），或者没有名字（O），
# 这种写法出自 Ramshaw 与 Marcus（1995，arXiv:cmp-lg/9505040）。编码器加上逐个词元的分类头就能做
# （Devlin 等，2018，arXiv:1810.04805）。我们用 1998 年 1 月的《人民日报》从零训练一个，其中每个名字都由人工标注
# （北京大学），词元就是单字。问题是：它比一本记下所有见过的名字的名单更好吗？

# %%
from collections import Counter, defaultdict
from pathlib import Path

import kerasnets as kn

import keras
import matplotlib
import numpy as np
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)

# %% [markdown]
# ## The names
# In the data every word has a kind: nr for a person, ns for a place, nt for a body, nz for any other name. Family name
# and given name are two words there and become one. Paragraphs are cut at punctuation into pieces of about 40
# characters. To learn from we take the first 40 % of the month, for time; to test on, its last days: other news.
#
# ## 名字
# 数据里每个词都有类别：nr 人名，ns 地名，nt 机构，nz 其他专名。姓与名在那里是两个词，合成一个。
# 段落在标点处切成 40 字左右的片段。为了省时，只用这个月前 40% 来学习；用最后几天来测试：另外的新闻。

# %%
KINDS = {"nr": "PER", "ns": "LOC", "nt": "ORG", "nz": "MISC"}
longest = 40


def with_names(words):
    """[(word, kind), …] → the text, and its names as (start, end, kind)."""
    text, names, before = "", [], None
    for word, kind in words:
        start, text = len(text), text + word
        if kind == before == "nr":
            names[-1] = (names[-1][0], len(text), "PER")
        elif kind in KINDS:
            names.append((start, len(text), KINDS[kind]))
        before = kind
    return text, names


def pieces(words):
    """Clauses, as many in a piece as fit."""
    clauses, piece, length = [[]], [], 0
    for word in words:
        clauses[-1].append(word)
        if word[1] == "w" or word[1] != "nr" and sum(len(word) for word, _ in clauses[-1]) > longest // 2:
            clauses.append([])
    for clause in filter(None, clauses):
        size = sum(len(word) for word, _ in clause)
        if piece and length + size > longest:
            yield with_names(piece)
            piece, length = [], 0
        piece, length = piece + clause, length + size
    yield with_names(piece)


paragraphs = kn.datasets.chinese_words()
first, last = len(paragraphs) * 4 // 10, len(paragraphs) * 95 // 100
train = [piece for words in paragraphs[:first] for piece in pieces(words)]
test = [piece for words in paragraphs[last:] for piece in pieces(words)]
for name, part in (("to learn from 训练", train), ("to test on 测试", test)):
    print(
        f"{len(part):,} pieces {name},",
        *(f"{kind} {n:,}" for kind, n in Counter(k for _, names in part for *_, k in names).items()),
    )
text, names = train[1]
print(text, *(f"{text[start:end]}/{kind}" for start, end, kind in names))

# %% [markdown]
# ## BIO, there and back
# A label for each character, and from the labels the names again: five lines each way.
#
# ## BIO，一来一回
# 每个字一个标签，再从标签变回名字，各五行：


# %%
def bio(length, names):
    labels = ["O"] * length
    for start, end, kind in names:
        labels[start:end] = ["B-" + kind] + ["I-" + kind] * (end - start - 1)
    return labels


def spans(labels):
    found = []
    for i, label in enumerate(labels):
        if label[0] == "I" and found and found[-1][1:] == (i, label[2:]):
            found[-1] = (found[-1][0], i + 1, label[2:])
        elif label != "O":
            found.append((i, i + 1, label[2:]))
    return found


assert all(spans(bio(len(text), names)) == names for text, names in train + test)
print(*zip(text, bio(len(text), names), strict=True))


def scores(found, expected, kind=None):
    """Precision, recall and F1 = 2 P R / (P + R) of whole names: both ends and the kind must be right."""
    chosen = [{(i, *span) for i, spans in enumerate(side) for span in spans if kind in (None, span[2])}
              for side in (found, expected)]  # fmt: skip
    right = len(chosen[0] & chosen[1])
    precision, recall = right / max(1, len(chosen[0])), right / max(1, len(chosen[1]))
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


# %% [markdown]
# ## The baseline: a list
# All names of the training part, each with its most frequent kind. In a text the longest one wins, from the left. What
# was a name in less than half of the places where this finds it is struck from the list.
#
# ## 基线：一本名单
# 训练部分的所有名字，各取最常见的类别。在文中从左起取最长的匹配。若某个名字在被匹配到的地方有一半以上并不是名字，
# 就从名单里划掉。

# %%
kinds_of = defaultdict(Counter)
for text, names in train:
    for start, end, kind in names:
        kinds_of[text[start:end]][kind] += 1
listed = {name: kinds.most_common(1)[0][0] for name, kinds in kinds_of.items()}


def look_up(text, listed, most=12):
    found, i = [], 0
    while i < len(text):
        end = next((j for j in range(min(len(text), i + most), i, -1) if text[i:j] in listed), None)
        if end:
            found.append((i, end, listed[text[i:end]]))
        i = end or i + 1
    return found


tries, hits = Counter(), Counter()
for text, names in tqdm(train, desc="The list 名单"):
    for span in look_up(text, listed):
        tries[text[span[0] : span[1]]] += 1
        hits[text[span[0] : span[1]]] += span in names
listed = {name: kind for name, kind in listed.items() if 2 * hits[name] >= tries[name]}
expected = [names for _, names in test]
by_list = [look_up(text, listed) for text, _ in test]
print(f"{len(listed):,} names 个名字: P {{:.3f}} R {{:.3f}} F1 {{:.3f}}".format(*scores(by_list, expected)))

# %% [markdown]
# ## Tokens and their labels
# BERT's tokenizer makes every Chinese character a token of its own; only numbers and Latin letters become pieces. With
# `places=True` it tells where each token stands. The first piece of a word carries its label, the other pieces and the
# special tokens count for nothing (−100).
#
# ## 词元与标签
# BERT 的分词器让每个汉字自成一个词元，只有数字和拉丁字母会切成片段。`places=True` 给出每个词元的位置。
# 标签记在一个词的第一个片段上，其余片段和特殊词元不算（−100）。

# %%
labels = ("O", *(f"{prefix}-{kind}" for kind in KINDS.values() for prefix in "BI"))
letters = len({letter for text, _ in train for letter in text})
tokenizer = kn.Tokenizer.train([text for text, _ in train], "wordpiece", vocab_size=2 * letters + 10)
length = longest + 4


def arrays(part):
    batch = tokenizer([text for text, _ in part], max_length=length, padding="max_length", places=True)
    first = np.diff(batch["word_ids"], axis=1, prepend=-1) != 0
    y = np.full(batch["input_ids"].shape, -100, "int32")
    for row, (text, names) in enumerate(part):
        numbers = np.array([labels.index(label) for label in bio(len(text), names)])
        places = np.flatnonzero(first[row] & (batch["word_ids"][row] >= 0))
        y[row, places] = numbers[batch["offset_mapping"][row, places, 0]]
    return {name: batch[name] for name in ("input_ids", "attention_mask")}, y


train_x, train_y = arrays(train)
print(f"{tokenizer.vocab_size:,} tokens 种词元; {(train_y >= 0).sum():,} to learn from 个用来学习")
print(*zip(tokenizer.tokenize(train[1][0])[:12], (labels[k] for k in train_y[1, 1:13]), strict=True))

# %% [markdown]
# ## The network
# Two blocks of DeBERTa v2, an encoder that scores how far away a token stands (tutorial 24) and lets a convolution see
# each token with both its neighbours; then a Dense layer on each token. What begins a name is told by its neighbours.
# BERT's table of absolute places has to learn them place by place: after 160 seconds it came to an F1 of 0.68 only.
#
# ## 网络
# 两层 DeBERTa v2：这种编码器会给距离打分（见教程 24），还用一个卷积把每个词元和左右邻居一起看；
# 最后每个词元上一个全连接层。名字从哪里开始，要看左邻右舍。BERT 的绝对位置表得一个位置一个位置地学会谁是邻居：
# 学了 160 秒，F1 只到 0.68。

# %%
batch_size, epochs, width = 32, 2, 64
model = kn.DeBERTaV2TokenClassifier(
    vocab_size=tokenizer.vocab_size, hidden_size=width, num_layers=2, num_heads=4, feedforward_size=4 * width,
    max_length=length, num_buckets=16, terms=("c2p",), convolution_size=3, convolution_activation="gelu",
    num_labels=len(labels), labels=labels, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
steps = epochs * -(-len(train_y) // batch_size)
schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=4e-3, warmup_steps=steps // 20)
model.compile(keras.optimizers.Adam(schedule), model.make_loss())
with tqdm(total=steps, desc="Reading 读报") as bar:
    each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
    losses = model.fit(train_x, train_y, batch_size, epochs, verbose=0, callbacks=[each_batch]).history["loss"]

# %% [markdown]
# ## From labels to names
# `kn.tag` reads texts and gives names with their places among the characters. On one text, by hand from the logits:
#
# ## 从标签到名字
# `kn.tag` 读入文字，给出名字和它们在文中的字符位置。先用一段文字，从 logits 手算：

# %%
text, names = max(test[:500], key=lambda piece: len(piece[1]))
batch = tokenizer([text], places=True)
logits = keras.ops.convert_to_numpy(model({name: batch[name] for name in ("input_ids", "attention_mask")}))[0]
by_hand = ["O"] * len(text)
for token in np.flatnonzero((batch["word_ids"][0] >= 0) & (np.diff(batch["word_ids"][0], prepend=-1) != 0)):
    start, end = batch["offset_mapping"][0, token]
    by_hand[start] = labels[logits[token].argmax()]
tagged = kn.tag(model, tokenizer, text)
if tokenizer.tokenize(text) == list(text):
    assert spans(by_hand) == [(name["start"], name["end"], name["label"]) for name in tagged]
print(text, *(f"{name['text']}/{name['label']}" for name in tagged))

# %% [markdown]
# ## Side by side
# ## 并排比较

# %%
tagged = kn.tag(model, tokenizer, [text for text, _ in test], batch_size=64)
by_model = [[(name["start"], name["end"], name["label"]) for name in names] for names in tagged]
print("                  the list 名单            DeBERTa\n                  P     R     F1          P     R     F1")
for kind in (None, *KINDS.values()):
    rows = (scores(found, expected, kind) for found in (by_list, by_model))
    print(f"{kind or 'all 全部':12}", *("{:9.3f} {:.3f} {:.3f}".format(*row) for row in rows))
new = [[s for s in names if text[s[0] : s[1]] not in kinds_of] for text, names in test]
total = sum(map(len, new))
met = sum(span in found for found, names in zip(by_model, new, strict=True) for span in names)
print(f"Names never seen in training 训练中从未见过的名字: {total:,}; the list finds none 名单一个也找不到")
print(f"DeBERTa finds 找到 {met:,} ({met / total:.0%})")
f1, f1_list = scores(by_model, expected)[2], scores(by_list, expected)[2]
assert f1 > f1_list and met > 0.2 * total

# %% [markdown]
# ## Names with their places
# ## 名字与位置

# %%
for text in ("新华社北京１月３０日电（记者王小明）国务院总理李鹏今天在北京会见了法国总统希拉克。", test[3][0]):
    print(text)
    for name in kn.tag(model, tokenizer, text):
        print(f"    {name['start']:3}–{name['end']:3} {name['label']:5} {name['probability']:.2f}  {name['text']}")

figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
shown = ["all", *KINDS.values()]
for shift, name, found in ((-0.2, "list of names seen in training", by_list), (0.2, "DeBERTa", by_model)):
    values = [scores(found, expected, None if kind == "all" else kind)[2] for kind in shown]
    bars = axis.bar(np.arange(len(shown)) + shift, values, 0.4, label=name)
    axis.bar_label(bars, fmt="%.2f", fontsize=8)
axis.set_xticks(range(len(shown)), shown)
axis.set(ylabel="F1 of whole names", ylim=(0, 1.05))
axis.legend(frameon=False, loc="upper right")
figure.savefig(folder / "name_entities.png", dpi=120)
model.save(folder / "name_entities.keras")
tokenizer.save_pretrained(folder / "name_entities_tokenizer")
again = keras.models.load_model(folder / "name_entities.keras")
assert kn.tag(again, tokenizer, test[3][0]) == kn.tag(model, tokenizer, test[3][0])
print(f"F1: DeBERTa {f1:.3f}, the list 名单 {f1_list:.3f}")
print(f"Saved 已保存: {folder / 'name_entities.keras'}, {folder / 'name_entities.png'}")
