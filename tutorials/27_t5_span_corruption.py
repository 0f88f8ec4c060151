# %% [markdown]
# # 27 · T5: filling the gaps
#
# BERT hides single words and guesses each where it stood. T5 (Raffel et al. 2019, arXiv:1910.10683) makes a
# text-to-text task of the same idea: whole spans are cut out of a text, a mark is left for each, and the decoder writes
# what is missing, mark by mark. The source becomes shorter, the target is only what was cut out, and how long a gap is
# the model must find out itself. The paper's own example, 15 % of the tokens hidden:
#
# > Thank you ⟨0⟩ me to your party ⟨1⟩ week. → ⟨0⟩ for inviting ⟨1⟩ last ⟨2⟩
#
# # 27 · T5：填空
#
# BERT 遮住单个词，在原处逐个猜。T5（Raffel 等，2019，arXiv:1910.10683）把同样的想法变成“文本到文本”的任务：
# 从文本里整段整段地剪掉，每处留一个记号，解码器再按记号把缺的写出来。源变短了，目标只是剪掉的部分，
# 而每个空有多长，要模型自己判断。论文里的例子见上。

# %%
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
# ## Tokens and sentinels
# The Bible in Basic English, three whole books set aside for the test. A unigram tokenizer of T5's kind (Kudo 2018),
# and the marks, the sentinels `<extra_id_0>`, `<extra_id_1>`, …, which are tokens of their own: T5 has 100 of them, we
# need sixteen. A piece of text is 64 tokens.
#
# ## 词元与哨兵
# 基础英语版《圣经》，三卷整本留作测试。分词器与 T5 同类（unigram，Kudo 2018）；记号，即哨兵 `<extra_id_0>`、
# `<extra_id_1>`……各是一个独立的词元：T5 有 100 个，我们只要十六个。一段文本是 64 个词元。

# %%
V, length = 500, 64
train_text, test_text = kn.datasets.english_prose()
sentinels = [f"<extra_id_{i}>" for i in range(16)]
tokenizer = kn.Tokenizer.train(train_text.splitlines(), "unigram", vocab_size=V, special_tokens=sentinels)
marks = [tokenizer.backend.token_to_id(token) for token in sentinels]
pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id


def encode(text):
    chapters = tokenizer.encodings(text.splitlines(), add_special_tokens=False)
    return np.concatenate([chapter.ids for chapter in chapters]).astype("int32")


train_ids, test_ids = encode(train_text), encode(test_text)
print(f"{len(train_ids):,} tokens to learn from, {len(test_ids):,} to test, V = {V}")
print("The first 开头:", *tokenizer.tokenize(train_text[:60]))

# %% [markdown]
# ## Span corruption
# Two numbers decide: the noise density, how much of the text is hidden, and the mean length of a span. From them
# follows how many spans there are. The hidden tokens are cut into so many parts at random, the others too, and the
# parts take turns, a shown one first. Sources and targets then all have one length: nothing is padding.
#
# ## 跨度破坏
# 两个数说了算：噪声密度，即遮住多少；平均跨度，即一段多长。由此就知道有几段。把要遮住的词元随机分成这么多份，
# 其余的也分成这么多份，两种轮流排列，露出的在先。这样源和目标的长度都固定，没有一个填充。


# %%
def corrupt(ids, shown, hidden):
    """Parts shown and hidden take turns → (source, target); that one ends with one more sentinel, as in the paper."""
    source, target, place = [], [], 0
    for mark, show, hide in zip(marks, shown, hidden, strict=False):
        source += [*ids[place : place + show], mark]
        target += [mark, *ids[place + show : place + show + hide]]
        place += show + hide
    return [*source, *ids[place:], end], [*target, marks[len(hidden)], end]


def random_parts(total, parts, random):
    """`parts` lengths of at least 1 that add up to `total`; all ways are equally likely."""
    cuts = np.sort(random.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff([0, *cuts, total])


def exercises(pieces, random, density=0.15, mean_span=3.0):
    """(N, length) → sources (N, S), targets (N, T): another exercise each time."""
    hidden = round(pieces.shape[1] * density)
    spans = max(1, round(hidden / mean_span))
    pairs = [
        corrupt(ids, random_parts(len(ids) - hidden, spans, random), random_parts(hidden, spans, random))
        for ids in pieces
    ]
    return tuple(np.array(rows, "int32") for rows in zip(*pairs, strict=True))


words = "Thank you for inviting me to your party last week ."
source, target = corrupt(words.split(), shown=[2, 4], hidden=[2, 1])
names = {end: "⟨/s⟩"} | {mark: f"⟨{i}⟩" for i, mark in enumerate(marks)}
source, target = (" ".join(names.get(token, token) for token in side) for side in (source, target))
print(f"{source}   →   {target}")
assert source == "Thank you ⟨0⟩ me to your party ⟨1⟩ week . ⟨/s⟩" and target == "⟨0⟩ for inviting ⟨1⟩ last ⟨2⟩ ⟨/s⟩"

# %% [markdown]
# What the two numbers cost and give, for a piece of 64 tokens. Longer spans make shorter sources and targets; more
# noise gives more lessons from a text but leaves less to guess from. The paper found 10, 15 and 25 % about as good, 50
# % a little worse, spans of 3 a little better than single tokens, and took 15 % and 3. It had weeks; we have two
# minutes, and take 50 %, three times the lessons.
#
# 两个数的得失，以 64 个词元为例。跨度越长，源和目标越短；噪声越多，一段文本给出的题目越多，但能依据的上下文越少。
# 论文发现 10%、15%、25% 差不多，50% 稍差，跨度 3 比单个词元略好，于是取 15% 和 3。论文训练了几个星期，我们只有两分钟，
# 所以取 50%，题目是三倍。

# %%
random = np.random.RandomState(0)
print("density 密度   span 跨度   source 源   target 目标   asked for 要填的词元")
for density, mean_span in ((0.15, 1), (0.15, 3), (0.15, 10), (0.25, 3), (0.5, 3)):
    hide = round(length * density)
    count = max(1, round(hide / mean_span))  # each leaves a sentinel in the source, and has one in the target
    print(f"{density:9.0%} {mean_span:13} {length - hide + count + 1:12} {hide + count + 2:13} {hide:15}")
density, mean_span = 0.5, 3.0

# %% [markdown]
# ## Two baselines
# Which token was hidden? The unigram model answers with plain frequencies, whatever stands around. The bigram model
# knows the token before, the true one: p(next | current), pairs never seen get a little of the frequencies, as much as
# is best on the test, which flatters it. Neither sees what comes after the gap.
#
# ## 两个基线
# 遮住的是哪个词元？一元模型只按词频回答，不看上下文。二元模型知道前一个（真正的）词元：p(下一个 | 当前)，
# 没见过的组合分到一点词频，分多少取测试集上最好的，这对基线是优待。两者都看不见空后面的文字。
# T5 至少要胜过一元模型；二元模型一次就数完了全部文字，这么小的网络要超过它，两分钟的训练还不够。

# %%
test_pieces = test_ids[: len(test_ids) // length * length].reshape(-1, length)
test_source, test_target = exercises(test_pieces, np.random.RandomState(1), density, mean_span)
asked = ~np.isin(test_target, [*marks, end])  # (N, T): only what was hidden, no sentinel

pairs = np.zeros((V, V))
np.add.at(pairs, (train_ids[:-1], train_ids[1:]), 1)
frequency = (pairs.sum(axis=0) + 1) / (pairs.sum() + V)


def before_gaps(source, target):
    """What stands before each token of the target in the whole text, (N, T): before a span's first, in the source."""
    before = np.concatenate([target[:, :1], target[:, :-1]], axis=1)
    for mark in marks:
        row, column = np.nonzero(before == mark)
        gap = (source == mark).argmax(axis=1)
        before[row, column] = source[row, np.maximum(gap[row] - 1, 0)]
    return before


current, hidden = before_gaps(test_source, test_target)[asked], test_target[asked]
tables = [(pairs + a * frequency) / (pairs.sum(axis=1, keepdims=True) + a) for a in (1, 10, 100, 1000)]
best = min(tables, key=lambda p: -np.log(p[current, hidden]).mean())
scores = {
    "unigram 一元模型": (-np.log(frequency[hidden]).mean(), (hidden == frequency.argmax()).mean()),
    "bigram 二元模型": (-np.log(best[current, hidden]).mean(), (hidden == best.argmax(axis=1)[current]).mean()),
}
for name, (loss, accuracy) in scores.items():
    print(f"{name:16} {loss:.3f} nats a token, {accuracy:.1%} right")

# %% [markdown]
# ## A small T5, and its positions by hand
# T5 adds nothing to the tokens to say where they stand. Each head has a number for each distance between key and query,
# and adds it to their score; near distances have a number each, further ones share, and in the encoder it matters on
# which side the key stands. All blocks use the same table. By hand for the encoder, whose 32 numbers a head are
# 16 for each side, 8 of them single distances:
#
# ## 小小的 T5，手算它的位置
# T5 不往词元上加位置。每个头对键与查询之间的每种距离存一个数，加到分数上；近的距离各有一个数，远的合用，
# 在编码器里还分键在哪一侧。所有的块共用一张表。手算编码器的：每个头 32 个数，两侧各 16 个，其中 8 个是单独的距离：

# %%
D = 96
model = kn.T5Seq2SeqLM(
    vocab_size=V, hidden_size=D, num_layers=2, num_heads=4, head_size=D // 4, feedforward_size=256,
    activation="gated-gelu", tied=False, scale_head=False, dropout=0.0, pad_token_id=pad, eos_token_id=(end,),
    decoder_start_token_id=pad, name="t5_span_corruption",
)  # fmt: skip
E_bias = to_numpy(model.backbone.encoder_bias.embeddings)  # (buckets, heads), either way round


def bucket(distance):
    d, side = abs(distance), 16 * (distance > 0)
    return side + (d if d < 8 else min(15, 8 + int(np.log(d / 8) / np.log(128 / 8) * 8)))


places = np.arange(40)[None]
layer_bias = to_numpy(model.backbone.encoder_bias(places, places))[0]  # (heads, T, S)
table = E_bias if E_bias.shape[0] == 32 else E_bias.T
by_hand = np.array([[table[bucket(key - query)] for key in range(40)] for query in range(40)])  # (T, S, heads)
assert np.allclose(by_hand.transpose(2, 0, 1), layer_bias, atol=1e-6)
print(f"{model.count_params():,} parameters; positions by hand = the layer. 手算位置 = 层。")

# %% [markdown]
# ## A good start
# The released T5 learned for weeks, beginning with embeddings of deviation 1, which Adam's small steps hardly move, and
# with attention that looks anywhere. We have two minutes, so ours begins with smaller embeddings and with a rough idea:
# - the positions of one head of the encoder point to the left neighbour, those of another to the right one, those of
#   the others near by; in the decoder to what stood just before;
# - in cross-attention queries and keys are alike: a sentinel of the target looks for the same one in the source;
# - what is read is added as it was read, O = V's transpose, only smaller.
#
# All of it may change in training. The head has a table of its own, as in version 1.1 of T5.
#
# ## 好的开端
# 官方 T5 训练了几个星期，嵌入以标准差 1 开始，Adam 的小步子几乎推不动它；注意力一开始哪里都看。我们只有两分钟，
# 所以嵌入从小一些开始，并且先有一个粗略的想法：
# - 编码器的一个头，位置指向左邻，另一个指向右邻，其余的指向附近；解码器里指向刚写下的；
# - 交叉注意力里查询和键的做法相同：目标里的哨兵去找源里同样的哨兵；
# - 读到什么就加上什么，O 取 V 的转置，只是小一些。
#
# 这些在训练中都可以改变。输出头有自己的表，与 T5 的 1.1 版相同。

# %%
backbone = model.backbone
backbone.token_embedding.embeddings.assign(keras.random.normal((V, D), stddev=0.3, seed=1))


def slopes(distances, left, right):
    """−(how steep) · distance on either side of the query, −9 at most."""
    d = np.array(distances)
    return np.maximum(np.where(d < 0, left * d, -right * d), -9.0)


near = np.array([*range(8), 9, 13, 19, 27, 38, 54, 77, 109])  # a distance in each bucket of one side
both = np.concatenate([-near, near])
encoder_table = np.stack([slopes(both, 3, 9), slopes(both, 9, 3), slopes(both, 1, 1), slopes(both, 0.3, 0.3)], axis=1)
encoder_table[0, :2] = -4  # the neighbours, not the place itself
before = np.array([*range(16), *np.round(16 * 8 ** ((np.arange(16) + 0.5) / 16)).astype(int)])
decoder_table = np.stack([slopes(-before, slope, 0) for slope in (3, 1, 0.3, 0)], axis=1)
backbone.encoder_bias.embeddings.assign(encoder_table)
backbone.decoder_bias.embeddings.assign(decoder_table)

attentions = [block.attention for block in [*backbone.encoder_blocks, *backbone.decoder_blocks]]
crossings = [block.cross_attention for block in backbone.decoder_blocks]
for cross in crossings:
    cross.query.kernel.assign(to_numpy(cross.key.kernel) / np.sqrt(cross.head_size))
for attention in attentions + crossings:
    attention.out.kernel.assign(0.3 * to_numpy(attention.value.kernel).T)
for block in [*backbone.encoder_blocks, *backbone.decoder_blocks]:
    block.feedforward.narrow.kernel.assign(0.3 * block.feedforward.narrow.kernel)

# %% [markdown]
# ## Training
# The decoder reads the target one place later, beginning with the padding token, and the loss is −log p of all its
# tokens, sentinels too: that a span ends is also something to know. Every piece is corrupted anew.
#
# ## 训练
# 解码器读的是错后一位的目标，以填充词元开头；损失是所有目标词元的 −log p，哨兵也算：一段到哪里结束，也是要学的。
# 每段文本都重新破坏。

# %%
rounds, steps, batch_size = 8, 100, 32
schedule = keras.optimizers.schedules.CosineDecay(0.0, rounds * steps, warmup_target=5e-3, warmup_steps=60)
model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), kn.losses.TokenCrossEntropy())


def inputs_of(source, target):
    return {"input_ids": source, "decoder_input_ids": shift_right(target, pad, pad)}


test_inputs = inputs_of(test_source, test_target)
some = {name: x[::8] for name, x in test_inputs.items()}
curve = {"training": [], "held out": []}
with tqdm(total=rounds * steps, desc="Training 训练") as bar:
    each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
    for _ in range(rounds):
        starts = random.randint(0, len(train_ids) - length, steps * batch_size)
        source, target = exercises(train_ids[starts[:, None] + np.arange(length)], random, density, mean_span)
        history = model.fit(
            inputs_of(source, target), target, batch_size, verbose=0, callbacks=[each_batch],
            validation_data=(some, test_target[::8]),
        ).history  # fmt: skip
        for values, name in zip(curve.values(), ("loss", "val_loss"), strict=True):
            values += history[name]
        bar.set_postfix(held_out=f"{history['val_loss'][-1]:.3f}")

# %% [markdown]
# ## Beside the baselines
# Of hidden tokens only, and of all three the same is asked: which token of the text, given those before it. Whether a
# span ends here, which only T5 must say too, is left out: its sentinels get probability 0.
#
# ## 与基线相比
# 只看被遮住的词元，对三者问同样的问题：已知前面的，是文本的哪个词元？一段是否到此结束，只有 T5 还得回答，这里不算：
# 把哨兵的概率设为 0。

# %%
logits = model.predict(test_inputs, batch_size=64, verbose=0)  # (N, T, V)
logits[..., [*marks, end, pad]] = -1e9
answers = logits.argmax(axis=-1)
log_p = logits - logits.max(axis=-1, keepdims=True)
log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
right = (answers == test_target)[asked]
scores["T5"] = -np.take_along_axis(log_p, test_target[..., None], axis=-1)[..., 0][asked].mean(), right.mean()
print(f"{asked.sum():,} hidden tokens of three books never seen 三卷没见过的书中被遮住的词元")
print("                 nats a token 每词元   right 正确   as if choosing among 相当于几选一")
for name, (loss, accuracy) in scores.items():
    print(f"{name:16} {loss:12.3f} {accuracy:17.1%} {np.exp(loss):20.1f}")
behind = scores["T5"][0] - scores["bigram 二元模型"][0]
print(f"Behind the bigram by 落后于二元模型: {behind:.2f} nats")
assert scores["T5"][0] < scores["unigram 一元模型"][0] - 0.7 and scores["T5"][1] > 2 * scores["unigram 一元模型"][1]

# %% [markdown]
# ## It fills gaps
# Now without help: the decoder reads only what it has written itself. The gaps in brackets, [written | was there].
#
# ## 它来填空
# 现在没有提示：解码器只读自己写的。空在方括号里：[它写的 | 原来的]。


# %%
def spans(target):
    """{sentinel: the tokens behind it}."""
    found, mark = {}, None
    for token in target:
        if token in marks:
            mark = token
            found[mark] = []
        elif mark is not None and token not in (end, pad):
            found[mark].append(int(token))
    return found


def filled(source, *targets):
    sides, text, part = [spans(target.tolist()) for target in targets], "", []
    for token in source.tolist():
        if token in marks:
            gap = " | ".join(tokenizer.decode(side.get(token, [])) for side in sides)
            text, part = f"{text} {tokenizer.decode(part)} [{gap}]", []
        elif token != end:
            part.append(token)
    return f"{text} {tokenizer.decode(part)}".strip()


tries = 200
written = model.generate({"input_ids": test_source[:tries]}, max_new_tokens=test_target.shape[1] + 8)
gaps = [(spans(a.tolist()), spans(b.tolist())) for a, b in zip(written, test_target[:tries], strict=True)]
gaps = [(ours.get(mark), theirs[mark]) for ours, theirs in gaps for mark in theirs if theirs[mark]]
print(f"{np.mean([ours == theirs for ours, theirs in gaps]):.1%} of {len(gaps)} gaps filled exactly 完全填对的空")
for n in (1, 2, 3, 4):
    of_n = [ours == theirs for ours, theirs in gaps if len(theirs) == n]
    print(f"  {np.mean(of_n):6.1%} of {len(of_n)} gaps of {n} token{'s' * (n > 1)} 个词元的空")
for i in (3, 40, 90, 150):
    print("·", filled(test_source[i], written[i], test_target[i]))

# %% [markdown]
# ## Both sides help
# Within a span the first token has its left neighbour in view, the last one of a gap the text behind it. Right answers
# by place in the span, for spans of four and more, beside the bigram, which knows the true token before.
#
# ## 两侧都有用
# 一段里，第一个词元左边就是露出的文字，最后一个右边紧接着后文。四个词元以上的段里，各个位置答对多少，
# 旁边是知道真正前一个词元的二元模型。

# %%
place, size = np.zeros_like(test_target), np.zeros_like(test_target)  # in its span, from 0; how long that is
for row in range(len(test_target)):
    starts = np.flatnonzero(np.isin(test_target[row], marks))
    for start, stop in zip(starts[:-1], starts[1:], strict=True):
        place[row, start + 1 : stop], size[row, start + 1 : stop] = np.arange(stop - start - 1), stop - start - 1
kinds = {"first": place == 0, "second": place == 1, "last but one": place == size - 2, "last": place == size - 1}
long, bigram_right = (size >= 4)[asked], hidden == best.argmax(axis=1)[current]
by_place = {}
for name, kind in kinds.items():
    chosen = long & kind[asked]
    by_place[name] = right[chosen].mean(), bigram_right[chosen].mean()
for name, (ours, theirs) in by_place.items():
    print(f"{name:14} T5 {ours:.1%}   bigram {theirs:.1%}")

# %%
figure, (left, right_axis) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
for name, values in curve.items():
    left.plot(np.arange(1, rounds + 1) * steps, values, marker="o", label=name)
left.set(xlabel="steps", ylabel="nats a token, sentinels too", title="T5 learns to fill gaps")
left.legend(frameon=False)
positions = np.arange(len(by_place))
for shift, name, column in ((-0.2, "T5", 0), (0.2, "bigram", 1)):
    right_axis.bar(positions + shift, [values[column] for values in by_place.values()], 0.4, label=name)
right_axis.set_xticks(positions, by_place)
right_axis.set(ylabel="right", title="place in a span of four tokens or more")
right_axis.legend(frameon=False)
for axis in (left, right_axis):
    axis.spines[["top", "right"]].set_visible(False)
figure.savefig(folder / "t5_span_corruption.png", dpi=110)

# %%
model.save(folder / "t5_span_corruption.keras")
again = keras.models.load_model(folder / "t5_span_corruption.keras")
few = {name: x[:4] for name, x in test_inputs.items()}
assert np.allclose(again.predict(few, verbose=0), model.predict(few, verbose=0), atol=1e-4)
print(f"Hidden tokens right 填对的词元: {scores['T5'][1]:.1%} (bigram {scores['bigram 二元模型'][1]:.1%})")
print(f"Saved 已保存: {folder / 't5_span_corruption.keras'}, {folder / 't5_span_corruption.png'}")
