# %% [markdown]
# # 10 · From GPT-2 to LLaMA in four changes
#
# LLaMA (Touvron et al. 2023) is GPT-2 (Radford et al. 2019) with four parts replaced, and so are Qwen, Baichuan,
# ChatGLM and most others: the norm, the positions, the heads of keys and values, the feed-forward layer. We take them
# one after the other: the equation by hand, our layer, and then what the change does to the loss, on the same text and
# for the same number of steps.
#
# # 10 · 从 GPT-2 到 LLaMA：四处改动
#
# LLaMA（Touvron 等，2023）就是换了四个零件的 GPT-2（Radford 等，2019），Qwen、Baichuan、ChatGLM 等大多数模型也是如此：
# 归一化、位置编码、键和值的头数、前馈网络。我们一个一个地换：先手算公式，再用我们的层，
# 然后看这一处改动对损失的影响；文本相同，步数相同。

# %%
import time
from pathlib import Path

import kerasnets as kn
from kerasnets.layers.attention import attend, attention, merge_heads, split_heads
from kerasnets.layers.position import rotate

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
random = np.random.RandomState(0)

# %% [markdown]
# ## 1 · RMSNorm
# GPT-2's norm subtracts the mean, divides by the standard deviation, and learns a factor and a bias for each channel.
# LLaMA leaves out mean and bias (Zhang & Sennrich 2019): y = x / √(mean(x²) + ε) · g. Elsewhere, too, it has no biases.
#
# ## 1 · RMSNorm
# GPT-2 的归一化减去均值、除以标准差，每个通道再学一个系数和一个偏置。LLaMA 省去了均值和偏置（Zhang & Sennrich 2019）：
# y = x / √(mean(x²) + ε) · g。其他地方也都没有偏置。

# %%
x = random.normal(size=(2, 5, 64)).astype("float32")
layer = kn.layers.RMSNormalization(epsilon=1e-6)
y = to_numpy(layer(x))
(g,) = layer.get_weights()
assert np.allclose(x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * g, y, atol=1e-5)

# %% [markdown]
# ## 2 · Rotary positions
# GPT-2 adds a learned vector for each position. LLaMA turns queries and keys instead (Su et al. 2021): take channels i
# and i + H/2 as one complex number and multiply it by exp(i t fᵢ) at position t. When a query meets a key, the turns
# cancel but for the distance: wherever both stand, their score depends only on how far they are apart.
#
# ## 2 · 旋转位置编码
# GPT-2 给每个位置加一个学到的向量。LLaMA 改为旋转查询和键（Su 等，2021）：把通道 i 和 i + H/2 看成一个复数，
# 在位置 t 乘以 exp(i t fᵢ)。查询与键相遇时，旋转互相抵消，只剩距离：无论两者在哪里，分数只取决于它们相隔多远。

# %%
H = 16
f = 10000.0 ** (-np.arange(H // 2) / (H // 2))


def turn(x, t):
    """(H,) at position t → (H,)."""
    z = (x[: H // 2] + 1j * x[H // 2 :]) * np.exp(1j * t * f)
    return np.concatenate([z.real, z.imag])


q, k = random.normal(size=(2, H))
rotary = kn.layers.RotaryEmbedding(H)
by_layer = to_numpy(rotary(q[None, None, None].astype("float32"), np.array([[7]])))  # (B, T, N, H)
assert np.allclose(turn(q, 7), by_layer[0, 0, 0], atol=1e-5)
assert np.isclose(turn(q, 7) @ turn(k, 3), turn(q, 107) @ turn(k, 103))  # four apart, here and a hundred further on

# %% [markdown]
# ## 3 · Groups of queries
# While it writes, a model keeps the keys and values of all earlier tokens: at length this memory is what costs. So
# several query heads share one head of keys and values (grouped-query attention, Ainslie et al. 2023): query head n
# reads key head ⌊n K / N⌋. Here four queries share two keys.
#
# ## 3 · 分组查询
# 模型写作时要保存前面所有词元的键和值：文本一长，最费的就是这块内存。于是几个查询头共用一个键值头
# （分组查询注意力，Ainslie 等，2023）：第 n 个查询头读第 ⌊n K / N⌋ 个键头。这里四个查询头共用两个键头。

# %%
N, K = 4, 2
q, k, v = (random.normal(size=(1, 5, heads, H)).astype("float32") for heads in (N, K, K))
by_hand = []
for n in range(N):
    exp = np.exp(q[0, :, n] @ k[0, :, n * K // N].T / np.sqrt(H))  # (T, T)
    by_hand.append(exp / exp.sum(axis=1, keepdims=True) @ v[0, :, n * K // N])
assert np.allclose(np.stack(by_hand, axis=1), to_numpy(attend(q, k, v).output)[0], atol=1e-5)

# %% [markdown]
# ## 4 · SwiGLU
# GPT-2's feed-forward layer is gelu(x W₁ + b₁) W₂ + b₂. LLaMA adds a gate that decides how much of each channel passes
# (Shazeer 2020): (silu(x G) ⊙ (x U)) W, silu(x) = x σ(x). Three matrices instead of two, so each is two thirds as wide.
#
# ## 4 · SwiGLU
# GPT-2 的前馈网络是 gelu(x W₁ + b₁) W₂ + b₂。LLaMA 加了一道门，决定每个通道放行多少（Shazeer 2020）：
# (silu(x G) ⊙ (x U)) W，silu(x) = x σ(x)。矩阵从两个变成三个，所以每个只有三分之二宽。

# %%
gated = kn.layers.GatedFeedForward(168)
y = to_numpy(gated(x))
G, U, W = gated.get_weights()
a = x @ G
assert np.allclose(a / (1 + np.exp(-a)) * (x @ U) @ W, y, atol=1e-5)
print(
    "RMSNorm, rotary positions, groups and SwiGLU by hand and by our layers: the same. 四个零件，手算与我们的层一致。"
)

# %% [markdown]
# ## Five models
# First GPT-2, written with our layers, one character at a time: three blocks, 64 wide. Each change then overrides one
# method and keeps the rest. All begin with blocks that add little to the tokens (see tutorial 09).
#
# ## 五个模型
# 先用我们的层写出 GPT-2，逐个字符地读：三个块，宽 64。然后每处改动只改写一个方法，其余不动。
# 所有模型的块一开始都只给词元加一点点（见教程 09）。

# %%
train_text, test_text = kn.datasets.english_prose()
alphabet = sorted(set(train_text))
V, D, L, length = len(alphabet), 64, 3, 64
number = np.zeros(128, "int32")
number[[ord(character) for character in alphabet]] = np.arange(V)
train_ids, test_ids = (number[np.frombuffer(text.encode("ascii"), "uint8")] for text in (train_text, test_text))


little = keras.initializers.VarianceScaling(0.25, "fan_avg", "uniform")


class Attention(keras.layers.Layer):
    def __init__(self, num_kv_heads, use_bias):
        super().__init__()
        self.num_kv_heads = num_kv_heads
        self.query = kn.layers.Dense(N * H, use_bias=use_bias)
        self.key = kn.layers.Dense(num_kv_heads * H, use_bias=use_bias)
        self.value = kn.layers.Dense(num_kv_heads * H, use_bias=use_bias)
        self.out = kn.layers.Dense(D, use_bias=use_bias, kernel_initializer=little.clone())

    def call(self, x, turned):
        q = split_heads(self.query(x), N)  # (B, T, N, H)
        k, v = (split_heads(part(x), self.num_kv_heads) for part in (self.key, self.value))  # (B, T, K, H)
        return self.out(merge_heads(attention(turned(q), turned(k), v, is_causal=True)))


class Block(keras.layers.Layer):
    def __init__(self, model):
        super().__init__()
        self.attention_norm, self.attention = model.make_norm(), Attention(model.num_kv_heads, model.use_bias)
        self.feedforward_norm, self.feedforward = model.make_norm(), model.make_feedforward()

    def call(self, x, turned):
        x = x + self.attention(self.attention_norm(x), turned=turned)
        return x + self.feedforward(self.feedforward_norm(x))


class GPT2(keras.Model):
    num_kv_heads, use_bias = N, True

    def __init__(self):
        super().__init__()
        self.token_embedding = kn.layers.Embedding(V, D, keras.initializers.RandomNormal(stddev=0.1))
        self.make_positions()
        self.blocks = [Block(self) for _ in range(L)]
        self.final_norm = self.make_norm()
        self.head = kn.layers.CausalLMHead(V, tied=True)

    def make_norm(self):
        return kn.layers.LayerNormalization(epsilon=1e-5)

    def make_positions(self):
        self.position_embedding = kn.layers.PositionEmbedding(length)

    def make_feedforward(self):
        return kn.layers.FeedForward(4 * D, "gelu", kernel_initializer=little)

    def add_positions(self, x):
        """x with its positions, and what is done to queries and keys."""
        return x + self.position_embedding(x), lambda q: q

    def call(self, ids):
        x, turned = self.add_positions(self.token_embedding(ids))  # (B, T, D)
        for block in self.blocks:
            x = block(x, turned=turned)
        return self.head(self.final_norm(x), self.token_embedding.embeddings)  # (B, T, V)


class WithRMSNorm(GPT2):
    use_bias = False

    def make_norm(self):
        return kn.layers.RMSNormalization(epsilon=1e-6)

    def make_feedforward(self):
        return kn.layers.FeedForward(4 * D, "gelu", use_bias=False, kernel_initializer=little)


class WithRotary(WithRMSNorm):
    def make_positions(self):
        self.rotary = kn.layers.RotaryEmbedding(H)

    def add_positions(self, x):
        cos, sin = self.rotary.cos_sin(keras.ops.arange(x.shape[1])[None])
        return x, lambda q: rotate(q, cos, sin)


class WithGroups(WithRotary):
    num_kv_heads = K


class WithSwiGLU(WithGroups):
    def make_feedforward(self):
        return kn.layers.GatedFeedForward(168, kernel_initializer=little)


changes = {"GPT-2": GPT2, "+ RMSNorm, no biases": WithRMSNorm, "+ rotary positions": WithRotary}
changes |= {"+ groups (GQA)": WithGroups, "+ SwiGLU = LLaMA": WithSwiGLU}

# %% [markdown]
# ## The same budget for all
# Every model sees the same pieces of text in the same order. Judges, Job and John are held out.
#
# ## 同样的预算
# 每个模型以同样的顺序看同样的文本片段。《士师记》《约伯记》《约翰福音》留作测试。

# %%
rounds, steps, batch_size = 8, 50, 16


def pieces(ids, starts):
    rows = ids[starts[:, None] + np.arange(length + 1)]
    return rows[:, :-1], rows[:, 1:]


train_x, train_y = pieces(train_ids, random.randint(0, len(train_ids) - length, rounds * steps * batch_size))
test_x, test_y = pieces(test_ids, np.arange(0, len(test_ids) - length, 4 * length))


def train(make):
    """(the model, its held-out loss after each round, milliseconds of a step)."""
    keras.utils.set_random_seed(0)
    model = make()
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=rounds * steps, warmup_target=6e-3, warmup_steps=40
    )
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), kn.losses.TokenCrossEntropy())
    losses, seconds = [], []
    each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
    for part in np.split(np.arange(len(train_x)), rounds):
        start = time.perf_counter()
        model.fit(train_x[part], train_y[part], batch_size=batch_size, verbose=0, callbacks=[each_batch])
        seconds.append(time.perf_counter() - start)
        losses.append(model.evaluate(test_x[::4], test_y[::4], batch_size=256, verbose=0))
    losses[-1] = model.evaluate(test_x, test_y, batch_size=256, verbose=0)  # on the way a quarter of it will do
    return model, losses, 1000 * np.median(seconds[1:]) / steps


curves, results = {}, {}
with tqdm(total=len(changes) * rounds * steps, desc="Training 训练") as bar:
    for name, make in changes.items():
        bar.set_postfix_str(name)
        model, curves[name], milliseconds = train(make)
        results[name] = model.count_params(), 2 * L * make.num_kv_heads * H, milliseconds, curves[name][-1]

print("parameters   kept per character   ms a step   nats a character")
print("参数个数      每字符保存的数          每步毫秒      每字符损失")
for name, (parameters, kept, milliseconds, loss) in results.items():
    print(f"{parameters:10,} {kept:20} {milliseconds:11.1f} {loss:18.3f}   {name}")

# %% [markdown]
# One run each, a short one: differences of a few hundredths may be chance. What is not chance: rotary positions help
# most, since nobody has to learn first what "the character before" means. Groups halve the memory and cost a little.
#
# 每种只跑了一次，而且很短：百分之几的差别可能是偶然。不是偶然的是：旋转位置编码帮助最大，
# 因为不必先学会“前一个字符”是什么意思；分组让内存减半，代价很小。

# %%
gpt2_loss, llama_loss = curves["GPT-2"][-1], curves["+ SwiGLU = LLaMA"][-1]
assert llama_loss < gpt2_loss - 0.05

# %% [markdown]
# ## It is LLaMA
# The last model is `kn.LLaMACausalLM`, the class that loads the released LLaMAs: with the same weights it gives the
# same logits.
#
# ## 它就是 LLaMA
# 最后一个模型就是 `kn.LLaMACausalLM`，也就是能加载官方 LLaMA 的那个类：权重相同，logits 就相同。

# %%
llama = kn.LLaMACausalLM(
    vocab_size=V, hidden_size=D, num_layers=L, num_heads=N, num_kv_heads=K, feedforward_size=168, max_length=length,
    tied=True, name="llama_blocks",
)  # fmt: skip
llama.set_weights(model.get_weights())
ours, theirs = to_numpy(model(test_x[:8])), to_numpy(llama(test_x[:8]))
assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
print(f"The largest difference of the logits 最大差别: {np.abs(ours - theirs).max():.1e} of {np.abs(theirs).max():.1f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
for name, losses in curves.items():
    left.plot(np.arange(1, rounds + 1) * steps, losses, marker="o", label=name)
left.set(xlabel="steps", ylabel="held-out nats a character", title="The same text, the same steps")
left.legend(frameon=False)
right.barh(list(results), [loss for *_, loss in results.values()], color=[f"C{i}" for i in range(5)])
right.invert_yaxis()
right.set(xlim=(0.95 * llama_loss, 1.02 * gpt2_loss), title=f"{gpt2_loss:.3f} → {llama_loss:.3f}")
figure.savefig(folder / "llama_blocks.png", dpi=120)

llama.save(folder / "llama_blocks.keras")
again = keras.models.load_model(folder / "llama_blocks.keras")
assert np.allclose(to_numpy(again(test_x[:8])), theirs, atol=1e-5)
print(f"Held-out loss 测试损失: GPT-2 {gpt2_loss:.3f} → LLaMA {llama_loss:.3f} nats a character")
print(f"Saved 已保存: {folder / 'llama_blocks.keras'}, {folder / 'llama_blocks.png'}")
