"""`BART`: agreement with transformers in every variant of its config, and classes read off the end of a text."""

import json

import numpy as np
import pytest

import kerasnets as kn
from tests.models import parity
from tests.models.encoder_decoder import seq2seq

VOCAB = 99
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, feedforward_size=40, max_length=24)
OTHER = dict(decoder_layers=3, decoder_attention_heads=2, decoder_ffn_dim=24)
ONE = dict(encoder_layers=1, decoder_layers=1)
VARIANTS = {
    "as published": {},
    "scaled": {"scale_embedding": True},
    "another decoder": OTHER,
    "fewer decoder blocks, relu": {"decoder_layers": 1, "activation_function": "relu"},
}


def reference(task="BartForConditionalGeneration", **changes):
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    torch = pytest.importorskip("torch", reason="the reference runs on torch")
    fields = dict(vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=2, max_position_embeddings=24)
    fields |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    fields |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 40)
    model = getattr(transformers, task)(transformers.BartConfig(**{**fields, **changes}))
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias = torch.randn(1, VOCAB)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    seq2seq.check(
        reference(**VARIANTS[variant]), tmp_path, seq2seq.some_inputs(VOCAB), briefly=variant == "another decoder"
    )


def texts():
    """Ids with an end of text behind each row, and another one before it in some."""
    inputs = seq2seq.some_inputs(VOCAB)
    for row, length in zip(inputs["input_ids"], seq2seq.LENGTHS, strict=True):
        row[[length - 1, length - 3]] = 2
        row[length:] = 1
    del inputs["decoder_input_ids"]
    return inputs


@pytest.mark.parametrize("changes", [{}, {"num_labels": 5, **OTHER}], ids=["3 labels", "5 labels"])
def test_classifier(changes, tmp_path):
    theirs = parity.randomized(reference("BartForSequenceClassification", **changes), spread=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    model = kn.from_pretrained(tmp_path / "theirs")
    assert type(model) is kn.BARTSequenceClassifier and model.config.num_labels == changes.get("num_labels", 3)
    inputs = texts()
    _, expected = seq2seq.reference_outputs(theirs, inputs)
    parity.assert_close(model(inputs), expected)
    seq2seq.assert_round_trip(model, theirs, tmp_path / "ours", inputs)
    left, mask = seq2seq.on_the_left(inputs["input_ids"], seq2seq.LENGTHS)
    parity.assert_close(model({"input_ids": left, "attention_mask": mask}), expected)
    with pytest.raises(ValueError, match="end-of-text"):
        model(np.full((2, 5), 7))


def test_logits_bias_may_be_absent(tmp_path):
    """Files of the bare model have none: it is 0 then, and is not trained where it is there."""
    theirs = parity.randomized(reference())
    theirs.model.save_pretrained(tmp_path)
    model = kn.from_pretrained(tmp_path, task="seq2seq_lm")
    inputs = seq2seq.some_inputs(VOCAB)
    _, expected = seq2seq.reference_outputs(theirs, inputs)
    parity.assert_close(model(inputs), expected - theirs.final_logits_bias.numpy())
    parity.assert_close(
        kn.from_pretrained(tmp_path)(inputs), seq2seq.reference_outputs(theirs, inputs)[0]["decoder"][-1]
    )
    new = kn.BARTSeq2SeqLM(**SMALL)
    assert len(new.non_trainable_weights) == 1 and new.head.bias is new.non_trainable_weights[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mbart"}, "model_type 'mbart'; known are"),
        ({"normalize_before": True}, "normalize_before is True"),
        ({"add_final_layer_norm": True}, "add_final_layer_norm is True"),
        ({"decoder_attention_heads": 3}, "3 heads can't share hidden_size=32"),
        ({"forced_eos_token_id": "two"}, "forced_eos_token_id must be a token id"),
        ({"decoder_layers": 1}, "not expected: model.decoder.layers.1"),
    ],
)
def test_refuses(change, message, tmp_path):
    reference().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=message):
        kn.from_pretrained(tmp_path)


def test_generates(tmp_path):
    theirs = parity.randomized(
        reference(forced_bos_token_id=7, forced_eos_token_id=None, max_position_embeddings=40, **ONE), spread=0.3
    )
    theirs.save_pretrained(tmp_path)
    seq2seq.assert_generates(kn.from_pretrained(tmp_path), theirs, seq2seq.some_inputs(VOCAB))


def test_a_decoder_like_the_encoder_is_written_with_its_sizes(tmp_path):
    kn.to_pretrained(kn.BARTSeq2SeqLM(**SMALL), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    sizes = [values[f"decoder_{name}"] for name in ("layers", "attention_heads", "ffn_dim")]
    assert sizes == [SMALL[name] for name in ("num_layers", "num_heads", "feedforward_size")]


def test_trains():
    seq2seq.assert_trains(kn.BARTSeq2SeqLM(**{**SMALL, "num_layers": 1}), seq2seq.some_inputs(VOCAB), 2, VOCAB)


def test_too_long_is_refused():
    model = kn.BARTSeq2SeqLM(**SMALL)
    with pytest.raises(ValueError, match="positions"):
        model({"input_ids": np.ones((1, 27), "int32"), "decoder_input_ids": np.ones((1, 2), "int32")})


def test_presets_have_the_published_sizes():
    assert kn.BART.Config().vocab_size == 50265
    model = kn.BART.from_preset("bart-base", num_layers=1, num_decoder_layers=1, vocab_size=100)
    attention, wide = 4 * 768**2 + 4 * 768, 2 * 768 * 3072 + 768 + 3072
    assert model.count_params() == 100 * 768 + 2 * 1026 * 768 + 3 * attention + 2 * wide + 7 * 2 * 768
