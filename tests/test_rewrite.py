"""`kn.rewrite`: texts in their order, whatever stands beside them, whole or in pieces."""

import numpy as np
import pytest

import kerasnets as kn

LETTERS = list("abcdefg")
WORDS = ["<pad>", "</s>", "in", "hello", "world", "that", "is", "good", "你", "好", ",", ".", *LETTERS]
TEXTS = ["hello world .", "a b c d e f g", "that is good", "你 好", "a b c d e f g a b c"]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizers = pytest.importorskip("tokenizers", reason="texts are cut by it")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<pad>", "</s>"])
    return kn.Tokenizer(backend, {"pad_token": "<pad>", "eos_token": "</s>", "clean_up_tokenization_spaces": True})


@pytest.fixture(scope="module")
def model():
    sizes = dict(hidden_size=16, num_layers=1, num_heads=2, head_size=8, feedforward_size=24)
    model = kn.T5Seq2SeqLM(vocab_size=len(WORDS), **sizes)
    random = np.random.default_rng(5)
    for weight in model.trainable_weights:
        weight.assign(random.normal(size=weight.shape) * 0.5)
    return model


def alone(model, tokenizer, text, **settings):
    ids = model.generate({"input_ids": [tokenizer.encode(text)]}, max_new_tokens=8, **settings)[0].tolist()
    return tokenizer.decode(ids[: ids.index(1)] if 1 in ids else ids)


def test_texts_are_those_of_each_alone(model, tokenizer):
    settings = dict(no_repeat_ngram=2)
    expected = [alone(model, tokenizer, f"in {text}", **settings) for text in TEXTS]
    found = kn.rewrite(model, tokenizer, TEXTS, prefix="in ", batch_size=4, max_new_tokens=8, **settings)
    assert found == expected and len(set(found)) > 2
    assert kn.rewrite(model, tokenizer, TEXTS[1], prefix="in ", max_new_tokens=8, **settings) == expected[1]
    joined = [""] * len(TEXTS)
    steps = list(
        kn.rewrite(model, tokenizer, TEXTS, prefix="in ", batch_size=5, max_new_tokens=8, stream=True, **settings)
    )
    for i, piece in steps:
        joined[i] += piece
    assert joined == expected and len(steps) > 2 * len(TEXTS)


def test_beams_and_cut_texts(model, tokenizer):
    """Two texts that begin alike are one, where both are cut off there."""
    settings = dict(max_new_tokens=8, sampler=kn.samplers.Beam(2))
    found = kn.rewrite(model, tokenizer, [TEXTS[1], TEXTS[4]], max_length=7, **settings)
    ids = model.generate({"input_ids": [tokenizer.encode(TEXTS[1])] * 2}, **settings)[0].tolist()
    assert found == [tokenizer.decode(ids[: ids.index(1)] if 1 in ids else ids)] * 2


def test_refuses(model, tokenizer):
    with pytest.raises(ValueError, match="there is no text"):
        kn.rewrite(model, tokenizer, [])
    with pytest.raises(ValueError, match="text 1 has 0 tokens"):
        kn.rewrite(model, tokenizer, ["a", ""])
    with pytest.raises(ValueError, match="one text for each"):
        kn.rewrite(model, tokenizer, "a", samples=2)
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        kn.rewrite(model, tokenizer, "a", batch_size=0)
    with pytest.raises(ValueError, match="can't stream"):
        kn.rewrite(model, tokenizer, "a", stream=True, sampler=kn.samplers.Beam(2))
    with pytest.raises(ValueError, match="has no encoder"):
        kn.rewrite(kn.CNN(num_classes=2), tokenizer, "a")
