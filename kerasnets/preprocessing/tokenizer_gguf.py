"""The tokenizer that a GGUF file carries: its vocabulary, how text is split before merges, special tokens, template."""

from kerasnets import gguf_file
from kerasnets.preprocessing import tokenizer_files as files
from kerasnets.preprocessing import tokenizer_kinds as kinds

GPT2_SPLIT = None  # the library's own
ONE_DIGIT = [r"\p{N}", GPT2_SPLIT]
# `tokenizer.ggml.pre`, llama.cpp's names of the splits → what is split first, second …
SPLITS = {None: [GPT2_SPLIT], "default": [GPT2_SPLIT], "gpt-2": [GPT2_SPLIT]}
SPLITS |= dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), ONE_DIGIT)
SPLITS |= dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "chatglm-bpe", "glm4"), [kinds.LLAMA3_SPLIT])
SPLITS |= dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), [kinds.QWEN2_SPLIT])
LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
IDS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator", "pad_token": "padding"}


def opened(path):
    """(a `tokenizers.Tokenizer`, what the file says of it as a dict)."""
    said = metadata(path)
    tokens = said.get("tokens")
    if not tokens:
        raise ValueError(f"{path} carries no tokenizer.")
    kind = said.get("model")
    if kind not in ("llama", "gpt2"):
        raise ValueError(f"{path}: tokenizer.ggml.model {kind!r} is not read, only 'llama' and 'gpt2'.")
    settings = {
        **{name: tokens[said[f"{key}_token_id"]] for name, key in IDS.items() if f"{key}_token_id" in said},
        "tokenizer_class": None,
        "typed": list(zip(tokens, said.get("token_type", ()), strict=False)),
        "add_bos_token": said.get("add_bos_token", kind == "llama" or said.get("pre") in LLAMA3),  # as llama.cpp does
        "add_eos_token": said.get("add_eos_token", False),
    }
    if said.get("chat_template"):
        settings["chat_template"] = said["chat_template"]
    backend = (from_pieces if kind == "llama" else from_bytes)(path, said, settings)
    files.add_tokens(backend, settings)
    files.surround(backend, files.PIECES, settings)
    return backend, settings


def metadata(path):
    """What the file says under `tokenizer.ggml.`, and its chat template."""
    said = gguf_file.metadata(path)
    return {
        name.split(".", 1)[1].removeprefix("ggml."): value
        for name, value in said.items()
        if name.startswith("tokenizer.")
    }


def from_pieces(path, said, settings):
    tokens, types = said["tokens"], said.get("token_type") or [1] * len(said["tokens"])
    pieces = list(zip(tokens, said["scores"], types, strict=True))
    backend = kinds.scored_bpe(pieces, settings.get("unk_token"), byte_fallback=kinds.BYTE in types)
    return kinds.spaced(backend, "first" if said.get("add_space_prefix", True) else "never")


def from_bytes(path, said, settings):
    """Byte-level BPE; a token that the bytes' letters do not spell is an added one."""
    pre = said.get("pre")
    if pre not in SPLITS:
        raise ValueError(f"{path}: tokenizer.ggml.pre {pre!r} is not read, only {sorted(filter(None, SPLITS))}.")
    letters, spelled = set(kinds.byte_letters().values()), kinds.byte_letters()
    is_cut = [kind == kinds.CONTROL and not set(token) <= letters for token, kind in settings["typed"]]  # a mislabel
    settings["typed"] = [row for row, cut in zip(settings["typed"], is_cut, strict=True) if not cut]
    vocabulary = {
        token if set(token) <= letters else "".join(spelled[byte] for byte in token.encode("utf-8")): id
        for id, token in enumerate(said["tokens"])
    }
    merges = [tuple(merge.split(" ")) for merge in said["merges"]]
    return kinds.byte_level(vocabulary, merges, SPLITS[pre], whole_first=pre in LLAMA3)
