# %% [markdown]
# # 24 · What it is, and where it stands: DeBERTa
#
# BERT adds the position to the token, and from then on the two are one vector. DeBERTa (He et al. 2020,
# arXiv:2006.03654) keeps them apart. A query asks three questions of each key: does what you are suit what I am? Does
# where you stand, seen from me, suit what I am? And does where I stand, seen from you, suit what you are?
#
# $s_{ij} = ( q_i \cdot k_j + q_i \cdot \hat{k}_{δ} + k_j \cdot \hat{q}_{δ} ) / \sqrt{3H}$ with δ = i − j
#
# We compute the three by hand, look at v2's buckets, and then switch the terms off, one by one, on a real task.
#
# # 24 · 是什么与在哪里：DeBERTa
#
# BERT 把位置加到词元上，从此二者成了一个向量。DeBERTa（He 等，2020，arXiv:2006.03654）把它们分开。
# 查询向每个键提三个问题：你的内容合我的内容吗？从我这里看，你的位置合我的内容吗？从你那里看，我的位置合你的内容吗？
# 打分就是上式三项之和。我们先手算这三项，再看 v2 的对数桶，然后在真实任务上逐项关掉。

# %%
from pathlib import Path

import kerasnets as kn
from kerasnets.layers import disentangled

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
# ## Three terms by hand
# A DeBERTa of one block with random weights. q, k and v come out of one matrix, head by head; k̂ and q̂ out of the table
# of distances, which has a row for each δ from −T to T − 1. Two loops over i and j, and the layer says the same.
#
# ## 手算三项
# 一层、随机权重的 DeBERTa。q、k、v 出自同一个矩阵，一个头接一个头；k̂ 和 q̂ 出自距离表，
# 从 −T 到 T − 1 每个 δ 一行。对 i 和 j 两重循环，层的结果与此相同。

# %%
T, D, N = 7, 16, 2
H = D // N
sizes = dict(vocab_size=30, hidden_size=D, num_layers=1, num_heads=N, feedforward_size=32, max_length=T)
model = kn.DeBERTa(**sizes)
random = np.random.default_rng(0)
for weight in model.weights:  # so that no bias is 0
    weight.assign(random.normal(size=weight.shape) * 0.3)
trace = kn.trace(model, random.integers(1, 30, (1, T)))
layer = model.blocks[0].attention


def heads(x):
    return x.reshape(-1, N, H)


x = trace["blocks.0.attention.input"][0]  # (T, D)
W = layer.query_key_value.get_weights()[0].reshape(D, N, 3, H)
q = np.einsum("td,dnh->tnh", x, W[:, :, 0]) + to_numpy(layer.query_bias).reshape(N, H)
k = np.einsum("td,dnh->tnh", x, W[:, :, 1])
table = to_numpy(model.distance_embedding.embeddings)  # (2T, D): the row δ + T
k_hat = heads(table @ layer.position_key.get_weights()[0])
q_hat = heads(table @ layer.position_query.get_weights()[0] + layer.position_query.get_weights()[1])

terms = np.zeros((3, N, T, T))
for i in range(T):
    for j in range(T):
        delta = i - j + T
        terms[0, :, i, j] = (q[i] * k[j]).sum(-1)  # content to content
        terms[1, :, i, j] = (q[i] * k_hat[delta]).sum(-1)  # content to position
        terms[2, :, i, j] = (k[j] * q_hat[delta]).sum(-1)  # position to content
terms /= np.sqrt(3 * H)

names = "content_to_position", "position_to_content", "scores"
layers_own = [trace[f"blocks.0.attention.{name}"][0] for name in names]
for name, by_hand, own in zip(names, (terms[1], terms[2], terms.sum(0)), layers_own, strict=True):
    assert np.allclose(by_hand, own, atol=1e-5)
    print(f"{name:20} by hand = the layer, largest difference 最大差异 {abs(by_hand - own).max():.1e}")
by_hand = np.exp(terms.sum(0) - terms.sum(0).max(-1, keepdims=True))
by_hand /= by_hand.sum(-1, keepdims=True)
assert np.allclose(by_hand, trace["blocks.0.attention.probabilities"][0], atol=1e-5)

# %% [markdown]
# ## The buckets of v2
# A table with a row for each distance up to 512 is large, and hardly ever does it matter whether a word stands 300 or
# 301 places away. In v2 near distances have their own row, up to half of the buckets, and further ones share rows in
# steps that grow like a logarithm. And one matrix projects contents and positions alike, so that positions cost no
# weights but the table. By hand again: the buckets, then the three terms.
#
# ## v2 的桶
# 每个距离一行、直到 512，这样的表太大；而且一个词隔 300 还是 301 个位置，几乎从来都不要紧。
# v2 让近的距离各有一行（桶数的一半），远的按对数增长的步长共用一行。内容和位置还共用同一个投影矩阵，
# 所以除了表以外，位置不增加权重。再手算一次：先是桶，再是三项。


# %%
def bucket(delta, buckets, furthest):
    m = buckets // 2
    if abs(delta) <= m:
        return delta
    step = np.ceil(np.log(abs(delta) / m) / np.log((furthest - 1) / m) * (m - 1))
    return int(np.sign(delta) * (m + step))


delta = np.arange(-511, 512)
by_library = to_numpy(disentangled.log_buckets(keras.ops.convert_to_tensor(delta, "int32"), 256, 512))
by_hand = np.array([bucket(d, 256, 512) for d in delta])
assert (by_hand == by_library).mean() > 0.99 and abs(by_hand - by_library).max() <= 1  # a rounding apart at the edges
print("distance 距离:", *(f"{d:4}" for d in (1, 64, 128, 129, 150, 200, 300, 301, 400, 511)))
print("bucket   桶:  ", *(f"{bucket(d, 256, 512):4}" for d in (1, 64, 128, 129, 150, 200, 300, 301, 400, 511)))

T, buckets, furthest = 40, 8, 32
model = kn.DeBERTaV2(**{**sizes, "max_length": T}, num_buckets=buckets, max_distance=furthest)
for weight in model.weights:
    weight.assign(random.normal(size=weight.shape) * 0.3)
trace = kn.trace(model, random.integers(1, 30, (1, T)))
layer, x = model.blocks[0].attention, trace["blocks.0.attention.input"][0]
(query, query_bias), (key, key_bias) = layer.query.get_weights(), layer.key.get_weights()
table = to_numpy(model.distance_norm(model.distance_embedding.embeddings))  # (2 · buckets, D)
q, k = heads(x @ query + query_bias), heads(x @ key + key_bias)
q_hat, k_hat = heads(table @ query + query_bias), heads(table @ key + key_bias)
rows = np.array([[bucket(i - j, buckets, furthest) + buckets for j in range(T)] for i in range(T)]).clip(
    0, 2 * buckets - 1
)
content = np.einsum("inh,jnh->nij", q, k)
to_position = np.einsum("inh,ijnh->nij", q, k_hat[rows])
to_content = np.einsum("jnh,ijnh->nij", k, q_hat[rows])
total = (content + to_position + to_content) / np.sqrt(3 * H)
assert np.allclose(total, trace["blocks.0.attention.scores"][0], atol=1e-5)
difference = abs(total - trace["blocks.0.attention.scores"][0]).max()
print(f"v2, {T} places in {2 * buckets} rows: by hand = the layer, largest difference 最大差异 {difference:.1e}")

# %% [markdown]
# ## A task of neighbours: where do Chinese words end?
# Chinese is written without spaces. In the People's Daily of January 1998 people cut the text into words; each
# character begins a word (B), stands in the middle (M), ends it (E), or is one alone (S). The character itself says
# much; the rest is in its neighbours, just left or right of it: a question of relative position. The baseline knows
# only the character: its most frequent label.
#
# ## 看左邻右舍的任务：中文的词到哪里为止？
# 中文书写没有空格。1998 年 1 月的《人民日报》由人工切成了词：每个字或是词首（B）、词中（M）、词尾（E），
# 或独自成词（S）。字本身说明了很多，其余的要看紧挨着的左右邻居：这正是相对位置的问题。
# 基线只认得字本身：取它最常见的标签。

# %%
paragraphs = kn.datasets.chinese_words()
cut = len(paragraphs) * 9 // 10


def characters(paragraphs):
    """All characters in a row, and the label of each: 0 B, 1 M, 2 E, 3 S."""
    words = [word for words in paragraphs for word, _ in words]
    labels = [3 if len(word) == 1 else [0, *[1] * (len(word) - 2), 2] for word in words]
    return "".join(words), np.hstack(labels).astype("int32")


(train_text, train_labels), (test_text, test_labels) = characters(paragraphs[:cut]), characters(paragraphs[cut:])
letters, counts = np.unique([*train_text], return_counts=True)
number = {letter: i for i, letter in enumerate(letters[counts > 2], start=1)}  # 0: any other
vocab_size = len(number) + 1
train_ids, test_ids = (np.array([number.get(letter, 0) for letter in text]) for text in (train_text, test_text))
table = np.zeros((vocab_size, 4))
np.add.at(table, (train_ids, train_labels), 1)
baseline = (table.argmax(1)[test_ids] == test_labels).mean()
print(f"{len(train_ids):,} characters to learn from 个字用来学习, {len(test_ids):,} held out 个留出")
print(" ".join(f"{letter}{'BMES'[label]}" for letter, label in zip(test_text[:30], test_labels[:30], strict=True)))

# %% [markdown]
# ## Switching off
# The same small network five times: all three terms, each of the two with positions alone, none of them, and a BERT of
# absolute positions. All read the same 32 characters at a time, in the same order. Then they read 128 at a time, longer
# than anything they learned from: the distances are the same, but BERT's places 32 to 127 never occurred.
#
# ## 逐项关掉
# 同样的小网络训练五次：三项全开、只开带位置的一项、全关，以及用绝对位置的 BERT。每次都读同样的 32 个字，顺序也一样。
# 然后一次读 128 个字，比学过的都长：距离还是那些距离，而 BERT 的位置 32 到 127 从没出现过。

# %%
length, long, batch_size, steps = 32, 128, 32, 200
common = dict(
    vocab_size=vocab_size, hidden_size=64, num_layers=2, num_heads=4, feedforward_size=256, max_length=long,
    num_labels=4, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
relative = dict(num_buckets=16, max_distance=length)
networks = {
    "DeBERTa: all three 三项全开": ("c2p", "p2c"),
    "without position to content 去掉位置→内容": ("c2p",),
    "without content to position 去掉内容→位置": ("p2c",),
    "contents alone 只有内容": (),
    "BERT: absolute positions 绝对位置": None,
}
starts = np.random.RandomState(0).randint(0, len(train_ids) - length, steps * batch_size)
windows = starts[:, None] + np.arange(length)
train_x, train_y = train_ids[windows].astype("int32"), train_labels[windows]
kept = len(test_ids) // 10 // long * long


def learn(terms):
    keras.utils.set_random_seed(0)
    if terms is None:
        model = kn.BERTTokenClassifier(**common, num_segments=1)
    else:
        model = kn.DeBERTaV2TokenClassifier(**common, **relative, terms=terms, relative_positions=bool(terms))
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=4e-3, warmup_steps=steps // 10)
    model.compile(keras.optimizers.Adam(schedule), model.make_loss())
    model.fit(train_x, train_y, batch_size=batch_size, shuffle=False, verbose=0)
    said = [
        model.predict(test_ids[:kept].reshape(-1, width), batch_size=64, verbose=0).argmax(-1)
        for width in (length, long)
    ]
    return model, [(one.ravel() == test_labels[:kept]).mean() for one in said]


accuracies, models = {}, {}
for name, terms in tqdm(networks.items(), desc="Networks 网络"):
    models[name], accuracies[name] = learn(terms)
print(f"{'accuracy by character 逐字准确率':44} 32    128   weights 权重")
print(f"{'its most frequent label 最常见的标签':44} {baseline:.3f}")
for name, (short, far) in accuracies.items():
    print(f"{name:44} {short:.3f} {far:.3f} {models[name].count_params():9,}")
full, *single, none, bert = accuracies.values()
assert full[0] > none[0] + 0.05 and full[0] > baseline + 0.05
assert min(one[0] for one in single) > none[0]
assert full[1] > bert[1] + 0.02

# %% [markdown]
# Without positions the network hardly knows more than the character alone. Either term with a position is enough to
# find the neighbours, since one row of the table serves all places at once. BERT has to learn for each place which row
# stands beside it: with these few steps it is not there yet, and past its 32 places it knows nothing.
#
# 没有位置，网络知道的比单看一个字多不了多少。两个位置项有一个就够找到邻居，因为表中的一行同时服务于所有位置。
# BERT 得为每个位置学会旁边是哪一行：这么几步还学不到，而 32 以外的位置它一无所知。

# %% [markdown]
# ## What the terms have learned
# The mean of each position term by distance, in the first block, on held-out text: at which distance does a head look?
#
# ## 各项学到了什么
# 在留出的文字上，第一层的两个位置项按距离的平均值：每个头看多远？

# %%
model = models["DeBERTa: all three 三项全开"]
trace = kn.trace(model, test_ids[: 32 * length].reshape(-1, length), only="*blocks.0.attention.*")
near = np.arange(-8, 9)  # j − i
figure, axes = plt.subplots(1, 3, figsize=(16, 4.2), layout="constrained")
for axis, term in zip(axes, ("content_to_position", "position_to_content"), strict=False):
    values = trace[f"backbone.blocks.0.attention.{term}"].mean(0)  # (N, T, T)
    means = np.array([[np.diagonal(head, offset).mean() for offset in near] for head in values])
    for n, head in enumerate(means):
        axis.plot(near, head - head.mean(), marker="o", markersize=3, label=f"head {n + 1}")
    axis.set(xlabel="j − i: the key stands so many places further", title=term.replace("_", " "))
    axis.legend(frameon=False)
axes[2].plot(delta, by_library, color="black")
axes[2].set(xlabel="distance δ", ylabel="row of the table", title="v2's buckets: 256 to either side for 512 places")
figure.savefig(folder / "deberta_disentangled.png", dpi=110)
model.save(folder / "deberta_disentangled.keras")
again = keras.models.load_model(folder / "deberta_disentangled.keras")
few = test_ids[: 8 * length].reshape(-1, length)
assert np.allclose(again.predict(few, verbose=0), model.predict(few, verbose=0), atol=1e-4)
print(f"Accuracy 准确率: all three terms 三项 {full[0]:.3f}, contents alone 只有内容 {none[0]:.3f}, BERT {bert[0]:.3f}")
print(f"Saved 已保存: {folder / 'deberta_disentangled.keras'}, {folder / 'deberta_disentangled.png'}")
