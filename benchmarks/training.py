"""A training step of a small GPT and a small BERT: ours, KerasHub's on the same backend and, on torch, transformers'.

    python -m benchmarks.training [--backend jax] [--rounds 15] [--only GPT] [--json FILE]

Four layers, 256 wide, 8 heads, vocabulary 1000, batch 16 × 128 tokens, no dropout, Adam, float32. All hands start from
the same weights (the benchmark raises if their losses differ), and each computes the loss it comes with: next-token
cross-entropy, or that of the 20 tokens in each row that are hidden, of which ours and KerasHub's are told the places.
Ours has `kn.optimizers.Adam`, KerasHub Keras's, transformers torch's. GELU is the tanh formula in all blocks, since
KerasHub's have no other. A call is four steps of `train_on_batch`, or of torch's usual loop.
"""

import os
import tempfile

from benchmarks import timing

BATCH, LENGTH, VOCAB, STEPS, HIDDEN = 16, 128, 1000, 4, 20
SIZES = {"vocab_size": VOCAB, "hidden_size": 256, "num_layers": 4, "num_heads": 8, "max_length": LENGTH}
RATE = 1e-3


def main():
    options = timing.start("benchmarks.training", rounds=15)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows = {"GPT training step": gpt_steps, "MLM training step": mlm_steps}
    results = [measured(title, steps(), options) for title, steps in rows.items() if options.only in title]
    timing.report(results, options)


def measured(title, steps, options):
    return timing.compare(title, repeated(steps, STEPS), options.rounds, steps=STEPS, warmup=2)


def repeated(steps, count, tolerance=1e-4):
    """`count` steps of each hand as one call, after a first step of each, whose losses must be alike."""
    losses = {name: step() for name, step in steps.items()}
    if max(losses.values()) - min(losses.values()) > tolerance * max(losses.values()):
        raise ValueError(f"The hands do not compute the same loss: {losses}")
    return {name: lambda step=step: [step() for _ in range(count)] for name, step in steps.items()}


def gpt_steps():
    import keras
    import numpy as np

    ids = np.random.default_rng(0).integers(0, VOCAB, (BATCH, LENGTH + 1)).astype("int32")
    x, y = ids[:, :-1], ids[:, 1:]
    ours = our_model()
    steps = {"kerasnets": keras_step(ours, x, y), "KerasHub": keras_step(their_model(ours), x, y)}
    if keras.config.backend() == "torch":
        steps["transformers"] = transformers_step(ours, x, y)
    return steps


def mlm_steps():
    import keras
    import numpy as np

    random = np.random.default_rng(0)
    ids = random.integers(5, VOCAB, (BATCH, LENGTH)).astype("int32")
    places = np.sort(random.permuted(np.tile(np.arange(LENGTH), (BATCH, 1)), axis=1)[:, :HIDDEN]).astype("int32")
    labels = np.take_along_axis(ids, places, axis=1)
    np.put_along_axis(ids, places, 4, axis=1)
    ours = our_mlm()
    batch = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": np.ones_like(ids)}
    theirs = {"token_ids": ids, "segment_ids": batch["token_type_ids"], "padding_mask": batch["attention_mask"]}
    steps = {
        "kerasnets": batch_step(ours, {**batch, "mask_positions": places}, labels),
        "KerasHub": batch_step(their_mlm(ours), {**theirs, "mask_positions": places}, labels),
    }
    if keras.config.backend() == "torch":
        everywhere = np.full_like(ids, -100)
        np.put_along_axis(everywhere, places, labels, axis=1)
        steps["transformers"] = transformers_mlm_step(ours, batch, everywhere)
    return steps


def our_model():

    import kerasnets as kn

    model = kn.GPT2CausalLM(**SIZES, dropout=0.0, embedding_dropout=0.0, attention_dropout=0.0)
    model.compile(kn.optimizers.Adam(RATE), kn.losses.TokenCrossEntropy())
    return model


def their_model(ours):
    """KerasHub's GPT-2 with our weights: tables, then each block's weights in its own order and shapes."""
    import keras
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=VOCAB,
        num_layers=SIZES["num_layers"],
        num_heads=SIZES["num_heads"],
        hidden_dim=SIZES["hidden_size"],
        intermediate_dim=4 * SIZES["hidden_size"],
        dropout=0.0,
        max_sequence_length=LENGTH,
    )
    give_weights(ours.backbone, backbone)
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss=loss, weighted_metrics=[], sampler="greedy")
    return model


def give_weights(ours, theirs):
    import numpy as np

    theirs.token_embedding.set_weights(ours.token_embedding.get_weights())
    theirs.position_embedding.set_weights(ours.position_embedding.get_weights())
    width, heads = SIZES["hidden_size"], SIZES["num_heads"]
    for block, layer in zip(ours.blocks, theirs.transformer_layers, strict=True):
        kernel, bias = block.attention.query_key_value.get_weights()
        parts = zip(np.split(kernel, 3, axis=1), np.split(bias, 3), strict=True)
        projections = [w for k, b in parts for w in (k.reshape(width, heads, -1), b.reshape(heads, -1))]
        out_kernel, out_bias = block.attention.out.get_weights()
        layer._self_attention_layer.set_weights([*projections, out_kernel.reshape(heads, -1, width), out_bias])
        layer._self_attention_layer_norm.set_weights(block.attention_norm.get_weights())
        layer._feedforward_layer_norm.set_weights(block.feedforward_norm.get_weights())
        layer._feedforward_intermediate_dense.set_weights(block.feedforward.wide.get_weights())
        layer._feedforward_output_dense.set_weights(block.feedforward.narrow.get_weights())
    theirs.layer_norm.set_weights(ours.final_norm.get_weights())


def keras_step(model, x, y):
    inputs = x if not hasattr(model, "preprocessor") else {"token_ids": x, "padding_mask": (x >= 0).astype("int32")}
    return batch_step(model, inputs, y)


def transformers_step(ours, x, y):
    import transformers

    return torch_step(ours, transformers.GPT2LMHeadModel, {"input_ids": x, "labels": y, "shift_labels": y})


def transformers_model(ours, kind):
    """A model of this class of transformers with our weights."""
    import kerasnets as kn

    with tempfile.TemporaryDirectory() as folder:
        kn.to_pretrained(ours, folder)
        return kind.from_pretrained(folder)


def torch_step(ours, kind, batch, rate=RATE):
    """Torch's usual loop, with a transformers model of this kind that has our weights."""
    import torch

    model = transformers_model(ours, kind).train()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    batch = {name: torch.from_numpy(array).long() for name, array in batch.items()}

    def step():
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_mlm():

    import kerasnets as kn

    model = kn.BERTMaskedLM(
        **SIZES, feedforward_size=1024, activation="gelu_pytorch_tanh", dropout=0.0, attention_dropout=0.0
    )
    model.compile(kn.optimizers.Adam(RATE), model.make_loss())
    return model


def their_mlm(ours):
    """KerasHub's BERT with our weights; its blocks take GELU by the tanh formula, whatever the checkpoint says."""
    import keras
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=VOCAB,
        num_layers=SIZES["num_layers"],
        num_heads=SIZES["num_heads"],
        hidden_dim=SIZES["hidden_size"],
        intermediate_dim=1024,
        dropout=0.0,
        max_sequence_length=LENGTH,
    )
    give_encoder_weights(ours.backbone, backbone)
    model = keras_hub.models.BertMaskedLM(backbone=backbone, preprocessor=None)
    head = model.masked_lm_head
    head._intermediate_dense.set_weights(ours.head.dense.get_weights())
    head._intermediate_layer_norm.set_weights(ours.head.norm.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss=loss, weighted_metrics=[])
    return model


def give_encoder_weights(ours, theirs):
    embedding = ours.embedding
    theirs.token_embedding.set_weights(embedding.token_embedding.get_weights())
    theirs.position_embedding.set_weights(embedding.position_embedding.get_weights())
    theirs.segment_embedding.set_weights(embedding.segment_embedding.get_weights())
    theirs.embeddings_layer_norm.set_weights(embedding.norm.get_weights())
    width, heads = theirs.hidden_dim, theirs.num_heads
    for block, layer in zip(ours.blocks, theirs.transformer_layers, strict=True):
        attention, weights = block.attention, []
        for part in (attention.query, attention.key, attention.value):
            kernel, bias = part.get_weights()
            weights += [kernel.reshape(width, heads, -1), bias.reshape(heads, -1)]
        kernel, bias = attention.out.get_weights()
        layer._self_attention_layer.set_weights([*weights, kernel.reshape(heads, -1, width), bias])
        layer._self_attention_layer_norm.set_weights(block.attention_norm.get_weights())
        layer._feedforward_layer_norm.set_weights(block.feedforward_norm.get_weights())
        layer._feedforward_intermediate_dense.set_weights(block.feedforward.wide.get_weights())
        layer._feedforward_output_dense.set_weights(block.feedforward.narrow.get_weights())


def batch_step(model, batch, labels):
    def step():
        result = model.train_on_batch(batch, labels)
        return float(result[0] if isinstance(result, (list, tuple)) else result)

    return step


def transformers_mlm_step(ours, batch, labels):
    import transformers

    return torch_step(ours, transformers.BertForMaskedLM, {**batch, "labels": labels})


if __name__ == "__main__":
    main()
