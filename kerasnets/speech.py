"""Transcription 语音转写: from a sound of any length to text with times.

    said = kn.transcribe(model, tokenizer, "talk.flac")
    said["text"], said["language"], said["segments"][0]                    # {"start": 0.0, "end": 2.4, "text": …, …}

The model sees a window of 30 seconds. It writes its text between times, tokens from `<|0.00|>` in steps of 20 ms:

    <|0.00|> a sentence<|2.40|><|2.60|> another one<|5.10|><|5.10|> begun and

The next window begins at the last time that ends a segment, so that what was cut off is heard again: here at 5.10. A
text which repeats itself, so that zlib makes it too small, or whose tokens are improbable, is written anew at a higher
temperature; where there is none higher, it stays, and where the model also says that nobody speaks, it goes.
Radford et al. 2022, arXiv:2212.04356, section 4.5.
"""

import dataclasses
import math
import pathlib
import zlib

import numpy as np
from keras import ops

from kerasnets.batches import as_float, program_of
from kerasnets.preprocessing import audio as sounds
from kerasnets.samplers import Temperature, kept

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
STEP = 0.02  # seconds from one time to the next, those of two frames
FRAMES_A_STEP = 2
TASKS = ("transcribe", "translate")
OF_ENGLISH = 50256  # <|endoftext|> in the vocabulary of models that know English alone


@dataclasses.dataclass(frozen=True)
class Times:
    """A processor: times come in pairs around text and never fall; the first token is one, up to `latest` steps.

    Where all times together are more probable than any other token, it is a time.
    """

    first: int  # the id of <|0.00|>
    end: int  # the id of <|endoftext|>
    latest: int | None = 50

    def __call__(self, logits, ids, step):
        tokens = ops.arange(logits.shape[1], dtype="int32")
        columns, is_time = ops.arange(ids.shape[1], dtype="int32"), tokens >= self.first
        stop = 1 + ops.max(ops.where(ids >= 0, columns, -1))
        before = [ops.take(ids, ops.maximum(stop - n, 0), axis=1) >= self.first for n in (1, 2)]
        last = ops.logical_and(before[0], step >= 1)[:, None]
        opens = ops.logical_and(last, ops.logical_or(before[1], step < 2)[:, None])  # now comes text
        closes = ops.logical_and(last, ops.logical_not(opens))  # now comes a time, or the end
        time = ops.max(ops.where(columns >= stop - step, ids, -1), axis=1, keepdims=True)
        least = ops.where(time < self.first, self.first, ops.where(closes, time, time + 1))
        wrong = ops.logical_and(is_time, ops.logical_or(opens, tokens < least))
        wrong = ops.logical_or(wrong, ops.logical_and(closes, tokens < self.end))
        wrong = ops.logical_or(wrong, ops.equal(tokens, self.first - 1))  # <|notimestamps|>
        late = False if self.latest is None else tokens > self.first + self.latest
        not_first = ops.logical_or(ops.logical_not(is_time), late)
        wrong = ops.logical_or(wrong, ops.logical_and(step < 1, not_first))
        logits = kept(logits, ops.logical_not(wrong))
        of_times = ops.logsumexp(logits[:, self.first :], axis=1, keepdims=True)
        is_one = of_times > ops.max(logits[:, : self.first], axis=1, keepdims=True)
        return kept(logits, ops.logical_or(is_time, ops.logical_not(is_one)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a window is written, and when anew."""

    temperatures: tuple = TEMPERATURES
    compression_ratio_threshold: float | None = 1.35
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    max_initial_timestamp: float | None = 1.0
    max_new_tokens: int | None = None
    seed: int = 0

    def __post_init__(self):
        if not self.temperatures or any(not 0 <= t < math.inf for t in self.temperatures):
            raise ValueError(f"transcribe: temperatures must be numbers from 0 on; received {self.temperatures!r}.")
        if self.no_speech_threshold is not None and self.logprob_threshold is None:
            raise ValueError("transcribe: no_speech_threshold is asked where logprob_threshold finds little; give it.")


def transcribe(model, tokenizer, audio, language=None, task="transcribe", timestamps=True, **settings):
    """What is said in `audio`, a file or samples (n,) at 16,000 a second: {"text", "language", "segments"}.

    A segment is {"start", "end", "text", "tokens"}, times in seconds. `language` is a code such as "zh", found by the
    model in the first window if not given; the task "translate" writes English. Without `timestamps` a segment is a
    window, and each window begins where the last one ends.

    settings: temperatures (0 is the most probable token), tried until zlib makes the tokens' bytes smaller by at most
    compression_ratio_threshold and the mean log-probability is logprob_threshold at least; a window whose probability
    of no speech is above no_speech_threshold is left out where even so little was found; None asks not.
    max_initial_timestamp, seconds; max_new_tokens of a window, half of what the model can read if not given; seed.

    Raises `ValueError` for a sound that is none, a language or task that the vocabulary does not have.
    """
    settings = Settings(**settings)
    samples = sounds.read_audio(audio) if isinstance(audio, (str, pathlib.Path)) else np.asarray(audio)
    sounds.check_samples(samples, "transcribe")
    window = Window(model, tokenizer, timestamps, settings)
    length = len(samples) / sounds.SAMPLE_RATE
    whole = max(length, window.frames * sounds.HOP / sounds.SAMPLE_RATE)
    features = sounds.log_mel(samples, model.config.num_mels, seconds=whole if whole > length else None)
    end = min(features.shape[1], math.ceil(len(samples) / sounds.HOP))  # where the sound ends; silence may follow
    window.begin(features, language, task)
    segments, place = [], 0
    while place < features.shape[1]:
        found, step = window.read(features[:, place : place + window.frames], end - place)
        offset = place * STEP / FRAMES_A_STEP
        segments += [{**s, "start": offset + s["start"], "end": offset + s["end"]} for s in found]
        place += step
    text = window.text([token for segment in segments for token in segment["tokens"]])
    return {"text": text, "language": window.language, "segments": segments}


class Window:
    """One window after the other, of one sound."""

    def __init__(self, model, tokenizer, timestamps, settings):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.frames = FRAMES_A_STEP * model.config.max_source_length
        self.first = 1 + self.id_of("<|notimestamps|>")
        self.end = model.config.eos_token_id[0]
        self.timestamps, self.language = timestamps, None

    def id_of(self, token):
        found = self.tokenizer.backend.token_to_id(token)
        if found is None or found >= self.model.config.vocab_size:
            raise ValueError(f"transcribe: the vocabulary has no {token}.")
        return found

    def begin(self, features, language, task):
        """Set the tokens that each window's text begins with."""
        if task not in TASKS:
            raise ValueError(f"transcribe: task must be one of {list(TASKS)}; received {task!r}.")
        codes = self.languages()
        self.prompt = [self.model.config.decoder_start_token_id]
        if codes:
            if language is None:
                _, probabilities = self.look(features[:, : self.frames])
                language = max(codes, key=lambda code: probabilities[codes[code]])
            if language not in codes:
                raise ValueError(f"transcribe: language must be one of {sorted(codes)}; received {language!r}.")
            self.prompt += [codes[language], self.id_of(f"<|{task}|>")]
        elif language not in (None, "en") or task != "transcribe":
            raise ValueError(f"transcribe: this model writes English from English alone; {language!r}, {task!r} came.")
        self.language = language or "en"
        self.prompt += [] if self.timestamps else [self.first - 1]

    def languages(self):
        """{code: token}, none where the model knows English alone."""
        if self.end == OF_ENGLISH:
            return {}
        tokens = self.tokenizer.backend.get_vocab().items()
        short = {name[2:-2]: i for name, i in tokens if name[:2] + name[-2:] == "<||>" and 6 <= len(name) <= 7}
        return {code: i for code, i in short.items() if code.isalpha() and i < self.first}

    def look(self, features):
        """(memory, probabilities (V,) of what follows the first token), of a window filled up with 0."""
        features = np.pad(features, [[0, 0], [0, self.frames - features.shape[1]]])[None]
        program, weights = program_of(self.model, first_look)
        memory, probabilities = program(weights, {"input_features": ops.convert_to_tensor(features)}, ())
        return memory, ops.convert_to_numpy(probabilities)[0]

    def read(self, features, sound):
        """(the segments of one window, how many frames further the next one begins); `sound` of its frames are such."""
        memory, probabilities = self.look(features)
        settings, silence = self.settings, float(probabilities[self.first - 2])
        for temperature in settings.temperatures:
            tokens, logprob = self.write(memory, temperature)
            is_improbable = settings.logprob_threshold is not None and logprob < settings.logprob_threshold
            if is_improbable and settings.no_speech_threshold is not None and silence > settings.no_speech_threshold:
                return [], features.shape[1]
            most = settings.compression_ratio_threshold
            is_dull = most is not None and compression_ratio(tokens, self.model.config.vocab_size) > most
            if not (is_improbable or is_dull):
                break
        tokens = tokens[:-1] if tokens[-1] == self.end else tokens
        tokens = tokens if self.timestamps else [token for token in tokens if token < self.first]
        pieces, step = cut(tokens, self.first, features.shape[1], min(sound, features.shape[1]))
        return [{**piece, "text": self.text(piece["tokens"])} for piece in pieces], step

    def write(self, memory, temperature):
        """(tokens, the mean of their log-probabilities), as what forbids tokens left these."""
        settings, limit = self.settings, self.model.config.max_length
        latest = None if settings.max_initial_timestamp is None else round(settings.max_initial_timestamp / STEP)
        processors = (Times(self.first, self.end, latest),) if self.timestamps else ()
        inputs = {"memory": memory, "decoder_input_ids": [self.prompt]}
        steps = self.model.stream(
            inputs,
            max_new_tokens=settings.max_new_tokens or min(limit // 2, limit - len(self.prompt)),
            sampler=Temperature(float(temperature)) if temperature else None,
            seed=settings.seed,
            processors=processors,
            explain=True,
        )
        tokens, logprobs = [], []
        for step in steps:
            token, logits = int(step.ids[0]), list(step.stations.values())[-2][0].astype("float64")
            tokens.append(token)
            logprobs.append(logits[token] - np.logaddexp.reduce(logits))
        return tokens, float(np.mean(logprobs))

    def text(self, tokens):
        return self.tokenizer.decode([token for token in tokens if token < self.first]).strip()


def first_look(model, batch):
    """(memory, p (B, V) of what follows the token with which every text begins)."""
    memory = model.remember_source(batch)
    start = ops.full((batch["input_features"].shape[0], 1), model.config.decoder_start_token_id, "int32")
    hidden, _ = model.backbone.decode(start, ops.zeros_like(start), memory=memory)
    return memory, ops.softmax(as_float(model.predict_next(hidden)[:, 0]), axis=-1)


def compression_ratio(tokens, vocab_size):
    """By how much zlib makes the tokens' bytes smaller: much, where they repeat themselves."""
    size = int(math.log2(vocab_size) / 8) + 1
    data = b"".join(token.to_bytes(size, "little") for token in tokens)
    return len(data) / len(zlib.compress(data))


def cut(tokens, first, frames, sound):
    """(segments, how many frames further to go on): a segment ends between two times that stand side by side.

    What follows the last such place is heard again, unless it is one time alone: then nobody speaks after it. Without
    such a place all is one segment, up to its last time, if there is one.
    """
    is_time = [token >= first for token in tokens]
    ends = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]
    if not ends:
        times = [token - first for token in tokens if token >= first]
        end = times[-1] if times and times[-1] else sound // FRAMES_A_STEP
        return [{"start": 0.0, "end": end * STEP, "tokens": tokens}], frames
    is_silent_after = is_time[-2:] == [False, True]
    last = tokens[ends[-1] - 1] - first
    ends = [*ends, len(tokens)] if is_silent_after else [*ends[:-1], ends[-1] + 1]
    segments = []
    for begin, end in zip([0, *ends], ends, strict=False):
        piece = tokens[begin:end]
        stop = piece[-1] if end < ends[-1] or is_silent_after else piece[-2]
        segments.append({"start": (piece[0] - first) * STEP, "end": (stop - first) * STEP, "tokens": piece})
    return segments, frames if is_silent_after else last * FRAMES_A_STEP
