# %% [markdown]
# # 26 · T5: dates of a hundred languages
#
# T5 (Raffel et al. 2019, arXiv:1910.10683) makes every task a text that becomes another text, and a prefix says which
# task is meant. Ours reads a date as it is written in one of more than a hundred languages, and writes it as computers
# do ("ISO: …"), or in English ("English: …"). One network, both tasks, and dates that it has never seen:
#
# > ISO: 2026年11月28日星期六 → 2026-11-28
# > English: sobota 28. listopadu 2026 → November 28, 2026
#
# # 26 · T5：一百多种语言的日期
#
# T5（Raffel 等，2019，arXiv:1910.10683）把一切任务都变成“文本到文本”，由前缀说明是哪个任务。我们的模型读一百多种语言
# 写成的日期，写成计算机用的样子（“ISO: …”），或者写成英文（“English: …”）。同一个网络，两个任务，
# 而且测试的日期从没见过。

# %%
import datetime
import re
from collections import Counter
from pathlib import Path

import kerasnets as kn
from kerasnets.seq2seq import shift_right

import keras
import matplotlib
import numpy as np
from babel import Locale, localedata
from babel.dates import format_date, get_month_names
from dateutil import parser
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Real dates
# CLDR, the Common Locale Data Repository of the Unicode consortium, knows how dates are written, and the package
# `babel` carries it. We take the 104 languages that name the most countries and regions there, a sign of care, of those
# that have words of their own for the months; of each date the full and the long form. A tenth of all days of two
# centuries is set aside: no date of the test was seen in any language, in any form.
#
# ## 真实的日期
# 各种语言怎么写日期，Unicode 联盟的 CLDR（通用区域数据库）里都有，`babel` 包带着它。在月份有自己名称的语言中，
# 我们取能说出最多国家和地区名字的 104 种（说明资料用心）；每个日期取完整和长两种写法。两百年里所有的日子
# 留出十分之一：测试的日期，训练时在任何语言、任何写法里都没出现过。


# %%
def has_months(language):
    """Whether the months have names of their own, not just numbers or what stands where nothing is known."""
    names, unknown = (get_month_names("wide", locale=locale) for locale in (language, "root"))
    return all(names[m] != unknown[m] for m in range(1, 13))


known = [name for name in sorted(localedata.locale_identifiers()) if "_" not in name and has_months(name)]
languages = sorted(sorted(known, key=lambda name: -len(Locale.parse(name).territories))[:104])
print(f"{len(languages)} of {len(known)} languages 种语言:", *languages)
first_day = datetime.date(1900, 1, 1)
random = np.random.RandomState(0)
days = random.permutation((datetime.date(2100, 1, 1) - first_day).days)
test_days, train_days = np.split(days, [len(days) // 10])


def exercises(days, count, random):
    """`count` tuples (language, what is to be read with its prefix, what is to be written)."""
    found = []
    for _ in range(count):
        day = first_day + datetime.timedelta(int(random.choice(days)))
        language, form = random.choice(languages), random.choice(["full", "long"])
        task, answer = ("ISO", day.isoformat()) if random.rand() < 0.7 else ("English", format_date(day, "long", "en"))
        found.append((language, f"{task}: {format_date(day, form, language)}", answer))
    return found


rounds, steps, batch_size = 10, 180, 32
train = exercises(train_days, rounds * steps * batch_size, random)
test = exercises(test_days, 2500, random)
assert not {text for _, text, _ in train} & {text for _, text, _ in test}
print(
    f"{len(languages)} languages 种语言, {len(train):,} examples to learn from 训练样本, {len(test):,} to test 测试样本"
)
for language, text, answer in test[:8]:
    print(f"{language:4}{text} → {answer}")

# %% [markdown]
# ## A trap
# Listopad, the month of falling leaves, is October in Croatian, but November in Czech and Polish. Only the ending, and
# where the dots stand, tell them apart. Are there texts that mean two days? Then nobody could be right always.
#
# ## 一个陷阱
# listopad（落叶之月）在克罗地亚语里是十月，在捷克语和波兰语里却是十一月，只有词尾和点的位置能区分。
# 有没有同一段文字表示两个日子的情况？如果有，谁也不可能全对。

# %%
meanings = {}
for language in languages:
    for month in range(1, 13):
        for form in ("full", "long"):
            day = datetime.date(2026, month, 28)
            meanings.setdefault(format_date(day, form, language), set()).add(day)
            if "listopad" in format_date(day, form, language) and form == "long":
                print(f"{language}: {format_date(day, form, language)} = {day}")
print(
    f"{len(meanings):,} ways to write 12 days 种写法; of two meanings 有两种意思:",
    sum(len(m) > 1 for m in meanings.values()),
)

# %% [markdown]
# ## The baseline: a parser
# `dateutil` reads dates in many ways of writing, written by hand for English over twenty years.
#
# ## 基线：解析程序
# `dateutil` 能读许多种写法的日期：二十年来手写的规则，针对英文。


# %%
def parsed(text):
    try:
        return parser.parse(text, dayfirst=True).date().isoformat()
    except (ValueError, OverflowError):
        return ""


iso = [(language, text.removeprefix("ISO: "), answer) for language, text, answer in test if text.startswith("ISO: ")]
baseline = np.mean([parsed(text) == answer for _, text, answer in iso])
print(f"dateutil: {baseline:.1%} of {len(iso):,} right 读对")

# %% [markdown]
# ## Tokens
# A unigram tokenizer, T5's kind, shared by all languages: frequent words are one token, others a few. Years and
# the numbers from 00 to 99 are tokens of their own, so that a date never seen is made of known parts: 2026 - 11 - 28.
#
# ## 词元
# 各种语言共用一个 unigram 分词器，与 T5 同类：常见词是一个词元，其余的拆成几个。年份和 00 到 99 这些数各成一个词元，
# 这样没见过的日期也是由见过的部分组成的：2026 - 11 - 28。

# %%
words = (re.sub(r"\d+", " 0 1 2 3 4 5 6 7 8 9 ", text) for _, *pair in train for text in pair)
tokenizer = kn.Tokenizer.train(words, "unigram", vocab_size=3000)
tokenizer.backend.add_tokens([f"{number:02}" for number in (*range(100), *range(1900, 2100))])
V, pad, end = tokenizer.vocab_size, tokenizer.pad_token_id, tokenizer.eos_token_id
for _, text, answer in test[:3]:
    print(*tokenizer.tokenize(text), "→", *tokenizer.tokenize(answer))

lengths = [max(map(len, tokenizer.encodings([pair[i] for pair in train + test]))) for i in (1, 2)]


def arrays(examples):
    """(model inputs, labels with −100 for padding); the decoder reads the labels one place later."""
    source = tokenizer([text for _, text, _ in examples], padding=lengths[0])
    labels = tokenizer([answer for *_, answer in examples], padding=lengths[1])["input_ids"]
    labels = np.where(labels == pad, -100, labels)
    return source | {"decoder_input_ids": shift_right(labels, pad, pad)}, labels


# %% [markdown]
# ## Near and far, by hand
# T5 adds no positions to its tokens. How far a key stands from a query, j − i, is put into one of 32 buckets: one for
# each small distance, ever wider ones further on; half of them for keys after the query. Each head learns one number
# for each bucket, which is added to the scores of all blocks.
#
# ## 手算远近
# T5 不给词元加位置。键离查询有多远，即 j − i，被放进 32 个桶之一：小的距离各有一个桶，越远桶越宽；
# 一半的桶留给查询之后的键。每个头为每个桶学一个数，加到所有块的分数上。


# %%
def bucket(distance):
    side, d = 16 * (distance > 0), abs(distance)
    return side + (d if d < 8 else min(15, 8 + int(np.log(d / 8) / np.log(128 / 8) * 8)))


D = 128
model = kn.T5Seq2SeqLM(
    vocab_size=V, hidden_size=D, num_layers=2, num_decoder_layers=2, num_heads=4, head_size=32, feedforward_size=256,
    dropout=0.0, pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=(end,), name="t5_dates",
)  # fmt: skip
layer = model.backbone.encoder_bias
R, places = to_numpy(layer.embeddings), np.arange(40)
by_hand = np.array([[R[bucket(j - i)] for j in places] for i in places]).transpose(2, 0, 1)  # (N, T, T)
assert np.allclose(by_hand, to_numpy(layer(places[None]))[0])
print(f"{model.count_params():,} parameters; buckets 桶:", *(f"{d}: {bucket(d)}" for d in (-40, -9, -1, 0, 1, 9, 40)))

# %% [markdown]
# ## Training
# Every example once. The decoder reads the right answer one place later and is asked for the next token at each place.
# T5 was trained with Adafactor (Shazeer & Stern 2018, arXiv:1804.04235), and its weights begin as that wants them: how
# far a weight moves in a step is relative to how large the weights of its table are, and T5's embeddings begin 11 times
# as large as the other tables. Adam's steps are as large for all; in a trial it had 0.1 % right after 1,000 steps.
#
# ## 训练
# 每个样本只用一次。解码器读错后一位的正确答案，在每个位置预测下一个词元。
# T5 用 Adafactor 训练（Shazeer 与 Stern，2018，arXiv:1804.04235），初始权重也是为它准备的：每一步走多远，
# 是相对于整张表的权重大小而言的，而 T5 的嵌入一开始就比其他表大 11 倍。Adam 的步子对所有表都一样大，
# 在一次试验里走了 1,000 步只答对 0.1 %。

# %%
schedule = keras.optimizers.schedules.CosineDecay(0.0, rounds * steps, warmup_target=2e-2, warmup_steps=60)
model.compile(keras.optimizers.Adafactor(schedule, relative_step=False), kn.losses.TokenCrossEntropy())
x, labels = arrays(train)
some_x, some_labels = arrays(test[:512])
curve = {"training": [], "held out": []}
with tqdm(total=rounds * steps, desc="Training 训练") as bar:
    each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
    for part in np.split(np.arange(len(labels)), rounds):
        some = {name: array[part] for name, array in x.items()}
        history = model.fit(
            some, labels[part], batch_size, verbose=0, callbacks=[each_batch], validation_data=(some_x, some_labels)
        ).history  # fmt: skip
        curve["training"] += history["loss"]
        curve["held out"] += history["val_loss"]
        bar.set_postfix(held_out=f"{curve['held out'][-1]:.4f}")

# %% [markdown]
# ## Exact or wrong
# `kn.rewrite` reads texts and gives texts. An answer counts only if every character is right.
#
# ## 一字不差才算对
# `kn.rewrite` 读文本、写文本。答案的每个字符都对才算对。

# %%
exact, mistakes = {}, []
for task in ("ISO", "English"):
    chosen = [(name, text.removeprefix(f"{task}: "), answer) for name, text, answer in test if text.startswith(task)]
    written = kn.rewrite(
        model, tokenizer, [text for _, text, _ in chosen], prefix=f"{task}: ", batch_size=256, max_new_tokens=12
    )
    right = [text == answer for text, (*_, answer) in zip(written, chosen, strict=True)]
    exact[task] = np.mean(right)
    mistakes += [(*one, text) for one, text, is_right in zip(chosen, written, right, strict=True) if not is_right]
    print(f"{task:8}{exact[task]:.2%} of {len(chosen):,} dates never seen 个没见过的日期", end="")
    print(f", dateutil {baseline:.1%}" if task == "ISO" else "")
for language, text, answer, written in mistakes[:8]:
    print(f"  {language}: {text} = {answer}, written 写成 {written}")
wrong = Counter(language for language, *_ in mistakes)
print("Mistakes by language 各语言的错误:", ", ".join(f"{name} {n}" for name, n in wrong.most_common(8)) or "none 无")
assert exact["ISO"] >= 0.99

# %% [markdown]
# ## One text, two tasks
# Only the prefix differs. Today, or rather the day this was written, in a few languages:
#
# ## 同一段文字，两个任务
# 只有前缀不同：

# %%
day = first_day + datetime.timedelta(int(test_days[0]))
for language in ("zh", "de", "hi", "ar", "hr", "cs"):
    text = format_date(day, "full", language)
    print(text, *(kn.rewrite(model, tokenizer, text, prefix=f"{task}: ") for task in ("ISO", "English")), sep=" → ")

# %% [markdown]
# ## Where it looks
# Cross-attention, the mean over the heads of the last block: each token that is written looks at what it says in the
# source, wherever it stands there. The weekday says nothing new, and is passed over.
#
# ## 它在看哪里
# 最后一块各头的平均交叉注意力：每写一个词元，就看源里说它的地方，不管那在哪里。星期几没有新信息，就略过了。

# %%
figure, axes = plt.subplots(1, 3, figsize=(17, 5), layout="constrained")
for name, values in curve.items():
    axes[0].semilogy(np.arange(1, rounds + 1) * steps, values, marker="o", label=name)
axes[0].set(xlabel="steps", ylabel="nats a token", title=f"{len(languages)} languages: {exact['ISO']:.2%} exact")
axes[0].legend(frameon=False)
for axis, language in zip(axes[1:], ("de", "hu"), strict=True):
    one, answer = arrays([(language, f"ISO: {format_date(day, 'full', language)}", day.isoformat())])
    trace = kn.trace(model, one, only="backbone.decoder_blocks.1.cross_attention.probabilities")
    attended = next(iter(trace.values()))[0].mean(axis=0)  # (T, S)
    read, wrote = int(one["attention_mask"].sum()), int((answer != -100).sum())
    axis.imshow(attended[:wrote, :read], cmap="Blues")
    token_of = tokenizer.backend.id_to_token
    axis.set_xticks(range(read), [token_of(i).replace("▁", "_") for i in one["input_ids"][0, :read]], rotation=90)
    axis.set_yticks(range(wrote), [token_of(i).replace("▁", "_") for i in answer[0, :wrote]])
    axis.set(title=f"cross-attention, {Locale.parse(language).english_name}", xlabel="read", ylabel="written")
figure.savefig(folder / "t5_dates.png", dpi=110)

# %%
model.save(folder / "t5_dates.keras")
tokenizer.save_pretrained(folder / "t5_dates_tokenizer")
again = keras.models.load_model(folder / "t5_dates.keras")
tokenizer = kn.Tokenizer.from_pretrained(folder / "t5_dates_tokenizer")
assert kn.rewrite(again, tokenizer, format_date(day, "long", "zh"), prefix="ISO: ") == day.isoformat()
print(f"Exact 完全正确: ISO {exact['ISO']:.2%}, English {exact['English']:.2%} (dateutil {baseline:.1%})")
print(f"Saved 已保存: {folder / 't5_dates.keras'}, {folder / 't5_dates.png'}")
