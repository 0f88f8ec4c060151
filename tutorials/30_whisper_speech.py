# %% [markdown]
# # 30 · Whisper: writing down what is said
#
# Whisper (Radford et al. 2022, arXiv:2212.04356) is an encoder–decoder whose source is sound. The encoder hears a
# picture of the sound, the log-mel spectrogram; the decoder writes words, each looking back at the sound through
# cross-attention. Nobody tells it which moment belongs to which word: it learns to listen in the right place.
#
# Ours is small and knows twenty words, the digits and ten commands (those of Warden 2018, arXiv:1804.03209). A speech
# synthesizer, eSpeak NG, says them in a row, in many voices and accents. The test are voices that it has never heard.
#
# # 30 · Whisper：把听到的写下来
#
# Whisper（Radford 等，2022，arXiv:2212.04356）是编码器–解码器，源是声音。编码器“看”的是声音的图像，即对数梅尔谱；
# 解码器一个词一个词地写，每写一个词都通过交叉注意力回头听声音。没有人告诉它哪个时刻属于哪个词：听哪里，是它自己学会的。
#
# 我们的 Whisper 很小，只认得二十个词：数字和十条口令（取自 Warden 2018，arXiv:1804.03209）。
# 语音合成器 eSpeak NG 用多种嗓音和口音把它们连着说出来。测试用的是它从没听过的嗓音。

# %%
import ctypes
from collections import Counter
from pathlib import Path

import kerasnets as kn
from kerasnets.preprocessing.audio import FRAME, HOP, SAMPLE_RATE, log_mel, mel_filters, resample

import espeakng_loader
import keras
import matplotlib
import numpy as np
import tokenizers
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

keras.utils.set_random_seed(0)
folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## A synthesizer that speaks
# eSpeak NG is a C library; the package `espeakng-loader` brings it for Linux, macOS and Windows. It calls us back with
# pieces of sound, 16-bit integers, and with events: where in the sound each word begins. A voice is an accent and a
# variant, such as `en+f2`: another throat, another pitch.
#
# ## 会说话的合成器
# eSpeak NG 是一个 C 库，`espeakng-loader` 包为 Linux、macOS 和 Windows 都带上了它。它通过回调把声音一段段交给我们
# （16 位整数），同时给出事件：每个词从声音的哪里开始。一个嗓音由口音和变体组成，例如 `en+f2`：
# 另一副嗓子，另一种音高。


# %%
class Event(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("message", ctypes.c_uint), ("text_position", ctypes.c_int),
                ("length", ctypes.c_int), ("milliseconds", ctypes.c_int), ("sample", ctypes.c_int),
                ("user_data", ctypes.c_void_p), ("name", ctypes.c_char * 8)]  # fmt: skip


RETURN_SOUND, RATE, PITCH, WORD_EVENT, CHARACTERS, UTF8 = 2, 1, 3, 1, 1, 1  # of speak_lib.h
espeak = ctypes.CDLL(espeakng_loader.get_library_path())
espeak_rate = espeak.espeak_Initialize(RETURN_SOUND, 0, espeakng_loader.get_data_path().encode(), 0)
pieces, begins = [], []


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
def receive(sound, count, events):
    if sound and count:
        pieces.append(np.ctypeslib.as_array(sound, (count,)).copy())
    i = 0
    while events[i].type:  # 0 ends the list
        begins.extend([events[i].milliseconds / 1000] if events[i].type == WORD_EVENT else [])
        i += 1
    return 0


def say(text, voice, rate=175, pitch=50):
    """Samples (n,) at 16,000 a second in [−1, 1], and the second in which each word begins."""
    pieces.clear(), begins.clear()
    assert espeak.espeak_SetVoiceByName(voice.encode()) == 0, voice
    espeak.espeak_SetParameter(RATE, rate, 0)  # words a minute
    espeak.espeak_SetParameter(PITCH, pitch, 0)  # 50 is the voice's own
    text = text.encode() + b"\0"
    espeak.espeak_Synth(text, len(text), 0, CHARACTERS, 0, UTF8, None, None)
    sound = np.concatenate(pieces).astype("float32") / 2**15
    return resample(sound, espeak_rate, SAMPLE_RATE), begins[:]


espeak.espeak_SetSynthCallback(receive)
sound, times = say("right seven", "en-us+f2")
print(f"“right seven”: {len(sound) / SAMPLE_RATE:.2f} seconds; the words begin at 词的开始: {times}")

# %% [markdown]
# ## The log-mel spectrogram by hand
# Each hundredth of a second, 25 milliseconds of sound are taken and faded in and out (Hann's window). The Fourier
# transform says how much of each tone is in them. Triangles add the tones up to 40 bands, as the ear does: narrow ones
# for low tones, wide ones for high ones. The logarithm makes loud and soft comparable; what is 80 decibels softer than
# the loudest is silence.
#
# ## 手算对数梅尔谱
# 每百分之一秒取 25 毫秒的声音，两头淡入淡出（汉宁窗）。傅里叶变换给出每个音高的成分有多少。
# 用三角形把它们加成 40 个频带，就像耳朵：低音处窄，高音处宽。取对数，响的和轻的就能比较；
# 比最响处轻 80 分贝的，算作寂静。

# %%
mels, seconds, longest = 40, 2.0, 5  # bands; of a sound; words in a row
x = log_mel(sound, mels, seconds)  # (mels, frames)
t = 40
piece = sound[HOP * t - FRAME // 2 : HOP * t + FRAME // 2]
window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
power = np.abs(np.fft.rfft(piece * window)) ** 2  # (201,): tones from 0 to 8,000 hertz
bands = np.log10(np.maximum(power @ mel_filters(mels), 1e-10))
largest = 4 * x.max() - 4  # of the whole sound
assert np.allclose((np.maximum(bands, largest - 8) + 4) / 4, x[:, t], atol=1e-5)
print(f"{x.shape[1]} frames of {mels} bands; one of them by hand = `log_mel`. 手算一帧 = `log_mel`。")

# %% [markdown]
# ## What is said
# One to five words in a row, in voices made of eight accents and thirty variants. Six of the variants, drawn by lot,
# speak only in the test, and there always three to five words. What takes more than two seconds is said again,
# faster.
#
# ## 说什么
# 一到五个词连着说，嗓音由八种口音和三十种变体组成。抽签抽出六种变体，只在测试里说话，而且总是说三到五个词。
# 超过 2 秒的，加快语速再说一遍。

# %%
words = "zero one two three four five six seven eight nine yes no up down left right on off stop go"
accents = "en-us en-us-nyc en-029 en en-gb-x-rp en-gb-scotland en-gb-x-gbclan en-gb-x-gbcwmd"
variants = """f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 Alex Alicia Andrea Andy Annie Denis Gene Lee Marco
Mario Michael Mike adam belinda edward linda steph"""
words, accents, variants = words.split(), accents.split(), variants.split()
random = np.random.RandomState(0)
drawn = random.permutation(len(variants))
never_heard, heard = ([variants[i] for i in part] for part in (sorted(drawn[:6]), sorted(drawn[6:])))
print(f"Only in the test 只在测试里: {', '.join(never_heard)}")


def speak(count, variants, least):
    """Log-mels (count, mels, frames), frames of sound (count,), words, voices, begins."""
    features, lengths, said, voices, starts = [], [], [], [], []
    for _ in tqdm(range(count), desc="Speaking 合成语音"):
        text = [str(word) for word in random.choice(words, random.randint(least, longest + 1))]
        voice = f"{random.choice(accents)}+{random.choice(variants)}"
        rate, pitch = int(random.randint(160, 240)), int(random.randint(30, 71))
        sound, times = say(" ".join(text), voice, rate, pitch)
        while len(sound) > seconds * SAMPLE_RATE:
            rate += 20
            sound, times = say(" ".join(text), voice, rate, pitch)
        features.append(log_mel(sound, mels, seconds))
        lengths.append(-(-len(sound) // HOP))
        said.append(text), voices.append(voice), starts.append(times)
    return np.stack(features), np.array(lengths), said, voices, starts


train_x, train_lengths, train_said, _, _ = speak(6400, heard, least=1)
test_x, test_lengths, test_said, test_voices, test_starts = speak(300, never_heard, least=3)

# %% [markdown]
# ## Tokens
# As in the released models: the words first, then the signs of the task. A text begins with `<|startoftranscript|>` and
# `<|notimestamps|>` and ends with `<|endoftext|>`. What the decoder reads is what it must say, one place later.
#
# ## 词元
# 和官方模型一样：先是词，再是任务的记号。文本以 `<|startoftranscript|>` 和 `<|notimestamps|>` 开头，
# 以 `<|endoftext|>` 结尾。解码器读到的，就是它该说的话，错后一个位置。

# %%
signs = ["<|endoftext|>", "<|startoftranscript|>", "<|nospeech|>", "<|notimestamps|>"]
number = {token: i for i, token in enumerate([*words, *signs])}
backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(number, unk_token=signs[0]))
backend.add_special_tokens(signs)
backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
tokenizer = kn.Tokenizer(backend)
end, start, _, plain = (number[sign] for sign in signs)


def targets(said):
    """(what the decoder reads, what it must say), (B, 7) each; −100 where nothing is asked."""
    read, labels = np.full((len(said), longest + 2), end), np.full((len(said), longest + 2), -100)
    for row, label, text in zip(read, labels, said, strict=True):
        ids = [number[word] for word in text]
        row[: len(ids) + 2] = [start, plain, *ids]
        label[1 : len(ids) + 2] = [*ids, end]
    return read.astype("int32"), labels.astype("int32")


train_read, train_labels = targets(train_said)
test_read, test_labels = targets(test_said)
print(test_said[0], "→", test_read[0].tolist(), "→", test_labels[0].tolist())

# %% [markdown]
# ## Word error rate, and two baselines
# The least number of words to replace, leave out or put in until what was written is what was said, divided by the
# words said. Baseline one always writes the most frequent words of the training, as many as are said on average.
# Baseline two copies the text of the training sound whose log-mel lies nearest.
#
# ## 词错误率与两个基线
# 要替换、删去或补上多少个词，才能把写出的变成说过的，取最少的次数，除以说过的词数。基线一总是写训练中最常见的词，
# 写平均说的个数。基线二照抄对数梅尔谱最接近的那段训练声音的文本。


# %%
def edits(written, said):
    """The last row of Levenshtein's table, row by row."""
    row = list(range(len(said) + 1))
    for i, word in enumerate(written, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(said, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != right))
    return row[-1]


def word_error_rate(written, said):
    return sum(map(edits, written, said)) / sum(map(len, said))


assert edits(["two", "five"], ["two", "nine", "five"]) == 1
frequent = [word for word, _ in Counter(word for text in train_said for word in text).most_common(4)]
flat_train, flat_test = (x.reshape(len(x), mels, -1, 4).mean(axis=3).reshape(len(x), -1) for x in (train_x, test_x))
distances = (flat_train**2).sum(axis=1) - 2 * flat_test @ flat_train.T  # (tests, trainings), but for |test|²
error = {
    "the most frequent words 最常见的词": word_error_rate([frequent] * len(test_said), test_said),
    "the nearest sound 最接近的声音": word_error_rate([train_said[i] for i in distances.argmin(axis=1)], test_said),
}
for name, value in error.items():
    print(f"{value:6.1%}  {name}")

# %% [markdown]
# ## The model
# Two convolutions make of 200 frames 100 vectors: the second takes every other place. Sines and cosines are added, and
# the encoder's blocks let every moment hear all others. The decoder reads the words so far. Whisper's smallest model is
# 384 wide and hears 30 seconds; ours is 64 wide and hears two.
#
# ## 模型
# 两层卷积把 200 帧变成 100 个向量：第二层隔一个位置取一个。加上正弦和余弦，编码器的块让每个时刻听到其他所有时刻。
# 解码器读已经写下的词。Whisper 最小的官方模型宽 384，听 30 秒；我们的宽 64，听 2 秒。

# %%
D = 64
model = kn.WhisperSeq2SeqLM(
    vocab_size=len(number), num_mels=mels, hidden_size=D, num_layers=2, num_heads=2, feedforward_size=4 * D,
    max_source_length=train_x.shape[2] // 2, max_length=16, bos_token_id=end, eos_token_id=(end,), pad_token_id=end,
    decoder_start_token_id=start, begin_suppress_tokens=(end,), name="whisper_speech",
)  # fmt: skip
backbone = model.backbone


def gelu(x):
    return to_numpy(keras.ops.gelu(x, approximate=False))


def convolved(x, layer, stride):
    """y[t] = gelu(Σ x[stride t + k − 1] W[k] + b).   (T, C) → (T / stride, D)."""
    W, b = layer.get_weights()  # (3, C, D), (D,)
    x = np.pad(x, [[1, 1], [0, 0]])
    return gelu(sum(x[k : k + len(x) - 2][::stride] @ W[k] for k in range(3)) + b)


by_hand = convolved(convolved(test_x[0].T, backbone.conv1, 1), backbone.conv2, 2)  # (S, D)
first = {"input_features": test_x[:1], "decoder_input_ids": test_read[:1]}
trace = kn.trace(model, first, only="backbone.conv2")
assert np.allclose(by_hand, trace["backbone.conv2"][0], atol=1e-4)
print(f"{model.count_params():,} parameters; {by_hand.shape[0]} vectors of {test_x.shape[2]} frames, by hand = model.")

# %% [markdown]
# ## A good start
# The sines are as large as 1, what the convolutions make of a sound is much smaller at first, and would be drowned: so
# the second one begins five times larger, and what each sublayer adds begins smaller. And a decoder that knows nothing
# would look everywhere at once. The first word is said early, the next one later: so the decoder's places begin as the
# means of the encoder's sines over a third of a second each, and in cross-attention queries and keys begin alike. That
# is a rough guess, the same for every sound; the right moments must be learned.
#
# ## 好的开端
# 正弦波的幅度是 1，卷积从声音里得到的一开始小得多，会被淹没：所以第二层卷积从五倍大开始，
# 各子层加进来的则从小一些开始。一无所知的解码器会同时看所有地方。而第一个词说得早，下一个晚：
# 所以解码器的位置以编码器的正弦波每三分之一秒的平均值开始，交叉注意力里查询和键的做法也先取成一样。这只是粗略的猜测，
# 对每段声音都一样；准确的时刻还得学。

# %%
backbone.conv2.kernel.assign(5 * backbone.conv2.kernel)
backbone.token_embedding.embeddings.assign(keras.random.normal((len(number), D), stddev=0.1, seed=1))
for block in [*backbone.encoder_blocks, *backbone.decoder_blocks]:
    for last in (block.attention.out, block.feedforward.narrow):
        last.kernel.assign(0.4 * last.kernel)
sines = to_numpy(backbone.encoder_position_embedding.embeddings)  # (S, D), fixed
a_word = 16  # vectors, each of two frames
means = sines[: len(sines) // a_word * a_word].reshape(-1, a_word, D).mean(axis=1)
first_places = np.zeros((model.config.max_length, D), "float32")  # place 0 writes no word, place 1 the first
first_places[1 : 1 + len(means)] = means
backbone.decoder_position_embedding.embeddings.assign(first_places)
for i, block in enumerate(backbone.decoder_blocks):
    cross = block.cross_attention
    alike = 1.2 * to_numpy(keras.initializers.Orthogonal(seed=i + 5)((D, D)))
    cross.query.kernel.assign(alike)
    cross.key.kernel.assign(alike)
    cross.out.kernel.assign(0.4 * cross.out.kernel)

# %% [markdown]
# ## Training
# Each time a sound is heard it begins up to a tenth of a second later and is a little higher or lower, by up to two
# bands, as another throat would be: cheap, and the network can't learn the voices by heart.
#
# ## 训练
# 每听一次，声音都晚一点开始（至多十分之一秒），并且升高或降低最多两个频带，像换了一副嗓子：代价很小，
# 网络却没法死记嗓音。


# %%
def varied(features, lengths, random):
    rows, frames = np.arange(mels), np.arange(features.shape[2])
    y = np.empty_like(features)
    for i, (x, length) in enumerate(zip(features, lengths, strict=True)):
        later, higher = random.randint(0, 1 + min(10, len(frames) - length)), random.randint(-2, 3)
        y[i] = x[np.clip(rows - higher, 0, mels - 1)][:, frames - later]  # what falls off behind is silence, as before
    return y


epochs, a_round, batch_size = 4, 1600, 32
order = np.concatenate([random.permutation(len(train_x)) for _ in range(epochs)])
rounds, steps = order.reshape(-1, a_round), len(order) // batch_size
schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=3e-3, warmup_steps=steps // 20)
model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), kn.losses.TokenCrossEntropy())
curve = {"training": [], "voices never heard": []}
test_inputs = {"input_features": test_x, "decoder_input_ids": test_read}
some = {name: x[::4] for name, x in test_inputs.items()}
with tqdm(total=steps, desc="Training 训练") as bar:
    each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
    for part in rounds:
        sounds = varied(train_x[part], train_lengths[part], random)
        history = model.fit(
            {"input_features": sounds, "decoder_input_ids": train_read[part]}, train_labels[part], batch_size,
            verbose=0, callbacks=[each_batch], validation_data=(some, test_labels[::4]),
        ).history  # fmt: skip
        curve["training"] += history["loss"]
        curve["voices never heard"] += history["val_loss"]
        bar.set_postfix(loss=f"{curve['training'][-1]:.3f}", held_out=f"{curve['voices never heard'][-1]:.3f}")

# %% [markdown]
# ## It writes
# The most probable word, again and again, until `<|endoftext|>`. Nothing of the right text is shown to it here.
#
# ## 它写下来了
# 一次写一个最可能的词，直到 `<|endoftext|>`。这里没有给它看任何正确的文本。

# %%
written = []
for part in np.split(np.arange(len(test_x)), 3):
    prompt = {"input_features": test_x[part], "decoder_input_ids": test_read[part, :2]}
    ids = model.generate(prompt, max_new_tokens=longest + 3)
    written += [text.split() for text in tokenizer.decode(ids)]
error["Whisper"] = word_error_rate(written, test_said)
print("word error rate in voices never heard 没听过的嗓音上的词错误率")
for name, value in error.items():
    print(f"{value:6.1%}  {name}")
for variant in never_heard:
    chosen = [i for i, voice in enumerate(test_voices) if voice.endswith(f"+{variant}")]
    rate = word_error_rate([written[i] for i in chosen], [test_said[i] for i in chosen])
    print(f"  {rate:6.1%}  {variant}, {len(chosen)} sounds 段声音")
for i in range(6):
    print(f"{test_voices[i]:24} {' '.join(test_said[i]):28} → {' '.join(written[i])}")
assert error["Whisper"] <= 0.1

# %% [markdown]
# ## One call for a whole sound
# `kn.transcribe` does all of it: samples → log-mel → windows → text. It takes files, too.
#
# ## 一次调用
# `kn.transcribe` 包办一切：采样 → 对数梅尔谱 → 窗口 → 文本。也可以直接给它文件。

# %%
sound, times = say("go left two stop", f"en+{never_heard[0]}")
heard_now = kn.transcribe(model, tokenizer, sound, timestamps=False)
print(f"{len(sound) / SAMPLE_RATE:.2f} seconds, “go left two stop” → “{heard_now['text']}”")

# %% [markdown]
# ## Where it listens
# For each word written, the cross-attention says how much of each moment was read. Nobody showed it where words begin;
# the synthesizer knows. How often does the strongest moment lie within the word that is being written?
#
# ## 它在听哪里
# 每写一个词，交叉注意力说明从每个时刻读了多少。没有人告诉它词从哪里开始，但合成器知道。
# 注意力最强的时刻，有多少次落在正在写的那个词里？

# %%
attention = kn.trace(model, {k: x[:100] for k, x in test_inputs.items()}, only="*.cross_attention.probabilities")
maps = np.stack([*attention.values()])[..., 1:, :]  # (L, 100, N, T, S): from `<|notimestamps|>` on
a_vector = 2 * HOP / SAMPLE_RATE  # seconds
inside, words_said = np.zeros((2, 2)), 0
for i, starts in enumerate(test_starts[:100]):
    ends = [*starts[1:], test_lengths[i] * HOP / SAMPLE_RATE]
    for place, (begin, stop) in enumerate(zip(starts, ends, strict=True)):
        moment = maps[:, i, :, place].argmax(axis=-1) * a_vector  # (L, N)
        inside += (moment >= begin - 0.1) & (moment <= stop + 0.1)
        words_said += 1
inside /= words_said
print("strongest moment within the word, a tenth of a second more or less 最强时刻落在词内（前后各宽 0.1 秒）:")
for block, heads in enumerate(inside):
    print(f"  block {block + 1}:", *(f"head {n + 1}: {value:.0%} " for n, value in enumerate(heads)))

# %%
shown = next(i for i, text in enumerate(test_said[:100]) if len(text) == 5 and written[i] == text)
block, head = np.unravel_index(inside.argmax(), inside.shape)
extent = (0, seconds, -0.5, mels - 0.5)
figure, (above, middle, below) = plt.subplots(3, 1, figsize=(11, 10), layout="constrained", height_ratios=(3, 3, 2))
above.imshow(test_x[shown], origin="lower", aspect="auto", cmap="magma", extent=extent)
above.set(ylabel="mel band", title=f"log-mel of {test_voices[shown]}, a voice never heard")
label = [*test_said[shown], "end"]
picture = maps[block, shown, head, : len(label)]
middle.imshow(picture, aspect="auto", cmap="Blues", extent=(0, seconds, len(label) - 0.5, -0.5))
middle.set_yticks(range(len(label)), label)
middle.set(xlabel="seconds", title=f"cross-attention, block {block + 1}, head {head + 1}; dotted: where words begin")
for begin, word in zip(test_starts[shown], test_said[shown], strict=True):
    above.axvline(begin, color="white", linestyle=":")
    above.annotate(word, (begin, mels - 4), xytext=(4, 0), textcoords="offset points", color="white")
    middle.axvline(begin, color="tab:red", linestyle=":")
for name, values in curve.items():
    below.plot(np.arange(1, len(rounds) + 1) * a_round, values, marker="o", label=name)
below.set(xlabel="sounds heard", ylabel="nats a word", title=f"word error rate {error['Whisper']:.1%}")
below.legend(frameon=False)
figure.savefig(folder / "whisper_speech.png", dpi=110)

# %%
model.save(folder / "whisper_speech.keras")
again = keras.models.load_model(folder / "whisper_speech.keras")
few = {name: x[:4] for name, x in test_inputs.items()}
assert np.allclose(again.predict(few, verbose=0), model.predict(few, verbose=0), atol=1e-4)
print(f"Word error rate 词错误率: {error['Whisper']:.1%}")
print(f"Saved 已保存: {folder / 'whisper_speech.keras'}, {folder / 'whisper_speech.png'}")
