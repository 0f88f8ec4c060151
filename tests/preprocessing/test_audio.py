"""Sound: the spectrogram is transformers', files of every kind are read, and bad ones refused in words."""

import os
import pathlib

import numpy as np
import pytest

from kerasnets.preprocessing import audio
from kerasnets.preprocessing.audio import log_mel, mel_filters, read_audio, resample, speech_features

# Debian's pocketsphinx-testdata and asterisk-core-sounds-en-wav: 16,000 and 8,000 samples a second.
SOUNDS = pathlib.Path(os.environ.get("KERASNETS_SOUNDS", "/usr/share"))
SPEECH = ("pocketsphinx/test/data/librivox/*0870.wav", "pocketsphinx/test/data/cards/00[13].wav")
SPEECH += ("asterisk/sounds/*/agent-alreadyon.wav", "asterisk/sounds/*/digits/7.wav")


def tone(seconds=1.0, hertz=440.0, rate=16000):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype("float32")


def noise(length, seed=0):
    """As speech, loud and quiet in turns."""
    random = np.random.default_rng(seed)
    return (random.normal(size=length) * 0.2 * np.sin(np.arange(length) / 3000) ** 8).astype("float32")


@pytest.fixture
def soundfile():
    return pytest.importorskip("soundfile", reason="it writes and reads the files")


def extractor(num_mels):
    transformers = pytest.importorskip("transformers", reason="it has the reference")
    return transformers.WhisperFeatureExtractor(feature_size=num_mels)


def assert_same_features(samples, num_mels):
    """As transformers in NumPy, float64 as here; and with torch, whose float32 is some 3e-5 from its own NumPy."""
    theirs, window = extractor(num_mels), 480000
    whole = np.pad(samples[:window], (0, max(0, window - len(samples))))
    found = log_mel(samples, num_mels)
    assert found.shape == (num_mels, 3000) and found.dtype == np.float32
    np.testing.assert_allclose(found, theirs._np_extract_fbank_features(whole[None], "cpu")[0], rtol=0, atol=1e-6)
    default = theirs(samples, sampling_rate=16000, return_tensors="np")["input_features"][0]
    np.testing.assert_allclose(found, default, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("length", [100, 16000, 480000, 500001])
def test_log_mel_of_noise(length, num_mels):
    assert_same_features(noise(length), num_mels)


@pytest.mark.parametrize("pattern", SPEECH)
def test_log_mel_of_speech(pattern):
    """Real voices, of several lengths and sample rates."""
    pytest.importorskip("soundfile", reason="it reads the files")
    pytest.importorskip("soxr", reason="it changes sample rates")
    found = sorted(SOUNDS.glob(pattern))
    if not found:
        pytest.skip(f"no {SOUNDS / pattern}: apt install pocketsphinx-testdata asterisk-core-sounds-en-wav")
    assert_same_features(read_audio(found[0]), 80)


@pytest.mark.parametrize("length", [201, 400, 16077, 16080])
def test_log_mel_without_a_window(length):
    samples = noise(length) + tone()[:length] if length < 16000 else noise(length)
    expected = extractor(80)._np_extract_fbank_features(samples[None], "cpu")[0]
    found = log_mel(samples, seconds=None)
    assert found.shape == (80, length // 160)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_an_hour_is_made_of_its_minutes(monkeypatch):
    """The parts in which a long sound is worked on leave no trace."""
    sound = noise(16000 * 25)
    whole = log_mel(sound, seconds=None)
    monkeypatch.setattr(audio.np, "array_split", lambda x, n: [x])
    assert np.array_equal(log_mel(sound, seconds=None), whole)


def test_filters_are_those_of_the_paper_by_hand():
    M = mel_filters(80)
    assert M.shape == (201, 80)
    peaks = M.argmax(axis=0) * 40  # hertz
    assert (np.diff(peaks) >= 0).all() and peaks[-1] > 7000
    # Area 1: each triangle's sum times the 40 hertz between frequencies, where it is wide enough to be sampled.
    assert np.allclose(M[:, 60:].sum(axis=0) * 40, 1, atol=0.02)


def test_silence_is_even():
    assert np.array_equal(log_mel(np.zeros(16000, "float32")), np.full((80, 3000), -1.5, "float32"))
    assert_same_features(np.zeros(16000, "float32"), 80)


@pytest.mark.parametrize("kind", ["wav PCM_16", "wav PCM_24", "wav PCM_U8", "wav FLOAT", "wav ULAW", "flac PCM_16"])
def test_reads_files_of_every_kind(kind, tmp_path, soundfile):
    suffix, subtype = kind.split()
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, tone(), 16000, subtype=subtype)
    found = read_audio(path)
    assert found.dtype == np.float32 and found.shape == (16000,)
    accuracy = {"PCM_U8": 1 / 120, "ULAW": 0.02, "FLOAT": 1e-7}.get(subtype, 1 / 32000)
    assert np.abs(found - tone()).max() < accuracy
    assert np.abs(found).max() > 0.48


def test_stereo_becomes_the_mean(tmp_path, soundfile):
    soundfile.write(tmp_path / "x.wav", np.stack([tone(), 0 * tone()], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "x.wav"), tone() / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_sample_rates(rate, tmp_path, soundfile):
    pytest.importorskip("soxr", reason="it changes sample rates")
    soundfile.write(tmp_path / "x.wav", tone(rate=rate), rate, subtype="FLOAT")
    found = read_audio(tmp_path / "x.wav")
    assert abs(len(found) - 16000) <= 1
    assert np.abs(found[500:-500] - tone()[500 : len(found) - 500]).max() < 1e-3
    assert read_audio(tmp_path / "x.wav", sample_rate=rate).shape == (rate,)


@pytest.mark.parametrize("kind", ["wav PCM_16", "wav PCM_U8", "wav FLOAT", "flac PCM_16"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files_are_refused(kind, share, tmp_path, soundfile):
    suffix, subtype = kind.split()
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, tone(), 16000, subtype=subtype)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"x\.\w+ is (truncated|not a whole sound file)"):
        read_audio(path)


def test_a_header_written_before_the_end_was_known(tmp_path, soundfile):
    """Programs that write into a pipe promise four gigabytes."""
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(), 16000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert read_audio(path).shape == (16000,)


def test_what_is_no_sound_is_refused(tmp_path, soundfile):
    (tmp_path / "text.wav").write_text("no sound at all, only words")
    with pytest.raises(ValueError, match="text.wav is not a whole sound file"):
        read_audio(tmp_path / "text.wav")
    with pytest.raises(FileNotFoundError, match="nothing.wav"):
        read_audio(tmp_path / "nothing.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, "float32"), 16000)
    with pytest.raises(ValueError, match="empty.wav: there is no sample"):
        read_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0, 1, np.nan], "float32"), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="nan.wav: sample 2 is no finite number"):
        read_audio(tmp_path / "nan.wav")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 16000), "float32"), r"one channel; received \(2, 16000\)"),
        (np.zeros(16000, "int16"), r"floats in \[−1, 1\]; received int16"),
        (np.zeros(0, "float32"), "there is no sample"),
        (np.array([np.inf]), "sample 0 is no finite number"),
    ],
)
def test_samples_that_are_none_are_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        log_mel(samples)


def test_less_than_a_frame_is_refused():
    with pytest.raises(ValueError, match="150 samples are less than a frame"):
        log_mel(tone()[:150], seconds=None)


def test_missing_packages_are_named(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(audio.importlib, "import_module", import_module)
    with pytest.raises(ModuleNotFoundError, match=r"soxr is not installed: pip install .kerasnets\[audio\]"):
        resample(tone(), 8000, 16000)


def test_features_of_a_batch(tmp_path, soundfile):
    soundfile.write(tmp_path / "x.wav", tone(), 16000, subtype="FLOAT")
    batch = speech_features([str(tmp_path / "x.wav"), tone(), noise(1000)], num_mels=128)
    assert batch["input_features"].shape == (3, 128, 3000) and batch["input_features"].dtype == np.float32
    assert np.array_equal(batch["input_features"][0], batch["input_features"][1])
    assert np.array_equal(speech_features(tone(), seconds=2)["input_features"], log_mel(tone(), seconds=2)[None])
