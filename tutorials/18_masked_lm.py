# %% [markdown]
# # 18 · Masked language modelling: BERT fills in the blanks
#
# 我今天很[MASK]。 What may stand there? A GPT guesses a word from those before it; BERT sees those on both sides. So it
# cannot be asked for the next word, which it sees: words are hidden from it, and it is asked for these (Devlin et al.
# 2018, arXiv:1810.04805). Any text becomes an exercise that way, and nobody has to label it. We pre-train a small BERT
# from nothing, one for two languages, as multilingual BERT is: on the Bible in Basic English and on Chinese reviews.
#
# # 18 · 掩码语言模型：BERT 做填空题
#
# 我今天很[MASK]。空里该填什么？GPT 只凭前面的词来猜，BERT 两边都看得到。既然看得到，就不能问它下一个词，
# 而要先把一些词遮住，再问它遮住的是什么（Devlin 等，2018，arXiv:1810.04805）。
# 这样任何文本都成了练习题，不需要人来标注。
# 我们从零预训练一个小 BERT，一个模型学两种语言（多语言 BERT 也是如此）：基础英语版《圣经》和中文评论。

# %%
import re
from pathlib import Path

import kerasnets as kn
from kerasnets.preprocessing.masked_words import IGNORED, asked_places, mask_words

import keras
import matplotlib
import numpy as np
from scipy.special import erf
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Two languages, one vocabulary
# One WordPiece vocabulary for both: a frequent English word is one token, a Chinese character is one. A row holds as
# many whole sentences as fit in 32 tokens. Held out: three whole books (Judges, Job, John) and a fifth of the reviews.
#
# ## 两种语言，一个词表
# 两种语言共用一个 WordPiece 词表：常见的英文词是一个词元，一个汉字也是一个词元。每一行放得下几个整句就放几个，
# 最多 32 个词元。留出测试的是三卷整书（《士师记》《约伯记》《约翰福音》）和五分之一的评论。

# %%
length, V = 32, 4400
(english, english_test), ((chinese, _), (chinese_test, _)) = kn.datasets.english_prose(), kn.datasets.chinese_reviews()
train = {"English 英文": english.split("\n"), "Chinese 中文": chinese}
test = {"English 英文": english_test.split("\n"), "Chinese 中文": chinese_test}
tokenizer = kn.Tokenizer.train([text for texts in train.values() for text in texts], "wordpiece", vocab_size=V)
special = [tokenizer.backend.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]


def rows(texts):
    """As many sentences as fit, tokenized: a batch of rows of `length` tokens."""
    found = []
    for text in texts:
        sentences = re.findall(r"[^.:;?!。…]+[.:;?!。…]*", text)
        sizes = [len(encoding) for encoding in tokenizer.encodings(sentences, add_special_tokens=False)]
        row, used = "", length
        for sentence, size in zip(sentences, sizes, strict=True):
            if used + size > length - 2:  # [CLS] and [SEP]
                found.append(row)
                row, used = "", 0
            row, used = row + sentence, used + size
        found.append(row)
    found = [row for row in found if len(row) > 10]
    return tokenizer(found, max_length=length, padding="max_length", places=True)


train = {language: rows(texts) for language, texts in train.items()}
test = {language: rows(texts) for language, texts in test.items()}
for language, batch in train.items():
    print(f"{language}: {len(batch['input_ids']):,} rows 行, {batch['attention_mask'].sum():,} tokens 词元;", end=" ")
    print(tokenizer.decode(batch["input_ids"][100]))

# %% [markdown]
# ## Hidden words
# Of each row some tokens are chosen: 80 % of them become [MASK], 10 % another token, 10 % stay as they are, so that no
# token is above suspicion. An English word of several pieces is hidden as a whole, or half of it would give the other
# half away (whole-word masking). BERT hides 15 %; our exercises hide 30 %, since a short training learns more from more
# questions (Wettig et al. 2022, arXiv:2202.08005). The test hides 15 %.
#
# ## 遮住的词
# 每一行选出一些词元：其中 80% 换成 [MASK]，10% 换成别的词元，10% 保持原样，于是没有一个词元是完全可信的。
# 拆成几段的英文词整个遮住，否则半个词就泄露了另外半个（整词掩码）。BERT 遮 15%；我们的练习遮 30%，
# 因为训练时间短，题目多学得也多（Wettig 等，2022，arXiv:2202.08005）。测试遮 15%。


# %%
def exercise(batch, rate, seed, width=9):
    """Inputs and labels: what is asked at `mask_positions` (B, P), P = `width`, −100 where a row asks fewer."""
    hidden, labels = mask_words(
        batch["input_ids"], tokenizer.mask_token_id, V, special, words=batch["word_ids"], rate=rate, seed=seed
    )
    places, asked = asked_places(labels, width)
    return {"input_ids": hidden, "attention_mask": batch["attention_mask"], "mask_positions": places}, asked


tests = {language: exercise({n: a[:1500] for n, a in batch.items()}, 0.15, 0) for language, batch in test.items()}
for inputs, labels in tests.values():
    print(tokenizer.decode(inputs["input_ids"][2], skip_special_tokens=False).replace(" [PAD]", ""))
    print(" →", *(tokenizer.backend.id_to_token(int(label)) for label in labels[2] if label != IGNORED))

# %% [markdown]
# ## Baselines: counting
# The most frequent token, always. Then the neighbours: count the pairs of tokens in *all* of the training text, more
# than BERT will see; by Bayes' rule p(w | left, right) ∝ p(w | left) · p(right | w). A neighbour that is hidden itself
# tells nothing. Pairs never seen get some of the plain frequencies; how much is what is best on the test: this
# flatters the baseline.
#
# ## 基线：数数
# 一是永远猜最常见的词元。二是看左右邻居：在*全部*训练文本（比 BERT 将要看到的多）里数相邻的对，
# 按贝叶斯公式 p(w | 左, 右) ∝ p(w | 左) · p(右 | w)。邻居若也被遮住，就提供不了信息。没见过的对分到一点普通词频；
# 分多少，取测试集上最好的，这对基线是优待。

# %%
pairs = {language: np.zeros((V, V), "float32") for language in train}
for language, batch in train.items():
    ids, real = batch["input_ids"], batch["attention_mask"] == 1
    np.add.at(pairs[language], (ids[:, :-1][real[:, 1:]], ids[:, 1:][real[:, 1:]]), 1)


def of_places(inputs, labels):
    """The left neighbours, the right neighbours and the labels of all that is asked, (n,) each."""
    row, column = np.nonzero(labels != IGNORED)
    place = inputs["mask_positions"][row, column]
    return inputs["input_ids"][row, place - 1], inputs["input_ids"][row, place + 1], labels[row, column]


def judged(log_p, labels):
    """(accuracy, nats)   (n, V) log-probabilities, (n,)."""
    return (log_p.argmax(axis=1) == labels).mean(), -log_p[np.arange(len(labels)), labels].mean()


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def by_neighbours(counts, left, right, a):
    """(n, V)."""
    frequency = (counts.sum(axis=0) + 0.1) / (counts.sum() + 0.1 * V)
    total, hidden = counts.sum(axis=1), tokenizer.mask_token_id
    log_left = np.log((counts[left] + a * frequency) / (total[left] + a)[:, None])
    log_right = np.log((counts[:, right].T + a * frequency[right, None]) / (total + a))
    return log_softmax(log_left + np.where(right[:, None] == hidden, 0, log_right))


results = {}
for language, (inputs, labels) in tests.items():
    left, right, asked = of_places(inputs, labels)
    frequency = np.log((pairs[language].sum(axis=0) + 0.1) / (pairs[language].sum() + 0.1 * V))
    results[language] = {"most frequent 最常见": judged(np.tile(frequency, (len(asked), 1)), asked)}
    smoothed = [judged(by_neighbours(pairs[language], left, right, a), asked) for a in (3, 30, 300)]
    results[language]["two neighbours 左右邻居"] = min(smoothed, key=lambda result: result[1])
    print(f"{language}: {len(asked):,} questions 题;", *(f"{n} {r[0]:.3f} " for n, r in results[language].items()))

# %% [markdown]
# ## The head and the loss by hand
# The encoder's last vector of a hidden token goes through one more layer and norm; its product with the row of each
# token in the embedding table is that token's logit: $z = \mathrm{norm}(\mathrm{gelu}(x W + b))\, E^\top + c$. The loss
# is $-\log \mathrm{softmax}(z)$ of the token that stood there, the mean over what is asked; all other places count for
# nothing. Given `mask_positions`, the model computes logits there and nowhere else.
#
# ## 手算输出头和损失
# 被遮词元的最后一层向量再过一层全连接和归一化，然后与嵌入表的每一行求内积，就是每个词元的 logit：
# $z = \mathrm{norm}(\mathrm{gelu}(x W + b))\, E^\top + c$。损失是原词元的 $-\log \mathrm{softmax}(z)$，
# 只对被问的位置取平均，其他位置不算。给出 `mask_positions`，模型就只在这些位置计算 logits。

# %%
model = kn.BERTMaskedLM(
    vocab_size=V, hidden_size=128, num_layers=2, num_heads=4, feedforward_size=256, max_length=length,
    dropout=0.0, attention_dropout=0.0, name="masked_lm",
)  # fmt: skip
some, asked = ({n: a[:4] for n, a in tests["Chinese 中文"][0].items()}, tests["Chinese 中文"][1][:4])
places = some["mask_positions"]
x = to_numpy(model.backbone({n: some[n] for n in ("input_ids", "attention_mask")}))  # (B, T, D)
x = np.take_along_axis(x, places[:, :, None], axis=1)  # (B, P, D)
(W, b), (gamma, beta) = model.head.dense.get_weights(), model.head.norm.get_weights()
E, c = to_numpy(model.backbone.token_embedding.embeddings), to_numpy(model.head.bias)
h = x @ W + b
h = h * (1 + erf(h / np.sqrt(2))) / 2  # gelu
h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + model.config.epsilon) * gamma + beta
z = h @ E.T + c  # (B, P, V)
assert np.allclose(z, to_numpy(model(some)), atol=1e-4)
by_hand = judged(log_softmax(z[asked != IGNORED]), asked[asked != IGNORED])[1]
loss = model.make_loss()
assert np.isclose(by_hand, to_numpy(loss(asked, model(some))), rtol=1e-4)
print(f"{model.count_params():,} parameters; before training 训练前: {by_hand:.2f}, log {V} = {np.log(V):.2f}")

# %% [markdown]
# ## A good start
# Two things a BERT finds out in its first hours, and ours has two minutes; so we tell it. How frequent each token is:
# the bias c of the head. And where the neighbours are. The positions begin as sines (Vaswani et al. 2017), in 32
# channels of their own. One place further is then the same turn everywhere, $p_t R = p_{t+1}$, and a head with
# $q = p_t R^d$, $k = p_s$ looks at its neighbour d places further. So begin the four heads of the first block; all else
# is random, and the training may undo everything. Without this, as many rows ended at 5.2 nats in English.
#
# ## 好的开端
# 有两件事 BERT 要训练好几个小时才能自己发现；我们只有两分钟，不妨直接告诉它。一是每个词元有多常见：写进输出头的偏置 c。
# 二是邻居在哪里：位置从正弦波开始（Vaswani 等，2017），独占 32 个通道。这样“往后一位”处处是同一个旋转，
# $p_t R = p_{t+1}$，于是 $q = p_t R^d$、$k = p_s$ 的头就看向往后 d 位的邻居。第一个块的四个头从这里开始；
# 其余都是随机的，训练也可以推翻这一切。没有这一步，同样多的行训练完，英文损失还停在 5.2。

# %%
frequency = sum(counts.sum(axis=0) for counts in pairs.values()) + 0.1
model.head.bias.assign(np.log(frequency / frequency.sum()))

waves = to_numpy(kn.layers.position.sinusoidal(2.0 * np.arange(200), 32, theta=30.0, interleaved=False))
R = np.linalg.lstsq(waves[:-1].astype("float64"), waves[1:].astype("float64"), rcond=None)[0]
assert np.allclose(waves[:-1] @ R, waves[1:], atol=1e-4)

embedding, first = model.backbone.embedding, model.backbone.blocks[0].attention
words = np.random.RandomState(0).normal(scale=0.09, size=(V, 96))
embedding.token_embedding.embeddings.assign(np.hstack([np.zeros((V, 32)), words]).astype("float32"))
embedding.position_embedding.embeddings.assign(
    np.hstack([0.12 * waves[:length], np.zeros((length, 96))]).astype("float32")
)
embedding.segment_embedding.embeddings.assign(np.zeros((2, 128), "float32"))
q, k = np.zeros((2, 128, 128), "float32")
for head, d in enumerate((-1, 1, -2, 2)):
    its_own = slice(32 * head, 32 * head + 32)
    q[:32, its_own], k[:32, its_own] = 1.4 * np.linalg.matrix_power(R, d), 1.4 * np.eye(32)
first.query.kernel.assign(q)
first.key.kernel.assign(k)

# %% [markdown]
# ## Pre-training
# Half of each batch is English, half Chinese; no row comes twice.
#
# ## 预训练
# 每一批一半英文、一半中文；没有一行出现两次。

# %%
rounds, steps, batch_size = 8, 300, 16
count = rounds * steps * batch_size // 2
random = np.random.RandomState(0)
chosen = {language: random.permutation(len(batch["input_ids"]))[:count] for language, batch in train.items()}
mixed = {
    name: np.stack([train[language][name][chosen[language]] for language in train], axis=1).reshape(2 * count, length)
    for name in ("input_ids", "attention_mask", "word_ids")
}
inputs, labels = exercise(mixed, rate=0.3, seed=1)
print(f"{(labels != IGNORED).sum():,} questions 题")

schedule = keras.optimizers.schedules.CosineDecay(
    0.0, decay_steps=rounds * steps, warmup_target=3e-3, warmup_steps=100
)  # fmt: skip
model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), loss)
curve = {"training": [], **{language.split()[0] + ", held out": [] for language in tests}}
with tqdm(total=rounds * steps, desc="Pre-training 预训练") as bar:
    each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
    for part in np.split(np.arange(2 * count), rounds):
        history = model.fit(
            {name: array[part] for name, array in inputs.items()}, labels[part], batch_size, verbose=0,
            callbacks=[each_batch],
        ).history  # fmt: skip
        curve["training"] += history["loss"]
        for language, (test_inputs, test_labels) in tests.items():
            few = {name: array[:256] for name, array in test_inputs.items()}
            curve[language.split()[0] + ", held out"].append(
                model.evaluate(few, test_labels[:256], batch_size=256, verbose=0)
            )
        bar.set_postfix(loss=f"{history['loss'][-1]:.3f}")

# %% [markdown]
# ## Does it beat counting?
# In English, yes, though it has read less: what it needs often stands further away. A Chinese character depends on the
# one right beside it, and here counting the whole text is still a little ahead; in the log of the probability, by more.
#
# ## 比数数强吗？
# 英文上是的，虽然它读得更少：有用的词常常在更远处。中文的字主要取决于紧挨着的字，在这里数遍全文仍略胜一筹；
# 若看概率的对数，差距更大。

# %%
print(f"{'held-out text 测试文本':34} accuracy 准确率   nats   as if choosing among 相当于几选一")
for language, (test_inputs, test_labels) in tests.items():
    logits = model.predict(test_inputs, batch_size=250, verbose=0)
    results[language]["BERT"] = judged(log_softmax(logits[test_labels != IGNORED]), test_labels[test_labels != IGNORED])
    for name, (accuracy, nats) in results[language].items():
        print(f"{language} {name:22} {accuracy:14.3f} {nats:10.3f} {np.exp(nats):12.1f}")
    (frequent, _), (neighbours, neighbours_nats), (accuracy, nats) = results[language].values()
    print(f"BERT − neighbours 邻居: {accuracy - neighbours:+.3f} accuracy, {nats - neighbours_nats:+.3f} nats")
    assert accuracy > frequent + 0.2
    assert accuracy > neighbours - 0.05
assert results["English 英文"]["BERT"] > results["English 英文"]["two neighbours 左右邻居"]

# %% [markdown]
# ## It fills in the blanks
# `kn.fill_mask` gives the likeliest tokens of each hidden place. The model has read only the Bible and reviews of
# hotels, books and computers, and this shows.
#
# ## 它来填空
# `kn.fill_mask` 给出每个空里最可能的词元。模型只读过《圣经》和酒店、图书、电脑的评论，这一点看得出来。

# %%
blanks = [
    "And the king said to his [MASK], Go!",
    "He gave them bread and [MASK].",
    "The son of [MASK] was king in Jerusalem.",
    "I am the Lord your [MASK].",
    "我今天很[MASK]。",
    "酒[MASK]的位置很好。",
    "服务态[MASK]很差。",
    "这本书很[MASK],值得一看。",
    "房间很[MASK],下次不会再来了。",
]
for blank, (candidates,) in zip(blanks, kn.fill_mask(model, tokenizer, blanks), strict=True):
    print(f"{blank:40}", *(f"{candidate['token']} {candidate['probability']:.2f} " for candidate in candidates))
assert kn.fill_mask(model, tokenizer, "酒[MASK]的位置很好。", top=1)[0][0]["text"] == "酒店的位置很好。"

# %% [markdown]
# ## Where does it look?
# How much each head looks how far to the left (−) and to the right (+), the mean over held-out rows.
#
# ## 它往哪儿看？
# 每个头往左（−）和往右（+）看多远，在测试文本上取平均。

# %%
shown = {name: array[:32] for name, array in tests["English 英文"][0].items()}
trace = kn.trace(model, shown, only="*.attention.probabilities")
maps = np.concatenate([trace[f"backbone.blocks.{i}.attention.probabilities"] for i in range(2)], axis=1)
distances = np.arange(-4, 5)
looks = np.array([[np.diagonal(head, d, 1, 2)[:, 4:-4].mean() for d in distances] for head in maps.swapaxes(0, 1)])
for head, look in enumerate(looks):
    most = distances[look.argmax()]
    print(f"block {head // 4 + 1}, head {head % 4 + 1}: most at 最常看 {most:+d} ({look.max():.2f})")

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(17, 4.5), layout="constrained")
for name, values in curve.items():
    left.plot(np.arange(1, rounds + 1) * steps, values, marker="o", label=name)
left.set(xlabel="steps", ylabel="nats", title="loss")
left.legend(frameon=False)
for k, name in enumerate(results["English 英文"]):
    middle.bar(np.arange(2) + 0.27 * (k - 1), [r[name][0] for r in results.values()], 0.25, label=name.split(" 最")[0])
middle.set_xticks(range(2), ["English", "Chinese"])
middle.set(ylabel="hidden tokens found", title="held-out text", ylim=(0, 0.48))
middle.legend([name for name in ("most frequent", "two neighbours", "BERT")], frameon=False)
right.imshow(looks, cmap="Blues", aspect="auto")
right.set_xticks(range(len(distances)), [f"{d:+d}" for d in distances])
right.set_yticks(range(8), [f"block {i // 4 + 1}, head {i % 4 + 1}" for i in range(8)])
right.set(xlabel="distance", title="where the heads look")
figure.savefig(folder / "masked_lm.png", dpi=110)

# %%
kn.to_pretrained(model, folder / "masked_lm")
tokenizer.save_pretrained(folder / "masked_lm")
again = kn.from_pretrained(folder / "masked_lm"), kn.Tokenizer.from_pretrained(folder / "masked_lm")
first, second = (kn.fill_mask(*one, blanks[4])[0] for one in ((model, tokenizer), again))
assert [a["token"] for a in first] == [b["token"] for b in second]
for language, result in results.items():
    print(f"{language}:", *(f"{name} {accuracy:.3f} " for name, (accuracy, _) in result.items()))
print(f"Saved 已保存: {folder / 'masked_lm'}, {folder / 'masked_lm.png'}")
