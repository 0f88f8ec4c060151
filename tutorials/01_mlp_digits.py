# %% [markdown]
# # 01 · A network learns to read digits: the MLP
#
# A fully connected network looks at 784 numbers, the pixels of a handwritten digit, and says which digit it is. Nobody
# tells it what a 7 is: it sees 4,000 digits with their names and finds out. This is supervised learning. On the way we
# meet the pipeline of every network: numbers → standardise → flatten.
#
# # 01 · 让网络学会认数字：全连接网络 (MLP)
#
# 全连接网络看到的是 784 个数——一张手写数字的像素——然后说出这是几。没有人告诉它 7 长什么样：
# 它看过 4,000 张带标签的数字，自己学会。这就是监督学习。途中会遇到所有网络共有的流程：数值化 → 标准化 → 扁平化。

# %%
from pathlib import Path

import kerasnets as kn
from kerasnets.layers.standardisation import Standardise
from kerasnets.preprocessing.pictures import Jittered, jitter

import keras
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)

# %% [markdown]
# ## Numbers
# A computer sees no digit, only numbers: 0 is paper, 255 is ink. These are real digits of MNIST, 4,000 to learn from
# and 1,000 that the network will not see before the test. Look at a corner of the first one:
#
# ## 数值化
# 计算机看不到“数字”，只看到数：0 是纸，255 是墨。这是 MNIST 里真实的手写数字：4,000 张用来学习，
# 另外 1,000 张在测试之前网络从没见过。看看第一张图的一角：

# %%
(train_images, train_labels), (test_images, test_labels) = kn.datasets.digits()
print(train_images.shape, train_images.dtype, "the first is a", train_labels[0])
print(train_images[0, 8:18, 8:20])

# %% [markdown]
# ## Standardise
# Networks learn best from numbers around 0. So we subtract the mean of the training set and divide by its standard
# deviation: by hand, then with our layer, and the two agree.
#
# ## 标准化
# 网络最喜欢 0 附近的数。所以先减去训练集的均值，再除以标准差：先手算一遍，再用我们的层，两者一致。

# %%
mean, deviation = float(train_images.mean()), float(train_images.std())
by_hand = (train_images[:100].astype("float32") - mean) / deviation

by_layer = keras.ops.convert_to_numpy(Standardise(mean, deviation)(train_images[:100]))
assert np.allclose(by_hand, by_layer, atol=1e-5)
print(f"from 0 … 255 to {by_layer.min():.2f} … {by_layer.max():.2f}")

# %% [markdown]
# ## Flatten
# A fully connected layer takes a row of numbers, so the 28 × 28 square becomes a row of 784.
#
# ## 扁平化
# 全连接层要的是一行数，所以 28 × 28 的方块排成一行 784 个数。

# %%
rows = by_hand.reshape(100, 784)
assert np.array_equal(rows, keras.ops.convert_to_numpy(kn.layers.Flatten()(by_hand)))

# %% [markdown]
# ## One layer by hand
# A layer is h = φ(x W + b). Every column of W is a pattern; x W says how much of each pattern is in the picture, b is
# how easily it counts, and φ = relu cuts off what is below zero.
#
# ## 手算一层
# 一层就是 h = φ(x W + b)。W 的每一列是一个图案；x W 表示图里含有多少这个图案；b 是门槛；φ = relu 把小于零的部分切掉。

# %%
dense = kn.layers.Dense(16, activation="relu")
h = dense(rows)
W, b = dense.get_weights()  # (784, 16), (16,)
h_by_hand = np.maximum(rows @ W + b, 0)
assert np.allclose(h_by_hand, keras.ops.convert_to_numpy(h), atol=1e-4)

# %% [markdown]
# ## One step of learning by hand
# The last layer gives ten numbers, the logits. softmax turns them into probabilities p. The loss −log p[y] is small
# when the right digit y is likely. Its gradient with respect to the logits is simply p − y, with y as a one-hot vector;
# the weights move a little against it. We take one such step by hand, then let Keras take the same one.
#
# ## 手算一步学习
# 最后一层给出十个数，叫 logits；softmax 把它们变成概率 p。正确数字 y 的概率越大，损失 −log p[y] 越小。
# 损失对 logits 的梯度恰好是 p − y（y 用 one-hot 向量表示），权重朝反方向走一小步。先手算一步，再让 Keras 走同样的一步。

# %%
one_layer = kn.MLP(num_classes=10, hidden_sizes=(), mean=mean, deviation=deviation)
one_layer.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
one_layer(train_images[:1])  # the first call makes the weights
W, b = one_layer.get_weights()

exp = np.exp(rows @ W + b)
p, y = exp / exp.sum(axis=1, keepdims=True), np.eye(10)[train_labels[:100]]  # (100, 10) both
loss = -np.log((p * y).sum(axis=1)).mean()
W_by_hand = W - 0.1 * rows.T @ (p - y) / 100
b_by_hand = b - 0.1 * (p - y).mean(axis=0)

keras_loss = one_layer.train_on_batch(train_images[:100], train_labels[:100])
W, b = one_layer.get_weights()
assert np.allclose(loss, keras_loss, rtol=1e-4)
assert np.allclose(W_by_hand, W, atol=1e-5) and np.allclose(b_by_hand, b, atol=1e-5)
print(f"The loss by hand {loss:.5f}, by Keras {keras_loss:.5f}; the step by hand is Keras's step.")

# %% [markdown]
# ## The network
# Two hidden layers between picture and answer. `kn.MLP` holds the whole pipeline, so it takes the digits as they are.
# Adam is a cleverer way to walk against the gradient than the plain step above. The steps are large first and small at
# the end: the learning rate falls along half a cosine.
#
# ## 整个网络
# 在图像和答案之间放两个隐藏层。`kn.MLP` 包含整个流程，所以原始数字可以直接输入。
# Adam 也是沿梯度的反方向走，只是比上面那一步更聪明。步子先大后小：学习率沿半个余弦下降。


# %%
def train(digits, epochs, name):
    model = kn.MLP(num_classes=10, hidden_sizes=(512, 256), dropout=0.2, mean=mean, deviation=deviation, name=name)
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, decay_steps=epochs * len(digits))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    with tqdm(total=epochs, desc=name) as bar:
        each_epoch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: bar.update())
        model.fit(digits, epochs=epochs, verbose=0, callbacks=[each_epoch])
    return model


def accuracy(model, images, labels):
    return model.evaluate(images, labels, verbose=0, return_dict=True)["accuracy"]


as_they_are = Jittered(train_images, train_labels, batch_size=100, turn=0, zoom=0, shift=0)  # batches, nothing else
by_heart = train(as_they_are, epochs=10, name="mlp_by_heart")
by_heart.summary()

# %% [markdown]
# ## Learned by heart?
# On the digits it has learned from it is all but perfect; on new ones it is worse. Part of what it knows it has learned
# by heart.
#
# ## 是不是死记硬背？
# 在学过的数字上它几乎全对，在新数字上就差一些：有一部分它只是背下来了。

# %%
plain = accuracy(by_heart, test_images, test_labels)
print(f"learned digits 学过的: {accuracy(by_heart, train_images, train_labels):.3f}   new ones 新的: {plain:.3f}")

# %% [markdown]
# ## The same digits in other poses
# A 3 that leans is still a 3. If every digit comes turned, zoomed and shifted a little, differently each time, there is
# nothing left to learn by heart, only what makes a 3 a 3. This needs no new label.
#
# ## 换个姿势
# 歪一点的 3 还是 3。如果每张图每次都稍微转一转、缩放一点、挪一挪，就没有东西可背了，
# 只能学“3 之所以是 3”。这不需要任何新标签（数据增强）。

# %%
poses = np.stack([jitter(train_images[:12], np.random.RandomState(seed)) for seed in range(3)])  # (3, 12, 28, 28)
model = train(Jittered(train_images, train_labels, batch_size=100), epochs=30, name="mlp_digits")
test_accuracy = accuracy(model, test_images, test_labels)
print(f"new digits 新数字: {plain:.3f} → {test_accuracy:.3f}")
assert test_accuracy >= 0.95 and test_accuracy > plain

# %% [markdown]
# ## What it sees and where it errs
# Above: the same twelve digits in three poses. In the middle: the digits it gets wrong, with its answer and the right
# one. Below: the patterns of some hidden units, columns of W laid out as pictures again; red adds, blue takes away.
#
# ## 它看到了什么，错在哪里
# 上：同样十二个数字的三种姿势。中：它认错的数字，附上它的答案和正确答案。
# 下：一些隐藏单元的图案，也就是把 W 的列重新排成图；红色加分，蓝色减分。

# %%
answers = model.predict(test_images, verbose=0).argmax(axis=1)
wrong = np.flatnonzero(answers != test_labels)[:12]
kernel = keras.ops.convert_to_numpy(model.blocks[0].kernel)  # (784, 512)
patterns = kernel.T[np.argsort(-kernel.std(axis=0))[:12]].reshape(-1, 28, 28)

figure, axes = plt.subplots(5, 12, figsize=(12, 5.6), layout="constrained")
for axis in axes.flat:
    axis.axis("off")
for axis, picture in zip(axes[:3].flat, poses.reshape(-1, 28, 28), strict=True):
    axis.imshow(picture, cmap="gray_r")
for axis, i in zip(axes[3], wrong, strict=False):
    axis.imshow(test_images[i], cmap="gray_r")
    axis.set_title(f"{answers[i]}, not {test_labels[i]}", color="tab:red", fontsize=10)
for axis, pattern in zip(axes[4], patterns, strict=True):
    axis.imshow(pattern, cmap="RdBu_r", vmin=-np.abs(pattern).max(), vmax=np.abs(pattern).max())
figure.suptitle(f"MLP: {test_accuracy:.1%} of 1,000 new digits right")
figure.savefig(folder / "mlp_digits.png", dpi=120)

# %% [markdown]
# ## Keep it
# The file holds the whole pipeline, mean and deviation too: it takes raw digits, on any backend.
#
# ## 保存
# 文件里有整个流程，包括均值和标准差：在任何后端上都可以直接输入原始数字。

# %%
model.save(folder / "mlp_digits.keras")
again = keras.models.load_model(folder / "mlp_digits.keras")
assert np.array_equal(again.predict(test_images, verbose=0).argmax(axis=1), answers)
print(f"Test accuracy 测试准确率: {test_accuracy:.3f}")
print(f"Saved 已保存: {folder / 'mlp_digits.keras'}, {folder / 'mlp_digits.png'}")
