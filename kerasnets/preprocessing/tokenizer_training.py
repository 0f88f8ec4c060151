"""A tokenizer of one's own: the vocabulary that suits some texts, found by the trainers of the `tokenizers` library.

`wordpiece.py`, `byte_pairs.py` and `unigram.py` beside this file show how each kind is trained, to be read.
"""

import pathlib

from kerasnets.preprocessing import tokenizer_files as files
from kerasnets.preprocessing import tokenizer_kinds as kinds

# The special tokens of a kind, by what they are; the first has id 0.
OWN = {
    "wordpiece": {
        name: files.BERT[name] for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    },
    "bpe": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "unigram": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
}


def trained(texts, kind, vocab_size, special_tokens, lowercase):
    """(a `tokenizers.Tokenizer`, its settings) for `texts`: the name of a file, or texts and `Path`s of files.

    Raises `ValueError` for another kind, for what is not text, and where the special tokens and the letters alone are
    more than `vocab_size`.
    """
    if kind not in OWN:
        raise ValueError(f"kind must be one of {list(OWN)}; received {kind!r}.")
    lowercase = kind == "wordpiece" if lowercase is None else lowercase
    special = list(dict.fromkeys([*OWN[kind].values(), *special_tokens]))
    least = len(special) + (256 if kind == "bpe" else 2)
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < least:
        raise ValueError(f"vocab_size must be at least {least} for {kind!r} with {special}; received {vocab_size!r}.")
    backend, trainer = PIPELINES[kind](vocab_size, special, lowercase)
    try:
        backend.train_from_iterator(lines(texts), trainer)
    except (OSError, ValueError):
        raise
    except Exception as error:  # the library raises bare ones
        raise ValueError(f"no {kind} tokenizer of {vocab_size} tokens can be trained on these texts: {error}") from None
    if backend.get_vocab_size() > vocab_size:
        raise ValueError(f"the texts need {backend.get_vocab_size()} tokens at least; received {vocab_size=}.")
    settings = {**OWN[kind]}
    if kind == "wordpiece":
        kinds.surround(backend, ["[CLS]"], ["[SEP]"], [], ["[SEP]"])
        settings |= files.SEGMENTS
    if kind == "unigram":
        kinds.surround(backend, [], ["</s>"], [], ["</s>"], segment=0)
    return backend, settings


def word_pieces(vocab_size, special, lowercase):
    backend = kinds.wordpiece({"[UNK]": 0}, lowercase=lowercase)
    trainer = kinds.library("tokenizers").trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special,
        limit_alphabet=(vocab_size - len(special)) // 2,  # each letter twice: at the start of a word and within
        show_progress=False,
    )
    return backend, trainer


def byte_pairs(vocab_size, special, lowercase):
    tokenizers = kinds.library("tokenizers")
    backend = kinds.byte_level({}, [])
    if lowercase:
        backend.normalizer = tokenizers.normalizers.Lowercase()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return backend, trainer


def unigram(vocab_size, special, lowercase):
    tokenizers = kinds.library("tokenizers")
    steps = [tokenizers.normalizers.Lowercase()] if lowercase else []
    backend = kinds.spaced(tokenizers.Tokenizer(tokenizers.models.Unigram()), "first", steps, split=True)
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    return backend, trainer


PIPELINES = {"wordpiece": word_pieces, "bpe": byte_pairs, "unigram": unigram}


def lines(texts):
    """The texts one by one, of files line by line; there must be one at least."""
    from kerasnets.preprocessing.tokenizer import check_texts

    texts, count = [pathlib.Path(texts)] if isinstance(texts, (str, pathlib.Path)) else texts, 0
    for i, text in enumerate(texts):
        if isinstance(text, pathlib.Path):
            with open(text, encoding="utf-8") as file:
                found = list(file)
        else:
            check_texts(f"texts, from {i} on,", [text])
            found = [text]
        count += len(found)
        yield from found
    if not count:
        raise ValueError("there is no text to train on.")
