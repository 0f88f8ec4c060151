"""The tokenizer's files of a folder: which pipeline they ask for, and what is said of special tokens, sides, templates.

tokenizer.json is taken as it stands. From a vocabulary alone (*.model, vocab.json + merges.txt, vocab.txt) the pipeline
of the class that tokenizer_config.json names is made; a class that is not known here is refused by name.
"""

import contextlib
import pathlib

from kerasnets import formats
from kerasnets.preprocessing import tokenizer_kinds as kinds

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
WORDPIECE, BYTES, PIECES, RANKS = "vocab.txt", "vocab.json", "a SentencePiece model", "a tiktoken file"

END_OF_TEXT = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
SENTENCE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
SEGMENTS = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
ROBERTA = {**SENTENCE, "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}
GLM4 = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "padding_side": "left"}
GLM4 |= {"before": ["[gMASK]", "<sop>"]}
GLM = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>", "padding_side": "left", "legacy": True}
GLM |= {"before": ["[gMASK]", "sop"], "numbered_last": ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]}
GLM["numbered_last"] += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
GLM["chat_template"] = (
    "[gMASK]sop{% for message in messages %}<|{{ message['role'] }}|>\n {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# What each class takes for granted, under the file that it reads; the first where no class is named.
CLASSES = {
    WORDPIECE: {
        "BertTokenizer": {**BERT, **SEGMENTS},
        "DistilBertTokenizer": BERT,
        "ElectraTokenizer": {**BERT, **SEGMENTS},
        "LayoutLMTokenizer": {**BERT, **SEGMENTS},
    },
    BYTES: {
        "GPT2Tokenizer": END_OF_TEXT,
        "Qwen2Tokenizer": {**END_OF_TEXT, "bos_token": None, "pad_token": "<|endoftext|>"},
        "RobertaTokenizer": ROBERTA,
        "BartTokenizer": ROBERTA,
    },
    PIECES: {
        None: {},
        "LlamaTokenizer": {**SENTENCE, "padding_side": "left"},
        "BaichuanTokenizer": {**SENTENCE, "legacy": True},
        "ChatGLMTokenizer": GLM,
    },
    RANKS: {"ChatGLM4Tokenizer": GLM4, "ChatGLMTokenizer": GLM4},
}
# The class of a model whose folder has no tokenizer_config.json to name one.
MODELS = {"gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "llama": "LlamaTokenizer"}
MODELS |= {"chatglm": "ChatGLMTokenizer", "baichuan": "BaichuanTokenizer", "bert": "BertTokenizer"}
MODELS |= {"roberta": "RobertaTokenizer", "bart": "BartTokenizer", "layoutlm": "LayoutLMTokenizer"}


def opened(source):
    """(a `tokenizers.Tokenizer`, what its folder says of it as a dict) of a folder, a file or a hub id."""
    path = located(source)
    if path.suffix == ".gguf":
        from kerasnets.preprocessing import tokenizer_gguf

        return tokenizer_gguf.opened(path)
    folder, file = (path.parent, path) if path.is_file() else (path, formats.within(path, vocabulary_of(path)))
    settings = read_settings(folder)
    kind = kind_of(file)
    try:
        if kind is None:
            return whole(file, settings)
        settings = class_settings(kind, settings)
        backend = READERS[kind](file, settings)
        add_tokens(backend, settings)
        surround(backend, kind, settings)
        return backend, settings
    except (ModuleNotFoundError, FileNotFoundError):
        raise
    except Exception as error:  # the library raises bare ones
        raise ValueError(f"{file}: {error}") from None


def located(source):
    """The folder or file on this machine; of a hub id only the tokenizer's files are downloaded."""
    path = pathlib.Path(source)
    if not path.exists() and not path.is_absolute() and len(path.parts) == 2 and not str(source).startswith("."):
        with contextlib.suppress(Exception):  # what went wrong is said below
            import huggingface_hub

            return pathlib.Path(huggingface_hub.snapshot_download(str(source), allow_patterns=FILES))
    return formats.located(source)


def vocabulary_of(folder):
    """The name of the file to read: of those that are there the one that says most."""
    names = sorted(path.name for path in folder.iterdir())
    for name in ("tokenizer.json", "tokenizer.model", *(n for n in names if n.endswith(".model")), BYTES, WORDPIECE):
        if name in names:
            return name
    wanted = "tokenizer.json, *.model, vocab.json with merges.txt, vocab.txt"
    raise FileNotFoundError(f"{folder} holds no tokenizer: none of {wanted}.")


def kind_of(file):
    """What a vocabulary's file is; None for a whole tokenizer."""
    if ".model" in file.suffixes:
        first = file.read_bytes()[:4096].split(b"\n")[0].split(b" ")
        return RANKS if len(first) == 2 and first[1].isdigit() else PIECES
    if file.suffix == ".txt":
        return WORDPIECE
    if file.suffix != ".json":
        raise ValueError(f"{file} is not a tokenizer's file: *.json, *.model, vocab.txt and *.gguf are read.")
    return BYTES if file.name == BYTES else None


def read_settings(folder):
    """tokenizer_config.json, with what older folders say in special_tokens_map.json and added_tokens.json instead."""

    def read(name):
        path = formats.within(folder, name)
        return formats.read_json(path) if path.exists() else {}

    settings, model = read("tokenizer_config.json"), read("config.json")
    if "added_tokens_decoder" not in settings:
        settings |= read("special_tokens_map.json")
        settings["added_tokens"] = read("added_tokens.json")
    named = settings.get("tokenizer_class") or model.get("tokenizer_class")
    named = named or MODELS.get(model.get("model_type"), model.get("model_type"))
    settings["tokenizer_class"] = named and str(named).removesuffix("Fast").replace("LLaMA", "Llama")
    settings["chat_template"] = read("chat_template.json").get("chat_template") or settings.get("chat_template")
    path = formats.within(folder, "chat_template.jinja")
    if path.exists():
        settings["chat_template"] = path.read_text(encoding="utf-8")
    return {name: value for name, value in settings.items() if name != "chat_template" or value}


def class_settings(kind, settings):
    """The settings over what their class takes for granted."""
    classes, name = CLASSES[kind], settings.get("tokenizer_class")
    if name is None and kind != RANKS:
        name = next(iter(classes))
    if name not in classes:
        known = ", ".join(str(n) for n in classes if n)
        raise ValueError(f"{name} is not read from {kind}, only {known}; any class is from tokenizer.json.")
    return {**classes[name], **settings, "tokenizer_class": name}


def whole(file, settings):
    """tokenizer.json: the pipeline as it stands; of a class's own tokens those that the vocabulary holds."""
    tokenizers = kinds.library("tokenizers")
    backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    filling, cutting = backend.padding or {}, backend.truncation or {}
    backend.no_padding()
    backend.no_truncation()
    sides = {"padding_side": filling.get("direction"), "truncation_side": cutting.get("direction")}
    if filling and backend.token_to_id(filling["pad_token"]) == filling["pad_id"]:
        sides["pad_token"] = filling["pad_token"]
    sides = {name: value for name, value in sides.items() if value}
    if isinstance(backend.normalizer, tokenizers.normalizers.BertNormalizer):
        for ours, theirs in (("lowercase", "do_lower_case"), ("strip_accents", "strip_accents")):
            if theirs in settings:
                setattr(backend.normalizer, ours, settings[theirs])
    granted = next((c[settings["tokenizer_class"]] for c in CLASSES.values() if settings["tokenizer_class"] in c), {})
    granted = {name: value for name, value in granted.items() if is_there(backend, name, value)}
    settings = {**granted, **sides, **settings}
    add_tokens(backend, settings)
    return backend, settings


def is_there(backend, name, value):
    if name in NAMED:
        return value is not None and backend.token_to_id(value) is not None
    return name in ("padding_side", "model_input_names")


def read_wordpiece(file, settings):
    text = file.read_text(encoding="utf-8")
    vocabulary = {token: id for id, token in enumerate(text.removesuffix("\n").split("\n"))}
    return kinds.wordpiece(
        vocabulary,
        unknown=content_of(settings["unk_token"]),
        lowercase=settings.get("do_lower_case", True),
        split_chinese=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
    )


def read_bytes(file, settings):
    merges = formats.within(file.parent, "merges.txt")
    if not merges.exists():
        raise FileNotFoundError(f"{file.parent} has a vocab.json but no merges.txt.")
    vocabulary, merges = kinds.library("tokenizers").models.BPE.read_file(str(file), str(merges))
    is_qwen2 = settings["tokenizer_class"] == "Qwen2Tokenizer"
    return kinds.byte_level(
        vocabulary,
        merges,
        splits=[kinds.QWEN2_SPLIT] if is_qwen2 else None,
        prefix_space=bool(settings.get("add_prefix_space", False)),
        normal_form=is_qwen2,
    )


def read_pieces(file, settings):
    model = kinds.library("sentencepiece.sentencepiece_model_pb2").ModelProto()
    model.ParseFromString(file.read_bytes())
    if not model.pieces:
        raise ValueError("it holds no pieces.")
    space = settings.get("add_prefix_space")
    space = model.normalizer_spec.add_dummy_prefix if space is None else space
    rules = model.trainer_spec
    for name, id, piece in (("bos", rules.bos_id, rules.bos_piece), ("eos", rules.eos_id, rules.eos_piece)):
        if id >= 0:
            settings.setdefault(f"{name}_token", piece)
    settings.setdefault("unk_token", rules.unk_piece)
    settings["typed"] = [(piece.piece, piece.type) for piece in model.pieces]
    return kinds.sentencepiece(model, bool(space), bool(settings.get("legacy")))


def read_ranks(file, settings):
    if "added_tokens_decoder" not in settings:
        raise ValueError("tokenizer_config.json must give the special tokens of a tiktoken file, added_tokens_decoder.")
    return kinds.tiktoken(file.read_bytes())


READERS = {WORDPIECE: read_wordpiece, BYTES: read_bytes, PIECES: read_pieces, RANKS: read_ranks}


def add_tokens(backend, settings):
    """The tokens that are never cut: those at the ids that the files state, then those that only have a name."""
    added = kinds.library("tokenizers").AddedToken
    typed = [(piece, kind) for piece, kind in settings.pop("typed", ()) if kind in (kinds.CONTROL, kinds.USER_DEFINED)]
    for piece, kind in typed:
        backend.add_tokens([added(piece, normalized=kinds.SPACE in piece, special=kind == kinds.CONTROL)])
    backend.add_special_tokens([added(token, normalized=False) for token in settings.pop("numbered_last", ())])
    extra = [*listed(settings.get("additional_special_tokens")), *listed(settings.get("extra_special_tokens"))]
    named = [settings[name] for name in NAMED if settings.get(name) and content_of(settings[name])]
    special = {content_of(token) for token in [*named, *extra]}
    stated = [(int(id), content_of(token), token) for id, token in (settings.get("added_tokens_decoder") or {}).items()]
    older = settings.get("added_tokens") or {}
    stated += [(id, token, {"normalized": token not in special}) for token, id in older.items()]
    for id, content, token in sorted(stated, key=lambda row: row[0]):
        backend.add_tokens([added(**{"content": content, "special": content in special, **plain(token)})])
        if backend.token_to_id(content) != id:
            raise ValueError(f"the token {content!r} is to have the id {id}; it has {backend.token_to_id(content)}.")
    there = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in [*named, *extra]:
        if content_of(token) not in there:
            backend.add_special_tokens([added(**{"content": content_of(token), "normalized": False, **plain(token)})])


def surround(backend, kind, settings):
    """The special tokens around a text and a pair, as the class puts them."""
    token = {name: content_of(settings.get(name)) for name in NAMED}
    if kind == WORDPIECE:
        kinds.surround(backend, [token["cls_token"]], [token["sep_token"]], [], [token["sep_token"]])
    elif CLASSES[kind][settings["tokenizer_class"]] is ROBERTA:
        sep = [token["sep_token"]]
        kinds.surround(backend, [token["cls_token"]], sep, sep, sep, segment=0)
        processors = kinds.library("tokenizers").processors  # a word's place is without the space before it
        backend.post_processor = processors.Sequence(
            [processors.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space"))), backend.post_processor]
        )
    elif "before" in settings:
        kinds.surround(backend, settings["before"], [], [], [token["eos_token"]], segment=0)
    else:
        before, after = (
            [token[n]] if settings.get(f"add_{n}") and token[n] else [] for n in ("bos_token", "eos_token")
        )
        kinds.surround(backend, before, after, before, after)


def content_of(token):
    """The text of a token, which is written as text or as a dict of its text and its properties."""
    content = token.get("content") if isinstance(token, dict) else token
    if content is not None and not isinstance(content, str):
        raise ValueError(f"a special token must be a text; received {token!r}.")
    return content or None


def plain(token):
    """The properties of a token without the sign that it is one."""
    return {k: v for k, v in token.items() if not k.startswith("__") and k != "id"} if isinstance(token, dict) else {}


def listed(tokens):
    return list(tokens.values() if isinstance(tokens, dict) else tokens or ())
