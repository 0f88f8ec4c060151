"""The autoencoder 自编码器, learning without labels: a picture becomes a few numbers and is drawn again from them.

Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks", doi:10.1126/science.1127647.
- The encoder is an MLP from the picture to its latent features 潜在特征 z, the decoder its mirror image.
- The picture itself is the answer: `fit(pictures, pictures)` with the mean squared error, and no label anywhere.
- z is so short that only what pictures share fits into it: similar pictures get similar z, which clusters 聚类 find.
"""

import dataclasses
import math

from keras import ops

from kerasnets import layers
from kerasnets.layers.layer import public
from kerasnets.layers.standardisation import Standardise
from kerasnets.model import Model


@public
class Autoencoder(Model):
    """z = encode(x), x̂ = decode(z), both φ(h W + b) layer by layer.   (B, *picture_shape) → (B, *picture_shape).

    x̂ has the unit of x. Raises `ValueError` for pictures of another shape than `picture_shape`.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        picture_shape: tuple = (28, 28)
        latent_size: int = 10
        hidden_sizes: tuple = (512, 256)  # of the encoder; the decoder has them in reverse
        activation: str = "relu"
        mean: float = 0.0  # of the training set's pixels, so that the model takes them as they are
        deviation: float = 1.0

    def make_layers(self):
        config = self.config
        self.standardise = Standardise(config.mean, config.deviation)
        self.flatten = layers.Flatten()
        self.encoder = [layers.Dense(size, activation=config.activation) for size in config.hidden_sizes]
        self.latent = layers.Dense(config.latent_size)
        self.decoder = [layers.Dense(size, activation=config.activation) for size in reversed(config.hidden_sizes)]
        self.pixels = layers.Dense(math.prod(config.picture_shape))

    def encode(self, pictures):
        """The latent features.   (B, *picture_shape) → (B, latent_size)."""
        if tuple(pictures.shape[1:]) != tuple(self.config.picture_shape):
            raise ValueError(
                f"Autoencoder: pictures must have the shape {tuple(self.config.picture_shape)}; "
                f"received inputs of shape {tuple(pictures.shape)}."
            )
        h = self.flatten(self.standardise(pictures))  # → (B, D)
        for block in self.encoder:
            h = block(h)
        return self.latent(h)

    def decode(self, z):
        """The pictures that latent features stand for.   (B, latent_size) → (B, *picture_shape)."""
        h = z
        for block in self.decoder:
            h = block(h)
        pixels = self.standardise.inverse(self.pixels(h))  # → (B, D)
        return ops.reshape(pixels, (-1, *self.config.picture_shape))

    def call(self, pictures, training=None):
        return self.decode(self.encode(pictures))
