"""Beam search: the texts that transformers finds, for models with and without an encoder."""

import itertools

import numpy as np
import pytest

import kerasnets as kn
from kerasnets.samplers import Beam
from tests.models import every_family, parity
from tests.models.encoder_decoder import seq2seq

VOCAB, NEW, PAD = 99, 30, 0
SIZES = dict(vocab_size=VOCAB, d_model=32, num_layers=2, num_heads=4, d_kv=6, d_ff=40, decoder_start_token_id=0)
BART = dict(vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=2, max_position_embeddings=64)
BART |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
BART |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 40)
LLAMA = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
LLAMA |= dict(intermediate_size=48, max_position_embeddings=64, pad_token_id=0, eos_token_id=2)
GPT2 = dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0, eos_token_id=2)
KINDS = {  # transformers' class, its config
    "T5": ("T5ForConditionalGeneration", SIZES),
    "mT5": ("MT5ForConditionalGeneration", SIZES),
    "BART": ("BartForConditionalGeneration", BART | dict(forced_bos_token_id=7, forced_eos_token_id=2)),
    "GPT2": ("GPT2LMHeadModel", GPT2),
    "LLaMA": ("LlamaForCausalLM", LLAMA),
}


def both(name, folder):
    """The same of transformers and of ours, and a batch of different lengths."""
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    pytest.importorskip("torch", reason="the reference runs on torch")
    kind, fields = KINDS[name]
    made = getattr(transformers, kind)
    theirs = parity.randomized(made(made.config_class(**fields)), spread=0.3)
    theirs.save_pretrained(folder)
    inputs = seq2seq.some_inputs(VOCAB)
    del inputs["decoder_input_ids"]
    if "CausalLM" in kind or "LMHead" in kind:
        ids, mask = seq2seq.on_the_left(inputs["input_ids"], seq2seq.LENGTHS)
        inputs = {"input_ids": ids, "attention_mask": mask}
    return theirs, kn.from_pretrained(folder), inputs


def found_by(theirs, inputs, stops, **settings):
    """What transformers finds, without the prompt; −1 after the end."""
    import torch

    given = {name: torch.tensor(value).long() for name, value in inputs.items()}
    with torch.no_grad():
        ids = theirs.generate(**given, max_new_tokens=NEW, do_sample=False, eos_token_id=stops, **settings).numpy()
    return ended(ids[:, 1 if theirs.config.is_encoder_decoder else inputs["input_ids"].shape[1] :], stops)


def ended(ids, stops):
    stopped = np.cumsum(np.isin(ids, stops), axis=1) - np.isin(ids, stops)
    return np.where(stopped > 0, -1, ids)


def in_columns(ids):
    return np.pad(ids, [[0, 0], [0, NEW - ids.shape[1]]], constant_values=-1)


@pytest.mark.parametrize("name", ["T5", "GPT2"])
def test_texts_are_those_of_transformers(name, tmp_path):
    theirs, model, inputs = both(name, tmp_path)
    greedy = found_by(theirs, inputs, [2], no_repeat_ngram_size=1)
    stops, lengths = [2, *map(int, greedy[:, 9])], set()  # likely at some place, and not from the start
    for k, early, penalty in itertools.product((3, 5), (False, True), (0.6, 1.0, 2.0)):
        settings = dict(num_beams=k, length_penalty=penalty, early_stopping=early)
        found = model.generate(inputs, max_new_tokens=NEW, sampler=Beam(**settings), stop_tokens=stops)
        expected = found_by(theirs, inputs, stops, **settings)
        assert np.array_equal(ended(found, stops), expected), settings
        lengths |= set((expected >= 0).sum(axis=1))
    assert min(lengths) < 8 and len(lengths) > 3, lengths


@pytest.mark.parametrize("name", ["BART", "LLaMA"])
def test_forced_tokens_and_processors(name, tmp_path):
    theirs, model, inputs = both(name, tmp_path)
    settings = dict(repetition_penalty=1.3, min_new_tokens=4)
    theirs_too = dict(no_repeat_ngram_size=2, num_beams=3, early_stopping="never", num_return_sequences=2)
    expected = found_by(theirs, inputs, [2], **settings, **theirs_too)
    beam = Beam(3, early_stopping="never")
    found = model.generate(
        inputs, max_new_tokens=NEW, sampler=beam, stop_tokens=[2], samples=2, no_repeat_ngram=2, **settings
    )
    assert np.array_equal(in_columns(ended(found, [2])), in_columns(expected))
    assert len(found) == 6 and len(np.unique(found)) > 10


@pytest.mark.parametrize("name", ["mT5", "BART"])
def test_greedy_is_that_of_transformers(name, tmp_path):
    """With the end that a config forces where there is no more place."""
    theirs, model, inputs = both(name, tmp_path)
    found = model.generate(inputs, max_new_tokens=NEW, stop_tokens=[2])
    assert np.array_equal(ended(found, [2]), found_by(theirs, inputs, [2]))


def test_a_small_cache_grows(monkeypatch):
    model = every_family.CLASSES["GPT2CausalLM"](vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4)
    random = np.random.default_rng(3)
    for weight in model.trainable_weights:
        weight.assign(0.4 * random.normal(size=weight.shape))
    ids = parity.some_ids(VOCAB, rows=2)
    settings = dict(max_new_tokens=40, sampler=Beam(2), stop_tokens=[2])
    at_once = model.generate(ids, **settings)
    monkeypatch.setattr("kerasnets.generation.ROOM", 24)
    assert np.array_equal(model.generate(ids, **settings), at_once)


def test_what_has_no_meaning_is_refused():
    model = every_family.CLASSES["GPT2CausalLM"](vocab_size=VOCAB, hidden_size=8, num_layers=1, num_heads=2)
    ids = parity.some_ids(VOCAB, rows=2, length=4)
    for wrong, message in [
        (dict(sampler=(Beam(2), kn.samplers.TopK(3))), "stands alone"),
        (dict(sampler=Beam(2), samples=3), "at most num_beams=2"),
        (dict(sampler=Beam(2), stop_strings="a", tokenizer=object()), "stop_strings do not go with"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.generate(ids, max_new_tokens=4, **wrong)
    with pytest.raises(ValueError, match="can't stream"):
        model.stream(ids, max_new_tokens=4, sampler=Beam(2))
    for wrong in (dict(num_beams=1), dict(num_beams=2.0), dict(length_penalty=np.nan), dict(early_stopping="yes")):
        with pytest.raises(ValueError, match=f"Beam: {next(iter(wrong))}"):
            Beam(**wrong)
