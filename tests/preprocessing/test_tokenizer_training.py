"""`Tokenizer.train`: as many tokens as asked for, texts come back, transformers reads what is saved."""

import pathlib

import pytest

import kerasnets as kn
from kerasnets import guard

pytest.importorskip("tokenizers", reason="tokenizers do the training")
PROSE = pathlib.Path(guard.__file__).read_text(encoding="utf-8").splitlines(keepends=True)
CHINESE = ["我今天很开心，房间很大。", "房间很干净，我很开心！", "今天的房间不大，我不开心。", "他们今天也很开心。"] * 2
KINDS = ("wordpiece", "bpe", "unigram")


@pytest.mark.parametrize("kind", KINDS)
def test_trained(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the reference is transformers")
    tokenizer = kn.Tokenizer.train(
        iter([*PROSE, *CHINESE]), kind, vocab_size=500, special_tokens=["<user>"], lowercase=False
    )
    assert tokenizer.vocab_size == 500
    texts = ["Raises `ValueError` where the inputs of a model cannot be right.", "我今天很开心", "a <user> b", ""]
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts[:2]] == (
        [texts[0].replace("`", " ` ").replace("  ", " ").strip().replace(" `.", "`."), "我 今 天 很 开 心"]
        if kind == "wordpiece"
        else texts[:2]
    )
    assert "<user>" in tokenizer.tokenize(texts[2])
    assert len(tokenizer.tokenize("where the inputs")) < 9
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = kn.Tokenizer.from_pretrained(tmp_path)
    for text in texts:
        assert theirs(text)["input_ids"] == tokenizer.encode(text) == again.encode(text)
        assert theirs(text, "b")["input_ids"] == tokenizer.encode(text, "b")
    assert (theirs.pad_token_id, theirs.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_special_tokens_stand_where_their_models_want_them():
    wordpiece, bpe, unigram = (kn.Tokenizer.train([*PROSE, *CHINESE], kind, vocab_size=500) for kind in KINDS)
    assert (wordpiece.pad_token_id, wordpiece.unk_token_id, wordpiece.mask_token_id) == (0, 1, 4)
    batch = wordpiece("A model", "the inputs", padding=16)
    assert batch["input_ids"][0, 0] == wordpiece.cls_token_id == 2
    assert (batch["input_ids"] == wordpiece.sep_token_id).sum() == 2 and batch["token_type_ids"].max() == 1
    assert wordpiece.encode("THE") == wordpiece.encode("the")  # only this kind lowers the case of itself
    assert bpe.eos_token_id == 0 and bpe.encode("THE") != bpe.encode("the")
    assert unigram.encode("the")[-1] == unigram.eos_token_id == 1 and unigram.encode("THE") != unigram.encode("the")
    lower = kn.Tokenizer.train(PROSE, "bpe", vocab_size=400, lowercase=True)
    assert lower.encode("THE") == lower.encode("the")


def test_files_are_read_line_by_line(tmp_path):
    file = tmp_path / "prose.txt"
    file.write_text("".join(PROSE), encoding="utf-8")
    of_texts = kn.Tokenizer.train(PROSE, "bpe", vocab_size=400).backend.get_vocab()
    for source in (str(file), file, [file]):
        assert kn.Tokenizer.train(source, "bpe", vocab_size=400).backend.get_vocab() == of_texts
    assert len(of_texts) == 400


@pytest.mark.parametrize(
    ("texts", "options", "error", "words"),
    [
        ([], {}, ValueError, "no text"),
        ("no/such/file", {}, FileNotFoundError, "no/such/file"),
        (["a", "b\ud800"], {}, ValueError, "from 1 on.*surrogate"),
        ([5], {}, ValueError, "int"),
        (["a"], {"kind": "words"}, ValueError, "wordpiece.*'words'"),
        (["a"], {"kind": "bpe", "vocab_size": 256}, ValueError, "at least 257.*256"),
        (["a"], {"vocab_size": 9.5}, ValueError, r"9\.5"),
        (CHINESE, {"kind": "unigram", "vocab_size": 9}, ValueError, "9 tokens"),
    ],
)
def test_bad_input(texts, options, error, words):
    with pytest.raises(error, match=words):
        kn.Tokenizer.train(texts, **options)


def test_rare_letters_leave_where_the_vocabulary_is_small():
    tokenizer = kn.Tokenizer.train(CHINESE, vocab_size=20)
    assert tokenizer.vocab_size <= 20
    assert tokenizer.tokenize("很净") == ["很", "[UNK]"]
