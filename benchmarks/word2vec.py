"""Word vectors of `kn.Word2Vec` and of gensim: how well they know which words are alike, and how fast they are learned.

    python -m benchmarks.word2vec [--backend jax] [--rounds 3] [--only cbow]

The same words in the same order (Wikipedia's articles, news and the Bible in Basic English), one worker and one thread,
dimension 100, window 5, 5 negatives, 5 epochs, learning rate 0.025 → 0.0001, subsampling at 10⁻³, words of 5 or more. A
round is a seed, in which the two take turns. Quality is Spearman's rank correlation with what people say of pairs in
wordsim353; speed counts every word of the text in every epoch, as gensim does, by the processor's time of the process,
which other processes on the machine hardly change, and by the clock.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"

import re  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402

from benchmarks import timing  # noqa: E402

EPOCHS = 5


def main():
    options = timing.start("benchmarks.word2vec", rounds=3)
    import keras
    from gensim.models import Word2Vec
    from scipy.stats import spearmanr

    import kerasnets as kn

    one_thread()
    sentences, pairs = corpus(kn), kn.datasets.word_similarity()
    words = EPOCHS * sum(map(len, sentences))
    print(f"{options.backend}: {len(sentences):,} sentences, {words // EPOCHS:,} words, {EPOCHS} epochs, one thread")

    def ours(kind, seed):
        keras.utils.set_random_seed(seed)
        model = kn.Word2Vec.from_sentences(sentences, kind=kind)
        return lambda: model.learn(sentences, epochs=EPOCHS, seed=seed), lambda: (model.number, model.vectors)

    def theirs(kind, seed):
        model = Word2Vec(vector_size=100, window=5, negative=5, workers=1, sg=kind == "skip_gram", seed=seed + 1)
        model.build_vocab(sentences)
        learn = lambda: model.train(sentences, total_examples=len(sentences), epochs=EPOCHS)  # noqa: E731
        return learn, lambda: (model.wv.key_to_index, model.wv.vectors)

    for kind in ("skip_gram", "cbow"):
        if options.only not in kind:
            continue
        found = {"kerasnets": [], "gensim": []}
        for seed in range(options.rounds):
            for name, make in (("kerasnets", ours), ("gensim", theirs)):
                learn, vectors = make(kind, seed)
                start, clock = time.process_time(), time.perf_counter()
                learn()
                speed, by_clock = words / (time.process_time() - start), words / (time.perf_counter() - clock)
                rho = spearman(spearmanr, pairs, *vectors())
                found[name].append((rho, speed, by_clock))
                rates = f"{speed:9,.0f} words/s ({by_clock:,.0f} by the clock)"
                print(f"  {kind} seed {seed} {name:10} ρ = {rho:.4f} {rates}", flush=True)
        report(kind, *found.values())


def report(kind, ours, theirs):
    """Means of ρ, medians over the rounds of the ratios."""
    rho, reference = (statistics.mean(row[0] for row in rows) for rows in (ours, theirs))
    ratio, by_clock = (statistics.median(a[i] / b[i] for a, b in zip(ours, theirs, strict=True)) for i in (1, 2))
    print(f"{kind}: ρ {rho:.4f}, gensim's {reference:.4f}, {rho - reference:+.4f}")
    print(f"{kind}: words/s ours/theirs {ratio:.2f}, by the clock {by_clock:.2f}\n", flush=True)


def one_thread():
    """The backends that read no environment variable are told by their own functions."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        threading = sys.modules["tensorflow"].config.threading
        threading.set_intra_op_parallelism_threads(1)
        threading.set_inter_op_parallelism_threads(1)


def corpus(kn):
    """Lists of lower-case words, sentence by sentence."""
    texts = [*kn.datasets.english_prose(), *kn.datasets.english_articles()]
    sentences = (re.findall(r"[a-z]+", text) for whole in texts for text in re.split(r"[.!?\n]+", whole.lower()))
    return [sentence for sentence in sentences if len(sentence) > 1]


def spearman(spearmanr, pairs, number, vectors):
    """Over the pairs of which both words are known."""
    import numpy as np

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    known = [(a, b, likeness) for a, b, likeness in pairs if a in number and b in number]
    return spearmanr([unit[number[a]] @ unit[number[b]] for a, b, _ in known], [row[2] for row in known])[0]


if __name__ == "__main__":
    main()
