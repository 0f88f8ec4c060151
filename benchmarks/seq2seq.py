"""Texts from texts: greedy and beam search of T5 and BART, ours on each backend beside transformers on torch.

    python -m benchmarks.seq2seq [--backend jax] [--rounds 5] [--only small] [--json FILE]

Random weights, the same for both hands, 4 sources of 24 to 32 tokens, 32 new tokens each; the benchmark raises where
the ids differ. "small" is t5-small, 60 million weights; "tiny" has two layers, 64 wide. A step is a token of each row.
"""

import os
import tempfile

from benchmarks import timing

NEW, LENGTHS = 32, (32, 24, 30, 27)
TINY = dict(vocab_size=1000, hidden_size=64, num_layers=2, num_heads=4, feedforward_size=128)
STOPS = ()


def main():
    options = timing.start("benchmarks.seq2seq", rounds=5)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    comparisons = []
    for title, make in (("T5 tiny", tiny_t5), ("BART tiny", tiny_bart), ("T5 small", t5_small)):
        for beams in (1, 4):
            row = f"{title}, {'greedy' if beams == 1 else f'{beams} beams'}"
            if options.only in row:
                work = hands(make(), beams)
                comparisons.append(timing.compare(row, work, options.rounds, steps=NEW))
    timing.report(comparisons, options)


def tiny_t5():
    import kerasnets as kn

    return kn.T5Seq2SeqLM(**TINY, head_size=16)


def tiny_bart():
    import kerasnets as kn

    return kn.BARTSeq2SeqLM(**TINY, max_length=64, forced_eos_token_id=None)


def t5_small():
    import kerasnets as kn

    return kn.T5Seq2SeqLM.from_preset("t5-small")


def hands(model, beams):
    import numpy as np

    import kerasnets as kn

    random = np.random.default_rng(0)
    for weight in model.trainable_weights:  # far from where they begin, so that no text is one token again and again
        if len(weight.shape) == 2:
            weight.assign(random.normal(size=weight.shape) * 2 / np.sqrt(weight.shape[0]))
    ids = random.integers(3, model.config.vocab_size, (len(LENGTHS), max(LENGTHS))).astype("int32")
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype("int32")
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    sampler = kn.samplers.Beam(beams) if beams > 1 else None
    work = {"kerasnets": lambda: model.generate(inputs, NEW, sampler=sampler, stop_tokens=STOPS)}
    work["transformers"] = transformers(model, inputs, beams)
    found = {name: hand() for name, hand in work.items()}
    if not np.array_equal(*found.values()):
        raise ValueError(f"The hands do not write the same: {found}")
    return work


def transformers(ours, inputs, beams):
    """On torch, whatever the backend is."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    import kerasnets as kn

    with tempfile.TemporaryDirectory() as folder:
        kn.to_pretrained(ours, folder)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    inputs = {name: torch.tensor(value).long() for name, value in inputs.items()}
    model.generation_config.eos_token_id = None
    settings = dict(max_new_tokens=NEW, do_sample=False, num_beams=beams)

    @torch.no_grad()
    def step():
        return model.generate(**inputs, **settings)[:, 1:].numpy()

    return step


if __name__ == "__main__":
    main()
