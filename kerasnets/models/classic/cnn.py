"""The convolutional network 卷积网络 (CNN): small kernels look at every place, pooling forgets where they saw it.

LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition", doi:10.1109/5.726791.
- The notes' pipeline: pad 扩充 → extract features with kernels 特征提取（卷积核） → max pool 最大池化 → flatten 扁平化.
- One kernel's weights serve all places: a stroke learned at one is known at all, and there are few weights to learn.
- Each block halves the picture, so the next block's kernels of the same size see twice as far.
- Dense layers at the end, as in the MLP; the outputs are logits.
"""

import dataclasses

import keras
from keras import ops

from kerasnets import layers
from kerasnets.layers.layer import public
from kerasnets.layers.standardisation import Standardise
from kerasnets.model import Model


class Block(keras.layers.Layer):
    """pool(φ(kernels ∗ pad(x) + b)).   (B, H, W, C) → (B, H/2, W/2, filters); an odd last row or column is dropped."""

    def __init__(self, filters, kernel_size, activation, **kwargs):
        super().__init__(**kwargs)
        self.pad = layers.ZeroPadding2D(kernel_size // 2)
        self.convolve = layers.Conv2D(filters, kernel_size, activation=activation)
        self.pool = layers.MaxPooling2D(2)

    def call(self, x):
        x = self.pad(x)  # → (B, H + kernel_size − 1, W + kernel_size − 1, C)
        x = self.convolve(x)  # → (B, H, W, filters)
        return self.pool(x)

    def compute_output_shape(self, input_shape):
        shape = self.convolve.compute_output_shape(self.pad.compute_output_shape(input_shape))
        return self.pool.compute_output_shape(shape)


@public
class CNN(Model):
    """x ← pool(φ(kernels ∗ pad(x) + b)) for each of `filters`, then an MLP.   (B, H, W[, C]) → (B, num_classes).

    Pictures have their channels last; grey ones may come without that axis. Raises `ValueError` for a `kernel_size`
    that is not odd and positive: an even kernel has no middle to put on a pixel.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        num_classes: int
        filters: tuple = (32, 64)
        kernel_size: int = 3
        hidden_size: int = 128
        activation: str = "relu"
        dropout: float = 0.0
        mean: float = 0.0  # of the training set's pixels, so that the model takes them as they are
        deviation: float = 1.0

    def make_layers(self):
        config = self.config
        if config.kernel_size < 1 or config.kernel_size % 2 == 0:
            raise ValueError(f"CNN: `kernel_size` must be odd and positive; received kernel_size={config.kernel_size}.")
        self.standardise = Standardise(config.mean, config.deviation)
        self.blocks = [Block(filters, config.kernel_size, config.activation) for filters in config.filters]
        self.flatten = layers.Flatten()
        self.hidden = layers.Dense(config.hidden_size, activation=config.activation)
        self.dropout = keras.layers.Dropout(config.dropout)
        self.head = layers.Dense(config.num_classes)

    def call(self, pictures, training=None):
        x = pictures if len(pictures.shape) == 4 else ops.expand_dims(pictures, -1)  # → (B, H, W, C)
        x = self.standardise(x)
        for block in self.blocks:
            x = block(x)
        x = self.hidden(self.flatten(x))
        return self.head(self.dropout(x, training=training))
