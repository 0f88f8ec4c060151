# %% [markdown]
# # 07 · Is this a good review? The GRU
#
# A review is a sequence of characters. A GRU reads them one after the other, keeps in its state what matters, and at
# the end says whether the writer was content. The reviews are real: hotels, books and computers, written in Chinese.
#
# # 07 · 这是好评吗？门控循环单元 (GRU)
#
# 一条评论就是一串字。GRU 一个字一个字地读，把要紧的记在状态里，最后说出写的人满不满意。
# 这些评论都是真的：酒店、图书和电脑的中文评论。

# %%
from collections import Counter
from pathlib import Path

import kerasnets as kn

import keras
import matplotlib
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)

# %% [markdown]
# ## One step by hand
# The GRU (Cho et al. 2014) has two gates. The reset gate r says how much of the old state h the candidate h̃ may see;
# the update gate z, how much of h is kept: the new state lies between the old one and the candidate. In five lines:
#
# ## 手算一步
# GRU（Cho 等，2014）有两个门。重置门 r 决定候选隐藏状态 h̃ 能看到多少旧状态 h；更新门 z 决定保留多少 h：
# 新状态就在旧状态和候选之间取插值。五行就够：


# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


random = np.random.default_rng(0)
x, h = random.normal(size=(2, 5)).astype("float32"), random.normal(size=(2, 3)).astype("float32")
cell = kn.layers.GRUCell(3)
new_h, _ = cell(x, [h])

W, U, (b, b_u) = cell.get_weights()  # (5, 9), (3, 9), (2, 9): three blocks of columns for z, r and the candidate
(x_z, x_r, x_h), (h_z, h_r, h_h) = np.split(x @ W + b, 3, axis=1), np.split(h @ U + b_u, 3, axis=1)
z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
candidate = np.tanh(x_h + r * h_h)
by_hand = z * h + (1 - z) * candidate
assert np.allclose(by_hand, keras.ops.convert_to_numpy(new_h), atol=1e-5)

# %% [markdown]
# ## Characters to numbers
# Every character that occurs at least twice in the training reviews gets a number. 0 is padding, so that reviews of all
# lengths fit in one array; 1 stands for any other character. The network skips the padding: a mask goes with it.
#
# ## 从字到数
# 训练集里出现至少两次的字，每个编一个号。0 是填充，让长短不同的评论放进同一个数组；1 代表其他字。
# 网络会跳过填充：掩码告诉它哪些位置不算。

# %%
(train_texts, train_labels), (test_texts, test_labels) = kn.datasets.chinese_reviews()
length = 100  # characters; of a longer review, the first hundred
counts = Counter(character for text in train_texts for character in text)
number = {character: i for i, character in enumerate((c for c in counts if counts[c] >= 2), start=2)}


def ids(texts):
    rows = np.zeros((len(texts), length), "int32")
    for row, text in zip(rows, texts, strict=True):
        row[: len(text[:length])] = [number.get(character, 1) for character in text[:length]]
    return rows


train_ids, test_ids = ids(train_texts), ids(test_texts)
print(f"{len(train_texts):,} reviews to learn from, {len(test_texts):,} to test on, {len(number) + 2:,} numbers")
print(train_texts[0][:20], train_ids[0][:20])

# %% [markdown]
# ## What does order add?
# A bag of characters only knows which characters occur. Logistic regression on it is the baseline: a linear classifier
# with the same input, but without the order. Its strength of regularisation is the best of three on the test set, which
# flatters it.
#
# ## 顺序有用吗？
# “字袋”只知道出现了哪些字。在它上面做逻辑回归就是基线：输入相同的线性分类器，但没有顺序。
# 正则化强度取测试集上三个里最好的，这对基线是优待。

# %%
bag = CountVectorizer(analyzer="char", min_df=2, binary=True)
train_bags, test_bags = bag.fit_transform(train_texts), bag.transform(test_texts)
fits = [LogisticRegression(C=c, max_iter=500).fit(train_bags, train_labels) for c in (0.03, 0.1, 0.3)]
baseline = max(fit.score(test_bags, test_labels) for fit in fits)

# %% [markdown]
# ## The network
# An embedding gives each character a vector; one GRU reads from the front and one from the back; a Dense layer decides.
# With 14,000 reviews a network soon knows them by heart, so half of the state is hidden at each step of training
# (dropout). `path_taken` tells how the layer ran: masks and all, it took the fast path.
#
# ## 网络
# 嵌入层给每个字一个向量；一个 GRU 从前往后读，另一个从后往前读；最后由全连接层判断。
# 一万四千条评论，网络很快就能背下来，所以训练时每一步都遮住一半状态（dropout）。
# `path_taken` 说明这一层是怎么算的：带着掩码，它也走了快速路径。

# %%
epochs, batch_size = 3, 128
model = kn.RNN(
    num_outputs=2, cell="gru", hidden_size=64, bidirectional=True, dropout=0.5, vocab_size=len(number) + 2,
    embedding_size=64, name="gru_reviews",
)  # fmt: skip
steps = epochs * -(-len(train_ids) // batch_size)
model.compile(
    keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(4e-3, decay_steps=steps)),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
with tqdm(total=epochs, desc="reading 阅读", unit="epoch") as bar:
    each_epoch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: bar.update())
    history = model.fit(
        train_ids, train_labels, batch_size, epochs, verbose=0, validation_split=0.05, callbacks=[each_epoch]
    ).history
print("The GRU took the path:", model.blocks[0].forward_layer.path_taken)

# %% [markdown]
# ## Side by side
# ## 并排比较

# %%
accuracy = model.evaluate(test_ids, test_labels, verbose=0, return_dict=True)["accuracy"]
print(f"bag of characters 字袋  {baseline:.3f}\nGRU                {accuracy:.3f}")
print(f"The order of the characters adds 顺序的贡献: {accuracy - baseline:+.3f}")

# %% [markdown]
# ## A verdict in the making
# We stop the reading after 1, 2, 3, … characters and ask each time. One review the network gets right of each kind.
#
# ## 判断是怎样形成的
# 读到第 1、2、3……个字时各停一次，问问网络的看法。好评、差评各取一条判断正确的。

# %%
said = model.predict(test_ids, verbose=0).argmax(axis=1)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
left.plot(range(1, epochs + 1), history["accuracy"], label="training reviews")
left.plot(range(1, epochs + 1), history["val_accuracy"], label="reviews set aside")
left.axhline(baseline, color="grey", linestyle=":", label="bag of characters (test)")
left.set(xlabel="epoch", ylabel="accuracy", xticks=range(1, epochs + 1))
left.legend()
for label, color in ((1, "seagreen"), (0, "crimson")):
    text_lengths = (test_ids != 0).sum(axis=1)
    chosen = np.flatnonzero((said == label) & (test_labels == label) & (text_lengths > 30) & (text_lengths < 60))[0]
    prefixes = np.array([np.where(np.arange(length) < n, test_ids[chosen], 0) for n in range(1, length + 1)])
    logits = model.predict(prefixes, verbose=0)[: text_lengths[chosen]]
    right.plot(sigmoid(logits[:, 1] - logits[:, 0]), color=color, label="content" if label else "discontent")
    print("content 满意:  " if label else "discontent 不满:", test_texts[chosen])
right.set(xlabel="characters read", ylabel="probability of content", ylim=(-0.03, 1.03))
right.legend()
figure.tight_layout()
figure.savefig(folder / "gru_reviews.png", dpi=120)
model.save(folder / "gru_reviews.keras")
print(f"Saved 已保存: {folder / 'gru_reviews.keras'}, {folder / 'gru_reviews.png'}")
