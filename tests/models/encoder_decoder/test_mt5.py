"""`MT5`: agreement with transformers, with a head of its own and with the embedding's."""

import json

import pytest

import kerasnets as kn
from tests.models import parity
from tests.models.encoder_decoder import seq2seq

VOCAB = 99
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, head_size=6, feedforward_size=40)


def reference(own_head=True, **changes):
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    torch = pytest.importorskip("torch", reason="the reference runs on torch")
    fields = dict(vocab_size=VOCAB, d_model=32, num_layers=2, num_heads=4, d_kv=6, d_ff=40)
    model = transformers.MT5ForConditionalGeneration(transformers.MT5Config(**fields, **changes))
    if own_head:  # transformers 5 ties every head that it makes
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 32))
    return model


@pytest.mark.parametrize("own_head", [True, False], ids=["own head", "tied"])
def test_agrees_with_transformers(own_head, tmp_path):
    theirs = reference(own_head, num_decoder_layers=3 - own_head)
    model = seq2seq.check(theirs, tmp_path, seq2seq.some_inputs(VOCAB), spread=0.2)
    assert type(model) is kn.MT5Seq2SeqLM and model.config.tied is not own_head


def test_what_the_file_does_not_say(tmp_path):
    """Published configs say that the head is not tied; those that say nothing are gated and tied."""
    parity.randomized(reference()).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    expected = kn.from_pretrained(tmp_path).config
    for change in ({"tie_word_embeddings": False}, {"feed_forward_proj": None, "tie_word_embeddings": None}):
        kept = {name: value for name, value in {**values, **change}.items() if value is not None}
        (tmp_path / "config.json").write_text(json.dumps(kept))
        assert kn.from_pretrained(tmp_path).config == expected


def test_a_scaled_head_has_no_place_in_the_file(tmp_path):
    with pytest.raises(ValueError, match="scale_head=True"):
        kn.to_pretrained(kn.MT5Seq2SeqLM(**SMALL, scale_head=True), tmp_path)


def test_presets_have_the_published_sizes():
    assert kn.MT5.Config().vocab_size == 250112
    model = kn.MT5Seq2SeqLM.from_preset("mt5-small", num_layers=1, vocab_size=100)
    inner, wide = 4 * 512 * 6 * 64, 3 * 512 * 1024
    assert model.count_params() == 2 * 100 * 512 + 2 * 32 * 6 + 3 * inner + 2 * wide + 7 * 512
