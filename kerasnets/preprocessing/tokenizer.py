"""From text to the ids of a checkpoint's vocabulary, padded into arrays, and back.

The cutting is done by the `tokenizers` library; `tokenizer_files` chooses how, from the files of a folder.
"""

import json
import pathlib
import threading

import numpy as np

from kerasnets.preprocessing import chat, tokenizer_files, tokenizer_training
from kerasnets.preprocessing.tokenizer_kinds import library

ONE_AT_A_TIME = threading.Lock()  # truncation is a setting of the library's object
SIDES = ("right", "left")
STRATEGIES = ("longest_first", "only_first", "only_second")
TIDIED = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't"}
TIDIED |= {f" '{ending}": f"'{ending}" for ending in ("m", "s", "ve", "re")}


class Tokenizer:
    """Texts ↔ ids.   [text, …] → {"input_ids": (B, T), "attention_mask": (B, T), …} int32, and (B, T) → [text, …].

        tokenizer = kn.Tokenizer.from_pretrained("folder, file or hub id")
        batch = tokenizer(["a text", "another"], max_length=128)
        texts = tokenizer.decode(batch["input_ids"])
        ids = tokenizer.chat([{"role": "user", "content": "Hello"}], add_generation_prompt=True)

    `bos_token`, `eos_token`, `pad_token`, `unk_token`, `sep_token`, `cls_token`, `mask_token` are texts, and
    `bos_token_id` … their ids; None where the files name none. Where there is no padding token the end-of-sequence
    token fills the rows up: the attention mask is 0 there, so no model sees it. `padding_side` and `truncation_side`
    are the files', and may be set. `vocab_size` counts the added tokens too.
    """

    def __init__(self, backend, settings=None):
        settings = settings or {}
        self.backend = backend
        backend.encode_special_tokens = bool(settings.get("split_special_tokens", False))
        for name in tokenizer_files.NAMED:
            token = tokenizer_files.content_of(settings.get(name))
            setattr(self, name, token)
            setattr(self, f"{name}_id", None if token is None else backend.token_to_id(token))
        self.padding_side = one_of(SIDES, "padding_side", settings.get("padding_side", "right"))
        self.truncation_side = one_of(SIDES, "truncation_side", settings.get("truncation_side", "right"))
        self.has_segments = "token_type_ids" in settings.get("model_input_names", ())
        self.chat_template = settings.get("chat_template")
        is_bpe = isinstance(backend.model, library("tokenizers").models.BPE)
        self.tidies = bool(settings.get("clean_up_tokenization_spaces", False)) and not is_bpe

    @classmethod
    def from_pretrained(cls, source):
        """Of a folder, a hub id or a file: tokenizer.json, *.model, vocab.json + merges.txt, vocab.txt, *.gguf.

        Raises `FileNotFoundError` where there is none, `ValueError` for files that are broken, contradict each other or
        belong to a class of tokenizers that is not known here.
        """
        return cls(*tokenizer_files.opened(source))

    @classmethod
    def train(cls, texts, kind="wordpiece", *, vocab_size=30_000, special_tokens=(), lowercase=None):
        """At most `vocab_size` tokens that suit `texts`: "wordpiece" is BERT's kind, "bpe" GPT-2's, "unigram" T5's.

        `texts` is the name of a file, or an iterable of texts and of `pathlib.Path`s. The kind brings its own special
        tokens and puts them around a text as its model does; `special_tokens` are further ones, never cut. WordPiece
        lowers the case unless told otherwise. Of equally frequent WordPieces another training may take another.

        Raises `ValueError` for another kind, for what is not text, and for a `vocab_size` too small for the letters.
        """
        return cls(*tokenizer_training.trained(texts, kind, vocab_size, special_tokens, lowercase))

    def save_pretrained(self, folder):
        """Write tokenizer.json and tokenizer_config.json, which transformers reads too."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{name: getattr(self, name) for name in tokenizer_files.NAMED if getattr(self, name) is not None},
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "clean_up_tokenization_spaces": self.tidies,
            "split_special_tokens": self.backend.encode_special_tokens,
        }
        if self.has_segments:
            settings |= tokenizer_files.SEGMENTS
        if self.chat_template:
            settings["chat_template"] = self.chat_template
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    @property
    def vocab_size(self):
        return self.backend.get_vocab_size()

    def __repr__(self):
        return f"<Tokenizer of {self.vocab_size} tokens, padding on the {self.padding_side}>"

    def __call__(
        self,
        texts,
        pairs=None,
        *,
        max_length=None,
        truncation="longest_first",
        padding="longest",
        pad_to_multiple=1,
        add_special_tokens=True,
        places=False,
    ):
        """A text or texts, each alone or with its pair, as the arrays that models take.

        Cut off to `max_length` tokens, special ones included; of a pair the longer text first (`truncation`), or
        "only_first", or "only_second". Rows are filled up to the longest, or to `padding` tokens, or to `max_length`
        ("max_length"), then to a multiple of `pad_to_multiple`. Encoders with segments get `token_type_ids` too: 0, and
        1 in the second text.

        With `places` also where the tokens come from: `offset_mapping` (B, T, 2), the characters text[start:end] of
        each; `word_ids` (B, T), the number of its word in its text, −1 for tokens that are no text;
        `special_tokens_mask` (B, T), 1 for these, padding too.

        Raises `ValueError` for what is not text, a text that gives no token at all, a `max_length` without room for
        the special tokens or for a text that is not to be cut, rows longer than `padding`, and rows to be filled where
        no token is there to fill them.
        """
        texts = [texts] if isinstance(texts, str) else texts
        pairs = [pairs] if isinstance(pairs, str) else pairs
        encodings = self.encodings(texts, pairs, max_length, add_special_tokens, truncation, places)
        for i, encoding in enumerate(encodings):
            if not encoding.ids:
                raise ValueError(f"text {i} gives no tokens: {texts[i]!r}.")
        if not encodings:
            raise ValueError("there is no text: received an empty list.")
        width = self.width(max(len(encoding) for encoding in encodings), padding, max_length, pad_to_multiple)
        arrays = {"input_ids": self.rows([e.ids for e in encodings], width)}
        if self.has_segments:
            arrays["token_type_ids"] = self.rows([e.type_ids for e in encodings], width, 0)
        arrays["attention_mask"] = self.rows([[1] * len(e) for e in encodings], width, 0)
        if places:
            offsets = [self.rows([[o[i] for o in e.offsets] for e in encodings], width, 0) for i in (0, 1)]
            arrays["offset_mapping"] = np.stack(offsets, axis=-1)
            words = [[-1 if word is None else word for word in e.word_ids] for e in encodings]
            arrays["word_ids"] = self.rows(words, width, -1)
            arrays["special_tokens_mask"] = self.rows([e.special_tokens_mask for e in encodings], width, 1)
        return arrays

    def encodings(
        self, texts, pairs=None, max_length=None, add_special_tokens=True, truncation="longest_first", places=False
    ):
        """The library's result for each text, with or without the places of the tokens."""
        check_texts("texts", texts)
        if pairs is not None:
            check_texts("pairs", pairs)
            if len(pairs) != len(texts):
                raise ValueError(f"each text needs its pair: received {len(texts)} texts and {len(pairs)} pairs.")
        added = self.backend.num_special_tokens_to_add(pairs is not None) if add_special_tokens else 0
        if max_length is not None and not (is_count(max_length) and max_length > added):
            raise ValueError(f"max_length must leave room beside {added} special tokens; received {max_length!r}.")
        side = one_of(SIDES, "truncation_side", self.truncation_side)
        if one_of(STRATEGIES, "truncation", truncation) == "only_second" and pairs is None:
            raise ValueError('truncation="only_second" needs pairs.')
        encode = self.backend.encode_batch if places else self.backend.encode_batch_fast  # the latter knows no places
        inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
        with ONE_AT_A_TIME:
            if max_length is None:
                self.backend.no_truncation()
            else:
                self.backend.enable_truncation(max_length, strategy=truncation, direction=side)
            try:
                return encode(inputs, add_special_tokens=add_special_tokens)
            except Exception as error:  # the library raises bare ones
                raise ValueError(f"max_length={max_length} with truncation={truncation!r}: {error}.") from None

    def width(self, longest, padding, max_length, multiple):
        """How long the rows become."""
        if padding == "longest":
            width = longest
        else:
            width = max_length if padding == "max_length" else padding
            if not is_count(width) or width < longest:
                raise ValueError(
                    f'padding must be "longest", "max_length" (with max_length=) or a length of at least {longest}, '
                    f"that of the longest row; received padding={padding!r}, max_length={max_length!r}."
                )
        if not is_count(multiple):
            raise ValueError(f"pad_to_multiple must be a positive integer; received {multiple!r}.")
        return -(-width // multiple) * multiple

    def rows(self, rows, width, fill=None):
        """Rows of different lengths as one array (B, T)."""
        if fill is None and any(len(row) < width for row in rows):
            fill = self.eos_token_id if self.pad_token_id is None else self.pad_token_id
            if fill is None:
                raise ValueError(
                    "rows of different lengths need a pad_token or eos_token to fill them up, and the tokenizer's "
                    "files name neither: set tokenizer.pad_token_id."
                )
        array = np.full((len(rows), width), fill or 0, dtype="int32")
        left = one_of(SIDES, "padding_side", self.padding_side) == "left"
        for place, row in zip(array, rows, strict=True):
            place[width - len(row) if left else 0 :][: len(row)] = row
        return array

    def encode(self, text, pair=None, *, max_length=None, add_special_tokens=True):
        """The ids of one text as a list."""
        pairs = None if pair is None else [pair]
        return self.encodings([text], pairs, max_length, add_special_tokens)[0].ids

    def tokenize(self, text):
        """The pieces of one text, without special tokens around it."""
        return [self.backend.id_to_token(id) for id in self.encode(text, add_special_tokens=False)]

    def decode(self, ids, skip_special_tokens=True):
        """(T,) → text, (B, T) or rows of any lengths → [text, …].   Ids beyond the vocabulary are left out."""
        if isinstance(ids, dict):
            ids = ids["input_ids"]
        if not isinstance(ids, (list, tuple)):
            ids = np.asarray(ids).tolist()
        ids = ids if isinstance(ids, (list, tuple)) else [ids]
        if ids and (isinstance(ids[0], (list, tuple)) or np.ndim(ids[0])):
            return [self.decode(row, skip_special_tokens) for row in ids]
        if wrong := [id for id in ids if not isinstance(id, (int, np.integer)) or not 0 <= id < 2**32]:
            raise ValueError(f"ids must be integers from 0 on; received {wrong[0]!r}.")
        ids = [int(id) for id in ids]
        text = self.backend.decode(ids, skip_special_tokens=skip_special_tokens)
        for found, tidy in TIDIED.items() if self.tidies else ():
            text = text.replace(found, tidy)
        return text

    def chat(self, messages, *, add_generation_prompt=False, template=None, text=False, **variables):
        """The ids of a conversation, [{"role": "user", "content": "…"}, …], as the model was trained to see it.

        `add_generation_prompt` adds the words that begin an answer. `template` is a template, or the name of one of
        several in the files; `variables` (`tools`, `enable_thinking`, …) are what it may ask for. `text` gives the
        text instead.

        Raises `ValueError` where there is no template, and for what `kerasnets.preprocessing.chat.render` refuses.
        """
        if template is None or "{" not in template:
            name = template or "default"
            if template is None and variables.get("tools") and "tool_use" in str(self.chat_template):
                name = "tool_use"
            template = chat.chosen(self.chat_template, name)
        if not isinstance(template, str):
            raise ValueError("the tokenizer's files hold no chat template: pass template=.")
        named = {name: getattr(self, name) for name in tokenizer_files.NAMED}
        variables = {name: token for name, token in named.items() if token is not None} | variables
        variables = {"tools": None, "documents": None, **variables, "add_generation_prompt": add_generation_prompt}
        words = chat.render(template, messages, **variables)
        return words if text else self.encode(words, add_special_tokens=False)


def one_of(choices, name, value):
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}; received {value!r}.")
    return value


def is_count(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0


def check_texts(name, texts):
    """Texts are `str` that UTF-8 can write."""
    if not isinstance(texts, (list, tuple)):
        raise ValueError(f"{name} must be a text or a list of texts; received {type(texts).__name__}.")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{i}] must be a text; received {type(text).__name__} {text!r:.80}.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name}[{i}] holds half a character (the lone surrogate {text[error.start]!r}) at {error.start}."
            ) from None
