# %% [markdown]
# # 04 · Small kernels, everywhere: the CNN
# The MLP of tutorial 01 gives every pixel a weight of its own, so it must learn a stroke anew at every place. A
# convolutional network learns a small pattern once and looks for it everywhere. The pipeline: pad → convolve → max pool
# → flatten.
#
# # 04 · 小小的卷积核看遍全图：卷积网络 (CNN)
# 教程 01 的 MLP 给每个像素一个单独的权重，所以同样的一笔，换个地方就要重新学。
# 卷积网络把小图案学一次，然后到处找它。流程：扩充 → 特征提取（卷积核） → 最大池化 → 扁平化。

# %%
from pathlib import Path

import kerasnets as kn
from kerasnets.preprocessing.pictures import Jittered

import keras
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)

(train_images, train_labels), (test_images, test_labels) = kn.datasets.digits()
mean, deviation = float(train_images.mean()), float(train_images.std())
digit = (train_images[0].astype("float32") - mean) / deviation  # (28, 28), standardised 标准化

# %% [markdown]
# ## Pad
# A border of zeros, so that a 3 × 3 kernel can stand on the outermost pixels too and the picture keeps its size.
#
# ## 扩充
# 四周加一圈零，这样 3 × 3 的卷积核也能放在最外面的像素上，图的大小不变。

# %%
padded = np.pad(digit, 1)  # (30, 30)
ours = kn.layers.ZeroPadding2D(1)(digit[None, :, :, None])
assert np.array_equal(padded, keras.ops.convert_to_numpy(ours)[0, :, :, 0])

# %% [markdown]
# ## Convolve
# y[i, j] = Σ x[i + a, j + b] K[a, b]: lay the kernel on the picture, multiply, add up, move on. This kernel answers to
# edges with ink below. A CNN does not choose its kernels, it learns them.
#
# ## 特征提取（卷积核）
# y[i, j] = Σ x[i + a, j + b] K[a, b]：把卷积核盖在图上，相乘，相加，再往旁边挪。下面这个核对“下面有墨”的边缘有反应。
# CNN 的卷积核不是人选的，是学出来的。

# %%
kernel = np.array([[-1, -1, -1], [0, 0, 0], [1, 1, 1]], "float32")
edges = np.zeros((28, 28), "float32")
for i in range(28):
    for j in range(28):
        edges[i, j] = (padded[i : i + 3, j : j + 3] * kernel).sum()

convolve = kn.layers.Conv2D(1, 3, use_bias=False)
convolve.build((1, 30, 30, 1))
convolve.set_weights([kernel[:, :, None, None]])  # (rows, columns, channels in, kernels)
assert np.allclose(edges, keras.ops.convert_to_numpy(convolve(padded[None, :, :, None]))[0, :, :, 0], atol=1e-5)

# %% [markdown]
# ## Max pool
# Of every 2 × 2 pixels the largest stays: it matters that the pattern was there, less exactly where. The picture is
# half as wide, and the next kernel sees twice as far.
#
# ## 最大池化
# 每 2 × 2 个像素只留最大的：重要的是图案出现过，具体在哪个像素没那么重要。图缩小一半，下一层的卷积核就看得远一倍。

# %%
pooled = edges.reshape(14, 2, 14, 2).max(axis=(1, 3))
assert np.array_equal(
    pooled, keras.ops.convert_to_numpy(kn.layers.MaxPooling2D(2)(edges[None, :, :, None]))[0, :, :, 0]
)

# %% [markdown]
# ## The network
# Three blocks of pad → convolve → pool with 16, 32 and 64 kernels, then flatten and two Dense layers. It has a fifth of
# the weights of the MLP. Dropout leaves out 40 % of the hidden units at each step, so that none relies on another.
#
# ## 整个网络
# 三个“扩充 → 卷积 → 池化”块，分别有 16、32、64 个卷积核，然后扁平化，再加两个全连接层。它的权重只有 MLP 的五分之一。
# Dropout 每一步随机关掉 40% 的隐藏单元，这样谁也不能只靠别人。

# %%
settings = {"mean": mean, "deviation": deviation, "name": "cnn_digits"}
model = kn.CNN(num_classes=10, filters=(16, 32, 64), hidden_size=128, dropout=0.4, **settings)
model(train_images[:1])
model.summary()

mlp = kn.MLP(num_classes=10, hidden_sizes=(512, 256))
mlp(train_images[:1])
print(f"weights 权重: CNN {model.count_params():,}, MLP {mlp.count_params():,}")

# %% [markdown]
# ## Learn
# As in tutorial 01, every digit comes in another pose each time: turned by up to 15 degrees, zoomed by up to 10 %,
# shifted by up to 2 pixels. Only the 4,000 digits themselves are used, and none of the 1,000 for the test.
#
# ## 学习
# 和教程 01 一样，每张数字每次都换个姿势：最多转 15 度，缩放 10%，移动 2 个像素。
# 只用这 4,000 张，不碰测试用的 1,000 张。

# %%
epochs, digits = 30, Jittered(train_images, train_labels, batch_size=100)
schedule = keras.optimizers.schedules.CosineDecay(3e-3, decay_steps=epochs * len(digits))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
with tqdm(total=epochs, desc=model.name) as bar:
    each_epoch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: bar.update())
    history = model.fit(digits, epochs=epochs, verbose=0, callbacks=[each_epoch]).history

# %%
accuracy = model.evaluate(test_images, test_labels, verbose=0, return_dict=True)["accuracy"]
print(f"accuracy in training 训练中: {history['accuracy'][-1]:.3f}, on new digits 新数字: {accuracy:.3f}")
assert accuracy >= 0.98

# %% [markdown]
# ## What the kernels see
# One digit on its way through the blocks: what eight of the kernels of each block find, after pooling. Strokes first,
# then their corners and ends, and at last hardly a picture any more. Below: the digits it gets wrong.
#
# ## 卷积核看到了什么
# 一张数字穿过各块的过程：每块选八个卷积核，画出池化之后的结果。先是笔画，然后是拐角和末端，最后几乎不像图了。
# 最下面是它认错的数字。

# %%
x, found = keras.ops.expand_dims(model.standardise(train_images[:1]), -1), []
for block in model.blocks:
    x = block(x)
    maps = keras.ops.convert_to_numpy(x)[0].transpose(2, 0, 1)  # (kernels, rows, columns)
    found.append(maps[np.argsort(-maps.std(axis=(1, 2)))[:8]])

answers = model.predict(test_images, verbose=0).argmax(axis=1)
wrong = np.flatnonzero(answers != test_labels)[:9]

figure, axes = plt.subplots(4, 9, figsize=(10, 5), layout="constrained")
for axis in axes.flat:
    axis.axis("off")
axes[0, 0].imshow(train_images[0], cmap="gray_r")
for block, (row, maps) in enumerate(zip(axes, found, strict=False)):
    row[1].set_title(f"block {block + 1}: {maps.shape[1]} × {maps.shape[2]}", fontsize=10, loc="left")
    for axis, picture in zip(row[1:], maps, strict=True):
        axis.imshow(picture, cmap="viridis")
for axis, i in zip(axes[3], wrong, strict=False):
    axis.imshow(test_images[i], cmap="gray_r")
    axis.set_title(f"{answers[i]}, not {test_labels[i]}", color="tab:red", fontsize=10)
figure.suptitle(f"CNN: {accuracy:.1%} of 1,000 new digits right")
figure.savefig(folder / "cnn_kernels.png", dpi=120)

# %%
model.save(folder / "cnn_kernels.keras")
again = keras.models.load_model(folder / "cnn_kernels.keras")
assert np.array_equal(again.predict(test_images, verbose=0).argmax(axis=1), answers)
print(f"Test accuracy 测试准确率: {accuracy:.3f}")
print(f"Saved 已保存: {folder / 'cnn_kernels.keras'}, {folder / 'cnn_kernels.png'}")
