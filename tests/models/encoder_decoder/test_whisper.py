"""`Whisper`: agreement with transformers, of whose features every frame counts."""

import json

import numpy as np
import pytest

import kerasnets as kn
from kerasnets.models.encoder_decoder.whisper import sines
from tests.models import parity
from tests.models.encoder_decoder import seq2seq

VOCAB, MELS, LENGTH = 99, 8, 7
SMALL = dict(vocab_size=VOCAB, num_mels=MELS, hidden_size=32, num_layers=2, num_heads=4, feedforward_size=40)
SMALL |= dict(max_source_length=LENGTH, max_length=40, begin_suppress_tokens=(), eos_token_id=(2,), pad_token_id=2)
BRIEFLY = ("another decoder", "more mels")
VARIANTS = {
    "as published": {},
    "another decoder": dict(decoder_layers=3, decoder_attention_heads=2, decoder_ffn_dim=24),
    "fewer decoder blocks, scaled": {"decoder_layers": 1, "scale_embedding": True},
    "more mels": {"num_mel_bins": 12},
}


def reference(**changes):
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    pytest.importorskip("torch", reason="the reference runs on torch")
    fields = dict(vocab_size=VOCAB, num_mel_bins=MELS, d_model=32, encoder_layers=2, decoder_layers=2)
    fields |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    fields |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 40)
    fields |= dict(max_source_positions=LENGTH, max_target_positions=40, begin_suppress_tokens=[5, 6])
    fields |= dict(bos_token_id=2, eos_token_id=2, pad_token_id=2, decoder_start_token_id=3, suppress_tokens=[8, 9])
    return transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**{**fields, **changes}))


def some_inputs(mels=MELS):
    features = np.random.default_rng(2).normal(size=(3, mels, 2 * LENGTH)).astype("float32")
    return {"input_features": features, "decoder_input_ids": parity.some_ids(VOCAB, length=8, seed=1)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    changes = VARIANTS[variant]
    seq2seq.check(
        reference(**changes), tmp_path, some_inputs(changes.get("num_mel_bins", MELS)), briefly=variant in BRIEFLY
    )


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_tokens_that_are_not_to_be_written(file, tmp_path):
    """Older files say it in config.json, newer ones beside it."""
    lists = {"suppress_tokens": [8, 9], "begin_suppress_tokens": [5, 6], "forced_decoder_ids": [[1, 7], [2, None]]}
    reference().save_pretrained(tmp_path)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / name).read_text())
        values = {key: value for key, value in values.items() if key not in lists} | (lists if name == file else {})
        (tmp_path / name).write_text(json.dumps(values))
    config = kn.from_pretrained(tmp_path).config
    assert (config.suppress_tokens, config.begin_suppress_tokens) == ((8, 9), (5, 6))
    assert config.forced_decoder_ids == ((1, 7), (2, None))


def test_generates(tmp_path):
    """As the plain loop: transformers' own `generate` for this family adds languages, tasks and times.

    No token comes twice, so that many come.
    """
    theirs = parity.randomized(reference(encoder_layers=1, decoder_layers=1), spread=0.3)
    theirs.save_pretrained(tmp_path)
    inputs = some_inputs()
    ids = np.full((3, 1), 3)
    for step in range(30):
        _, logits = seq2seq.reference_outputs(theirs, {**inputs, "decoder_input_ids": ids})
        last = logits[:, -1]
        last[:, [8, 9, 2] + [5, 6] * (step == 0)] = -np.inf
        np.put_along_axis(last, ids, -np.inf, axis=1)
        ids = np.concatenate([ids, last.argmax(axis=1)[:, None]], axis=1)
    del inputs["decoder_input_ids"]
    found = kn.from_pretrained(tmp_path).generate(inputs, max_new_tokens=30, min_new_tokens=30, no_repeat_ngram=1)
    assert np.array_equal(found, ids[:, 1:])


def test_positions_are_given_not_learned():
    model = kn.WhisperSeq2SeqLM(**SMALL)
    positions = model.backbone.encoder_position_embedding.embeddings
    assert [w is positions for w in model.non_trainable_weights] == [True]
    transformers = pytest.importorskip("transformers.models.whisper.modeling_whisper", reason="it has the reference")
    expected = transformers.sinusoids(1500, 384).numpy()
    assert np.abs(parity.to_numpy(sines((1500, 384), "float32")) - expected).max() < 2e-4  # angles to 1500 in float32


def test_a_decoder_like_the_encoder_is_written_with_its_sizes(tmp_path):
    kn.to_pretrained(kn.WhisperSeq2SeqLM(**SMALL), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    sizes = [values[f"decoder_{name}"] for name in ("layers", "attention_heads", "ffn_dim")]
    assert sizes == [SMALL[name] for name in ("num_layers", "num_heads", "feedforward_size")]


def test_trains():
    seq2seq.assert_trains(kn.WhisperSeq2SeqLM(**{**SMALL, "num_layers": 1}), some_inputs(), 3, VOCAB)


@pytest.mark.parametrize("shape", [(3, MELS, 2 * LENGTH + 1), (3, MELS + 1, 2 * LENGTH), (3, 2 * LENGTH)])
def test_features_of_another_shape_are_refused(shape):
    model = kn.WhisperSeq2SeqLM(**SMALL)
    with pytest.raises(ValueError, match=r"must be \(batch, 8, 14\)"):
        model({**some_inputs(), "input_features": np.zeros(shape, "float32")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suppress_tokens": ["a"]}, "suppress_tokens must be a list of token ids"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"max_source_positions": 8}, r"embed_positions.weight has shape \(7, 32\), expected \(8, 32\)"),
    ],
)
def test_refuses(change, message, tmp_path):
    reference().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=message):
        kn.from_pretrained(tmp_path)


def test_presets_have_the_published_sizes():
    assert len(kn.Whisper.presets) == 12
    model = kn.Whisper.from_preset("whisper-tiny", num_layers=1, vocab_size=100)
    attention, wide = 4 * 384**2 + 3 * 384, 2 * 384 * 1536 + 384 + 1536
    front = 3 * 80 * 384 + 3 * 384**2 + 2 * 384 + (1500 + 448 + 100) * 384
    assert model.count_params() == front + 3 * attention + 2 * wide + 7 * 2 * 384
