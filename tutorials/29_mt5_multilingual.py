# %% [markdown]
# # 29 · mT5: one network, many languages
#
# mT5 (Xue et al. 2020, arXiv:2010.11934) is T5 with one vocabulary and one network for a hundred languages. What do
# languages that share a network share? Ours, small and trained from scratch, translates the names of countries,
# languages, months and days between twelve languages, and is asked for what it never saw: directions that were not
# trained, and names that it never read in the language that is asked for.
#
# > Ukrainian: Dezember → грудень
#
# # 29 · mT5：一个网络，多种语言
#
# mT5（Xue 等，2020，arXiv:2010.11934）就是 T5，只是一百种语言共用一个词表、一个网络。共用网络的语言，到底共享了什么？
# 我们的模型很小，从零训练，在十二种语言之间翻译国家、语言、月份和星期的名称，然后考它没见过的：
# 没训练过的翻译方向，以及在目标语言里从没读到过的名称。

# %%
from pathlib import Path

import kerasnets as kn
from kerasnets.seq2seq import shift_right

import keras
import matplotlib
import numpy as np
from babel import Locale
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Real names
# The Unicode consortium's CLDR, in the package `babel`. A cell is one concept in one language. One cell in ten is held
# out: that name is never read nor written while training. One direction in four is held out, too: from French to Dutch,
# say, though French is read and Dutch is written in other directions.
#
# ## 真实的名称
# 取自 Unicode 联盟的 CLDR，在 `babel` 包里。一个格子是一个概念在一种语言里的名称。十分之一的格子留出：
# 训练时既不读也不写。四分之一的翻译方向也留出：比如从法语到荷兰语，虽然法语在别的方向里读到过，荷兰语也写过。

# %%
languages = ["en", "de", "nl", "sv", "fr", "es", "it", "pt", "pl", "ru", "uk", "zh"]
title_of = {name: Locale(name).english_name for name in languages}


def names(language):
    """{concept: its name}"""
    locale = Locale(language)
    kinds = {
        "country": {code: text for code, text in locale.territories.items() if len(code) == 2},
        "language": {code: text for code, text in locale.languages.items() if len(code) == 2},
        "month": locale.months["stand-alone"]["wide"],
        "day": locale.days["stand-alone"]["wide"],
    }
    return {(kind, code): text for kind, found in kinds.items() for code, text in found.items()}


tables = {language: names(language) for language in languages}
concepts = [concept for concept in sorted(tables["en"], key=str) if all(concept in t for t in tables.values())]
random = np.random.RandomState(0)
is_known = random.rand(len(concepts), len(languages)) >= 0.1  # (concepts, languages)
is_known[:, languages.index("en")] = True
is_trained = random.rand(len(languages), len(languages)) >= 0.25  # (from, to)
np.fill_diagonal(is_trained, False)


def exercise(concept, source, target):
    """(what is read: the language that is asked for, and a name; what is to be written)"""
    theirs, ours = languages[source], languages[target]
    return f"{title_of[ours]}: {tables[theirs][concepts[concept]]}", tables[ours][concepts[concept]]


known = np.argwhere(is_known[:, :, None] & is_known[:, None, :] & is_trained)  # rows (concept, from, to)
print(f"{len(concepts)} concepts 个概念 × {len(languages)} languages 种语言, {(~is_known).sum()} held out 个格子留出")
print(f"{is_trained.sum()} directions to learn 个方向用于训练, {(~is_trained).sum() - len(languages)} held out 个留出")
for row in known[:: len(known) // 5]:
    print("  ", " → ".join(exercise(*row)))

# %% [markdown]
# ## One vocabulary
# One unigram tokenizer for all, learned from what is known: languages that are written alike share tokens, and the
# network with them what it knows of these. The few pairs with more than 12 tokens to read or to write are left out: all
# others would be padded to their length.
#
# ## 一个词表
# 所有语言共用一个 unigram 分词器，只从训练部分学来：写法相近的语言共用词元，网络也就共享了关于这些词元的知识。
# 读或写超过 12 个词元的少数词对不用，否则其他词对都要填充到它们的长度。

# %%
cells = [tables[languages[j]][concepts[i]] for i, j in np.argwhere(is_known)]
prefixes = [f"{title}: " for title in title_of.values()]
tokenizer = kn.Tokenizer.train(cells + 50 * prefixes, "unigram", vocab_size=2500)
V, pad, end = tokenizer.vocab_size, tokenizer.pad_token_id, tokenizer.eos_token_id
length, all_pairs = 12, len(known)


def short(rows):
    """Those rows (concept, from, to) whose two texts have at most `length` tokens."""
    sizes = np.array([[len(tokenizer.encode(text)) for text in exercise(*row)] for row in rows])
    return rows[(sizes <= length).all(axis=1)]


known = short(known)
print(f"{1 - len(known) / all_pairs:.1%} of the pairs are too long 的词对太长")
for language in languages:
    print(f"{title_of[language]:11}", *tokenizer.tokenize(tables[language]["country", "NZ"]))
pieces = {language: {i for text in tables[language].values() for i in tokenizer.encode(text)} for language in languages}
shared = {(a, b): len(pieces[a] & pieces[b]) / len(pieces[b]) for a in languages for b in languages}
for a, b in (("es", "pt"), ("ru", "uk"), ("ru", "zh")):
    print(f"{title_of[b]} tokens that {title_of[a]} has, too 的词元也在其中: {shared[a, b]:.0%}")

# %% [markdown]
# ## What is new against T5, by hand
# The feed-forward layer is gated: (GELU(x G) ⊙ (x U)) W, no biases; and the head has a table of its own.
#
# ## 比 T5 新在哪里，手算
# 前馈层带门：(GELU(x G) ⊙ (x U)) W，没有偏置；输出层有自己的表。

# %%
D = 128
model = kn.MT5Seq2SeqLM(
    vocab_size=V, hidden_size=D, num_layers=2, num_heads=4, head_size=32, feedforward_size=256, dropout=0.0,
    pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=(end,), name="mt5_multilingual",
)  # fmt: skip
layer = model.backbone.encoder_blocks[0].feedforward
x = np.random.RandomState(0).normal(size=(1, 3, D)).astype("float32")
G, U, W = (to_numpy(part.kernel) for part in (layer.gate, layer.up, layer.narrow))
gate = x @ G
gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
assert np.allclose((gate * (x @ U)) @ W, to_numpy(layer(x)), atol=1e-4)
print(f"{model.count_params():,} parameters; the gated layer by hand = the model's. 手算的门 = 模型的。")

# %% [markdown]
# ## Training
# Concepts and trained directions by lot; Adafactor, with which T5 and mT5 were trained.
#
# ## 训练
# 概念和训练方向都抽签决定；优化器是 T5 和 mT5 用的 Adafactor。

# %%
rounds, steps, batch_size = 10, 50, 144


def arrays(examples):
    """(model inputs, labels with −100 for padding); the decoder reads the labels one place later."""
    source = tokenizer([text for text, _ in examples], max_length=length, padding=length)
    labels = tokenizer([answer for _, answer in examples], max_length=length, padding=length)["input_ids"]
    labels = np.where(labels == pad, -100, labels)
    return source | {"decoder_input_ids": shift_right(labels, pad, pad)}, labels


schedule = keras.optimizers.schedules.CosineDecay(0.0, rounds * steps, warmup_target=3e-2, warmup_steps=60)
model.compile(keras.optimizers.Adafactor(schedule, relative_step=False), kn.losses.TokenCrossEntropy())
curve = []
with tqdm(total=rounds * steps, desc="Training 训练") as bar:
    each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
    for _ in range(rounds):
        drawn = known[random.randint(len(known), size=steps * batch_size)]
        x, labels = arrays([exercise(*row) for row in drawn])
        curve += model.fit(x, labels, batch_size, verbose=0, callbacks=[each_batch]).history["loss"]
        bar.set_postfix(loss=f"{curve[-1]:.3f}")

# %% [markdown]
# ## Three questions
# Known: names and directions that were trained, together. Zero-shot: known names, but a direction that was never
# trained. Held out: names that were never read nor written in that language, from English; here only what languages
# have in common can help: how Argentina ends in German, how Russian spells it. Beside it the baselines: copy what is
# read; and, for the held-out names, copy what the nearest language calls it, of those in which the name is known (which
# is more than the network is told). Expect much of the second question and little of the third:
# a small network that has met a few hundred names is hardly better there than copying. Exact: the whole name. Letters:
# 1 − edits needed / length.
#
# ## 三个问题
# 已知：训练过的名称和方向。零样本：名称学过，方向没训练过。留出：在那种语言里从没读过也没写过的名称，从英语翻译；
# 这时只有语言之间的共性能帮忙：Argentina 在德语里怎么收尾，用俄语怎么拼。旁边是基线：照抄读到的；
# 对留出的名称，还有照抄最近的语言的叫法（选自知道该名称的语言，这比网络得到的信息还多）。
# 第二问可以多期待，第三问不能：只见过几百个名称的小网络，比照抄强不了多少。
# 完全：整个名称一字不差。字母：1 − 需要改动的次数 / 长度。


# %%
def edits(a, b):
    """How many letters must be put in, taken out or replaced to make b of a."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def scored(written, answers):
    exact = np.mean([a == b for a, b in zip(written, answers, strict=True)])
    letters = [max(0, 1 - edits(a, b) / len(b)) for a, b in zip(written, answers, strict=True)]
    return exact, np.mean(letters)


assert edits("Argentina", "Argentinien") == 3
alike = np.array([[np.mean([tables[a][concepts[i]] == tables[b][concepts[i]] for i in np.flatnonzero(is_known[:, m])])
                   for m, a in enumerate(languages)] for b in languages])  # (to, from)  # fmt: skip
np.fill_diagonal(alike, -1)
unseen_rows = short(np.array([(i, 0, j) for i, j in np.argwhere(~is_known)]))
unseen = unseen_rows[:, [0, 2]]
nearest = [next(m for m in np.argsort(-alike[j]) if is_known[i, m]) for i, j in unseen]
zero_shot = np.argwhere(is_known[:, :, None] & is_known[:, None, :] & ~is_trained & ~np.eye(len(languages), dtype=bool))
zero_shot = short(zero_shot)
questions = {
    "known 已知": known[random.choice(len(known), 600, replace=False)],
    "zero-shot 零样本": zero_shot[random.choice(len(zero_shot), 1200, replace=False)],
    "held out 留出": unseen_rows,
}
results, written = {}, {}
print("                          copy 照抄           mT5             exact 完全, letters 字母")
for title, rows in questions.items():
    texts, answers = zip(*(exercise(*row) for row in rows), strict=True)
    written[title] = kn.rewrite(model, tokenizer, list(texts), batch_size=300, max_new_tokens=length)
    results[title] = scored([text.split(": ", 1)[1] for text in texts], answers), scored(written[title], answers)
    print(f"{title:22}", *(f"{exact:9.1%} {letters:7.1%}" for exact, letters in results[title]))
sibling = scored(
    [tables[languages[m]][concepts[i]] for m, (i, _) in zip(nearest, unseen, strict=True)],
    [tables[languages[j]][concepts[i]] for i, j in unseen],
)
print(f"held out, the nearest language's name 留出，最近语言的叫法: {sibling[0]:.1%} {sibling[1]:.1%}")
for title, rows in questions.items():
    print(title)
    for k in random.choice(len(rows), 6, replace=False):
        text, answer = exercise(*rows[k])
        print(f"  {text} → {written[title][k]}", "" if written[title][k] == answer else f"  ({answer})")
(known_copy, known_mt5), (zero_copy, zero_mt5), (unseen_copy, unseen_mt5) = results.values()
assert known_mt5[0] > known_copy[0] + 0.3 and zero_mt5[0] > zero_copy[0] + 0.3

# %% [markdown]
# ## Accidental translation
# The authors of mT5 found that it sometimes writes the wrong language where it was not trained to write the right one.
# Is a zero-shot answer that is wrong the name in some other language?
#
# ## 误译成别的语言
# mT5 的作者发现，没有专门训练过的时候，它有时会写成别的语言。零样本答错时，写出来的是不是另一种语言里的名称？

# %%
rows, texts = questions["zero-shot 零样本"], written["zero-shot 零样本"]
wrong = [(concepts[i], j, text) for (i, _, j), text in zip(rows, texts, strict=True)
         if text != tables[languages[j]][concepts[i]]]  # fmt: skip
strays = [[name for name in languages if tables[name][concept] == text] for concept, _, text in wrong]
print(
    f"{len(wrong)} wrong of {len(rows)} 个答错, {sum(map(bool, strays))} the name in another language 是别的语言的名称"
)

# %%
right = np.full((2, len(languages), len(languages)), np.nan)
for k, title in enumerate(("known 已知", "zero-shot 零样本")):
    for i in range(len(languages)):
        for j in range(len(languages)):
            chosen = [n for n, row in enumerate(questions[title]) if tuple(row[1:]) == (i, j)]
            hits = [written[title][n] == exercise(*questions[title][n])[1] for n in chosen]
            right[k, i, j] = np.mean(hits) if hits else np.nan
figure, axes = plt.subplots(1, 3, figsize=(17, 5), layout="constrained")
axes[0].plot(np.arange(1, rounds + 1) * steps, curve, marker="o")
axes[0].set(xlabel="steps", ylabel="nats a token", title="training")
places = np.arange(3)
for shift, name, k in ((-0.2, "copied", 0), (0.2, "mT5", 1)):
    axes[1].bar(places + shift, [pair[k][1] for pair in results.values()], 0.4, label=name)
axes[1].set_xticks(places, ["known", "zero-shot", "held out"])
axes[1].set(ylabel="letters right", ylim=(0, 1.1))
axes[1].legend(frameon=False)
shown = axes[2].imshow(np.where(is_trained, right[0], right[1]), vmin=0, vmax=1, cmap="Blues")
for i, j in np.argwhere(~is_trained & ~np.eye(len(languages), dtype=bool)):
    axes[2].plot(j, i, "o", color="crimson", markersize=3)
axes[2].set_xticks(range(len(languages)), languages)
axes[2].set_yticks(range(len(languages)), languages)
axes[2].set(xlabel="to", ylabel="from", title="exact; red: directions never trained")
figure.colorbar(shown, ax=axes[2])
figure.savefig(folder / "mt5_multilingual.png", dpi=110)

# %%
model.save(folder / "mt5_multilingual.keras")
tokenizer.save_pretrained(folder / "mt5_multilingual_tokenizer")
again = keras.models.load_model(folder / "mt5_multilingual.keras")
some = [exercise(*row)[0] for row in questions["known 已知"][:4]]
assert kn.rewrite(again, tokenizer, some) == written["known 已知"][:4]
print(f"Exact 完全正确: zero-shot 零样本 {zero_mt5[0]:.1%} (copied 照抄 {zero_copy[0]:.1%}),", end=" ")
print(f"letters of held-out names 留出名称的字母 {unseen_mt5[1]:.1%} (copied 照抄 {unseen_copy[1]:.1%})")
print(f"Saved 已保存: {folder / 'mt5_multilingual.keras'}, {folder / 'mt5_multilingual.png'}")
