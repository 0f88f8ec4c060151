# %% [markdown]
# # 05 · SimpleRNN: how many sunspots next year?
# Since 1700 people have counted the dark spots on the sun. The count rises and falls in a cycle of about eleven years,
# but no two cycles are alike. We train a recurrent network 循环网络 on the years before 1950 and let it forecast every
# year from 1950 to 2008, one year ahead.
#
# 从 1700 年起，人们一直在数太阳上的黑子。黑子数大约每十一年起落一次，但没有两个周期完全相同。
# 我们用 1950 年以前的数据训练一个循环网络（RNN），再让它逐年预测 1950 到 2008 年，每次只向前看一年。

# %%
from pathlib import Path

import kerasnets as kn

import keras
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)

# %% [markdown]
# ## The equation
# A recurrent network reads a sequence step by step. It keeps a state h, and at each step mixes the new input with it:
# h_t = tanh(x_t W + h_{t−1} U + b). W, U and b are the same at every step: that is why any length will do.
#
# ## 公式
# 循环网络一步一步地读序列。它保存一个状态 h，每一步把新的输入和旧的状态混合起来：
# h_t = tanh(x_t W + h_{t−1} U + b)。每一步用的都是同一组 W、U、b，所以序列多长都可以。

# %%
layer = kn.layers.SimpleRNN(4)
x = np.random.RandomState(0).normal(size=(1, 6, 3)).astype("float32")  # one sequence of 6 steps, 3 numbers each
output = keras.ops.convert_to_numpy(layer(x))
W, U, b = layer.get_weights()

h = np.zeros(4)
for t in range(6):
    h = np.tanh(x[0, t] @ W + h @ U + b)

assert np.allclose(h, output[0], atol=1e-5)
print("By hand 手算:   ", h.round(4))
print("Our layer 我们的层:", output[0].round(4))

# %% [markdown]
# ## The data: numbers → standardise → windows
# Each example is the last 22 years, two cycles, and its answer is the year that follows. Mean and deviation are those
# of the training years alone: the future must not leak into the past.
#
# ## 数据：数值化 → 标准化 → 切成窗口
# 每个样本是过去 22 年（两个周期），答案是下一年。均值和标准差只用训练年份来算：不能让未来泄漏到过去。

# %%
years, numbers = kn.datasets.sunspots()
past, first_test_year = 22, 1950
mean, deviation = numbers[years < first_test_year].mean(), numbers[years < first_test_year].std()
standardised = (numbers - mean) / deviation

windows = np.lib.stride_tricks.sliding_window_view(standardised, past)[:-1, :, None]  # (examples, 22, 1)
answers, answer_years = standardised[past:, None], years[past:]
train = answer_years < first_test_year
print(f"{train.sum()} training years, {(~train).sum()} held-out years 训练 {train.sum()} 年，留出 {(~train).sum()} 年")

# %% [markdown]
# ## Training
# 16 units are enough, and few epochs: 228 examples are soon learned by heart. (The number of epochs was chosen by
# holding out 1900–1949, not the test years.)
#
# ## 训练
# 16 个单元就够了，轮数也要少：228 个样本很快就会被背下来。（轮数是留出 1900–1949 年选定的，没有用测试年份。）

# %%
model = kn.RNN(num_outputs=1, cell="simple", hidden_size=16)
model.compile(keras.optimizers.Adam(3e-3), loss="mse")
epochs = 60
with tqdm(total=epochs, desc="Training 训练") as bar:
    each_epoch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: bar.update())
    model.fit(windows[train], answers[train], batch_size=32, epochs=epochs, verbose=0, callbacks=[each_epoch])

# %% [markdown]
# ## Is it any good?
# A forecast is worth something only if it beats what costs nothing: *persistence* says that next year will be like
# this one, *season* says that it will be like the year eleven years before it.
#
# ## 预测得好吗？
# 只有胜过不费力气的方法，预测才有价值：“持续法”说明年和今年一样，“季节法”说明年和十一年前一样。

# %%
test = np.flatnonzero(years >= first_test_year)
truth = numbers[test]
forecasts = {
    "persistence 持续法": numbers[test - 1],
    "season, 11 years 季节法": numbers[test - 11],
    "SimpleRNN": model.predict(windows[~train], verbose=0)[:, 0] * deviation + mean,
}
errors = {name: np.abs(forecast - truth).mean() for name, forecast in forecasts.items()}
for name, forecast in forecasts.items():
    root_mean_square = np.sqrt(((forecast - truth) ** 2).mean())
    print(f"mean error {errors[name]:5.1f}   root mean square {root_mean_square:5.1f}   {name}")
assert errors["SimpleRNN"] < min(error for name, error in errors.items() if name != "SimpleRNN")

# %%
figure, (series, bars) = plt.subplots(1, 2, figsize=(12, 4), width_ratios=[4, 1], layout="constrained")
series.plot(years, numbers, color="0.7", label="counted")
series.plot(years[test], truth, color="0.2", label="counted, held out")
series.plot(years[test], forecasts["SimpleRNN"], color="tab:red", label="SimpleRNN, one year ahead")
series.axvline(first_test_year, color="0.5", linestyle=":")
series.set(xlim=(1850, 2010), xlabel="year", ylabel="sunspot number", title="Sunspots, forecast one year ahead")
series.legend(loc="upper left", frameon=False)
bars.bar(["persistence", "season", "SimpleRNN"], errors.values(), color=["0.7", "0.7", "tab:red"])
bars.set(ylabel="mean error", title=f"{first_test_year}–{years[-1]}")
bars.tick_params("x", rotation=30)
for axes in (series, bars):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(folder / "simple_rnn_sunspots.png", dpi=120)

# %%
model.save(folder / "simple_rnn_sunspots.keras")
print(f"Mean error 平均误差: {errors['SimpleRNN']:.1f}")
print(f"Saved 已保存: {folder / 'simple_rnn_sunspots.keras'}, {folder / 'simple_rnn_sunspots.png'}")
