"""WordPiece, BERT's tokenizer, to be read: `kn.Tokenizer` does the same by the fast `tokenizers` library.

Schuster & Nakajima 2012, doi:10.1109/ICASSP.2012.6289079; Devlin et al. 2019, arXiv:1810.04805.
- Clean the text, lower its case, take accents off: "Élan" → "elan".
- Cut it into words: at spaces, and around every punctuation mark and every Chinese character.
- Cut each word into the longest pieces that the vocabulary holds, from the left; a piece that begins inside a word is
  written ##…: "tokenizing" → token ##izing. A word that cannot be cut all the way is unknown as a whole.
"""

import functools
import unicodedata
from collections import Counter

from kerasnets.preprocessing.byte_pairs import Piece, check, learn_merges

CHINESE = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)]
CHINESE += [(0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]  # 0x2B920 is BERT's own slip, kept with its ids
LONGEST = 100  # a longer word is unknown without a look
TIDIED = {" .": ".", " ?": "?", " !": "!", " ,": ",", " n't": "n't", " 'm": "'m", " 's": "'s", " 've": "'ve"}
TIDIED |= {" 're": "'re", " do not": " don't"}


class WordPiece:
    """text ↔ ids by the longest piece first.   `WordPiece({"[UNK]": 0, "token": 1, "##izing": 2, …})`

    `lowercase` takes the accents off too. Raises `ValueError` for a vocabulary without `unknown`, and for half a
    character (a lone surrogate) in a text.
    """

    def __init__(self, vocabulary, unknown="[UNK]", lowercase=True):
        if unknown not in vocabulary:
            raise ValueError(f"WordPiece: the vocabulary must hold the unknown token {unknown!r}.")
        self.vocabulary, self.unknown, self.lowercase = dict(vocabulary), unknown, lowercase
        self.tokens = {id: token for token, id in self.vocabulary.items()}
        self.cut = functools.lru_cache(2**16)(self.cut)  # texts repeat their words and letters
        self.normal = functools.lru_cache(2**16)(self.normal)

    @classmethod
    def from_file(cls, path, **options):
        """Of a vocab.txt: one token a line, the first has id 0."""
        with open(path, encoding="utf-8") as file:
            return cls({line.rstrip("\n"): id for id, line in enumerate(file)}, **options)

    @classmethod
    def train(cls, texts, vocab_size, special_tokens=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), lowercase=True):
        """Every letter is a piece; then the most frequent pair of neighbours becomes one, until there are enough."""
        normal = cls({"[UNK]": 0}, lowercase=lowercase)
        counts = Counter(word for text in texts for word, _ in normal.words(check(text)))
        words = {(word[0], *("##" + letter for letter in word[1:])): count for word, count in counts.items()}
        letters = sorted({letter for word in counts for letter in word})
        inside = sorted({letter for word in words for letter in word[1:]})
        vocabulary = {token: id for id, token in enumerate(dict.fromkeys([*special_tokens, *letters, *inside]))}
        learn_merges(words, vocabulary, vocab_size, join=lambda left, right: left + right.removeprefix("##"))
        return cls(vocabulary, lowercase=lowercase)

    def encode(self, text):
        """The ids of a text."""
        return [piece.id for piece in self.pieces(text)]

    def pieces(self, text):
        """Each piece of a text: what it is, its id, and the characters text[start:end] that it stands for."""
        found = []
        for word, places in self.words(check(text)):
            for token, start, end in self.cut(word):
                found.append(Piece(token, self.vocabulary[token], places[start], places[end - 1] + 1))
        return found

    def words(self, text):
        """[("word", [the place in the text of each of its letters]), …]"""
        words, letters, places = [], [], []

        def finish():
            if letters:
                words.append(("".join(letters), list(places)))
                letters.clear(), places.clear()

        for place, character in enumerate(text):
            for letter in self.normal(character):
                stands_alone = is_punctuation(letter) or is_chinese(character)
                if stands_alone or letter == " ":
                    finish()
                if letter != " ":
                    letters.append(letter), places.append(place)
                if stands_alone:
                    finish()
        finish()
        return words

    def normal(self, character):
        """What is left of one character: nothing, a space, or its letters; "É" → "e" in lower case."""
        if character in "\t\n\r" or unicodedata.category(character)[0] == "Z":
            return " "
        if character in "\0\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co"):
            return ""
        if not self.lowercase:
            return character
        apart = unicodedata.normalize("NFD", character)
        return "".join(c for c in apart if unicodedata.category(c) != "Mn").lower()

    def cut(self, word):
        """[(piece, start, end), …] of one word."""
        pieces, start = [], 0
        while start < len(word) <= LONGEST:
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.vocabulary:
                    break
            else:
                return [(self.unknown, 0, len(word))]
            pieces.append((piece, start, end))
            start = end
        return pieces or [(self.unknown, 0, len(word))]

    def decode(self, ids):
        """The text of ids, its spaces where English has them; capitals and accents are lost."""
        text = ""
        for i, token in enumerate(self.tokens[id] for id in ids if id in self.tokens):
            token = token if i == 0 else token[2:] if token.startswith("##") else " " + token
            for found, tidy in TIDIED.items():
                token = token.replace(found, tidy)
            text += token
        return text


@functools.cache
def is_punctuation(letter):
    """Every sign of ASCII that is neither letter nor digit, and what Unicode calls punctuation."""
    return "!" <= letter <= "~" and not letter.isalnum() or unicodedata.category(letter)[0] == "P"


@functools.cache
def is_chinese(letter):
    return any(first <= ord(letter) <= last for first, last in CHINESE)
