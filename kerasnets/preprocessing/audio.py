"""Sound: files → samples → log-mel spectrograms 梅尔谱, what a model of speech sees.

    samples = read_audio("speech.flac")                    # float32 (n,), one channel, 16,000 a second
    features = log_mel(samples)                            # float32 (80, 3000): 30 seconds, 100 frames a second
    batch = speech_features(["a.wav", "b.wav"])            # {"input_features": float32 (2, 80, 3000)}

The mel scale (Stevens et al. 1937) is the ear's: bands of equal width to it are narrow for low tones and wide for high
ones. Here it is Slaney's 1998, straight up to 1,000 Hz and logarithmic above, as in Whisper (Radford et al. 2022,
arXiv:2212.04356). Reading needs soundfile, another rate soxr: `pip install "kerasnets[audio]"`.
"""

import importlib
import math
import pathlib
import re

import numpy as np

SAMPLE_RATE = 16000
SECONDS = 30  # of one window
FRAME, HOP = 400, 160  # samples: 25 milliseconds, one frame each 10
FLOOR = 1e-10  # the power of silence
UNKNOWN = 2**31 - 2**16  # a header that promises so many bytes was written before the end was known


def read_audio(path, sample_rate=SAMPLE_RATE):
    """The sound of a file, WAV, FLAC or what else libsndfile reads, as float32 samples (n,) in [−1, 1].

    Several channels become their mean, another sample rate is changed to `sample_rate`; integers of b bits, 8 among
    them, are divided by 2^(b−1).

    Raises `FileNotFoundError`; `ValueError` for a file that is no sound, ends before its header says, holds no sample,
    or holds NaN; `ModuleNotFoundError` for what is not installed.
    """
    soundfile = needed("soundfile")
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file.")
    try:
        with soundfile.SoundFile(path) as file:
            promised = file.frames
            check_header(path, file.extra_info)
            samples = file.read(dtype="float32", always_2d=True)  # (n, channels)
            rate = file.samplerate
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} is not a whole sound file: {error}") from error
    if len(samples) < promised:
        raise ValueError(f"{path} is truncated: {promised} samples are promised, {len(samples)} are there.")
    samples = samples.mean(axis=1)
    check_samples(samples, path)
    return resample(samples, rate, sample_rate)


def check_header(path, header):
    """Raise where a WAV file is shorter than it says, which libsndfile reads without a word."""
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", header, flags=re.MULTILINE)
    if found and int(found[2]) < int(found[1]) < UNKNOWN:
        raise ValueError(f"{path} is truncated: {found[1]} bytes of sound are promised, {found[2]} are there.")


def check_samples(samples, where):
    """Raise for what is no sound of one channel: nothing, integers, several axes, NaN."""
    if samples.ndim != 1:
        raise ValueError(f"{where}: samples must be (n,), one channel; received {samples.shape}.")
    if samples.dtype.kind != "f":
        raise ValueError(f"{where}: samples must be floats in [−1, 1]; received {samples.dtype}.")
    if len(samples) == 0:
        raise ValueError(f"{where}: there is no sample.")
    if not np.isfinite(samples).all():
        raise ValueError(f"{where}: sample {int(np.argmin(np.isfinite(samples)))} is no finite number.")


def resample(samples, rate, new_rate):
    """The same sound with another number of samples a second.   (n,) → (about n · new_rate / rate,)."""
    return samples if rate == new_rate else needed("soxr").resample(samples, rate, new_rate)


def needed(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{name} is not installed: pip install "kerasnets[audio]"', name=name) from error


def log_mel(samples, num_mels=80, seconds=SECONDS):
    """x = (max(log₁₀ M |F w s|², largest − 8) + 4) / 4.   samples (n,) → float32 (mels, frames), a frame each HOP.

    s: frames of FRAME samples, half of the first before the sound, which is mirrored there; w: Hann's window; F: the
    Fourier transform; M: `mel_filters`. The sound is cut or followed by silence to last `seconds`, unless None.
    Silence alone is −1.5 everywhere. Raises `ValueError` for what is no sound, or without `seconds` less than a frame.
    """
    samples = np.asarray(samples)
    check_samples(samples, "log_mel")
    if seconds is not None:
        length = int(seconds * SAMPLE_RATE)
        samples = np.pad(samples[:length], (0, max(0, length - len(samples))))
    if len(samples) <= FRAME // 2:
        raise ValueError(f"log_mel: {len(samples)} samples are less than a frame; `seconds` makes silence follow.")
    padded = np.pad(samples.astype("float64"), FRAME // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP][: len(samples) // HOP]
    w = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    M = mel_filters(num_mels)
    parts = np.array_split(frames, max(1, len(frames) // 1000))  # an hour at once would take gigabytes
    mel = np.concatenate([np.abs(np.fft.rfft(part * w)) ** 2 @ M for part in parts])  # (frames, mels)
    x = np.log10(np.maximum(mel, FLOOR))
    return ((np.maximum(x, x.max() - 8) + 4) / 4).T.astype("float32")


def mel_filters(num_mels=80):
    """M: how much of each frequency is in each band: triangles, all of area 1.   → (FRAME / 2 + 1, mels)."""
    top = hertz_to_mel(SAMPLE_RATE / 2)
    corners = mel_to_hertz(np.linspace(0, top, num_mels + 2))
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    frequencies = np.linspace(0, SAMPLE_RATE / 2, FRAME // 2 + 1)[:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


STRAIGHT = 1000.0  # hertz, up to which the scale is straight, 3 mels for 200; above, 27 mels make 6.4 times the tone


def hertz_to_mel(f):
    return 3 * f / 200 if f < STRAIGHT else 15 + 27 * math.log(f / STRAIGHT) / math.log(6.4)


def mel_to_hertz(m):
    return np.where(m < 15, 200 * m / 3, STRAIGHT * 6.4 ** ((m - 15) / 27))


def speech_features(audio, num_mels=80, seconds=SECONDS):
    """{"input_features": (B, mels, frames)} of sounds, each a path or samples (n,) at 16,000 a second."""
    if isinstance(audio, (str, pathlib.Path)) or getattr(audio, "ndim", None) == 1:
        audio = [audio]
    sounds = (read_audio(sound) if isinstance(sound, (str, pathlib.Path)) else sound for sound in audio)
    return {"input_features": np.stack([log_mel(sound, num_mels, seconds) for sound in sounds])}
