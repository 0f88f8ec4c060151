# %% [markdown]
# # 20 · Sentence pairs: which of the two?
#
# Two hotels, a review of each: which one would you book? To compare two texts, BERT reads them as one:
# `[CLS]` A `[SEP]` B `[SEP]`. Attention may then go from any word of the one to any of the other. But which word
# belongs to which? `token_type_ids` say so: 0 in the first text, 1 in the second, each with a learned vector that is
# added to every token of it. We train a small BERT to say which of two reviews is the good one, and then give it wrong
# types.
#
# # 20 · 句对：是哪一个？
#
# 两家酒店，各有一条评论：你订哪家？要比较两段文字，BERT 把它们当作一段来读：`[CLS]` 甲 `[SEP]` 乙 `[SEP]`。
# 这样注意力可以从一段的任何词看到另一段的任何词。但哪个词属于哪一段？由 `token_type_ids` 说明：第一段是 0，第二段是 1，
# 各有一个学来的向量，加到那一段的每个词元上。我们训练一个小 BERT 来判断两条评论里哪条是好评，然后故意给它错的类型。

# %%
from pathlib import Path

import kerasnets as kn

import keras
import matplotlib
import numpy as np
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Pairs
# Real Chinese reviews of hotels, books and computers. Each pair holds a good and a bad one, in either order; the label
# says which one is the good one: 0 the first, 1 the second. A pair and its exchange hold the same words and have
# opposite labels. The longer text is cut until both fit in 64 tokens.
#
# ## 句对
# 真实的中文酒店、图书、电脑评论。每一对是一条好评和一条差评，先后不定；标签说明哪条是好评：0 是前者，1 是后者。
# 一对评论换个先后，字全一样，标签却相反。两条一共最多 64 个词元，长的那条先截短。

# %%
(reviews, is_good), (test_reviews, test_is_good) = kn.datasets.chinese_reviews()
random = np.random.RandomState(0)


def pairs(texts, is_good, count):
    """`count` pairs: (the first texts, the second ones, whether the second one is the good one)."""
    good, bad = ([text for text, good in zip(texts, is_good, strict=True) if good == kind] for kind in (1, 0))
    good, bad = ([side[i] for i in random.randint(0, len(side), count)] for side in (good, bad))
    label = random.randint(0, 2, count)
    firsts, seconds = zip(*((b, g) if y else (g, b) for g, b, y in zip(good, bad, label, strict=True)), strict=True)
    return list(firsts), list(seconds), label


length, V = 64, 4000
tokenizer = kn.Tokenizer.train(reviews, "wordpiece", vocab_size=V)
train_a, train_b, labels = pairs(reviews, is_good, 24_000)
test_a, test_b, test_labels = pairs(test_reviews, test_is_good, 1500)
sides, test_sides = (train_a, train_b), (test_a, test_b)
x, test_x = (tokenizer(*both, max_length=length, padding="max_length") for both in (sides, test_sides))

shortest = min(range(200), key=lambda i: len(test_a[i]) + len(test_b[i]))
pair = tokenizer([test_a[shortest]], [test_b[shortest]])
print("token 词元:", *(tokenizer.backend.id_to_token(int(i)) for i in pair["input_ids"][0]))
print("type  类型:", *pair["token_type_ids"][0])
print("good  好评:", ("first 前者", "second 后者")[test_labels[shortest]])

# %% [markdown]
# ## Baselines: counting
# Words in common say nothing here. TF-IDF of single characters and pairs, with logistic regression, in two ways: of
# both texts together, which is blind to the order and can only guess; and of each text in columns of its own, which is
# what token types are to BERT.
#
# ## 基线：数词
# 两条评论有多少共同的词，在这里毫无意义。单字和双字的 TF-IDF 加逻辑回归，有两种做法：
# 两条混在一起数，看不出先后，只能瞎猜；两条各用各的列，这正相当于 BERT 的类型。

# %%
table = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(reviews)
few = 6000  # pairs: more add nothing that can be seen
ways = {
    "words in common 共同的字": lambda a, b: np.array(
        [[len(set(x) & set(y)) / len(set(x) | set(y))] for x, y in zip(a, b, strict=True)]
    ),
    "TF-IDF, together 混在一起": lambda a, b: table.transform([x + y for x, y in zip(a, b, strict=True)]),
    "TF-IDF, each its own 各用各的列": lambda a, b: hstack([table.transform(a), table.transform(b)]).tocsr(),
}
results = {}
for name, way in tqdm(ways.items(), desc="Counting 数词"):
    line = LogisticRegression(C=5, max_iter=300).fit(way(train_a[:few], train_b[:few]), labels[:few])
    results[name] = line.score(way(test_a, test_b), test_labels)

# %% [markdown]
# ## The types by hand
# $x = \mathrm{norm}(E_i + S_s + P_t)$: the type s adds a row of S to the token's and the position's. A wrong type is a
# wrong vector at every token; nothing refuses it.
#
# ## 手算类型
# $x = \mathrm{norm}(E_i + S_s + P_t)$：类型 s 把 S 的一行加到词元和位置的行上。类型错了，每个词元的向量都错，
# 而程序不会报错。


# %%
def make_model():
    keras.utils.set_random_seed(0)
    return kn.BERTSequenceClassifier(
        vocab_size=V, hidden_size=64, num_layers=2, num_heads=4, feedforward_size=128, max_length=length,
        dropout=0.0, attention_dropout=0.0,
        labels=("the first 前者", "the second 后者"), name="sentence_pairs",
    )  # fmt: skip


model = make_model()
embedding = model.backbone.embedding
E, S, P = (
    to_numpy(rows.embeddings)
    for rows in (embedding.token_embedding, embedding.segment_embedding, embedding.position_embedding)
)
gamma, beta = embedding.norm.get_weights()
total = E[x["input_ids"][:4]] + S[x["token_type_ids"][:4]] + P
mean, variance = total.mean(-1, keepdims=True), total.var(-1, keepdims=True)
by_hand = (total - mean) / np.sqrt(variance + model.config.epsilon) * gamma + beta
assert np.allclose(by_hand, to_numpy(embedding(x["input_ids"][:4], x["token_type_ids"][:4])), atol=1e-4)

# %% [markdown]
# ## Training, with the types and without
# Twice the same network, the same pairs, the same seed. The second one is never told which token belongs to which text:
# all of its types are 0. It still can find the `[SEP]` in the middle, and count positions.
#
# ## 训练：有类型和没有类型
# 同样的网络、同样的句对、同样的种子，训练两次。第二次从不告诉它哪个词元属于哪一段：类型全是 0。
# 它仍然可以去找中间的 `[SEP]`，可以看位置。


# %%
def with_types(batch, types):
    return {**batch, "token_type_ids": types.astype("int32")}


epochs, batch_size = 1, 64
steps = epochs * -(-len(labels) // batch_size)


def train(model, inputs, title):
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=2e-3, warmup_steps=steps // 10)
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), model.make_loss(), metrics=["accuracy"])
    running = []
    with tqdm(total=steps, desc=title) as bar:

        def after_batch(batch, logs):
            running.append(logs["accuracy"])
            bar.update()

        each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=after_batch)
        model.fit(inputs, labels, batch_size, epochs, verbose=0, callbacks=[each_batch])
    return running


def accuracy(model, inputs):
    return (model.predict(inputs, batch_size=250, verbose=0).argmax(axis=1) == test_labels).mean()


types, test_types = x["token_type_ids"], test_x["token_type_ids"]
running = {"with types": train(model, x, "With types 有类型")}
results["BERT with types 有类型"] = accuracy(model, test_x)
without = make_model()
running["without types"] = train(without, with_types(x, 0 * types), "Without types 无类型")
results["BERT without types 无类型"] = accuracy(without, with_types(test_x, 0 * test_types))
for name, value in results.items():
    print(f"{value:.3f}  {name}")
behind = results["TF-IDF, each its own 各用各的列"] - results["BERT with types 有类型"]
print(f"BERT − TF-IDF: {-behind:+.3f} (from nothing, one pass 从零开始，只读一遍)")
assert results["BERT with types 有类型"] > max(results["TF-IDF, together 混在一起"], 0.6) + 0.15
assert results["BERT with types 有类型"] > results["BERT without types 无类型"]

# %% [markdown]
# ## Wrong types
# The model that was trained with types, on the same held-out pairs: types exchanged (1 in the first text, 0 in the
# second), all 0 (what an encoder assumes where none are given), all 1, drawn at random. And the honest exchange: the
# texts change places, with right types; its answers should turn, too.
#
# ## 错的类型
# 用带类型训练出的模型，在同样的测试句对上：类型对调（第一段 1，第二段 0）、
# 全 0（不给类型时编码器就这样假设）、全 1、随机。最后是真正的对调：两段文字换位置，类型正确；它的回答也应当跟着反过来。

# %%
real = test_x["attention_mask"] == 1
wrong = {
    "right 正确": test_types,
    "exchanged 对调": np.where(real, 1 - test_types, 0),
    "all 0 全 0": 0 * test_types,
    "all 1 全 1": real.astype("int32"),
    "at random 随机": np.where(real, random.randint(0, 2, test_types.shape), 0),
}
harm = {name: accuracy(model, with_types(test_x, ids)) for name, ids in wrong.items()}
for name, value in harm.items():
    print(f"{value:.3f}  types {name}")
exchanged = tokenizer(test_b, test_a, max_length=length, padding="max_length")
there, back = (model.predict(batch, batch_size=250, verbose=0).argmax(axis=1) for batch in (test_x, exchanged))
print(f"{(there != back).mean():.3f}  texts exchanged: answers that turn 文字对调后跟着反过来的回答")
assert harm["exchanged 对调"] < 0.5 < harm["right 正确"] - 0.3
assert harm["all 0 全 0"] < harm["right 正确"] - 0.1
assert (there != back).mean() > 0.8

# %% [markdown]
# ## In use
# `kn.classify` with `pairs=` makes the types itself.
#
# ## 用起来
# `kn.classify` 带上 `pairs=`，类型自动就有了。

# %%
for a, b in (
    ("房间又小又脏,再也不来了。", "位置方便,早餐丰富,服务热情!"),
    ("位置方便,早餐丰富,服务热情!", "房间又小又脏,再也不来了。"),
    ("这本书写得真好,看了三遍。", "纸张很差,内容空洞,后悔买了。"),
):
    said = kn.classify(model, tokenizer, a, pairs=b)
    print(f"{said['label']} {said['probability']:.2f}:  {a} | {b}")

# %% [markdown]
# ## Where it looks
# How much of its attention each head of `[CLS]` gives to the first text and to the second: heads that read one text
# only. The types are what they go by.
#
# ## 它看哪里
# `[CLS]` 的每个头各把多少注意力给第一段和第二段：有的头只读其中一段。它们靠的就是类型。

# %%
shown = {name: array[:100] for name, array in test_x.items()}
trace = kn.trace(model, shown, only="*.attention.probabilities")
first, second = (shown["attention_mask"] == 1) & (shown["token_type_ids"] == 0), shown["token_type_ids"] == 1
maps = np.concatenate([trace[f"backbone.blocks.{i}.attention.probabilities"][:, :, 0] for i in range(2)], axis=1)
shares = np.stack([(maps * side[:, None]).sum(axis=2).mean(axis=0) for side in (first, second)], axis=1)  # (L · N, 2)
for head, (a, b) in enumerate(shares):
    print(f"block {head // 4 + 1}, head {head % 4 + 1}: first 第一段 {a:.2f}, second 第二段 {b:.2f}")

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(17, 4.5), layout="constrained")
for name, values in running.items():
    left.plot(values, label=name)
left.set(xlabel="step", ylabel="accuracy so far", title="training")
left.legend(frameon=False)
middle.bar(["right", "exchanged", "all 0", "all 1", "at random"], harm.values())
middle.bar_label(middle.containers[0], fmt="%.3f")
middle.axhline(0.5, color="grey", linestyle=":")
middle.set(title="accuracy by token types given", ylim=(0, 1))
places = np.arange(len(shares))
right.bar(places - 0.2, shares[:, 0], 0.4, label="first text")
right.bar(places + 0.2, shares[:, 1], 0.4, label="second text")
right.set_xticks(places, [f"{head // 4 + 1}.{head % 4 + 1}" for head in places])
right.set(title="attention of [CLS], by block and head", ylim=(0, 1))
right.legend(frameon=False)
figure.savefig(folder / "sentence_pairs.png", dpi=110)

# %%
kn.to_pretrained(model, folder / "sentence_pairs")
tokenizer.save_pretrained(folder / "sentence_pairs")
again = kn.from_pretrained(folder / "sentence_pairs"), kn.Tokenizer.from_pretrained(folder / "sentence_pairs")
for number in range(3):
    one, other = (kn.classify(*m, test_a[number], pairs=test_b[number]) for m in ((model, tokenizer), again))
    assert one["label"] == other["label"] and abs(one["probability"] - other["probability"]) < 1e-4
print(f"Right types 类型正确 {harm['right 正确']:.3f}, exchanged 对调 {harm['exchanged 对调']:.3f}")
print(f"Saved 已保存: {folder / 'sentence_pairs'}, {folder / 'sentence_pairs.png'}")
