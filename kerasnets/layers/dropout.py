"""Dropout 随机失活: in training each number is zero with some probability, so that none is relied on alone.

Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html.
"""

import keras

from kerasnets.layers.layer import Layer


class Dropout(Layer, keras.layers.Dropout):
    """Keras's layer, which a model of ours can call barely."""

    def __init__(self, rate, noise_shape=None, seed=None, **kwargs):
        super().__init__(rate, noise_shape=noise_shape, seed=seed, **kwargs)
        self.mark_built()  # where nothing is dropped it is never called, and Keras traces a model not built each step
