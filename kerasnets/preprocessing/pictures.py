"""Pictures as a network may meet them next time: the same strokes, turned, zoomed and shifted a little.

A 3 that leans is still a 3. Each picture in another pose every time (augmentation 数据增强) teaches that without a
single new label. Simard, Steinkraus & Platt 2003, "Best practices for convolutional neural networks applied to visual
document analysis", doi:10.1109/ICDAR.2003.1227801. All of it is NumPy, so every backend trains on the same pictures.
"""

import keras
import numpy as np


def jitter(pictures, random, turn=15.0, zoom=0.1, shift=2.0):
    """x′[p] = x[R (p − centre) + centre + d], zeros beyond the border.   (B, H, W) → (B, H, W), the dtype kept.

    R turns by up to `turn` degrees and zooms by up to the fraction `zoom`, d shifts by up to `shift` pixels: drawn for
    each picture from the `RandomState` `random`. Raises `ValueError` for pictures that are not (B, H, W).
    """
    if np.ndim(pictures) != 3:
        raise ValueError(f"jitter: `pictures` must be (batch, height, width); received shape {np.shape(pictures)}.")
    count, height, width = pictures.shape
    angle = np.deg2rad(random.uniform(-turn, turn, (count, 1, 1)))
    scale = random.uniform(1 - zoom, 1 + zoom, (count, 1, 1))
    down, right = random.uniform(-shift, shift, (2, count, 1, 1))
    i, j = np.arange(height)[:, None] - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    rows = scale * (np.cos(angle) * i - np.sin(angle) * j) + (height - 1) / 2 + down  # (B, H, W)
    columns = scale * (np.sin(angle) * i + np.cos(angle) * j) + (width - 1) / 2 + right
    moved = interpolate(pictures, rows, columns)
    return (np.rint(moved) if np.issubdtype(pictures.dtype, np.integer) else moved).astype(pictures.dtype)


def interpolate(pictures, rows, columns):
    """The value amid four pixels, each counting the more the nearer it is.   (B, H, W) at (B, H′, W′) → (B, H′, W′)."""
    count, height, width = pictures.shape
    framed = np.pad(pictures, [(0, 0), (1, 1), (1, 1)]).astype("float32")
    rows, columns = np.clip(rows + 1, 0, height + 1), np.clip(columns + 1, 0, width + 1)  # the frame and beyond: zero
    top, left = np.minimum(rows.astype(int), height), np.minimum(columns.astype(int), width)
    below, beside = (rows - top).astype("float32"), (columns - left).astype("float32")
    b = np.arange(count)[:, None, None]
    upper = framed[b, top, left] * (1 - beside) + framed[b, top, left + 1] * beside
    lower = framed[b, top + 1, left] * (1 - beside) + framed[b, top + 1, left + 1] * beside
    return upper * (1 - below) + lower * below


class Jittered(keras.utils.PyDataset):
    """Batches of (jittered pictures, answers) for `fit`: every picture once an epoch, each time in another pose.

    (N, H, W), (N, …) → batches of `batch_size`; the N mod `batch_size` pictures left over wait for another epoch. The
    same `seed` gives the same batches on every backend. Raises `ValueError` for a batch larger than N.
    """

    def __init__(self, pictures, answers, batch_size=100, seed=0, **kwargs):
        super().__init__()
        if not 0 < batch_size <= len(pictures):
            raise ValueError(
                f"Jittered: `batch_size` must lie in [1, {len(pictures)}], the number of pictures; "
                f"received batch_size={batch_size}."
            )
        self.pictures, self.answers, self.batch_size = pictures, answers, batch_size
        self.seed, self.epoch, self.how = seed, 0, kwargs

    def __len__(self):
        return len(self.pictures) // self.batch_size

    def __getitem__(self, index):
        # A batch depends on its numbers alone, not on which were asked for before: Keras may look ahead.
        order = np.random.RandomState([self.seed, self.epoch]).permutation(len(self.pictures))
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        random = np.random.RandomState([self.seed, self.epoch, index])
        return jitter(self.pictures[chosen], random, **self.how), self.answers[chosen]

    def on_epoch_end(self):
        self.epoch += 1
