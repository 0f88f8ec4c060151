"""How text is cut into tokens: one pipeline of the `tokenizers` library for each kind of vocabulary.

- WordPiece: the longest piece first.   Wu et al. 2016, arXiv:1609.08144
- byte-pair encoding (BPE): the two neighbours whose merge was learned first are merged, again and again, over the bytes
  of a text (GPT-2) or over its characters (SentencePiece).   Sennrich et al. 2016, arXiv:1508.07909
- unigram: of all ways to cut a text the likeliest.   Kudo 2018, arXiv:1804.10959
"""

import base64
import importlib

SPACE = "▁"  # SentencePiece's sign for a space, U+2581
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT, QWEN2_SPLIT = WORDS % r"\p{N}{1,3}", WORDS % r"\p{N}"
CONTROL, USER_DEFINED, BYTE = 3, 4, 6  # the types of SentencePiece's pieces, of GGUF's tokens too


def library(name):
    """An optional library that tokenizers need."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"This tokenizer needs {name}: pip install 'kerasnets[hub]'") from None


def wordpiece(vocabulary, unknown="[UNK]", lowercase=True, split_chinese=True, strip_accents=None):
    """BERT's: words and punctuation marks, every Chinese character a word, each word cut into pieces `##…`."""
    tokenizers = library("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token=unknown))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece(prefix="##")
    return backend


def byte_level(vocabulary, merges, splits=None, prefix_space=False, normal_form=False, whole_first=False):
    """GPT-2's: BPE over bytes, each spelled as a letter; no merge reaches beyond a split, by default GPT-2's own.

    `whole_first` takes a split that is a token as it is, whether or not merges lead there, as tiktoken does.
    """
    tokenizers = library("tokenizers")
    pre = tokenizers.pre_tokenizers
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, ignore_merges=whole_first))
    own = splits is None or splits[-1] is None
    cuts = [pre.Split(tokenizers.Regex(split), "isolated") for split in splits or () if split]
    steps = [*cuts, pre.ByteLevel(add_prefix_space=prefix_space, use_regex=own)]
    backend.pre_tokenizer = pre.Sequence(steps) if cuts else steps[0]
    if normal_form:
        backend.normalizer = tokenizers.normalizers.NFC()
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


def tiktoken(text, splits=(LLAMA3_SPLIT,)):
    """tiktoken's files: lines of a token's bytes in base64 and its rank, which is its id and when it was merged."""
    spelled = byte_letters()
    ranks = {}
    for line in text.split(b"\n"):
        if line.strip():
            token, rank = line.split()
            ranks["".join(spelled[byte] for byte in base64.b64decode(token, validate=True))] = int(rank)
    return byte_level(ranks, merges_of(ranks, lambda token: ranks[token]), splits, whole_first=True)


def byte_letters():
    """GPT-2's spelling of the 256 bytes: printable ones as themselves, the others as the letters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def sentencepiece(model, space, again):
    """A SentencePiece model's own way: a `space` before the text, and `again` after each special token."""
    rules, normal = model.trainer_spec, model.normalizer_spec
    if rules.model_type not in (1, 2) or rules.treat_whitespace_as_suffix or not normal.escape_whitespaces:
        raise ValueError("only unigram and BPE models that mark the space before a word are read.")
    pieces = [(piece.piece, piece.score, piece.type) for piece in model.pieces]
    if rules.model_type == 1:
        backend = unigram(pieces, rules.unk_id, rules.byte_fallback)
    else:
        backend = scored_bpe(pieces, rules.unk_piece, rules.byte_fallback)
    normalizers = library("tokenizers").normalizers
    steps = [normalizers.Precompiled(normal.precompiled_charsmap)] if normal.precompiled_charsmap else []
    if normal.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(library("tokenizers").Regex(" {2,}"), " ")]
    again = again or normal.remove_extra_whitespaces  # where spaces were removed the text's first place is not known
    return spaced(backend, "never" if not space else "always" if again else "first", steps)


def scored_bpe(pieces, unknown, byte_fallback):
    """BPE over characters: of all neighbours those are merged first whose merged piece has the highest score."""
    tokenizers = library("tokenizers")
    vocabulary = {piece: id for id, (piece, _, _) in enumerate(pieces)}
    learned = {piece: (-score, id) for id, (piece, score, kind) in enumerate(pieces) if kind not in (CONTROL, BYTE)}
    return tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocabulary,
            merges_of(vocabulary, learned.get),
            unk_token=unknown if unknown in vocabulary else None,
            fuse_unk=True,
            byte_fallback=byte_fallback,
        )
    )


def unigram(pieces, unknown_id, byte_fallback):
    tokenizers = library("tokenizers")
    scored = [(piece, score) for piece, score, _ in pieces]
    return tokenizers.Tokenizer(tokenizers.models.Unigram(scored, unknown_id, byte_fallback))


def spaced(backend, prefix, steps=(), split=False):
    """Write spaces as ▁, one more before the text ("first"), after special tokens too ("always") or none ("never").

    `split` ends words there, so that training finds no piece of two words.

    `Metaspace` alone puts none before a text that begins with a space; SentencePiece does. So the spaces of the text
    become ▁ first, then a space is put before it, which becomes ▁ too.
    """
    tokenizers = library("tokenizers")
    normalizers, metaspace = tokenizers.normalizers, tokenizers.pre_tokenizers.Metaspace
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    put, write = metaspace(" ", prefix, split=False), metaspace(SPACE, "never", split=split)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([put, write])
    decoders = tokenizers.decoders
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*back, *([] if prefix == "never" else [decoders.Strip(" ", 1, 0)])])
    return backend


def merges_of(vocabulary, rank):
    """The merges that a vocabulary implies: each token from any two that it is made of, in the order of `rank`."""
    merges = []
    for token in vocabulary:
        place = rank(token)
        for cut in range(1, len(token)) if place is not None else ():
            if token[:cut] in vocabulary and token[cut:] in vocabulary:
                merges.append((place, cut, token))
    return [(token[:cut], token[cut:]) for _, cut, token in sorted(merges)]


def surround(backend, before, after, before_second, after_second, segment=1):
    """Special tokens around a text, before A after, and a pair: before A after before_second B after_second."""
    ids = {token: backend.token_to_id(token) for token in (*before, *after, *before_second, *after_second)}
    single = [*(f"{token}:0" for token in before), "$A:0", *(f"{token}:0" for token in after)]
    second = [*before_second, "$B", *after_second]
    backend.post_processor = library("tokenizers").processors.TemplateProcessing(
        single=single, pair=[*single, *(f"{piece}:{segment}" for piece in second)], special_tokens=list(ids.items())
    )
