"""MLP and CNN on the real MNIST digits, of `kerasnets.layers` and of `keras.layers`: a step of `fit` and of `predict`.

    python -m benchmarks.classic [--backend jax] [--rounds 15] [--only "CNN fit"] [--json FILE]

Both sides are the same `keras.Sequential`, the wiring of `kn.MLP` and `kn.CNN`, with the same weights and batches; a
call is two epochs in Keras's own `fit`, or one `predict`. Ours has `kn.optimizers.Adam`, theirs Keras's; the rows
"layers alone" have Keras's on both sides. There an MLP differs by little but noise: most of its step is Keras's trainer
and optimizer, which both sides pay alike.
"""

from benchmarks import timing

EXAMPLES = 16 * 128  # of the 4,000; every batch is whole
BATCHES = (128, 32)
EPOCHS = 2  # a `fit` of TensorFlow's takes 0.1 s before its first step


def main():
    options = timing.start("benchmarks.classic", rounds=15)
    import keras

    import kerasnets as kn

    (images, labels), _ = kn.datasets.digits()
    x, y = images[:EXAMPLES, :, :, None].astype("float32") / 255, labels[:EXAMPLES]

    comparisons = []
    for name, wiring in (("MLP", mlp), ("CNN", cnn)):
        ours = compiled(wiring(kn.layers), kn.optimizers.Adam())
        alone = compiled(wiring(kn.layers), keras.optimizers.Adam())
        theirs = compiled(wiring(keras.layers), keras.optimizers.Adam())
        check_equal({"kerasnets": ours, "layers alone": alone, "keras.layers": theirs}, x, y)
        rows = (("fit", ours, fitting), ("fit, layers alone", alone, fitting), ("predict", ours, predicting))
        for batch in BATCHES:
            for row, model, work in rows:
                title = f"{name} {row}, batch {batch}"
                if options.only in title:
                    hands = {"kerasnets": work(model, x, y, batch), "keras.layers": work(theirs, x, y, batch)}
                    steps = EXAMPLES // batch * (EPOCHS if work is fitting else 1)
                    comparisons.append(timing.compare(title, hands, options.rounds, steps=steps))
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


def compiled(layers, optimizer):
    import keras

    model = keras.Sequential([keras.Input((28, 28, 1)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    return model


def check_equal(models, x, y):
    """Raise if the sides do not compute the same, before and after an epoch: their times would mean nothing."""
    theirs = models["keras.layers"]
    for model in models.values():
        model.set_weights(theirs.get_weights())
    for tolerance in (1e-5, 1e-3):
        expected = theirs.predict(x, verbose=0)
        for name, model in models.items():
            largest = float(abs(model.predict(x, verbose=0) - expected).max())
            if not largest <= tolerance:
                raise ValueError(f"{name} differs by {largest} from keras.layers, expected at most {tolerance}.")
            model.fit(x, y, batch_size=128, shuffle=False, verbose=0)


def fitting(model, x, y, batch):
    return lambda: model.fit(x, y, batch_size=batch, epochs=EPOCHS, shuffle=False, verbose=0)


def predicting(model, x, y, batch):
    return lambda: model.predict(x, batch_size=batch, verbose=0)


if __name__ == "__main__":
    main()
