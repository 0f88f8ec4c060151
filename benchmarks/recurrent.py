"""SimpleRNN, LSTM, GRU against `keras.layers` and, on torch, `torch.nn`: a training step and inference.

    python -m benchmarks.recurrent [--backend jax] [--rounds 31] [--only LSTM] [--json FILE]

Two stacked layers, 64 → 128 → 128, batch 32, 100 steps, with and without a padding mask (rows of 20 to 100 steps,
padded on the right), the last output against a target of 128. The rows `with mask` compare ours to ours without. A
round is five calls one after the other, as in an epoch: the first after a pause finds its memory and code cold.
"""

from benchmarks import timing

BATCH, STEPS, WIDTHS, CALLS = 32, 100, (64, 128, 128), 5


def main():
    options = timing.start("benchmarks.recurrent", rounds=31)
    import keras
    import numpy as np

    import kerasnets as kn

    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, STEPS, WIDTHS[0])).astype("float32")
    y = rng.standard_normal((BATCH, WIDTHS[-1])).astype("float32")
    lengths = rng.integers(20, STEPS + 1, BATCH)
    lengths[0] = STEPS
    mask = np.arange(STEPS) < lengths[:, None]

    comparisons = []
    for name in ("SimpleRNN", "LSTM", "GRU"):
        ours = {masked: build(kn.layers, name, masked) for masked in (False, True)}
        theirs = {masked: build(keras.layers, name, masked) for masked in (False, True)}
        for masked in (False, True):
            inputs = [x, mask] if masked else x
            padding = ", mask" if masked else ""
            train = {"ours": trainer(ours[masked], inputs, y), "keras.layers": trainer(theirs[masked], inputs, y)}
            infer = {"ours": inference(ours[masked], inputs), "keras.layers": inference(theirs[masked], inputs)}
            if keras.config.backend() == "torch":
                module = TorchPeer(name)
                train["torch.nn"] = module.trainer(x, y, lengths if masked else None)
                infer["torch.nn"] = module.inference(x, lengths if masked else None)
            compare(comparisons, options, f"{name} train{padding}", train)
            compare(comparisons, options, f"{name} infer{padding}", infer)
        train = {"ours": trainer(ours[True], [x, mask], y), "ours, no mask": trainer(ours[False], x, y)}
        infer = {"ours": inference(ours[True], [x, mask]), "ours, no mask": inference(ours[False], x)}
        compare(comparisons, options, f"{name} train with mask", train)
        compare(comparisons, options, f"{name} infer with mask", infer)
    timing.report(comparisons, options)


def compare(comparisons, options, title, work):
    if options.only in title:
        work = {name: repeated(step) for name, step in work.items()}
        comparisons.append(timing.compare(title, work, rounds=options.rounds, steps=CALLS))


def repeated(step):
    return lambda: [step() for _ in range(CALLS)]


def build(layers, name, masked):
    """The same model from `kerasnets.layers` or `keras.layers`."""
    import keras

    inputs = x = keras.Input((STEPS, WIDTHS[0]))
    mask = keras.Input((STEPS,), dtype="bool") if masked else None
    for width in WIDTHS[1:-1]:
        x = getattr(layers, name)(width, return_sequences=True)(x, mask=mask)
    x = getattr(layers, name)(WIDTHS[-1])(x, mask=mask)
    model = keras.Model([inputs, mask] if masked else inputs, x)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def trainer(model, inputs, y):
    return lambda: model.train_on_batch(inputs, y)


def inference(model, inputs):
    return lambda: model.predict_on_batch(inputs)


class TorchPeer:
    """The same two layers as one `torch.nn` module, with packed sequences where there is a mask."""

    def __init__(self, name):
        import torch

        kind = {"SimpleRNN": "RNN"}.get(name, name)
        self.layers = getattr(torch.nn, kind)(WIDTHS[0], WIDTHS[1], num_layers=len(WIDTHS) - 1, batch_first=True)
        self.optimizer = torch.optim.SGD(self.layers.parameters(), 0.01)

    def forward(self, x, lengths):
        import torch

        if lengths is None:
            outputs, _ = self.layers(x)
            return outputs[:, -1]
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.layers(packed)
        return (last[0] if isinstance(last, tuple) else last)[-1]

    def trainer(self, x, y, lengths):
        import torch

        x, y = torch.from_numpy(x), torch.from_numpy(y)
        lengths = None if lengths is None else torch.from_numpy(lengths)

        def step():
            self.optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(self.forward(x, lengths), y)
            loss.backward()
            self.optimizer.step()
            return loss.item()

        return step

    def inference(self, x, lengths):
        import torch

        x = torch.from_numpy(x)
        lengths = None if lengths is None else torch.from_numpy(lengths)

        @torch.no_grad()
        def step():
            return self.forward(x, lengths).numpy()

        return step


if __name__ == "__main__":
    main()
