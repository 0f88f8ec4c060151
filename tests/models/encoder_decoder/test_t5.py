"""`T5`: agreement with transformers in both versions and every variant of its config."""

import json

import numpy as np
import pytest

import kerasnets as kn
from kerasnets.seq2seq import shift_right
from tests.models import parity
from tests.models.encoder_decoder import seq2seq

VOCAB = 99
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, head_size=6, feedforward_size=40)
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
VARIANTS = {
    "1.0": {},
    "1.1": GATED,
    "1.1, tied": {"feed_forward_proj": "gated-gelu"},
    "more decoder blocks": {"num_decoder_layers": 3},
    "fewer decoder blocks": {"num_decoder_layers": 1},
    "few buckets": {"relative_attention_num_buckets": 6, "relative_attention_max_distance": 5},
    "gated silu, another epsilon": {"feed_forward_proj": "gated-silu", "layer_norm_epsilon": 0.05},
}


def reference(**changes):
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    torch = pytest.importorskip("torch", reason="the reference runs on torch")
    fields = dict(vocab_size=VOCAB, d_model=32, num_layers=2, num_heads=4, d_kv=6, d_ff=40, decoder_start_token_id=0)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**{**fields, **changes}))
    if not changes.get("tie_word_embeddings", True):  # transformers 5 ties every head that it makes
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 32))
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_transformers(variant, tmp_path):
    # Scores that nothing divides by √H grow with the square of the weights, and with them the rounding of both sides.
    seq2seq.check(reference(**VARIANTS[variant]), tmp_path, seq2seq.some_inputs(VOCAB), spread=0.2)


def test_head_is_the_one_in_the_file(tmp_path):
    """transformers 5 writes `tie_word_embeddings: true` beside an untied head; its scale stands in another field."""
    parity.randomized(reference(**GATED)).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["tie_word_embeddings"] is True and values["scale_decoder_outputs"] is False
    model = kn.from_pretrained(tmp_path)
    assert (model.config.tied, model.config.scale_head) == (False, False)
    older = {name: value for name, value in values.items() if name != "scale_decoder_outputs"}
    (tmp_path / "config.json").write_text(json.dumps(older | {"tie_word_embeddings": False}))
    assert kn.from_pretrained(tmp_path).config == model.config


def test_backbone_alone(tmp_path):
    theirs = parity.randomized(reference())
    theirs.save_pretrained(tmp_path)
    model = kn.from_pretrained(tmp_path, task="backbone")
    assert type(model) is kn.T5
    inputs = seq2seq.some_inputs(VOCAB)
    expected, _ = seq2seq.reference_outputs(theirs, inputs)
    parity.assert_close(model(inputs), expected["decoder"][-1])


def test_superfluous_tensors(tmp_path):
    """t5-small holds a bias that its cross-attention never reads; .bin files repeat the embedding."""
    torch = pytest.importorskip("torch", reason="it writes the .bin file")
    theirs = parity.randomized(reference())
    theirs.save_pretrained(tmp_path)
    state = {name: weight.clone() for name, weight in theirs.state_dict().items()}
    state["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.zeros(32, 4)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = kn.from_pretrained(tmp_path)
    assert model.config.tied
    seq2seq.assert_agrees(model, theirs, seq2seq.some_inputs(VOCAB))
    state["encoder.embed_tokens.weight"][0] += 1
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="encoder.embed_tokens.weight is not equal to shared.weight"):
        kn.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward_proj": "gated-sine"}, "feed_forward_proj must be one of"),
        ({"dense_act_fn": "silu"}, "dense_act_fn is 'silu'"),
        ({"decoder_start_token_id": "zero"}, "decoder_start_token_id must be a token id"),
        ({"num_decoder_layers": 3}, "missing: decoder.block.2"),
        ({"use_something": True}, "use_something"),
    ],
)
def test_refuses(change, message, tmp_path):
    reference().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=message):
        kn.from_pretrained(tmp_path)


def test_generates(tmp_path):
    theirs = parity.randomized(reference(**GATED, num_layers=1), spread=0.3)
    theirs.save_pretrained(tmp_path)
    seq2seq.assert_generates(kn.from_pretrained(tmp_path), theirs, seq2seq.some_inputs(VOCAB))


def test_trains():
    inputs = seq2seq.some_inputs(VOCAB)
    seq2seq.assert_trains(kn.T5Seq2SeqLM(**{**SMALL, "num_layers": 1}), inputs, 0, VOCAB)


def test_inputs_are_asked_for_by_name():
    model = kn.T5Seq2SeqLM(**SMALL)
    ids = parity.some_ids(VOCAB)
    with pytest.raises(ValueError, match="decoder_input_ids"):
        model(ids)
    with pytest.raises(ValueError, match="decoder_attention_mask"):
        model({"input_ids": ids, "decoder_input_ids": ids, "decoder_attention_mask": np.ones((3, 2))})


def test_presets_have_the_published_sizes():
    assert len(kn.T5.presets) == 15 and kn.T5.Config().vocab_size == 32128
    model = kn.T5Seq2SeqLM.from_preset("t5-small", num_layers=1, vocab_size=100)
    inner, wide = 4 * 512 * 512, 2 * 512 * 2048
    assert model.count_params() == 100 * 512 + 2 * 32 * 8 + 3 * inner + 2 * wide + 7 * 512


def test_labels_shifted_right():
    labels = np.array([[5, 6, 1], [7, 1, -100]])
    assert shift_right(labels, 0, 9).tolist() == [[0, 5, 6], [0, 7, 1]]
    assert shift_right(labels[:, ::-1], 0, 9).tolist() == [[0, 1, 6], [0, 9, 1]]
    assert parity.to_numpy(shift_right(np.asarray(labels), 2, 9)).tolist() == [[2, 5, 6], [2, 7, 1]]
