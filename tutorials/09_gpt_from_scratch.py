# %% [markdown]
# # 09 · A GPT from scratch
#
# Guess the next token, again and again, over a whole library: that is all a GPT is trained for (causal language
# modelling). Ours is small, its library one book of plain English, and three minutes are enough to see it learn to
# spell, then to speak in sentences. It is `kn.GPT2CausalLM`, the class that also loads the released GPT-2.
#
# # 09 · 从零训练一个 GPT
#
# 在一整座图书馆上反复猜下一个词元：GPT 的训练就只有这一件事（因果语言模型）。我们的 GPT 很小，图书馆只有一本用浅白英语
# 写的书，三分钟就能看到它先学会拼写，再学会说句子。它就是 `kn.GPT2CausalLM`，也就是能加载官方 GPT-2 的那个类。

# %%
from pathlib import Path

import kerasnets as kn
from kerasnets.layers.attention import Cache

import keras
import matplotlib
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Text to tokens
# Byte-pair encoding (Sennrich et al. 2016) starts from single characters and joins the most frequent pair of
# neighbours into a new token, again and again, until the vocabulary is full: frequent words become one token, rare
# ones a few. The Bible in Basic English; three whole books, Judges, Job and John, are set aside to test on.
#
# ## 从文本到词元
# 字节对编码（Sennrich 等，2016）从单个字符开始，把最常相邻的一对合并成新词元，反复进行，直到词表装满：
# 常用词成为一个词元，罕见词拆成几个。文本是基础英语版《圣经》；《士师记》《约伯记》《约翰福音》整本留作测试。

# %%
V, length = 400, 64
train_text, test_text = kn.datasets.english_prose()

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(vocab_size=V, show_progress=False)
tokenizer.train_from_iterator(train_text.splitlines(keepends=True), trainer)


def encode(text):
    chapters = tokenizer.encode_batch(text.splitlines(keepends=True))
    return np.concatenate([chapter.ids for chapter in chapters]).astype("int32")


train_ids, test_ids = encode(train_text), encode(test_text)
assert tokenizer.decode(test_ids.tolist()) == test_text
characters = len(test_text) / len(test_ids)  # in a token
print(f"{len(train_ids):,} tokens to learn from, {len(test_ids):,} to test, {characters:.2f} characters each")
print("The first 开头:", *(repr(tokenizer.decode([i])) for i in train_ids[:12]))

# %% [markdown]
# ## The baseline: a bigram
# Count which token follows which: p(next | current). That is a language model too, with a memory of one token. Pairs
# never seen get a little of the plain frequencies; how much is what is best on the test, which flatters it.
#
# ## 基线：二元模型
# 数一数哪个词元跟在哪个后面：p(下一个 | 当前)。这也是语言模型，只是记忆只有一个词元。没见过的组合分到一点普通词频；
# 分多少，取测试集上最好的，这对基线是优待。

# %%
pairs = np.zeros((V, V))
np.add.at(pairs, (train_ids[:-1], train_ids[1:]), 1)
frequency = (pairs.sum(axis=0) + 1) / (pairs.sum() + V)
tests = [(pairs + a * frequency) / (pairs.sum(axis=1, keepdims=True) + a) for a in (1, 10, 100, 1000)]
bigram = min(-np.log(p[test_ids[:-1], test_ids[1:]]).mean() for p in tests)
print(f"bigram 二元模型: {bigram:.3f} nats a token, {bigram / characters:.3f} a character")

# %% [markdown]
# ## The whole network by hand
# Tokens and positions become vectors; in each block, attention lets a token gather from those before it, and a
# feed-forward layer works on what it has; both add to what was there. The last vectors times the embedding, read
# backwards, are the logits. In NumPy:
#
# ## 手算整个网络
# 词元和位置变成向量；每个块里，注意力让一个词元从前面的词元收集信息，前馈网络再加工；两者都是加到原有的向量上。
# 最后的向量乘以“反过来读”的嵌入矩阵，就是 logits。用 NumPy 写出来：

# %%
model = kn.GPT2CausalLM(
    vocab_size=V, hidden_size=128, num_layers=3, num_heads=4, max_length=length,
    dropout=0.0, embedding_dropout=0.0, attention_dropout=0.0, name="gpt_from_scratch",
)  # fmt: skip


def softmax(x):
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(x, layer):
    g, b = layer.get_weights()
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * g + b


def linear(x, layer):
    W, b = layer.get_weights()
    return x @ W + b


def gpt(ids, backbone, num_heads=4):
    """(T,) → logits (T, V)."""
    tokens, positions = to_numpy(backbone.token_embedding.embeddings), to_numpy(backbone.position_embedding.embeddings)
    x = tokens[ids] + positions[: len(ids)]  # (T, D)
    earlier = np.tril(np.ones((len(ids), len(ids)), bool))
    for block in backbone.blocks:
        qkv = linear(norm(x, block.attention_norm), block.attention.query_key_value)  # (T, 3 D)
        q, k, v = (np.split(part, num_heads, axis=1) for part in np.split(qkv, 3, axis=1))  # N times (T, H)
        scores = [q[n] @ k[n].T / np.sqrt(q[n].shape[1]) for n in range(num_heads)]
        seen = [softmax(np.where(earlier, scores[n], -1e9)) @ v[n] for n in range(num_heads)]
        x = x + linear(np.concatenate(seen, axis=1), block.attention.out)
        wide = gelu(linear(norm(x, block.feedforward_norm), block.feedforward.wide))  # (T, 4 D)
        x = x + linear(wide, block.feedforward.narrow)
    return norm(x, backbone.final_norm) @ tokens.T


some = test_ids[:length]
assert np.allclose(gpt(some, model.backbone), to_numpy(model(some[None]))[0], atol=1e-4)
print(f"{model.count_params():,} parameters; NumPy and our model agree. NumPy 与我们的模型一致。")

# %% [markdown]
# ## The loss by hand
# The label of each token is the one after it, and the loss is −log p(label), the mean over all places: one text gives
# 64 lessons at once. An untrained model is as surprised as someone who guesses: log 400 ≈ 6.
#
# ## 手算损失
# 每个词元的标签就是它的下一个词元，损失是 −log p(标签)，对所有位置取平均：一段文字一次就给出 64 道题。
# 没训练过的模型和瞎猜一样吃惊：log 400 ≈ 6。

# %%
p = softmax(gpt(some[:-1], model.backbone))
loss_by_hand = -np.log(p[np.arange(length - 1), some[1:]]).mean()
loss = kn.losses.TokenCrossEntropy()
assert np.isclose(loss_by_hand, to_numpy(loss(some[None, 1:], model(some[None, :-1]))), rtol=1e-4)
print(f"Before training 训练前: {loss_by_hand:.2f}, log {V} = {np.log(V):.2f}")

# %% [markdown]
# ## A good start
# What the random blocks add is noise at first, and next to it our embeddings are small: it would take hundreds of steps
# until a token is heard through it. So the embeddings start larger, and the last matrix of each sublayer smaller by
# √(2 L), as 2 L sublayers add up (the released GPT-2 began so, too). After 200 steps this makes 3.6 of 4.5 nats.
#
# ## 好的开端
# 一开始，随机的块加进来的只是噪声，而嵌入向量比它小得多：要几百步之后，词元的声音才能透过噪声被听见。
# 所以让嵌入从大一些开始，每个子层的最后一个矩阵则缩小 √(2 L) 倍，因为有 2 L 个子层相加（官方 GPT-2 也是这样开始的）。
# 训练 200 步之后，损失因此是 3.6，而不是 4.5。

# %%
backbone = model.backbone
backbone.token_embedding.embeddings.assign(keras.random.normal((V, 128), stddev=0.1, seed=1))
for block in backbone.blocks:
    for last in (block.attention.out, block.feedforward.narrow):
        last.kernel.assign(last.kernel / np.sqrt(2 * len(backbone.blocks)))

# %% [markdown]
# ## Training
# Pieces of 64 tokens from anywhere in the book. The learning rate rises for a moment, so that Adam learns how large
# the gradients are, and then falls along half a cosine.
#
# ## 训练
# 从书中随处取 64 个词元的片段。学习率先短暂上升，让 Adam 了解梯度有多大，然后沿半个余弦下降。

# %%
rounds, steps, batch_size = 10, 80, 16


def pieces(ids, starts):
    rows = ids[starts[:, None] + np.arange(length + 1)]
    return rows[:, :-1], rows[:, 1:]


random = np.random.RandomState(0)
x, y = pieces(train_ids, random.randint(0, len(train_ids) - length, rounds * steps * batch_size))
test_x, test_y = pieces(test_ids, np.arange(0, len(test_ids) - length, length))
some_x, some_y = test_x[::16], test_y[::16]  # for the curve; the number at the end is from all

schedule = keras.optimizers.schedules.CosineDecay(
    0.0, decay_steps=rounds * steps, warmup_target=5e-3, warmup_steps=40
)  # fmt: skip
model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), loss)
curve = {"training": [], "held out": []}
with tqdm(total=rounds * steps, desc="Training 训练") as bar:
    each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
    for part in np.split(np.arange(len(x)), rounds):
        history = model.fit(
            x[part], y[part], batch_size, verbose=0, callbacks=[each_batch], validation_data=(some_x, some_y)
        ).history
        curve["training"] += history["loss"]
        curve["held out"] += history["val_loss"]
        bar.set_postfix(loss=f"{curve['held out'][-1]:.3f}")

# %%
test_loss = model.evaluate(test_x, test_y, batch_size=64, verbose=0)
print("held-out text 测试文本:  nats a token 每词元   a character 每字符   as if choosing among 相当于几选一")
for name, value in (("guessing 瞎猜", np.log(V)), ("bigram 二元模型", bigram), ("GPT", test_loss)):
    print(f"{name:24} {value:9.3f} {value / characters:20.3f} {np.exp(value):18.1f}")
assert test_loss < bigram - 0.4

# %% [markdown]
# ## It speaks
# Draw a token from p, append it, and again. The keys and values of the earlier tokens stay as they are, so they are
# remembered (the cache), and each step computes one token only. A temperature of 0.7 makes likely tokens likelier.
#
# ## 它开口说话
# 按 p 抽一个词元，接在后面，再来一次。前面词元的键和值不会变，所以记下来（缓存），每一步只算一个词元。
# 温度 0.7 让可能的词元更可能。


# %%
def speak(prompt, seed, temperature=0.7):
    config, random = model.config, np.random.RandomState(seed)
    places = np.zeros((1, length, config.num_heads, config.hidden_size // config.num_heads), "float32")
    nothing = Cache(*map(keras.ops.convert_to_tensor, (places, places, 0)))
    cache, ids = [nothing] * config.num_layers, encode(prompt).tolist()
    new = np.array(ids)
    while True:
        positions = np.arange(len(ids) - len(new), len(ids))
        visible = np.arange(length) <= positions[:, None]  # (T, S): the places filled so far
        inputs = map(keras.ops.convert_to_tensor, (new[None], positions[None], visible[None, None]))
        hidden, cache = model.backbone.decode(*inputs, cache)
        if len(ids) == length:
            return tokenizer.decode(ids)
        p = softmax(to_numpy(model.predict_next(hidden))[0, -1].astype("float64") / temperature)
        new = np.array([random.choice(V, p=p)])
        ids.append(int(new[0]))


print(
    *(speak(prompt, seed) for seed, prompt in enumerate(("And God said", "And the king", "In the days of"))), sep="\n· "
)

# %% [markdown]
# ## What it looks at
# `kn.trace` keeps all that is computed on the way. Above, the loss; below, four heads reading a text it has never seen:
# one looks mostly at the token before, others keep one telling word of the clause in view.
#
# ## 它在看什么
# `kn.trace` 保留途中算出的一切。上：损失；下：四个头在读一段从没见过的文字：
# 有的主要看前一个词元，有的始终盯着分句里的一个关键词。

# %%
shown = encode(test_text.splitlines()[22][:80])[None]  # the first words of Job
trace = kn.trace(model, shown, only="*.attention.probabilities")
maps = np.concatenate([trace[f"backbone.blocks.{i}.attention.probabilities"][0] for i in range(3)])  # (L · N, T, T)
assert np.allclose(maps.sum(axis=-1), 1, atol=1e-4) and not np.triu(maps, 1).any()

below = np.array([np.diagonal(attended, offset=-1).mean() for attended in maps])
first = maps[:, 5:, 0].mean(axis=1)
print("heads by how much they look at the token before 各头看前一个词元的程度:", *(f"{value:.2f}" for value in below))
chosen = [below.argmax(), *np.argsort(below + first)[:3]]
tokens = [tokenizer.decode([i]) for i in shown[0]]

figure = plt.figure(figsize=(16, 8), layout="constrained")
above, under = figure.subfigures(2, 1, height_ratios=(2, 3))
axis = above.subplots()
for name, values in curve.items():
    axis.plot(np.arange(1, rounds + 1) * steps, values, marker="o", label=name)
axis.axhline(bigram, color="grey", linestyle=":", label="bigram")
axis.set(xlabel="steps", ylabel="nats a token", title=f"GPT {test_loss:.2f}, bigram {bigram:.2f} nats a token")
axis.legend(frameon=False)
for axis, i in zip(under.subplots(1, 4), chosen, strict=True):
    axis.imshow(maps[i], cmap="Blues", vmax=0.6)
    axis.set(title=f"block {i // 4 + 1}, head {i % 4 + 1}")
    axis.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=6)
    axis.set_yticks(range(len(tokens)), tokens, fontsize=6)
figure.savefig(folder / "gpt_from_scratch.png", dpi=110)

# %%
model.save(folder / "gpt_from_scratch.keras")
tokenizer.save(str(folder / "gpt_from_scratch_tokenizer.json"))
again = keras.models.load_model(folder / "gpt_from_scratch.keras")
assert np.allclose(again.predict(test_x[:4], verbose=0), model.predict(test_x[:4], verbose=0), atol=1e-5)
print(f"Held-out loss 测试损失: {test_loss:.3f} nats a token (bigram {bigram:.3f})")
print(f"Saved 已保存: {folder / 'gpt_from_scratch.keras'}, {folder / 'gpt_from_scratch.png'}")
