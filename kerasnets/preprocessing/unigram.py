"""Unigram, SentencePiece's tokenizer (T5's, XLM-R's), to be read: `kn.Tokenizer` does the same, only faster.

Kudo 2018, arXiv:1804.10959.
- Every piece x has a probability p(x), those of one text's pieces are multiplied, and of all ways to cut a text the
  likeliest is taken: argmax Σ log p(xᵢ), found by the Viterbi algorithm.
- A space is written ▁ and belongs to the word behind it, so that the text can be put together again letter by letter.
- Training begins with all frequent substrings. Expectation–maximisation (EM) finds their probabilities, then those
  leave without which the text would lose least; again and again, until `vocab_size` are left.
"""

import math
from collections import Counter

from kerasnets.preprocessing.byte_pairs import Piece, check
from kerasnets.preprocessing.tokenizer_kinds import SPACE

LONGEST = 16  # letters of a piece in training
UNSEEN = 10.0  # how much less likely than the rarest piece an unknown letter is


class Unigram:
    """text ↔ ids by the likeliest cut.   `Unigram([("<unk>", 0.0), ("▁the", -3.1), …])`, a piece's place is its id.

    The first piece stands for letters that the others do not hold. Raises `ValueError` for half a character (a lone
    surrogate) in a text.
    """

    def __init__(self, pieces, lowercase=False):
        self.tokens = [piece for piece, _ in pieces]
        self.unknown, self.lowercase = self.tokens[0], lowercase
        self.vocabulary = {piece: id for id, piece in enumerate(self.tokens)}
        self.scores = {piece: float(score) for piece, score in pieces[1:]}
        self.longest = max(map(len, self.tokens))
        self.unseen = min(score for _, score in pieces) - UNSEEN

    @classmethod
    def train(cls, texts, vocab_size, special_tokens=("<unk>",), lowercase=False):
        """Of all frequent substrings the `vocab_size` that make the texts likeliest; every letter is one."""
        reader = cls([("<unk>", 0.0)], lowercase)
        words = Counter(word for text in texts for word in words_of(reader.normal(check(text))[0]))
        scores, wanted = seeds(words, 10 * vocab_size), vocab_size - len(special_tokens)
        letters = {piece for piece in scores if len(piece) == 1}
        if len(letters) > wanted:
            raise ValueError(f"Unigram: the texts have {len(letters)} letters, too many for vocab_size={vocab_size}.")
        while True:
            for _ in range(2):
                counts = expected(words, scores)
                scores = maximised(counts, letters)
            if len(scores) <= 1.1 * wanted:
                break
            scores = pruned(scores, counts, letters, max(int(1.1 * wanted), int(0.75 * len(scores))))
        best = sorted(scores, key=lambda piece: (piece not in letters, -scores[piece]))[:wanted]
        best = [(piece, scores[piece]) for piece in sorted(best, key=lambda piece: (-scores[piece], piece))]
        return cls([*((token, 0.0) for token in special_tokens), *best], lowercase)

    def encode(self, text):
        """The ids of a text."""
        return [piece.id for piece in self.pieces(text)]

    def pieces(self, text):
        """Each piece of a text with its place; neighbouring unknown letters are one piece."""
        letters, starts, ends = self.normal(check(text))
        found, first = [], 0
        for word in words_of(letters):
            was_unknown = False
            for token in best_cut(word, self.scores, self.longest, self.unseen)[1]:
                last, known = first + len(token), token in self.scores
                if was_unknown and not known:
                    found[-1] = found[-1]._replace(token=found[-1].token + token, end=ends[last - 1])
                else:
                    id = self.vocabulary[token if known else self.unknown]
                    found.append(Piece(token, id, starts[first], ends[last - 1]))
                first, was_unknown = last, not known
        return found

    def normal(self, text):
        """▁ before the text and for each space; with the places in the text where each letter begins and ends."""
        letters, starts, ends = [], [], []
        for place, character in enumerate(text):
            for letter in character.lower() if self.lowercase else character:
                letters.append(SPACE if letter == " " else letter), starts.append(place), ends.append(place + 1)
        return ("".join([SPACE, *letters]), [0, *starts], [1, *ends]) if text else ("", [], [])

    def decode(self, ids):
        """The text of ids."""
        text = "".join(self.tokens[id] for id in ids if 0 <= id < len(self.tokens))
        return text.replace(SPACE, " ").removeprefix(" ")


def words_of(letters):
    """ "▁to▁be" → ["▁to", "▁be"]: no piece reaches from one word into the next."""
    return [SPACE + word for word in letters.split(SPACE)[1:]]


def best_cut(word, scores, longest, unseen):
    """(its score, [piece, …]) of the likeliest cut: best[j] = maxᵢ best[i] + log p(word[i:j]).   Viterbi 1967."""
    best, back = [0.0] + [-math.inf] * len(word), [0] * (len(word) + 1)
    for i in range(len(word)):
        for j in range(i + 1, min(i + longest, len(word)) + 1):
            score = scores.get(word[i:j], unseen if j == i + 1 else None)
            if score is not None and best[i] + score > best[j]:
                best[j], back[j] = best[i] + score, i
    pieces, j = [], len(word)
    while j:
        pieces.append(word[back[j] : j])
        j = back[j]
    return best[-1], pieces[::-1]


def seeds(words, size):
    """{piece: log p} of the letters and the substrings that save most: how often × how long."""
    counts = Counter()
    for word, count in words.items():
        for i in range(len(word)):
            for j in range(i + 1, min(i + LONGEST, len(word)) + 1):
                counts[word[i:j]] += count
    savings = {piece: n * len(piece) for piece, n in counts.items() if n > 1 or len(piece) == 1}
    kept = sorted(savings, key=lambda piece: (len(piece) > 1, -savings[piece], piece))[:size]
    total = sum(savings[piece] for piece in kept)
    return {piece: math.log(savings[piece] / total) for piece in kept}


def expected(words, scores):
    """How often each piece is used on average over all cuts, by forward sums α and backward sums β.

    α[j] = Σᵢ α[i] p(word[i:j]),  β[i] = Σⱼ p(word[i:j]) β[j],  E[i:j] = α[i] p(word[i:j]) β[j] / α[T]
    """
    counts = dict.fromkeys(scores, 0.0)
    for word, count in words.items():
        T = len(word)
        found = [(i, j) for i in range(T) for j in range(i + 1, min(i + LONGEST, T) + 1) if word[i:j] in scores]
        alpha, beta = [0.0] + [-math.inf] * T, [-math.inf] * T + [0.0]  # their logarithms
        for i, j in found:
            alpha[j] = log_sum(alpha[j], alpha[i] + scores[word[i:j]])
        for i, j in reversed(found):
            beta[i] = log_sum(beta[i], beta[j] + scores[word[i:j]])
        for i, j in found:
            counts[word[i:j]] += count * math.exp(alpha[i] + scores[word[i:j]] + beta[j] - alpha[T])
    return counts


def maximised(counts, letters):
    """log p = ψ(E[piece]) − ψ(Σ E), where log E would be the likeliest p: ψ leaves rare pieces a little less."""
    counts = {piece: max(n, 0.5) for piece, n in counts.items() if n >= 0.5 or piece in letters}
    total = digamma(sum(counts.values()))
    return {piece: digamma(n) - total for piece, n in counts.items()}


def pruned(scores, counts, letters, size):
    """The letters, and the pieces whose loss is largest: E[piece] · (log p(piece) − log p(its best cut without it))."""
    unseen = min(scores.values()) - UNSEEN
    loss = {}
    for piece in scores.keys() - letters:
        others = {part: scores[part] for part in substrings(piece) if part in scores and part != piece}
        loss[piece] = counts[piece] * (scores[piece] - best_cut(piece, others, len(piece), unseen)[0])
    kept = sorted(loss, key=lambda piece: (-loss[piece], piece))[: size - len(letters)]
    return {piece: scores[piece] for piece in [*sorted(letters), *kept]}


def substrings(word):
    return (word[i:j] for i in range(len(word)) for j in range(i + 1, len(word) + 1))


def log_sum(a, b):
    """log(eᵃ + eᵇ)."""
    low, high = min(a, b), max(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def digamma(x):
    """ψ(x) = d log Γ(x) / dx: ψ(x) = ψ(x + 1) − 1/x, and a series for large x."""
    below = 0.0
    while x < 7:
        below, x = below - 1 / x, x + 1
    x -= 0.5
    return below + math.log(x) + 1 / (24 * x**2) - 7 / (960 * x**4)
