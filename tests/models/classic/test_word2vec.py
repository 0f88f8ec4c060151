"""Word2vec: a step by hand, what it learns, and the files that gensim opens."""

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets.models.classic import word2vec

KINDS = ["skip_gram", "cbow"]


@pytest.fixture(scope="module")
def sentences():
    """Days and numbers, each kind in company of its own; every word is as frequent as its like."""
    random = np.random.RandomState(0)
    company = {"day": ["mon", "tue", "wed", "thu"], "number": ["one", "two", "three", "four"]}
    rows = []
    for _ in range(600):
        kind = ("day", "number")[random.randint(2)]
        row = [f"{kind}{random.randint(3)}" for _ in range(4)]
        row.insert(random.randint(5), company[kind][random.randint(4)])
        rows.append([*row, "the"])
    return rows


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_hand(kind, sentences, random):
    """Pair by pair, from the vectors as they were before the step."""
    model = kn.Word2Vec.from_sentences(sentences, kind=kind, hidden_size=8, window=3, num_negatives=4)
    v, u = (random.normal(size=w.shape).astype("float32") for w in model.get_weights())
    blocks = next(model.blocks(*model.read(sentences), np.random.RandomState(0)))[1]
    rate = np.full(word2vec.STEPS, 4e-4, "float32")
    convert = keras.ops.convert_to_tensor
    pairs = model.pairs(**{name: convert(array) for name, array in blocks.items()}, rate=convert(rate))
    found = model.small_step(convert(v.copy()), convert(u.copy()), **{name: x[0] for name, x in pairs.items()})
    block = {name: array[0] for name, array in blocks.items()}
    dv, du = np.zeros(v.shape), np.zeros(u.shape)
    for ids, numbers, windows, negatives in zip(*(block[n] for n in list(block)), strict=True):
        for place in range(3, 3 + word2vec.CHUNK):
            b = windows[place - 3]
            near = [j for j in range(place - b, place + b + 1) if j != place and numbers[j] == numbers[place] >= 0]
            if kind == "skip_gram":
                pairs = [([ids[place]], ids[j]) for j in near]
            else:
                pairs = [(ids[near], ids[place])] if near else []
            for read, told in pairs:
                h = v[read].mean(axis=0)
                drawn = [(word, 0, 4 / word2vec.SHARED[kind]) for word in negatives if word != told]
                for word, y, weight in [(told, 1, 1), *drawn]:
                    g = rate[0] * weight * (y - sigmoid(u[word] @ h))
                    np.add.at(dv, read, g * u[word])
                    du[word] += g * h
    for table, before, step in ((found[0], v, dv), (found[1], u, du)):
        assert np.abs(step).max() > 0.03
        expected = before + step
        np.testing.assert_allclose(keras.ops.convert_to_numpy(table), expected, atol=1e-5 * np.abs(expected).max())


def test_a_word_is_not_moved_too_far_at_once():
    table, places = np.zeros((3, 2), "float32"), np.array([[0] * 100 + [1]])
    rows, often = np.ones((1, 101, 2), "float32"), np.full((1, 101), 0.1, "float32")
    convert = keras.ops.convert_to_tensor
    moved = word2vec.moved(*map(convert, (table, places, rows, often)))
    expected = [[100 * word2vec.LONGEST / (0.1 * 100)] * 2, [1, 1], [0, 0]]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(moved), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_learns_company(kind, sentences):
    model = kn.Word2Vec.from_sentences(sentences, kind=kind, hidden_size=10, window=3, subsample=0)
    told = []
    assert model.learn(sentences, epochs=30, learning_rate=0.1, progress=told.append) is model
    assert told == sorted(told) and told[0] == 0 and told[-1] < 1
    assert {word for word, _ in model.most_similar("mon", count=3)} <= {"tue", "wed", "thu", "day0", "day1", "day2"}
    assert model.similarity("mon", "tue") > model.similarity("mon", "two") + 0.3
    assert model.most_similar(["tue", "two"], "tue", count=1)[0][0] != "two"
    same = kn.Word2Vec.from_sentences(sentences, kind=kind, hidden_size=10, window=3, subsample=0)
    keras.utils.set_random_seed(0)
    assert np.isfinite(same.vectors).all() and np.array_equal(model.vector("mon"), model.vectors[model.number["mon"]])


@pytest.mark.parametrize("kind", KINDS)
def test_full_softmax(kind, sentences):
    """Keras's own training, over all words: the loss falls below that of the words' frequencies."""
    model = kn.Word2Vec.from_sentences(sentences, kind=kind, hidden_size=8, window=2, subsample=0)
    batches = list(model.examples(sentences))
    x, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    v, u = model.get_weights()
    u = np.random.RandomState(0).normal(size=u.shape).astype("float32")
    model.set_weights([v, u])
    h = v[x[0]] if kind == "skip_gram" else v[x[0][x[0] >= 0]].mean(axis=0)
    np.testing.assert_allclose(model.predict(x[:1], verbose=0)[0], u @ h, atol=1e-5)
    model.compile(keras.optimizers.Adam(0.02), kn.losses.TokenCrossEntropy())
    loss = model.fit(x, y, batch_size=256, epochs=3, verbose=0).history["loss"]
    f = np.bincount(y, minlength=len(u)) / len(y)
    assert loss[-1] < -np.sum(f[f > 0] * np.log(f[f > 0])) - 0.3


def test_examples_are_pairs_of_a_sentence():
    sentences = [["a", "b", "c"], ["d", "e"]]
    skip_gram = kn.Word2Vec.from_sentences(sentences, min_count=1, window=1, subsample=0)
    x, y = next(skip_gram.examples(sentences))
    assert sorted(zip(x.tolist(), y.tolist(), strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3)]
    cbow = kn.Word2Vec.from_sentences(sentences, kind="cbow", min_count=1, window=1, subsample=0)
    x, y = next(cbow.examples(sentences))
    assert x.tolist() == [[-1, 1], [0, 2], [1, -1], [-1, 4], [3, -1]] and y.tolist() == [0, 1, 2, 3, 4]


def test_draws_are_as_often_as_they_should_be(sentences):
    model = kn.Word2Vec.from_sentences(sentences, subsample=0.01)
    ids, numbers = model.read(sentences)
    f = np.array(model.config.counts) / sum(model.config.counts)
    ids = np.tile(ids, 30)
    kept, _ = model.subsampled(ids, ids, np.random.RandomState(0))
    expected = np.minimum(1, np.sqrt(0.01 / f) + 0.01 / f)
    np.testing.assert_allclose(np.bincount(kept) / np.bincount(ids), expected, atol=0.03)
    drawn = [b["negatives"] for _, b in model.blocks(ids, ids * 0, np.random.RandomState(0))]
    windows = [b["windows"] for _, b in model.blocks(ids, ids * 0, np.random.RandomState(0))]
    often = np.bincount(np.ravel(drawn), minlength=len(f)) / np.size(drawn)
    np.testing.assert_allclose(often, f**0.75 / (f**0.75).sum(), atol=0.01)
    np.testing.assert_allclose(np.bincount(np.ravel(windows))[1:] / np.size(windows), [0.2] * 5, atol=0.01)


# Files


@pytest.fixture
def model():
    words = ("dog", "狗", "猫", "cat")
    model = kn.Word2Vec(vocabulary=words, counts=(9, 8, 7, 6), hidden_size=5)
    model.set_weights([np.random.RandomState(0).normal(size=(4, 5)).astype("float32"), np.zeros((4, 5))])
    return model


def test_keras_file(model, tmp_path):
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.config == model.config and np.array_equal(again.vectors, model.vectors)


@pytest.mark.parametrize("binary", [False, True])
def test_word2vec_file(binary, model, tmp_path):
    model.to_word2vec(tmp_path / "vectors", binary)
    again = kn.Word2Vec.from_word2vec(tmp_path / "vectors", binary)
    assert again.config.vocabulary == model.config.vocabulary
    assert np.array_equal(again.vectors, model.vectors)
    with pytest.raises(ValueError, match="counts"):
        again.learn([["dog"]])
    gensim = pytest.importorskip("gensim", reason="the reference is gensim")
    theirs = gensim.models.KeyedVectors.load_word2vec_format(tmp_path / "vectors", binary=binary)
    assert np.array_equal(theirs.vectors, model.vectors) and theirs.index_to_key == list(model.config.vocabulary)
    assert model.most_similar(["dog"], ["cat"]) == [
        (word, pytest.approx(cosine, abs=1e-6)) for word, cosine in theirs.most_similar(["dog"], ["cat"])
    ]
    theirs.save_word2vec_format(tmp_path / "theirs", binary=binary)
    assert np.array_equal(kn.Word2Vec.from_word2vec(tmp_path / "theirs", binary).vectors, model.vectors)


@pytest.mark.parametrize(
    ("content", "binary", "words"),
    [
        (b"", False, "first line"),
        (b"a 1 2\n", False, "first line"),
        (b"2 2\na 1 2\n", False, "line 3.*0 numbers"),
        (b"1 2\na 1 x\n", False, "line 2.*could not convert"),
        (b"1 2\na 1 2\nb 1 2\n", False, "more than the 1"),
        (b"1 2\na 1 nan\n", False, "'a' is not finite"),
        (b"2 1\na 1\na 2\n", False, "twice"),
        (b"1 2\na 1234567", True, "word 1 of 1.*too early"),
        (b"1 1\n\xff 1234", True, "word 1 of 1"),
    ],
)
def test_broken_files(content, binary, words, tmp_path):
    (tmp_path / "vectors").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        kn.Word2Vec.from_word2vec(tmp_path / "vectors", binary)


def test_bad_input(model, tmp_path):
    with pytest.raises(ValueError, match=r"does not hold \['cow'\]"):
        model.most_similar(["dog", "cow"])
    with pytest.raises(ValueError, match="none"):
        model.most_similar([])
    for sentences in ("dog cat", ["dog cat"], [["dog", 3]]):
        with pytest.raises(ValueError, match="sentence 0"):
            model.learn(sentences)
    with pytest.raises(ValueError, match="no word stands 5 times among 2"):
        kn.Word2Vec.from_sentences([["a", "b"]])
    with pytest.raises(ValueError, match="skip_gram.*'skip'"):
        kn.Word2Vec(vocabulary=("a",), kind="skip")
    with pytest.raises(ValueError, match="each once"):
        kn.Word2Vec(vocabulary=("a", "a"))
    with pytest.raises(ValueError, match="'b c'"):
        kn.Word2Vec(vocabulary=("a", "b c")).to_word2vec(tmp_path / "vectors")
