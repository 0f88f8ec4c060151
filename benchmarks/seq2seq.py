"""Texts from texts: T5 and BART, trained and writing: ours, KerasHub's on the same backend, transformers' on torch.

    python -m benchmarks.seq2seq [--backend jax] [--rounds 7] [--only small] [--json FILE]

Random weights, the same for all hands, no dropout, float32. "small" is t5-small, 60 million weights; "tiny" has two
layers, 64 wide. A training step reads 8 pairs of 64 and 32 tokens with each hand's own Adam; the benchmark raises where
the losses differ. Written are 32 new tokens for each of 4 sources of 24 to 32 tokens, greedy and with 4 beams
(KerasHub's search is another); the benchmark raises where the ids differ, and a step is a token of each row.
"""

import os

from benchmarks import timing
from benchmarks.training import batch_step, repeated, torch_step, transformers_model

NEW, LENGTHS = 32, (32, 24, 30, 27)
TINY = dict(vocab_size=1000, hidden_size=64, num_layers=2, num_heads=4, feedforward_size=128, dropout=0.0)
BATCH, SOURCE, TARGET, STEPS, RATE = 8, 64, 32, 2, 1e-4


def main():
    options = timing.start("benchmarks.seq2seq", rounds=7)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    comparisons = []
    for title, make in (("T5 tiny", tiny_t5), ("BART tiny", tiny_bart), ("T5 small", t5_small)):
        for row, hands in (("training step", trained), ("greedy", greedy), ("4 beams", with_beams)):
            if options.only in f"{title}, {row}":
                steps = STEPS if hands is trained else NEW
                comparisons.append(timing.compare(f"{title}, {row}", hands(make()), options.rounds, steps=steps))
    timing.report(comparisons, options)


def tiny_t5():
    import kerasnets as kn

    return randomized(kn.T5Seq2SeqLM(**TINY, head_size=16))


def tiny_bart():
    import kerasnets as kn

    return randomized(kn.BARTSeq2SeqLM(**TINY, max_length=64, forced_eos_token_id=None))


def t5_small():
    import kerasnets as kn

    return randomized(kn.T5Seq2SeqLM.from_preset("t5-small", dropout=0.0))


def randomized(model):
    """Weights with which a text goes on and on, but small enough: with twice these, float32 itself is 50 % off."""
    import numpy as np

    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if len(weight.shape) == 2:
            deviation = 1 if "embedding" in weight.path else 0.7 / np.sqrt(weight.shape[0])
            weight.assign(random.normal(size=weight.shape) * deviation)
    return model


def trained(model):
    import keras
    import numpy as np

    import kerasnets as kn

    random = np.random.default_rng(0)
    source = random.integers(3, model.config.vocab_size, (BATCH, SOURCE)).astype("int32")
    target = random.integers(3, model.config.vocab_size, (BATCH, TARGET + 1)).astype("int32")
    mask, x, y = np.ones_like(source), target[:, :-1], target[:, 1:]
    theirs = hub_model(model)
    inputs = {"input_ids": source, "attention_mask": mask, "decoder_input_ids": x}
    their_inputs = {"encoder_token_ids": source, "encoder_padding_mask": mask,
                    "decoder_token_ids": x, "decoder_padding_mask": np.ones_like(x)}  # fmt: skip
    steps = {}
    if keras.config.backend() == "torch":
        from transformers import AutoModelForSeq2SeqLM

        batch = {"input_ids": source, "decoder_input_ids": x, "labels": y}
        steps["transformers"] = torch_step(model, AutoModelForSeq2SeqLM, batch, RATE)
    model.compile(kn.optimizers.Adam(RATE), kn.losses.TokenCrossEntropy())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    theirs.compile(optimizer=keras.optimizers.Adam(RATE), loss=loss, weighted_metrics=[])
    hands = {"kerasnets": batch_step(model, inputs, y), "KerasHub": batch_step(theirs, their_inputs, y)}
    return repeated(hands | steps, STEPS, tolerance=1e-3)


def greedy(model):
    inputs = some_sources(model)
    work = {
        "kerasnets": lambda: model.generate(inputs, NEW, stop_tokens=()),
        "KerasHub": hub_greedy(model, inputs),
        "transformers": transformers_texts(model, inputs, beams=1),
    }
    return checked(work)


def with_beams(model):
    import kerasnets as kn

    inputs = some_sources(model)
    work = {
        "kerasnets": lambda: model.generate(inputs, NEW, sampler=kn.samplers.Beam(4), stop_tokens=()),
        "transformers": transformers_texts(model, inputs, beams=4),
    }
    return checked(work)


def some_sources(model):
    import numpy as np

    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, (len(LENGTHS), max(LENGTHS))).astype("int32")
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype("int32")
    return {"input_ids": ids * mask, "attention_mask": mask}


def checked(work):
    found = {name: hand() for name, hand in work.items()}
    for name, ids in found.items():
        if (ids != found["kerasnets"]).any():
            raise ValueError(f"{name} does not write the same: {ids}, {found['kerasnets']}")
    return work


def transformers_texts(ours, inputs, beams):
    """On torch, whatever the backend is."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    model = transformers_model(ours, AutoModelForSeq2SeqLM).eval()
    inputs = {name: torch.tensor(value).long() for name, value in inputs.items()}
    model.generation_config.eos_token_id = None
    settings = dict(max_new_tokens=NEW, do_sample=False, num_beams=beams)

    @torch.no_grad()
    def step():
        return model.generate(**inputs, **settings)[:, 1:].numpy()

    return step


def hub_greedy(ours, inputs):
    """Greedy, with its loop compiled as `compile` does it."""
    import numpy as np

    model, rows = hub_model(ours), len(LENGTHS)
    model.compile(sampler="greedy")
    tokens = np.full((rows, NEW + 1), ours.config.decoder_start_token_id, "int32")
    mask = (np.arange(NEW + 1) < 1)[None].repeat(rows, 0).astype("int32")
    inputs = {"encoder_token_ids": inputs["input_ids"], "encoder_padding_mask": inputs["attention_mask"],
              "decoder_token_ids": tokens, "decoder_padding_mask": mask}  # fmt: skip
    return lambda: np.asarray(model.generate(inputs, stop_token_ids=None)["decoder_token_ids"])[:, 1:]


def hub_model(ours):
    import kerasnets as kn

    return (hub_t5 if isinstance(ours, kn.T5Seq2SeqLM) else hub_bart)(ours)


def sizes_of(config):
    return dict(vocabulary_size=config.vocab_size, num_layers=config.num_layers, num_heads=config.num_heads,
                hidden_dim=config.hidden_size, intermediate_dim=config.feedforward_size, dropout=0.0)  # fmt: skip


def hub_t5(ours):
    """KerasHub's T5 with our weights."""
    import keras_hub

    config, ours = ours.config, ours.backbone
    sizes = {"key_value_dim": config.head_size, "activation": "relu", "use_gated_activation": False}
    backbone = keras_hub.models.T5Backbone(**sizes_of(config), **sizes)
    backbone.token_embedding.set_weights(ours.token_embedding.get_weights())
    for part in ("encoder", "decoder"):
        first = getattr(backbone, f"{part}_transformer_layers")[0].self_attention
        first.relative_attention_bias.assign(getattr(ours, f"{part}_bias").get_weights()[0])
        getattr(backbone, f"{part}_layer_norm").set_weights(getattr(ours, f"{part}_norm").get_weights())
    for block, layer in pairs_of_blocks(ours, backbone):
        give_attention(block, layer, "{}_attention", "{}_attention_layer_norm", "{}_projector")
        layer.input_projector.set_weights(block.feedforward.wide.get_weights())
        layer.output_projector.set_weights(block.feedforward.narrow.get_weights())
        layer.layer_norm.set_weights(block.feedforward_norm.get_weights())
    return keras_hub.models.T5Seq2SeqLM(backbone=backbone, preprocessor=None)


def hub_bart(ours):
    """KerasHub's BART with our weights; it has no two rows of positions that nobody reads."""
    import keras_hub

    from kerasnets.models.encoder_decoder.bart import OFFSET

    config, ours = ours.config, ours.backbone
    backbone = keras_hub.models.BartBackbone(**sizes_of(config), max_sequence_length=config.max_length)
    backbone.token_embedding.set_weights(ours.token_embedding.get_weights())
    for part in ("encoder", "decoder"):
        rows = getattr(ours, f"{part}_position_embedding").get_weights()[0][OFFSET:]
        getattr(backbone, f"{part}_position_embedding").set_weights([rows])
        norm = getattr(ours, f"{part}_embedding_norm").get_weights()
        getattr(backbone, f"{part}_embeddings_layer_norm").set_weights(norm)
    for block, layer in pairs_of_blocks(ours, backbone):
        give_attention(block, layer, "_{}_attention_layer", "_{}_attention_layer_norm", "_{}_dense")
        layer._feedforward_intermediate_dense.set_weights(block.feedforward.wide.get_weights())
        layer._feedforward_output_dense.set_weights(block.feedforward.narrow.get_weights())
        layer._feedforward_layer_norm.set_weights(block.feedforward_norm.get_weights())
    return keras_hub.models.BartSeq2SeqLM(backbone=backbone, preprocessor=None)


def pairs_of_blocks(ours, theirs):
    for part in ("encoder", "decoder"):
        blocks, layers = getattr(ours, f"{part}_blocks"), getattr(theirs, f"{part}_transformer_layers")
        yield from zip(blocks, layers, strict=True)


def give_attention(block, layer, attention, norm, dense):
    """The weights of a block's attentions and of their norms, whose names in KerasHub are given as patterns."""
    for name, kind in (("attention", "self"), ("cross_attention", "cross")):
        if hasattr(block, name):
            getattr(layer, norm.format(kind)).set_weights(getattr(block, f"{name}_norm").get_weights())
            for part in ("query", "key", "value", "out"):
                theirs = getattr(getattr(layer, attention.format(kind)), dense.format(part.replace("out", "output")))
                pairs = zip(getattr(getattr(block, name), part).get_weights(), theirs.weights, strict=True)
                theirs.set_weights([array.reshape(weight.shape) for array, weight in pairs])


if __name__ == "__main__":
    main()
