"""Byte-pair encoding (BPE) over bytes, GPT-2's tokenizer, to be read: `kn.Tokenizer` does the same, only faster.

Sennrich et al. 2016, arXiv:1508.07909; over bytes: Radford et al. 2019.
- A text is bytes (UTF-8), so that 256 symbols spell every language and no token is unknown.
- It is split into words, each with the space before it; no token reaches from one into the next.
- Training: the most frequent pair of neighbours becomes a new symbol, again and again. The list of these merges, in
  their order, is the tokenizer. Encoding: of all neighbours those are merged first whose merge was learned first.
"""

import functools
import heapq
import itertools
import operator
import re
import sys
import typing
import unicodedata
from collections import Counter, defaultdict

from kerasnets.preprocessing.tokenizer_kinds import byte_letters


class Piece(typing.NamedTuple):
    """A token, its id, and the characters text[start:end] that it stands for."""

    token: str
    id: int
    start: int
    end: int


def check(text):
    """`text`, if it is one: raises `ValueError` for what is no `str`, and for half a character."""
    if not isinstance(text, str):
        raise ValueError(f"a text must be a str; received {type(text).__name__}.")
    if half := re.search("[\ud800-\udfff]", text):
        raise ValueError(f"the text holds half a character (the lone surrogate {half[0]!r}) at {half.start()}.")
    return text


@functools.cache
def letters_of(kinds):
    """The inside of a regular expression's [ ] for the Unicode categories that begin with one of `kinds`."""
    places = [n for n in range(sys.maxunicode + 1) if unicodedata.category(chr(n))[0] in kinds]
    runs = itertools.groupby(enumerate(places), lambda pair: pair[1] - pair[0])
    runs = ([n for _, n in run] for _, run in runs)
    return "".join(f"\\U{run[0]:08x}-\\U{run[-1]:08x}" for run in runs)


@functools.cache
def splitter():
    """GPT-2's words: an ending like 's; letters, digits or signs, each with the space before it; other space."""
    letter, digit, space = letters_of("L"), letters_of("N"), letters_of("Z") + r"\t-\r\x85"
    return re.compile(
        rf"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{digit}]+| ?[^{space}{letter}{digit}]+"
        rf"|[{space}]+(?![^{space}])|[{space}]+"
    )


class BytePairs:
    """text ↔ ids by merging neighbours.   `BytePairs({"Ġ": 0, "t": 1, "Ġt": 2, …}, [("Ġ", "t"), …])`

    A byte is written as GPT-2 writes it: printable ones as themselves, the space as Ġ. Raises `ValueError` for a
    vocabulary without one of the 256 bytes or a merge's result, and for a lone surrogate in a text.
    """

    def __init__(self, vocabulary, merges):
        self.letters = byte_letters()
        self.vocabulary = dict(vocabulary)
        self.ranks = {tuple(merge): rank for rank, merge in enumerate(merges)}
        if missing := {*self.letters.values(), *map("".join, self.ranks)} - set(self.vocabulary):
            raise ValueError(f"BytePairs: the vocabulary lacks {len(missing)} tokens, first {min(missing)!r}.")
        self.tokens = {id: token for token, id in self.vocabulary.items()}
        self.bytes = {letter: byte for byte, letter in self.letters.items()}
        self.cut = functools.lru_cache(2**16)(self.cut)  # texts repeat their words

    @classmethod
    def train(cls, texts, vocab_size, special_tokens=("<|endoftext|>",)):
        """Merge the most frequent pair of neighbours until the vocabulary has `vocab_size` tokens."""
        letters = byte_letters()
        counts = Counter(word for text in texts for word in splitter().findall(check(text)))
        words = {tuple(letters[byte] for byte in word.encode()): count for word, count in counts.items()}
        vocabulary = {token: id for id, token in enumerate([*special_tokens, *sorted(letters.values())])}
        return cls(vocabulary, learn_merges(words, vocabulary, vocab_size))

    def encode(self, text):
        """The ids of a text."""
        return [self.vocabulary[token] for word in splitter().findall(check(text)) for token in self.cut(word)]

    def pieces(self, text):
        """Each piece of a text, with its place; where a character's bytes are torn, each part has all of it."""
        found = []
        for word in splitter().finditer(check(text)):
            places = [place for place, c in enumerate(word[0], start=word.start()) for _ in c.encode()]
            first = 0
            for token in self.cut(word[0]):
                last = first + len(token) - 1
                found.append(Piece(token, self.vocabulary[token], places[first], places[last] + 1))
                first = last + 1
        return found

    def cut(self, word):
        """The tokens of one word: merge the neighbours of the lowest rank, the leftmost first, while there are any."""
        tokens = [self.letters[byte] for byte in word.encode()]
        while len(tokens) > 1:
            ranks = [self.ranks.get(pair, len(self.ranks)) for pair in itertools.pairwise(tokens)]
            lowest = min(ranks)
            if lowest == len(self.ranks):
                break
            i = ranks.index(lowest)
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
        return tokens

    def decode(self, ids):
        """The text of ids; bytes that are no character become �."""
        letters = "".join(self.tokens[id] for id in ids if id in self.tokens)
        return bytes(self.bytes[letter] for letter in letters).decode("utf-8", errors="replace")


def learn_merges(words, vocabulary, vocab_size, join=operator.add):
    """{(symbol, …): count} → [(left, right), …], the most frequent first; each new symbol gets the next id.

    Of equally frequent pairs the one with the lower ids comes first. `vocabulary` grows to `vocab_size`.
    """
    words, counts = [list(word) for word in words], list(words.values())
    frequency, where = Counter(), defaultdict(set)
    for i, word in enumerate(words):
        for pair in itertools.pairwise(word):
            frequency[pair] += counts[i]
            where[pair].add(i)

    def entry(pair):
        return -frequency[pair], vocabulary[pair[0]], vocabulary[pair[1]], pair

    queue, merges = [entry(pair) for pair in frequency], []
    heapq.heapify(queue)
    while queue and len(vocabulary) < vocab_size:
        best = heapq.heappop(queue)
        pair = best[-1]
        if best != entry(pair):  # its frequency has changed since it was queued
            if frequency[pair]:
                heapq.heappush(queue, entry(pair))
            continue
        merges.append(pair)
        vocabulary.setdefault(join(*pair), len(vocabulary))
        risen = set()
        for i in where.pop(pair):
            frequency.subtract({p: n * counts[i] for p, n in Counter(itertools.pairwise(words[i])).items()})
            words[i] = merged(words[i], pair, join(*pair))
            for p in itertools.pairwise(words[i]):
                frequency[p] += counts[i]
                where[p].add(i)
                risen.add(p)
        for p in risen:
            heapq.heappush(queue, entry(p))
    return merges


def merged(symbols, pair, new):
    """`symbols` with each `pair` of neighbours, from the left, as one `new` symbol."""
    result = []
    for symbol in symbols:
        if result and (result[-1], symbol) == pair and result[-1] is not new:
            result[-1] = new
        else:
            result.append(symbol)
    return result
