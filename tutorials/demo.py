"""`make demo`: a convolutional network learns to read handwritten digits, and its file opens on every backend.

`make demo`：卷积网络学会认手写数字，保存的文件在每个后端上都能打开。
"""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

FOLDER = Path(__file__).resolve().parents[1] / "saved_models"
MODEL, PICTURE = FOLDER / "cnn_digits.keras", FOLDER / "cnn_digits.png"


@contextlib.contextmanager
def quiet():
    """Hold back what TensorFlow's C++ code says while it is imported, which no setting of its own silences."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


start = time.perf_counter()
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else torch's threads burn a busy machine's cores while they wait
with quiet():
    import kerasnets as kn

from kerasnets.backend import select  # noqa: E402
from kerasnets.preprocessing.pictures import Jittered  # noqa: E402

import keras  # noqa: E402


def main():
    (train_images, train_labels), (test_images, test_labels) = kn.datasets.digits()
    print(f"\nReal handwritten digits (MNIST): {len(train_images):,} to learn from, {len(test_images):,} for the test.")
    print(f"真实的手写数字 (MNIST)：{len(train_images):,} 张用来学习，{len(test_images):,} 张用来测试。")
    print(f"Backend 后端: {keras.config.backend()}\n")

    model = train(train_images, train_labels)
    logits = model.predict(test_images, verbose=0)
    accuracy = (logits.argmax(axis=1) == test_labels).mean()
    print(f"\nTest accuracy 测试准确率: {accuracy:.3f}")

    FOLDER.mkdir(exist_ok=True)
    with quiet():  # Keras looks for TensorFlow here, whatever the backend
        model.save(MODEL)
    draw(test_images, test_labels, logits, accuracy)
    print(f"Saved 已保存: {shown(MODEL)}, {shown(PICTURE)}")

    agree = compare(test_images, test_labels, logits)
    print(f"\nAll of it took {time.perf_counter() - start:.0f} s. Go on with tutorials/01_mlp_digits.py.")
    print("一共用了上面的秒数。接下来可以看 tutorials/01_mlp_digits.py。")
    return 0 if agree else 1


def train(images, labels, epochs=20):
    """Pad → convolve → pool, three times, flatten, two Dense layers; every digit in another pose each epoch."""
    random.seed(0)  # Keras draws all its seeds from here; keras.utils.set_random_seed would import TensorFlow too
    digits = Jittered(images, labels, batch_size=50)
    model = kn.CNN(
        num_classes=10, filters=(16, 32, 64), dropout=0.4, mean=images.mean(), deviation=images.std(), name="cnn_digits"
    )
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, decay_steps=epochs * len(digits))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    model.fit(digits, epochs=epochs, verbose=0, callbacks=[progress(epochs, len(digits))])
    return model


def progress(epochs, steps):
    """One bar for the whole training, with the accuracy on the digits it learns from."""
    bar = tqdm(
        total=epochs * steps,
        desc="Learning 学习中",
        bar_format="{desc} {percentage:3.0f}%|{bar:30}| {elapsed}{postfix}",
    )
    return keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: bar.update(),
        on_epoch_end=lambda epoch, logs: bar.set_postfix(
            epoch=f"{epoch + 1}/{epochs}", accuracy=f"{logs['accuracy']:.3f}"
        ),
        on_train_end=lambda logs: bar.close(),
    )


def draw(images, labels, logits, accuracy):
    """The first 48 digits of the test with what the network read, then the wrong ones; wrong is red."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    answers = logits.argmax(axis=1)
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    chosen = [*range(48), *np.flatnonzero(answers != labels)[:12]]
    figure, axes = plt.subplots(5, 12, figsize=(12, 6.2), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, chosen, strict=False):
        is_right = answers[i] == labels[i]
        axis.imshow(images[i], cmap="gray_r")
        text = f"{answers[i]}" if is_right else f"{answers[i]}, not {labels[i]}\n{probabilities[i].max():.0%} sure"
        axis.set_title(text, fontsize=11, color="tab:green" if is_right else "tab:red")
    figure.suptitle(
        f"{accuracy:.1%} of {len(labels):,} new digits right; in the last row some of the wrong ones", fontsize=13
    )
    figure.savefig(PICTURE, dpi=120)


def compare(images, labels, logits):
    """Open the file on every other backend, each in a fresh process, and print how far the outputs are apart."""
    others = [name for name in select.installed() if name != keras.config.backend()]
    if not others:
        print("\nNo other backend is installed here to open the file on. 这里没有安装其他后端。")
        return True
    print("\nThe same file on the other backends 同一个文件在其他后端上:\n")
    print(f"{'backend':12}{'accuracy':>10}{'largest difference':>22}{'open':>10}{'1,000 digits':>15}{'in all':>10}")
    print(f"{keras.config.backend():12}{(logits.argmax(axis=1) == labels).mean():10.3f}{'trained here':>22}")
    return all([compare_with(name, images, labels, logits) for name in others])


def compare_with(backend, images, labels, logits):
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "images.npy"), images)
        begin = time.perf_counter()
        child = subprocess.run(
            [sys.executable, __file__, "--reopen", folder],
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - begin
        if child.returncode:
            print(f"{backend:12}could not open it: {child.stderr.strip().splitlines()[-1]}")
            return False
        received, (opening, answering) = (np.load(Path(folder, name)) for name in ("logits.npy", "seconds.npy"))
    difference, accuracy = np.abs(received - logits).max(), (received.argmax(axis=1) == labels).mean()
    print(f"{backend:12}{accuracy:10.3f}{difference:22.1e}{opening:8.1f} s{answering:13.1f} s{seconds:8.1f} s")
    return difference <= 1e-4 * np.abs(logits).max()


def reopen(folder):
    """In the fresh process: open the model, read the digits, and leave the outputs and the seconds in `folder`."""
    images = np.load(Path(folder, "images.npy"))
    begin = time.perf_counter()
    model = keras.models.load_model(MODEL)
    opened = time.perf_counter()
    logits = model.predict(images, verbose=0)
    np.save(Path(folder, "seconds.npy"), [opened - begin, time.perf_counter() - opened])
    np.save(Path(folder, "logits.npy"), logits)


def shown(path):
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(reopen(sys.argv[2]) if sys.argv[1:2] == ["--reopen"] else main())
