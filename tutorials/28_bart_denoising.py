# %% [markdown]
# # 28 · BART: repairing damaged text
#
# BART (Lewis et al. 2019, arXiv:1910.13461) learns from a simple game: somebody damages a text, and the model writes
# the whole text again as it was. Its encoder sees the damaged text from both sides, like BERT; its decoder writes from
# left to right, like GPT. As the target is the whole text, the damage may be anything, even such that changes lengths
# and order. The paper tried five ways; a small BART shall learn all five at once, and is never told which one it is:
#
# # 28 · BART：修复受损的文本
#
# BART（Lewis 等，2019，arXiv:1910.13461）从一个简单的游戏里学习：有人把文本弄坏，模型把整段文本照原样重写出来。
# 编码器像 BERT，从两侧看受损的文本；解码器像 GPT，从左写到右。因为目标是整段文本，所以怎么弄坏都行，
# 哪怕长度和顺序都变了。论文试了五种办法；我们的小 BART 要同时学会这五种，而且没有人告诉它是哪一种：
#
# | noise 噪声 | what happens 做法 |
# |---|---|
# | token masking 词元掩码 | 15 % of the tokens become `<mask>` 15% 的词元变成 `<mask>` |
# | token deletion 词元删除 | 15 % of the tokens vanish, nobody says where 15% 的词元消失，不说在哪里 |
# | text infilling 文本填充 | spans of Poisson(3) tokens become a `<mask>` each 泊松长度的片段各变成一个 `<mask>` |
# | sentence permutation 句子重排 | the sentences change places 句子互换位置 |
# | document rotation 文档旋转 | the text begins in the middle, its head comes last 从中间开始，开头接到最后 |

# %%
import re
from pathlib import Path

import kerasnets as kn
from kerasnets.seq2seq import shift_right

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
# ## Documents
# The Bible in Basic English, three whole books set aside for the test. A sentence here ends with one of . : ; ? !, and
# a document is two or more that follow each other: from each sentence on, as many as 40 tokens hold. The tokens are
# byte pairs like BART's, with its special ones: `<s>` text `</s>`.
#
# ## 文档
# 基础英语版《圣经》，三卷整本留作测试。这里的句子以 . : ; ? ! 之一结尾；一篇文档是连续的两句以上：
# 从每一句起，40 个词元装得下多少就放多少。词元与 BART 一样是字节对，也有它的特殊词元：`<s>` 文本 `</s>`。

# %%
V, longest = 800, 40
texts = kn.datasets.english_prose()  # train, test
special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
tokenizer = kn.Tokenizer.train(texts[0].splitlines(), "bpe", vocab_size=V, special_tokens=special)
begin, pad, end, _, mask = (tokenizer.backend.token_to_id(token) for token in special)


def documents(text):
    """A list of documents, each a list of sentences, each an array of ids."""
    found = []
    for chapter in text.splitlines():
        sentences = [" " + sentence for sentence in re.findall(r"[^.:;?! ][^.:;?!]*[.:;?!]+", chapter)]
        ids = [np.array(e.ids) for e in tokenizer.encodings(sentences, add_special_tokens=False)]
        for first in range(len(ids)):
            fitting = np.cumsum([len(sentence) for sentence in ids[first:]]) <= longest
            found += [ids[first : first + fitting.sum()]] if fitting.sum() > 1 else []
    return found


train_documents, test_documents = map(documents, texts)
print(f"{len(train_documents):,} documents to learn from, {len(test_documents):,} to test, for instance 例如:")
print(*(tokenizer.decode(sentence) for sentence in test_documents[0]), sep=" /")

# %% [markdown]
# ## Five kinds of noise
# Each takes the sentences of a document and returns the tokens of the damaged one.
#
# ## 五种噪声
# 每个函数接过一篇文档的句子，返回受损文本的词元。


# %%
def token_masking(sentences, random):
    ids = np.concatenate(sentences)
    return np.where(random.uniform(size=len(ids)) < 0.15, mask, ids)


def token_deletion(sentences, random):
    ids = np.concatenate(sentences)
    return ids[random.uniform(size=len(ids)) >= 0.15]


def text_infilling(sentences, random):
    ids = np.concatenate(sentences).tolist()
    left = round(0.3 * len(ids))
    while left > 0:
        span = min(random.poisson(3), left)  # 0 puts a mask where nothing was missing
        start = random.randint(0, len(ids) - span + 1)
        if mask not in ids[start : start + span]:
            ids[start : start + span] = [mask]
            left -= max(span, 1)
    return np.array(ids)


def sentence_permutation(sentences, random):
    order = np.arange(len(sentences))
    while (order == np.arange(len(sentences))).all():
        order = random.permutation(len(sentences))
    return np.concatenate([sentences[i] for i in order])


def document_rotation(sentences, random):
    ids = np.concatenate(sentences)
    return np.roll(ids, -random.randint(1, len(ids)))


noises = (token_masking, token_deletion, text_infilling, sentence_permutation, document_rotation)
names = [noise.__name__.replace("_", " ") for noise in noises]
for name, noise in zip(names, noises, strict=True):
    damaged = noise(test_documents[0], np.random.RandomState(1))
    print(f"{name:21}{tokenizer.decode(damaged, skip_special_tokens=False)}")

# %% [markdown]
# ## The copyist
# The baseline writes down what it sees. How much of it is right? Place by place, the tokens that stand where they
# stood. And in order: as many tokens of the original as stand in the damaged text in the right order, wherever that is,
# the longest common subsequence. The second count is generous: who leaves out a token and goes on has all the rest
# right.
#
# ## 抄写员
# 基线把看到的照抄一遍。对了多少？逐位算：还站在原位的词元。按序算：原文的词元里，有多少在受损文本中仍按正确的顺序出现，
# 不管在哪里，即最长公共子序列。第二种算法很宽厚：漏掉一个词元再接着抄，后面的仍都算对。


# %%
def common(a, b):
    """The length of the longest common subsequence, row by row of its table."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def kept(written, originals):
    """The share of the originals' tokens that were written in the right order; what is too long is marked down."""
    lengths = [max(len(a), len(b)) for a, b in zip(written, originals, strict=True)]
    return sum(map(common, written, originals)) / sum(lengths)


assert common("kitten", "sitting") == 4  # ittn
source_length, target_length = longest + 6, longest + 2  # infilling may put in a few masks


def rows(sequences, length):
    """`<s>` … `</s>`, filled up with `<pad>`.   → (N, length)"""
    array = np.full((len(sequences), length), pad, "int32")
    for row, ids in zip(array, sequences, strict=True):
        row[: len(ids) + 2] = [begin, *ids, end]
    return array


def exercises(documents, random, noise=None):
    """(model inputs, labels with −100 for padding, damaged texts, originals); one noise, or one drawn for each."""
    chosen = [noise or noises[i] for i in random.randint(0, len(noises), len(documents))]
    damaged = [make(document, random) for make, document in zip(chosen, documents, strict=True)]
    originals = [np.concatenate(document) for document in documents]
    source, target = rows(damaged, source_length), rows(originals, target_length)
    labels = np.where(target == pad, -100, target)
    inputs = {"input_ids": source, "attention_mask": (source != pad).astype("int32")}
    return inputs | {"decoder_input_ids": shift_right(labels, end, pad)}, labels, damaged, originals


tests = {}
for name, noise in zip(names, noises, strict=True):
    tests[name] = exercises(test_documents[::3], np.random.RandomState(2), noise)
copied, in_order, is_text = {}, {}, {}
print("                       place by place 逐位   in order 按序     of the tokens are there 的词元仍在")
for name, (x, labels, damaged, originals) in tests.items():
    is_text[name] = ~np.isin(labels, (-100, begin, end))
    copied[name] = (x["input_ids"][:, :target_length] == labels)[is_text[name]].mean()
    in_order[name] = kept(damaged, originals)
    print(f"{name:21} {copied[name]:13.1%} {in_order[name]:18.1%}")

# %% [markdown]
# ## A small BART, and a good start
# Most of the work is copying, and a random network needs thousands of steps to find out how. So ours begins as a
# blurred copyist. The tables of places begin as sines and cosines instead of noise: near places are alike. In
# cross-attention queries and keys are made alike: what is looked for is what looks the same, in token and in place. And
# what is read goes through a rotation and back, so that it is the source's own vector, whose likeliest token is the
# source's own. Nothing of this is fixed: training changes it all.
#
# ## 小小的 BART，和一个好的开端
# 大部分工作是抄写，而随机的网络要几千步才能摸索出怎么抄。所以我们的网络从一个眼花的抄写员开始。
# 位置表以正弦和余弦开始，而不是噪声：相邻的位置相像。交叉注意力里，查询和键做法相同：找的就是看起来一样的，
# 词元和位置都算。读到的东西转过去再转回来，就是源自己的向量，它最可能的词元就是源里的那个。这些都不固定：
# 训练会改变一切。

# %%
D = 64
model = kn.BARTSeq2SeqLM(
    vocab_size=V, hidden_size=D, num_layers=2, num_heads=4, feedforward_size=4 * D, max_length=64, dropout=0.0,
    bos_token_id=begin, pad_token_id=pad, eos_token_id=(end,), decoder_start_token_id=end, forced_eos_token_id=None,
    name="bart_denoising",
)  # fmt: skip
backbone = model.backbone
backbone.token_embedding.embeddings.assign(keras.random.normal((V, D), stddev=0.1, seed=1))
waves = 0.1 * to_numpy(kn.layers.sinusoidal(np.arange(66), D, theta=50))
for table in (backbone.encoder_position_embedding, backbone.decoder_position_embedding):
    table.embeddings.assign(waves)
for i, block in enumerate(backbone.decoder_blocks):
    cross = block.cross_attention
    alike, turn = (to_numpy(keras.initializers.Orthogonal(seed=2 * i + k)((D, D))) for k in (1, 2))
    cross.query.kernel.assign(1.2 * alike)
    cross.key.kernel.assign(1.2 * alike)
    cross.value.kernel.assign(turn)
    cross.out.kernel.assign(turn.T)

# %% [markdown]
# The encoder begins with token and place, added and brought to one scale: norm(E[i] + P[t + 2]). Two rows of BART's
# tables stand before the first place, for nobody. By hand, and in the model:
#
# 编码器的第一步是把词元与位置相加，再统一尺度：norm(E[i] + P[t + 2])。BART 的表在第一个位置之前还有两行，没有人用。
# 手算一遍，再看模型里的：

# %%
one = {name: x[:1] for name, x in tests["token masking"][0].items()}
E, P = (to_numpy(table.embeddings) for table in (backbone.token_embedding, backbone.encoder_position_embedding))
n = one["attention_mask"].sum()
x = E[one["input_ids"][0, :n]] + P[2 : n + 2]  # (T, D)
x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
trace = kn.trace(model, one, only="backbone.encoder_embedding_norm")["backbone.encoder_embedding_norm"]
assert np.allclose(x, trace[0, :n], atol=1e-4)
print(f"{model.count_params():,} parameters; tokens and places by hand = the model's. 手算 = 模型。")

# %% [markdown]
# ## Training
# Each document twice, each time with another noise, drawn by lot. The decoder reads the original one place later, from
# `</s>` on, and the loss is −log p of each of its tokens.
#
# ## 训练
# 每篇文档用两次，每次换一种噪声，抽签决定。解码器读的是错后一位的原文，从 `</s>` 开始；损失是每个词元的 −log p。

# %%
rounds, batch_size = 10, 16
random = np.random.RandomState(0)
order = np.concatenate([random.permutation(len(train_documents)) for _ in range(2)])
steps = len(order) // batch_size
schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=3e-3, warmup_steps=steps // 10)
model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), kn.losses.TokenCrossEntropy())
some_x, some_y = exercises(test_documents[::7], np.random.RandomState(3))[:2]
curve = {"training": [], "held out": []}
with tqdm(total=steps, desc="Training 训练") as bar:
    each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
    for part in np.array_split(order[: steps * batch_size].reshape(steps, batch_size), rounds):
        x, y = exercises([train_documents[i] for i in part.ravel()], random)[:2]
        history = model.fit(
            x, y, batch_size, verbose=0, callbacks=[each_batch], validation_data=(some_x, some_y)
        ).history  # fmt: skip
        curve["training"] += history["loss"]
        curve["held out"] += history["val_loss"]
        bar.set_postfix(held_out=f"{curve['held out'][-1]:.3f}")

# %% [markdown]
# ## Noise by noise
# Of each token of the held-out documents: is it the most probable one, given the damaged text and what stands before
# it in the original? Token masking is where copying is hardest to beat: 85 % stands in its place already, so a BART
# that errs in copying once in twenty tokens loses there what it gains in filling the gaps.
#
# ## 逐种噪声
# 对留出文档的每个词元：给定受损文本和原文中它前面的部分，它是不是最可能的那个？词元掩码最难胜过照抄：
# 85% 本来就在原位，BART 只要每二十个词元抄错一个，填空赢来的就都输掉了。

# %%
accuracy = {}
print("                       BART   copied: place by place 逐位照抄   in order 按序照抄     right tokens 正确的词元")
for name, (x, labels, _, _) in tests.items():
    right = model.predict(x, batch_size=64, verbose=0).argmax(axis=-1) == labels
    accuracy[name] = right[is_text[name]].mean()
    print(f"{name:21} {accuracy[name]:6.1%} {copied[name]:23.1%} {in_order[name]:24.1%}")
mean = {title: np.mean([*x.values()]) for title, x in (("BART", accuracy), ("place", copied), ("order", in_order))}
print(f"{'mean 平均':19} {mean['BART']:6.1%} {mean['place']:23.1%} {mean['order']:24.1%}")
assert mean["BART"] > mean["order"] + 0.05 > mean["place"] + 0.05
assert all(accuracy[name] > copied[name] for name in names[1:])

# %% [markdown]
# ## It repairs
# Now it reads only what it has written itself, most probable token first (greedy), or with four beginnings kept side by
# side, of which the best whole text wins (`kn.samplers.Beam`). How much of the original was written, in order?
#
# ## 它来修复
# 现在它只读自己写的：每次取最可能的词元（贪心），或者并排保留四个开头，最后取整段最好的（`kn.samplers.Beam`）。
# 原文有多少按序写出来了？

# %%
samplers, tries, restored = {"greedy": None, "beam": kn.samplers.Beam(4)}, 40, {}
print("                       copied 照抄   greedy 贪心   beam 束搜索     of the original, in order 按序写出的原文")
for name, (x, _, damaged, originals) in tests.items():
    source = {key: x[key][:tries] for key in ("input_ids", "attention_mask")}
    written = {}
    for kind, sampler in samplers.items():
        ids = model.generate(source, max_new_tokens=target_length, sampler=sampler)
        written[kind] = [row[~np.isin(row, (begin, pad, end))].tolist() for row in ids]
    restored[name] = {kind: kept(texts, originals[:tries]) for kind, texts in written.items()}
    print(f"{name:21} {kept(damaged[:tries], originals[:tries]):9.1%}", end="")
    print(f" {restored[name]['greedy']:12.1%} {restored[name]['beam']:14.1%}")
    tests[name] += (written,)

for name, (_, _, damaged, originals, written) in tests.items():
    print(f"\n{name}")
    for kind, ids in (("damaged", damaged), *written.items(), ("original", originals)):
        print(f"  {kind:9}{tokenizer.decode(list(ids[1]), skip_special_tokens=False)}")

# %% [markdown]
# ## Where it looks
# Cross-attention while a rotated and a permuted text are put right: each token written looks at its place in the
# damaged text. The jumps are where the pieces were moved.
#
# ## 它在看哪里
# 修复旋转和重排的文本时的交叉注意力：每写一个词元，就看受损文本中它所在的位置。跳跃之处就是片段被移动的地方。

# %%
figure, axes = plt.subplots(1, 3, figsize=(17, 6), layout="constrained")
left = axes[0]
positions = np.arange(len(names))
bars = {"copied, place by place": copied, "copied, in order": in_order, "BART": accuracy}
for shift, (title, values) in zip((-0.27, 0, 0.27), bars.items(), strict=True):
    left.bar(positions + shift, [values[name] for name in names], 0.27, label=title)
left.set_xticks(positions, [name.replace(" ", "\n") for name in names])
left.set(ylabel="tokens right", title="held-out documents", ylim=(0, 1.15))
left.legend(frameon=False, ncols=3, fontsize=8)
for axis, name in zip(axes[1:], ("document rotation", "sentence permutation"), strict=True):
    x, labels, *_ = tests[name]
    one = {key: value[1:2] for key, value in x.items()}
    trace = kn.trace(model, one, only="*.cross_attention.probabilities")
    maps = np.concatenate([heads[0] for heads in trace.values()])  # (L · N, T, S)
    sharpest = maps[maps.max(axis=-1)[:, 1:20].mean(axis=1).argmax()]
    read = int((labels[1] != -100).sum()) - 1, int(one["attention_mask"].sum())
    axis.imshow(sharpest[: read[0], : read[1]], cmap="Blues")
    for ids, place in ((labels[1][: read[0]], axis.set_yticks), (one["input_ids"][0][: read[1]], axis.set_xticks)):
        pieces = [tokenizer.decode([int(token)], skip_special_tokens=False) for token in ids]
        place(range(len(pieces)), pieces, fontsize=6, **({"rotation": 90} if place == axis.set_xticks else {}))
    axis.set(title=f"cross-attention, {name}", xlabel="damaged", ylabel="written")
figure.savefig(folder / "bart_denoising.png", dpi=110)

# %%
model.save(folder / "bart_denoising.keras")
again = keras.models.load_model(folder / "bart_denoising.keras")
few = {name: x[:4] for name, x in some_x.items()}
assert np.allclose(again.predict(few, verbose=0), model.predict(few, verbose=0), atol=1e-4)
print(f"Tokens right 正确的词元: {mean['BART']:.1%} (copied 照抄 {mean['place']:.1%}, {mean['order']:.1%})")
print(f"Saved 已保存: {folder / 'bart_denoising.keras'}, {folder / 'bart_denoising.png'}")
