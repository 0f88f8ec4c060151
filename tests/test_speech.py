"""`kn.transcribe`: the segments of transformers' sequential algorithm, and what it refuses."""

import re

import numpy as np
import pytest

import kerasnets as kn
from kerasnets import cli, speech
from tests.models import parity

TEXT, END = 40, 40  # ids of words come first
NAMES = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|haw|>", "<|translate|>", "<|transcribe|>"]
NAMES += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
FIRST, PLACES, NEW = TEXT + len(NAMES), 500, 14  # windows of ten seconds
VOCAB = FIRST + PLACES + 1
IDS = {name: TEXT + i for i, name in enumerate(NAMES)}
SECONDS = 64.3


def make_tokenizer(names=NAMES):
    tokenizers = pytest.importorskip("tokenizers", reason="texts are cut by it")
    vocab = {f"w{i}": i for i in range(TEXT)} | {name: TEXT + i for i, name in enumerate(names)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="w0"))
    backend.add_special_tokens(list(names))
    return kn.Tokenizer(backend)


def sound(seconds=SECONDS):
    """Tones that come and go, so that no window is like another."""
    t = np.arange(int(seconds * 16000)) / 16000
    noise = np.random.default_rng(0).normal(size=len(t))
    return (0.3 * np.sin(2 * np.pi * t * (200 + 30 * t)) * np.sin(t) ** 2 + 0.02 * noise).astype("float32")


@pytest.fixture(scope="module")
def theirs():
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    torch = pytest.importorskip("torch", reason="the reference runs on torch")
    fields = dict(vocab_size=VOCAB, num_mel_bins=80, d_model=32, encoder_layers=1, decoder_layers=2)
    fields |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    fields |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 40)
    fields |= dict(max_source_positions=PLACES, max_target_positions=64, begin_suppress_tokens=[5, END])
    fields |= dict(bos_token_id=END, eos_token_id=END, pad_token_id=END, suppress_tokens=[8, *range(41, 50)])
    fields |= dict(decoder_start_token_id=IDS["<|startoftranscript|>"])
    model = parity.randomized(transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**fields)))
    with torch.no_grad():  # much of what it writes depends on what it hears
        for block in model.model.decoder.layers:
            block.encoder_attn.out_proj.weight *= 3
    config = model.generation_config
    config.no_timestamps_token_id, config.max_initial_timestamp_index = IDS["<|notimestamps|>"], 50
    config.is_multilingual = True
    config.lang_to_id = {name: IDS[name] for name in ("<|en|>", "<|de|>", "<|haw|>")}
    config.task_to_id = {"transcribe": IDS["<|transcribe|>"], "translate": IDS["<|translate|>"]}
    return model


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return kn.from_pretrained(folder)


def segments_of(theirs, samples, **settings):
    """What transformers finds, at temperature 0: (start, end, tokens)."""
    import torch

    features = torch.tensor(kn.preprocessing.audio.log_mel(samples, seconds=max(10, len(samples) / 16000)))[None]
    settings = dict(temperature=(0.0,), return_timestamps=True, return_segments=True, max_new_tokens=NEW) | settings
    with torch.no_grad():
        found = theirs.generate(features, **settings)
    return [(float(s["start"]), float(s["end"]), s["tokens"].tolist()) for s in found["segments"][0]]


def listed(said):
    return [(s["start"], s["end"], s["tokens"]) for s in said["segments"]]


def assert_same(found, expected):
    assert [s[2] for s in found] == [s[2] for s in expected]
    np.testing.assert_allclose([s[:2] for s in found], [s[:2] for s in expected], atol=1e-6)


def test_segments_are_those_of_transformers(theirs, model):
    """A minute in windows of ten seconds, the language found; then asked again where too little was found."""
    samples, tokenizer = sound(), make_tokenizer()
    nothing = dict(compression_ratio_threshold=None, logprob_threshold=None, no_speech_threshold=None)
    expected = segments_of(theirs, samples, task="transcribe")
    said = kn.transcribe(model, tokenizer, samples, temperatures=(0,), max_new_tokens=NEW, **nothing)
    assert_same(listed(said), expected)
    assert len(expected) > 7 and len({tuple(tokens) for _, _, tokens in expected}) > 3
    words = [tokenizer.decode([t for t in s["tokens"] if t < FIRST]) for s in said["segments"]]
    assert [s["text"] for s in said["segments"]] == words and said["text"].split() == " ".join(words).split()
    # thresholds in the middle of what is found, so that some windows stay and others go
    window = speech.Window(model, tokenizer, True, speech.Settings(max_new_tokens=NEW))
    features = kn.preprocessing.audio.log_mel(samples, seconds=None)
    window.begin(features, said["language"], "transcribe")
    looks = [window.look(features[:, i : i + 1000]) for i in range(0, 5000, 1000)]
    logprob = float(np.median([window.write(memory, 0)[1] for memory, _ in looks]))
    silence = float(np.median([p[IDS["<|nospeech|>"]] for _, p in looks]))
    some = dict(compression_ratio_threshold=1.0, logprob_threshold=logprob, no_speech_threshold=silence)
    expected_too = segments_of(theirs, samples, language="de", task="translate", **some)
    said = kn.transcribe(
        model, tokenizer, samples, language="de", task="translate", temperatures=(0,), max_new_tokens=NEW, **some
    )
    assert_same(listed(said), expected_too)
    assert 0 < len(expected_too) != len(expected)


def test_improbable_texts_are_written_anew(model):
    """As long as the threshold says so, at each temperature; one near 0 writes what 0 does."""
    settings = dict(max_new_tokens=6, no_speech_threshold=None, compression_ratio_threshold=None, language="en")
    tokenizer, samples = make_tokenizer(), sound(12)

    def said(temperatures, threshold, seed=0):
        found = kn.transcribe(
            model, tokenizer, samples, temperatures=temperatures, logprob_threshold=threshold, seed=seed, **settings
        )
        return found["segments"]

    cold = said((0,), None)
    assert said((5.0, 1e-4), 0.0) == cold
    assert said((5.0, 1e-4), -1e9) == said((5.0,), None) != cold
    assert said((5.0,), None) != said((5.0,), None, seed=1)


def test_without_times(model):
    settings = dict(timestamps=False, max_new_tokens=4, logprob_threshold=None, no_speech_threshold=None)
    said = kn.transcribe(model, make_tokenizer(), sound(12), language="haw", **settings)
    assert said["language"] == "haw"
    assert [(s["start"], s["end"]) for s in said["segments"]] == [(0.0, 10.0), (10.0, 12.0)]
    assert kn.transcribe(model, make_tokenizer(), sound(3), **settings)["segments"][0]["end"] == 3.0


def test_the_command_writes_a_line_for_each_segment(folder, tmp_path):
    soundfile = pytest.importorskip("soundfile", reason="sounds are read by it")
    runner = pytest.importorskip("typer.testing", reason="the command line is made with it").CliRunner()
    make_tokenizer().save_pretrained(folder)
    soundfile.write(tmp_path / "a.wav", sound(2), 16000)
    given = ["transcribe", str(tmp_path / "a.wav"), "--model", str(folder)]
    result = runner.invoke(cli.make_app(), [*given, "--language", "en"])
    lines = result.output.splitlines()
    assert result.exit_code == 0 and lines and all(re.match(r" +\d+\.\d\d +\d+\.\d\d  ", line) for line in lines)
    result = runner.invoke(cli.make_app(), [*given, "--language", "xx"])
    assert result.exit_code == 1 and "language must be one of" in result.output


def test_refuses(model):
    tokenizer = make_tokenizer()
    for arguments, message in [
        (dict(language="xx"), r"language must be one of \['de', 'en', 'haw'\]; received 'xx'"),
        (dict(task="sing"), "task must be one of"),
        (dict(temperatures=()), "temperatures must be"),
        (dict(logprob_threshold=None), "no_speech_threshold is asked"),
    ]:
        with pytest.raises(ValueError, match=message):
            kn.transcribe(model, tokenizer, sound(1), **arguments)
    with pytest.raises(ValueError, match="one channel"):
        kn.transcribe(model, tokenizer, np.zeros((4, 2), "float32"))
    with pytest.raises(ValueError, match="there is no sample"):
        kn.transcribe(model, tokenizer, np.zeros(0, "float32"))
    with pytest.raises(ValueError, match=r"the vocabulary has no <\|notimestamps\|>"):
        kn.transcribe(model, make_tokenizer(NAMES[:-1]), sound(1))
