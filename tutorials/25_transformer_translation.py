# %% [markdown]
# # 25 · The Transformer translates
#
# "Attention is all you need" (Vaswani et al. 2017, arXiv:1706.03762) was a paper about translation: an encoder reads a
# sentence, a decoder writes it in another language, and both are made of attention alone. Here it is, small, trained
# from scratch on real pairs of English and Chinese: what programs say to their users, and what the world's things are
# called. It is measured in BLEU, as in the paper, beside a translator that looks words up and one that remembers.
#
# # 25 · Transformer 做翻译
#
# 《Attention is all you need》（Vaswani 等，2017，arXiv:1706.03762）本来是一篇关于翻译的论文：编码器读一句话，
# 解码器用另一种语言写出来，两者都只由注意力构成。这里就是它，小一些，用真实的英汉对照从零训练：
# 程序对用户说的话，以及世上事物的名称。和论文一样用 BLEU 衡量，旁边是一个查词典的译者和一个靠记忆的译者。

# %%
import gettext
import importlib.util
import math
import re
import zlib
from collections import Counter
from pathlib import Path

import kerasnets as kn
from kerasnets.seq2seq import shift_right

import keras
import matplotlib
import numpy as np
from babel import Locale
from babel.units import format_unit
from matplotlib import font_manager
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Real pairs
# Messages: programs keep what they say in catalogues, and translators add a catalogue for each language. Django has
# one, JupyterLab's language pack has more, if it is installed. Names: the Unicode consortium's CLDR, in the package
# `babel`, tells what languages, countries, currencies, scripts and units are called in English and in Chinese.
# Measures: how both languages write "3.5 kilometers per hour". The checksum of its letters decides, once for all,
# whether a pair is for the test: so the same words never stand on both sides, in capitals here and small there.
#
# ## 真实的句对
# 消息：程序把要说的话放在目录文件里，译者为每种语言添上一份。Django 有，装了 JupyterLab 语言包的话，那里更多。
# 名称：Unicode 联盟的 CLDR（在 `babel` 包里）告诉我们各种语言、国家、货币、文字和单位用英文和中文怎么叫。
# 度量：两种语言怎么写“每小时 3.5 公里”。一对句子归不归测试，由其字母的校验和一次定下：
# 这样同样的话不会只因大小写不同而两边都有。


# %%
def messages(package):
    """(English, Chinese) of the simplified Chinese catalogues in an installed package."""
    spec = importlib.util.find_spec(package)
    paths = sorted(Path(spec.submodule_search_locations[0]).rglob("locale/zh_*/LC_MESSAGES/*.mo")) if spec else []
    for path in paths:
        if path.parts[-3] in ("zh_Hans", "zh_CN"):
            with path.open("rb") as file:
                catalogue = gettext.GNUTranslations(file)._catalog
            for english, chinese in catalogue.items():
                yield (english[0] if isinstance(english, tuple) else english).split("\x04")[-1], chinese


def names():
    """(English, Chinese) of what CLDR names in both."""
    for kind in ("languages", "territories", "currencies", "scripts"):
        known, chinese = (getattr(Locale(language), kind) for language in ("en", "zh"))
        yield from ((known[code], chinese[code]) for code in known if code in chinese)


def measures(count, random):
    """(English, Chinese) of amounts of units, such as 3.5 kilometers."""
    units = sorted(set(Locale("en").unit_display_names) & set(Locale("zh").unit_display_names))
    for _ in range(count):
        unit, number = random.choice(units), random.choice([random.randint(1, 1000), random.randint(1, 100) / 10])
        number = int(number) if number == int(number) else float(number)
        yield tuple(format_unit(number, unit, locale=language) for language in ("en", "zh"))


kn.datasets.find_file("django", "conf/locale/zh_Hans/LC_MESSAGES/django.mo")  # says so if it is not there
kinds = {
    "messages": [*messages("django"), *messages("jupyterlab_language_pack_zh_CN")],
    "names": [*names()],
    "measures": [*measures(1000, np.random.RandomState(0))],
}
train, test, seen = [], {}, set()
for kind, pairs in kinds.items():
    test[kind] = []
    for english, chinese in pairs:
        letters = re.sub(r"\W", "", english.lower())
        if re.search("[%<{]", english + chinese) or not re.search("[\u4e00-\u9fff]", chinese) or letters in seen:
            continue
        seen.add(letters)
        is_test = zlib.crc32(letters.encode()) % 10 == 0
        (test[kind] if is_test else train).append((" ".join(english.split()), " ".join(chinese.split())))
print(f"{len(train):,} pairs to learn from 训练句对; to test 测试:", *(f"{kind} {len(p)}" for kind, p in test.items()))
for pairs in test.values():
    print(*(f"  {english} → {chinese}" for english, chinese in pairs[:3]), sep="\n")

# %% [markdown]
# ## BLEU by hand
# How many of the runs of 1, 2, 3 and 4 characters of the translation stand in the reference too? The geometric mean of
# the four shares, over all sentences together, times a penalty where the translation is too short: exp(1 − r / c).
# Papineni et al. 2002. Of Chinese the characters are counted, since it has no spaces.
#
# ## 手写 BLEU
# 译文里长度为 1、2、3、4 的字串，有多少也在参考译文里？把所有句子合在一起，取四个比例的几何平均；
# 译文太短还要乘上惩罚 exp(1 − r / c)。Papineni 等，2002。中文没有空格，所以按字数。


# %%
def units(text):
    """Chinese characters one by one, all else word by word."""
    return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|[^\w\s]", text)


def bleu(written, references):
    found, total = np.zeros(4), np.zeros(4)
    written, references = [[units(text) for text in texts] for texts in (written, references)]
    for one, reference in zip(written, references, strict=True):
        for n in range(1, 5):
            runs, known = (Counter(zip(*(t[i:] for i in range(n)), strict=False)) for t in (one, reference))
            found[n - 1] += (runs & known).total()
            total[n - 1] += runs.total()
    short = min(0.0, 1 - sum(map(len, references)) / max(1, sum(map(len, written))))
    return 100 * math.exp(short + np.log(np.maximum(found, 1e-9) / np.maximum(total, 1)).mean())


assert math.isclose(bleu(["打开文件"], ["打开文件"]), 100)
assert math.isclose(bleu(["打开新的文件"], ["打开新文件"]), 100 * (5 / 6 * 3 / 5 * 1 / 4 * 1e-9 / 3) ** 0.25)

# %% [markdown]
# ## Tokens
# One vocabulary for both languages, so that one table embeds both and is the head too. The paper's was of byte pairs,
# ours is a unigram one.
#
# ## 词元
# 两种语言共用一个词表，所以一张表同时是两边的嵌入和输出层。论文用字节对，我们用 unigram。

# %%
V = 2500
tokenizer = kn.Tokenizer.train([text for pair in train for text in pair], "unigram", vocab_size=V)
V, pad, end = tokenizer.vocab_size, tokenizer.pad_token_id, tokenizer.eos_token_id
longest, short = 30, 12
tokens = {pair: max(len(e.ids) for e in tokenizer.encodings(pair)) for pair in train + sum(test.values(), [])}
train = [pair for pair in train if tokens[pair] <= longest]
test = {kind: [pair for pair in pairs if tokens[pair] <= longest] for kind, pairs in test.items()}
print(f"{len(train):,} pairs of at most 不超过 {longest} tokens 个词元,", end=" ")
print(f"{np.mean([tokens[pair] <= short for pair in train]):.0%} of at most 不超过 {short}; to test 测试:", end=" ")
print(*(f"{kind} {len(pairs)}" for kind, pairs in test.items()))
for english, chinese in train[:2]:
    print(*tokenizer.tokenize(english), "→", *tokenizer.tokenize(chinese))

# %% [markdown]
# ## Three baselines
# Copy: the English as it is. Memory: the translation of the most similar sentence that is known (TF-IDF), which is how
# translators of programs work. Lexicon: IBM's first model of 1993 (Brown et al.), the beginning of statistical
# translation. Which word comes from which is not known; so begin with t(c | e) alike for all, and again and again share
# each Chinese token c among the English words of its sentence by t, and count anew. Then every word is looked up.
#
# ## 三个基线
# 照抄：英文原样。记忆：找出最相似的已知句子（TF-IDF），给出它的译文，软件的译者就是这样工作的。
# 词典：IBM 1993 年的第一个模型（Brown 等），统计翻译由此开始。哪个词由哪个词来，没有人知道；所以让 t(c | e)
# 一开始都相同，然后一遍遍地把每个中文词元 c 按 t 分给同句的英文词，再重新计数。最后逐词查表。


# %%
def split_words(text):
    return re.findall(r"\w+|[^\w\s]", text.lower())


def lexicon(pairs, rounds=8):
    """{English word: its most probable Chinese token}"""
    rows = [(e, c, (i, j)) for i, (english, chinese) in enumerate(pairs)
            for j, c in enumerate(tokenizer.tokenize(chinese)) for e in split_words(english)]  # fmt: skip
    words, of_word = np.unique([e for e, _, _ in rows], return_inverse=True)
    pieces, of_piece = np.unique([c for _, c, _ in rows], return_inverse=True)
    _, of_place = np.unique([place for *_, place in rows], axis=0, return_inverse=True)
    both, entry = np.unique(of_word * len(pieces) + of_piece, return_inverse=True)
    t = np.ones(len(both))
    for _ in range(rounds):
        share = t[entry] / np.bincount(of_place, t[entry])[of_place]
        counts = np.bincount(entry, share)
        t = counts / np.bincount(both // len(pieces), counts)[both // len(pieces)]
    return {words[k // len(pieces)]: pieces[k % len(pieces)] for k in both[np.argsort(t)]}  # the last is the largest


table = lexicon(train)
print("The lexicon 词典:", *(f"{word} {table[word]}" for word in ("file", "open", "user", "north", "hour", "not")))
memory = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2))
known = memory.fit_transform([english for english, _ in train])


def remembered(texts):
    return [train[i][1] for i in np.asarray((memory.transform(texts) @ known.T).argmax(axis=1)).ravel()]


def looked_up(text):
    return "".join(table.get(word, word) for word in split_words(text)).replace("▁", " ")


everything = [pair for pairs in test.values() for pair in pairs]
sources, references = map(list, zip(*everything, strict=True))
written = {"copy": sources, "memory": remembered(sources), "lexicon": [looked_up(text) for text in sources]}

# %% [markdown]
# ## The network
# Before training, by hand: the second attention of the decoder's first block. Queries from what was written, keys
# and values from what was read; softmax(Q Kᵀ / √H) says where each token looks.
#
# ## 网络
# 训练之前先手算解码器的第二个注意力：查询来自已写的，键和值来自读到的；softmax(Q Kᵀ / √H) 说明每个词元在看哪里。

# %%
D, N = 128, 4
model = kn.TransformerSeq2SeqLM(
    vocab_size=V, hidden_size=D, num_layers=2, num_heads=N, feedforward_size=4 * D, dropout=0.0,
    pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=(end,), name="transformer_translation",
)  # fmt: skip


def arrays(pairs, width):
    """(model inputs, labels with −100 for padding); the decoder reads the labels one place later."""
    source = tokenizer([english for english, _ in pairs], padding=width)
    labels = tokenizer([chinese for _, chinese in pairs], padding=width)["input_ids"]
    labels = np.where(labels == pad, -100, labels)
    return source | {"decoder_input_ids": shift_right(labels, pad, pad)}, labels


def softmax(x):
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


one, _ = arrays(train[:1], longest)
block = model.backbone.decoder_blocks[0].cross_attention
seen = kn.trace(model, one)
name = "backbone.decoder_blocks.0.cross_attention"
read, asked = to_numpy(model.backbone.encode(one)[0])[0], seen[f"{name}.input"][0]  # (S, D), (T, D)
q, k = (
    np.stack(np.split(x @ to_numpy(part.kernel), N, axis=1)) for x, part in ((asked, block.query), (read, block.key))
)
scores = q @ k.transpose(0, 2, 1) / np.sqrt(D / N)
by_hand = softmax(np.where(one["attention_mask"][0] == 1, scores, -1e9))  # (N, T, S)
assert np.allclose(by_hand, seen[f"{name}.probabilities"][0], atol=1e-4)
print(f"{model.count_params():,} parameters; attention by hand = the model's. 手算的注意力 = 模型的。")

# %% [markdown]
# ## Training, as in the paper
# Label smoothing: a tenth of the goal is spread over all tokens, so that the model is never too sure. The learning
# rate rises along a straight line for the first steps, then falls with the root of their number. Short and long pairs
# stand in batches of their own, so that little is padding.
#
# ## 按论文训练
# 标签平滑：目标的十分之一均分给所有词元，免得模型过于自信。学习率先沿直线上升，再按步数的平方根下降。
# 长句短句各自成批，这样填充不多。


# %%
class Batches(keras.utils.PyDataset):
    """Pairs of like lengths together, in a new order each epoch."""

    def __init__(self, pairs, size):
        super().__init__()
        self.random = np.random.RandomState(0)
        groups = [[p for p in pairs if (tokens[p] <= short) == is_short] for is_short in (True, False)]
        self.groups = [arrays(group, width) for group, width in zip(groups, (short, longest), strict=True)]
        self.size, self.plan = size, []
        self.on_epoch_end()

    def on_epoch_end(self):
        orders = [self.random.permutation(len(labels)) for _, labels in self.groups]
        cut = [order[: len(order) // self.size * self.size].reshape(-1, self.size) for order in orders]
        self.plan = [(group, rows) for group, chosen in zip(self.groups, cut, strict=True) for rows in chosen]
        self.random.shuffle(self.plan)

    def __len__(self):
        return len(self.plan)

    def __getitem__(self, i):
        (inputs, labels), rows = self.plan[i]
        return {name: array[rows] for name, array in inputs.items()}, labels[rows]


epochs = 14
batches = Batches(train, 48)
schedule = kn.WarmUp(D, warmup_steps=300, scale=0.6)
smooth = kn.losses.TokenCrossEntropy(label_smoothing=0.1)
model.compile(keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9), smooth)
with tqdm(total=epochs * len(batches), desc="Training 训练") as bar:
    each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
    history = model.fit(batches, epochs=epochs, verbose=0, callbacks=[each_batch]).history
print("loss 损失:", *(f"{value:.2f}" for value in history["loss"]))

# %% [markdown]
# ## It translates
# Greedy: the most probable token, again and again. Beam: four beginnings are continued side by side, and the best whole
# sentence wins; its log-probability is divided by its length to the power 0.6. A few thousand pairs are little for a
# network (Koehn & Knowles 2017, arXiv:1706.03872): in messages, which programs repeat with small changes, memory is
# hard to beat; where parts are put together anew, in names and measures, the network is far ahead.
#
# ## 它会翻译了
# 贪心：每次取最可能的词元。束搜索：四个开头并排往下写，最后取整句最好的；对数概率要除以长度的 0.6 次方。
# 几千对句子对网络来说很少（Koehn 与 Knowles，2017，arXiv:1706.03872）：程序的消息常常大同小异，很难胜过记忆；
# 而名称和度量要把部件重新组合，网络就遥遥领先。

# %%
for title, sampler in (("greedy", None), ("beam", kn.samplers.Beam(4, length_penalty=0.6))):
    written[title] = kn.rewrite(model, tokenizer, sources, batch_size=128, max_new_tokens=longest, sampler=sampler)
places = np.cumsum([0, *map(len, test.values())])
print("BLEU        ", *(f"{kind:>10}" for kind in (*test, "all")))
scores = {}
for title, texts in written.items():
    parts = [slice(*ends) for ends in zip(places, places[1:], strict=False)] + [slice(None)]
    scores[title] = [bleu(texts[part], references[part]) for part in parts]
    print(f"{title:12}", *(f"{value:10.1f}" for value in scores[title]))
assert scores["beam"][-1] > max(scores["copy"][-1], scores["lexicon"][-1]) + 3
exact = np.mean([text == reference for text, reference in zip(written["beam"], references, strict=True)])
print(f"Exactly the reference 与参考译文完全相同: {exact:.1%}")
for k in np.random.RandomState(1).permutation(len(sources))[:10]:
    print(f"  {sources[k]} → {written['beam'][k]}   ({references[k]})")

# %% [markdown]
# ## Where it looks
# While it writes, each Chinese token looks at English ones: the cross-attention of the last block, its heads together.
# This is the alignment of IBM's models, now learned on the side.
#
# ## 它在看哪里
# 写每个中文词元时，它都在看一些英文词元：最后一块的交叉注意力，各头取平均。这就是 IBM 模型里的对齐，现在是顺带学会的。


# %%
def alignment(english, chinese):
    """(T, S) probabilities, the tokens that are written, the tokens that are read."""
    one, labels = arrays([(english, chinese)], longest)
    trace = kn.trace(model, one, only="backbone.decoder_blocks.1.cross_attention.probabilities")
    attended = next(iter(trace.values()))[0].mean(axis=0)
    rows, columns = int((labels != -100).sum()), int(one["attention_mask"].sum())
    token_of = tokenizer.backend.id_to_token
    ids = labels[0, :rows], one["input_ids"][0, :columns]
    return attended[:rows, :columns], *([token_of(i).replace("▁", "_") for i in part] for part in ids)


right = [k for k, text in enumerate(written["beam"]) if text == references[k]]
shown = sorted(right, key=lambda k: -len(references[k]))[:2]
figure, axes = plt.subplots(1, 3, figsize=(17, 5), layout="constrained")
axes[0].bar([*scores], [value[-1] for value in scores.values()], color=3 * ["grey"] + 2 * ["steelblue"])
axes[0].set(ylabel="BLEU", title="held-out pairs")
installed = {font.name for font in font_manager.fontManager.ttflist}
wanted = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "SimHei", "WenQuanYi Zen Hei")
cjk = [name for name in wanted if name in installed]
for axis, k in zip(axes[1:], shown, strict=True):
    attended, rows, columns = alignment(sources[k], references[k])
    axis.imshow(attended, cmap="Blues")
    axis.set_xticks(range(len(columns)), columns, rotation=90)
    axis.set_yticks(range(len(rows)), rows if cjk else range(1, len(rows) + 1), family=cjk[:1] or None)
    axis.set(title=f"cross-attention ({'Chinese' if cjk else 'no Chinese font: tokens as numbers'})")
    print(sources[k], "→", *(f"{token}({columns[j]})" for token, j in zip(rows, attended.argmax(axis=1), strict=True)))
figure.savefig(folder / "transformer_translation.png", dpi=110)

# %%
model.save(folder / "transformer_translation.keras")
tokenizer.save_pretrained(folder / "transformer_translation_tokenizer")
again = keras.models.load_model(folder / "transformer_translation.keras")
assert kn.rewrite(again, tokenizer, sources[:4]) == kn.rewrite(model, tokenizer, sources[:4])
print("BLEU:", *(f"{title} {value[-1]:.1f}" for title, value in scores.items()))
print(f"Saved 已保存: {folder / 'transformer_translation.keras'}, {folder / 'transformer_translation.png'}")
