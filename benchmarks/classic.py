"""MLP and CNN on the real MNIST digits, of `kerasnets.layers` and of `keras.layers`: a step of `fit` and of `predict`.

    python -m benchmarks.classic [--backend jax] [--rounds 15] [--only "CNN fit"] [--json FILE]

Both sides are the same `keras.Sequential`, the wiring of `kn.MLP` and `kn.CNN`, with the same weights, the same Adam
and the same batches; a call is one epoch in Keras's own `fit` or `predict`. In an MLP the layers' share of a step is
small: most of it is Keras's trainer and optimizer, which both sides pay alike.
"""

from benchmarks import timing

EXAMPLES = 16 * 128  # of the 4,000; every batch is whole
BATCHES = (128, 32)


def main():
    options = timing.start("benchmarks.classic", rounds=15)
    import keras

    import kerasnets as kn

    (images, labels), _ = kn.datasets.digits()
    x, y = images[:EXAMPLES, :, :, None].astype("float32") / 255, labels[:EXAMPLES]

    comparisons = []
    for name, wiring in (("MLP", mlp), ("CNN", cnn)):
        models = {"kerasnets": compiled(wiring(kn.layers)), "keras.layers": compiled(wiring(keras.layers))}
        models["keras.layers"].set_weights(models["kerasnets"].get_weights())
        check_equal(models, x[:128])
        for batch in BATCHES:
            for kind, work in (("fit", fitting), ("predict", predicting)):
                title = f"{name} {kind}, batch {batch}"
                if options.only in title:
                    epochs = {hand: work(model, x, y, batch) for hand, model in models.items()}
                    comparisons.append(timing.compare(title, epochs, options.rounds, steps=EXAMPLES // batch))
    timing.report(comparisons, options)


def mlp(layers):
    return [
        layers.Flatten(),
        layers.Dense(512, activation="relu"),
        layers.Dense(256, activation="relu"),
        layers.Dense(10),
    ]


def cnn(layers):
    pad, pool = layers.ZeroPadding2D, layers.MaxPooling2D
    blocks = [[pad(1), layers.Conv2D(filters, 3, activation="relu"), pool(2)] for filters in (32, 64)]
    return [*blocks[0], *blocks[1], layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)]


def compiled(layers):
    import keras

    model = keras.Sequential([keras.Input((28, 28, 1)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return model


def check_equal(models, x):
    """Raise if the two sides do not compute the same: their times would mean nothing."""
    ours, theirs = (model.predict(x, verbose=0) for model in models.values())
    largest = float(abs(ours - theirs).max())
    if not largest <= 1e-5:
        raise ValueError(f"The two models differ by {largest} with the same weights, expected at most 1e-5.")


def fitting(model, x, y, batch):
    return lambda: model.fit(x, y, batch_size=batch, shuffle=False, verbose=0)


def predicting(model, x, y, batch):
    return lambda: model.predict(x, batch_size=batch, verbose=0)


if __name__ == "__main__":
    main()
