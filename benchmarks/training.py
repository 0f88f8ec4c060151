"""A training step of a small GPT: ours, KerasHub's on the same backend and, on torch, transformers'.

    python -m benchmarks.training [--backend jax] [--rounds 15] [--only GPT] [--json FILE]

Four layers, 256 wide, 8 heads, vocabulary 1000, batch 16 × 128 tokens, no dropout, Adam, float32. All hands start from
the same weights (the benchmark raises if their losses differ), and each computes the loss it comes with: next-token
cross-entropy. A call is four steps of `train_on_batch`, or of torch's usual loop.
"""

import os
import tempfile

from benchmarks import timing

BATCH, LENGTH, VOCAB, STEPS = 16, 128, 1000, 4
SIZES = {"vocab_size": VOCAB, "hidden_size": 256, "num_layers": 4, "num_heads": 8, "max_length": LENGTH}
RATE = 1e-3


def main():
    options = timing.start("benchmarks.training", rounds=15)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import keras
    import numpy as np

    ids = np.random.default_rng(0).integers(0, VOCAB, (BATCH, LENGTH + 1)).astype("int32")
    x, y = ids[:, :-1], ids[:, 1:]
    ours = our_model()
    steps = {"kerasnets": keras_step(ours, x, y), "KerasHub": keras_step(their_model(ours), x, y)}
    if keras.config.backend() == "torch":
        steps["transformers"] = transformers_step(ours, x, y)
    losses = {name: step() for name, step in steps.items()}
    if max(losses.values()) - min(losses.values()) > 1e-3:
        raise ValueError(f"The hands do not compute the same loss: {losses}")
    work = {name: repeated(step) for name, step in steps.items()}
    title = "GPT training step"
    if options.only in title:
        timing.report([timing.compare(title, work, options.rounds, steps=STEPS, warmup=2)], options)


def repeated(step):
    return lambda: [step() for _ in range(STEPS)]


def our_model():
    import keras

    import kerasnets as kn

    model = kn.GPT2CausalLM(**SIZES, dropout=0.0, embedding_dropout=0.0, attention_dropout=0.0)
    model.compile(keras.optimizers.Adam(RATE), kn.losses.TokenCrossEntropy())
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

    def step():
        result = model.train_on_batch(inputs, y)
        return float(result[0] if isinstance(result, (list, tuple)) else result)

    return step


def transformers_step(ours, x, y):
    import torch
    import transformers

    import kerasnets as kn

    with tempfile.TemporaryDirectory() as folder:
        kn.to_pretrained(ours, folder)
        model = transformers.GPT2LMHeadModel.from_pretrained(folder).train()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    x, y = torch.from_numpy(x).long(), torch.from_numpy(y).long()

    def step():
        optimizer.zero_grad()
        loss = model(input_ids=x, labels=y, shift_labels=y).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
