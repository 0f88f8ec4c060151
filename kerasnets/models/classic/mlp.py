"""The fully connected network 全连接网络 (multilayer perceptron, MLP): every number sees every number.

Rumelhart, Hinton & Williams 1986, "Learning representations by back-propagating errors", doi:10.1038/323533a0.
- The notes' pipeline: numbers 数值化 → standardise 标准化 → flatten 扁平化, then Dense layers.
- A hidden layer is h = φ(x W + b). Without φ a stack of them would be one matrix: φ makes depth count.
- The last layer has no φ: its outputs are logits, and softmax(logits) are the probabilities of the classes.
- Dropout switches hidden units off at random in training, so that none relies on another (Srivastava et al. 2014).
"""

import dataclasses

import keras

from kerasnets import layers
from kerasnets.layers.layer import public
from kerasnets.layers.standardisation import Standardise
from kerasnets.model import Model


@public
class MLP(Model):
    """h ← φ(h W + b) for each hidden layer, logits = h W + b.   (B, …) → (B, num_classes)."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        num_classes: int
        hidden_sizes: tuple = (512, 256)
        activation: str = "relu"
        dropout: float = 0.0
        mean: float = 0.0  # of the training set's numbers, so that the model takes them as they are
        deviation: float = 1.0

    def make_layers(self):
        config = self.config
        self.standardise = Standardise(config.mean, config.deviation)
        self.flatten = layers.Flatten()
        self.blocks = [layers.Dense(size, activation=config.activation) for size in config.hidden_sizes]
        self.dropout = keras.layers.Dropout(config.dropout)
        self.head = layers.Dense(config.num_classes)

    def call(self, numbers, training=None):
        x = self.standardise(numbers)
        x = self.flatten(x)  # (B, …) → (B, D)
        for block in self.blocks:
            x = self.dropout(block(x), training=training)  # → (B, hidden size)
        return self.head(x)
