"""Word2vec 词向量: a word is known by the company it keeps, so vectors that foretell the company hold the meaning.

Mikolov, Chen et al. 2013, arXiv:1301.3781; negative sampling and subsampling: Mikolov, Sutskever et al. 2013,
arXiv:1310.4546.
- Two tables: v_w for the word that is looked at, u_w for the word that is foretold; afterwards v is kept.
- Skip-gram: the centre word foretells each neighbour, score u_neighbour · v_centre. CBOW (continuous bag of words): the
  mean of the neighbours' vectors foretells the centre word.
- The full softmax over all V words is what Keras's `fit` trains. Negative sampling, far cheaper, is what `learn` does:
  a logistic regression tells the true word from k words drawn at random, with P(w) ∝ count(w)^0.75.
- Frequent words are left out now and then: w stays with P = √(t/f) + t/f for its frequency f. The window is drawn anew
  for each place, from 1 to `window`, so that near words count more. The learning rate falls in a straight line.
"""

import dataclasses
from collections import Counter

import keras
import numpy as np
from keras import ops

from kerasnets import backend, layers, word_vectors
from kerasnets.layers.layer import public
from kerasnets.model import Model

CHUNK, STEPS = 16, 4  # places side by side that share their negatives; steps in a call
CHUNKS = {"skip_gram": 64, "cbow": 128}  # of a step: the more the faster, but all start from the vectors before it
# Negatives that a chunk shares, each counting for as many as each pair would draw of its own: the fewer, the coarser.
SHARED = {"skip_gram": 64, "cbow": 16}
LONGEST = 4.0  # learning rate × how often a word counts in one step, at most: it is moved once, not in turn


@public
class Word2Vec(Model):
    """log σ(u_o · h) + k E[log σ(−u_w · h)], h = v_c (skip-gram) or the mean of the window's v (CBOW), is made large.

        model = kn.Word2Vec.from_sentences([["the", "king", …], …], hidden_size=100, kind="skip_gram")
        model.learn(sentences, epochs=5)
        model.most_similar("king");  model.most_similar(["king", "woman"], ["man"])

    As a Keras model it gives the logits of the full softmax, h Uᵀ: ids (B,) → (B, V) for skip-gram, the ids of a window
    (B, 2 · window), −1 where there is no word, → (B, V) for CBOW; `examples` makes both. `vectors` is v as NumPy.
    Raises `ValueError` for another kind and for words that it does not know.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        vocabulary: tuple  # the words, the most frequent first
        counts: tuple = ()  # how often each stood in the text; needed to learn
        hidden_size: int = 100
        kind: str = "skip_gram"
        window: int = 5
        num_negatives: int = 5
        subsample: float = 1e-3  # t; 0: every word stays

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self(keras.KerasTensor((1,) if self.config.kind == "skip_gram" else (1, 2), dtype="int32"))

    def build(self, input_shape=None):
        """Nothing is left to build."""

    def get_build_config(self):
        return None

    def make_layers(self):
        config = self.config
        if config.kind not in SHARED:
            raise ValueError(f"Word2Vec: `kind` must be one of {list(SHARED)}; received {config.kind!r}.")
        size = len(config.vocabulary)
        self.number = {word: id for id, word in enumerate(config.vocabulary)}
        if not len(self.number) == size > 0 or config.counts and len(config.counts) != size:
            raise ValueError("Word2Vec: `vocabulary` must hold words, each once, and `counts` a number for each.")
        small = keras.initializers.RandomUniform(-0.5 / config.hidden_size, 0.5 / config.hidden_size)
        self.token_embedding = layers.Embedding(size, config.hidden_size, embeddings_initializer=small)
        self.output_embedding = layers.Embedding(size, config.hidden_size, embeddings_initializer="zeros")
        self.token_embedding.build(), self.output_embedding.build()

    def call(self, ids):
        if self.config.kind == "skip_gram":
            h = self.token_embedding(ids)  # (B, D)
        else:
            there = ops.expand_dims(ops.cast(ids >= 0, self.compute_dtype), -1)  # (B, 2W, 1)
            v = ops.cast(ops.take(self.token_embedding.embeddings, ops.maximum(ids, 0), axis=0), there.dtype) * there
            h = ops.sum(v, axis=1) / ops.maximum(ops.sum(there, axis=1), 1)
        return ops.matmul(h, ops.transpose(ops.cast(self.output_embedding.embeddings, h.dtype)))

    # From text

    @classmethod
    def from_sentences(cls, sentences, min_count=5, **fields):
        """A model of the words that stand at least `min_count` times in lists of words."""
        counts = Counter(word for sentence in checked(sentences) for word in sentence)
        kept = sorted((word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))
        if not kept:
            raise ValueError(f"Word2Vec: no word stands {min_count} times among {counts.total()} words.")
        return cls(vocabulary=tuple(kept), counts=tuple(counts[word] for word in kept), **fields)

    def learn(self, sentences, epochs=5, learning_rate=0.025, last_rate=1e-4, seed=0, progress=None):
        """Negative sampling over lists of words; returns the model.   `progress(fraction)` is told how far it is.

        The same on every backend for the same first weights, up to rounding.
        """
        text = self.read(sentences)
        random, step = np.random.RandomState(seed), backend.compiled(self.step)
        carry = [ops.convert_to_tensor(np.array(w, "float32")) for w in self.get_weights()]
        for epoch in range(epochs):
            for done, blocks in self.blocks(*self.subsampled(*text, random), random):
                done = (epoch + done) / epochs
                rate = np.full(STEPS, learning_rate + (last_rate - learning_rate) * done, "float32")
                blocks = {name: ops.convert_to_tensor(array) for name, array in {**blocks, "rate": rate}.items()}
                carry = step((), carry, blocks)
                if progress:
                    progress(done)
        self.set_weights([ops.convert_to_numpy(table) for table in carry])
        return self

    def read(self, sentences):
        """The ids of the known words (T,), and the number of each one's sentence."""
        rows = [[self.number[w] for w in sentence if w in self.number] for sentence in checked(sentences)]
        numbers = np.repeat(np.arange(len(rows), dtype="int32"), [len(row) for row in rows])
        return np.fromiter((id for row in rows for id in row), "int32", len(numbers)), numbers

    def subsampled(self, ids, numbers, random):
        """Without some of the frequent words: the window reaches over the gaps."""
        if len(self.config.counts) != len(self.config.vocabulary):
            raise ValueError("Word2Vec: to learn, `counts` must say how often each word stands in the text.")
        f = np.array(self.config.counts) / sum(self.config.counts)
        t = self.config.subsample or np.inf
        kept = random.random_sample(len(ids)) < (np.sqrt(t / f) + t / f)[ids]
        return ids[kept], numbers[kept]

    def blocks(self, ids, numbers, random):
        """(how far, what `step` takes): STEPS × chunks × CHUNK places at a time, and `window` words on either side."""
        W, chunks, shared = self.config.window, CHUNKS[self.config.kind], SHARED[self.config.kind]
        size = CHUNK * chunks * STEPS
        after = -len(ids) % size + W
        numbers = np.pad(numbers, (W, after), constant_values=-1)
        ids = np.pad(ids, (W, after))
        drawn = np.cumsum(np.array(self.config.counts) ** 0.75)
        spans = np.arange(0, size, CHUNK).reshape(STEPS, chunks, 1) + np.arange(CHUNK + 2 * W)
        for start in range(0, len(ids) - 2 * W, size):
            yield (
                start / (len(ids) - 2 * W),
                {
                    "ids": ids[start + spans],  # (STEPS, chunks, CHUNK + 2W)
                    "numbers": numbers[start + spans],
                    "windows": random.randint(1, W + 1, (STEPS, chunks, CHUNK)).astype("int32"),
                    "negatives": np.searchsorted(
                        drawn, random.random_sample((STEPS, chunks, shared)) * drawn[-1], side="right"
                    ).astype("int32"),
                },
            )

    def examples(self, sentences, batch_size=1024, seed=0):
        """Batches (inputs, answers) for `fit` with the full softmax: one pass over the text, pairs made as needed."""
        W, random = self.config.window, np.random.RandomState(seed)
        ids, numbers = (np.pad(x, W, constant_values=-1) for x in self.subsampled(*self.read(sentences), random))
        reach = np.delete(np.arange(-W, W + 1), W)
        for start in range(W, len(ids) - W, batch_size):
            centre = np.arange(start, min(start + batch_size, len(ids) - W))
            places = centre[:, None] + reach  # (B, 2W)
            near = np.abs(reach) <= random.randint(1, W + 1, (len(centre), 1))
            near &= numbers[places] == numbers[centre][:, None]
            if self.config.kind == "skip_gram":
                yield np.broadcast_to(ids[centre][:, None], near.shape)[near], ids[places][near]
            else:
                some = near.any(axis=1)
                yield np.where(near, ids[places], -1)[some], ids[centre][some]

    # The step

    def step(self, _, carry, blocks):
        """STEPS small steps; one program on XLA."""
        pairs = self.pairs(**blocks)
        for i in range(STEPS):
            carry = self.small_step(*carry, **{name: array[i] for name, array in pairs.items()})
        return carry

    def pairs(self, ids, numbers, windows, negatives, rate):
        """Which rows of v foretell which of u, and how often each of these pairs counts, times the learning rate.

        Arrays (STEPS, n chunks, …). `weight` has a column for each of u's rows, `positive` is its part with y = 1.
        """
        W = self.config.window
        centre, near = ids[..., W:-W], near_of(numbers, windows, W)  # (…, C), (…, C, C + 2W)
        if self.config.kind == "skip_gram":
            read, told, positive, pairs = centre, ids, near, {}
        else:
            read, told, pairs = ids, centre, {"near": near}
            positive = ops.cast(ops.any(near > 0, axis=-1, keepdims=True), "float32") * ops.eye(CHUNK)
        other = ops.cast(told[..., :, None] != negatives[..., None, :], "float32")  # no word is a negative of itself
        drawn = ops.matmul(positive, other) * (self.config.num_negatives / negatives.shape[-1])
        rate = ops.reshape(rate, (-1, 1, 1, 1))
        return {
            **pairs,
            "read": read,
            "told": ops.concatenate([told, negatives], axis=-1),
            "positive": rate * ops.concatenate([positive, ops.zeros_like(drawn)], axis=-1),
            "weight": rate * ops.concatenate([positive, drawn], axis=-1),
        }

    def small_step(self, v, u, read, told, positive, weight, near=None):
        """v and u after one step of gradient ascent; per chunk: S = h uᵀ, G = weight · (y − σ(S)), dh = G u, du = Gᵀ h.

        As in Mikolov's code each word of a CBOW window takes the whole of its mean's gradient.
        """
        h, rows = ops.take(v, read, axis=0), ops.take(u, told, axis=0)  # (n, …, D)
        if near is not None:
            h = ops.matmul(near / ops.maximum(ops.sum(near, axis=-1, keepdims=True), 1), h)  # (n, C, D)
        G = positive - weight * ops.sigmoid(ops.matmul(h, ops.transpose(rows, (0, 2, 1))))
        dv, du, often = ops.matmul(G, rows), ops.matmul(ops.transpose(G, (0, 2, 1)), h), ops.sum(weight, axis=-1)
        if near is not None:
            back = ops.transpose(near, (0, 2, 1))
            dv, often = ops.matmul(back, dv), ops.squeeze(ops.matmul(back, often[..., None]), -1)
        return [moved(v, read, dv, often), moved(u, told, du, ops.sum(weight, axis=1))]

    # The vectors

    @property
    def vectors(self):
        """v as NumPy.   (V, D)"""
        return ops.convert_to_numpy(self.token_embedding.embeddings)

    def vector(self, word):
        """v_w.   (D,)"""
        return self.vectors[self.ids_of([word])[0]]

    def similarity(self, first, second):
        """cos(v_first, v_second)."""
        a, b = unit(self.vectors[self.ids_of([first, second])])
        return float(a @ b)

    def most_similar(self, positive, negative=(), count=10):
        """[(word, cosine), …] nearest to Σ positive − Σ negative, of unit vectors; the words asked for are left out.

        `most_similar(["king", "woman"], ["man"])`: as man is to king, so is woman to …
        """
        positive, negative = ([words] if isinstance(words, str) else list(words) for words in (positive, negative))
        asked, table = self.ids_of([*positive, *negative]), unit(self.vectors)
        signs = np.array([1.0] * len(positive) + [-1.0] * len(negative), table.dtype)
        cosines = table @ unit(signs @ table[asked])
        cosines[asked] = -np.inf
        best = np.argsort(-cosines, kind="stable")[: min(count, len(cosines) - len(set(asked)))]
        return [(self.config.vocabulary[i], float(cosines[i])) for i in best]

    def ids_of(self, words):
        unknown = [word for word in words if word not in self.number]
        if unknown or not words:
            raise ValueError(f"Word2Vec: the vocabulary of {len(self.number)} words does not hold {unknown or 'none'}.")
        return [self.number[word] for word in words]

    def to_word2vec(self, path, binary=False):
        """Write v in the text or the binary format of Mikolov's word2vec, which gensim opens."""
        word_vectors.write_word2vec(path, self.config.vocabulary, self.vectors, binary)

    @classmethod
    def from_word2vec(cls, path, binary=False):
        """A model with the vectors of such a file: for asking, not for learning on."""
        words, vectors = word_vectors.read_word2vec(path, binary)
        model = cls(vocabulary=words, hidden_size=vectors.shape[1])
        model.token_embedding.set_weights([vectors])
        return model


def checked(sentences):
    """The sentences, each a list of words: a text would be read letter by letter."""
    for i, sentence in enumerate([sentences] if isinstance(sentences, str) else sentences):
        if isinstance(sentence, str) or not all(isinstance(word, str) for word in sentence):
            raise ValueError(f"Word2Vec: a sentence must be a list of words; sentence {i} is {sentence!r:.80}.")
        yield sentence


def near_of(numbers, windows, W):
    """1 where a word stands in the window of a place and in the same sentence.   → (…, C, C + 2W)"""
    distance = ops.abs(ops.arange(CHUNK + 2 * W) - W - ops.arange(CHUNK)[:, None])
    near = (distance > 0) & (distance <= windows[..., None])
    same = (numbers[..., None, :] == numbers[..., W:-W, None]) & (numbers[..., None, :] >= 0)
    return ops.cast(ops.logical_and(near, same), "float32")


def moved(table, places, rows, often):
    """The table with `rows` added at `places`; a word that counts too `often` at once moves as if it were fewer."""
    total = backend.added(ops.zeros(table.shape[0]), ops.reshape(places, (-1,)), ops.reshape(often, (-1,)))
    scale = LONGEST / ops.maximum(total, LONGEST)
    rows = rows * ops.take(scale, places, axis=0)[..., None]
    return backend.added(table, ops.reshape(places, (-1,)), ops.reshape(rows, (-1, table.shape[1])))


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
