"""Dropout 随机失活: in training each number is zero with some probability, so that none is relied on alone.

Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html.
"""

import keras

from kerasnets.layers.layer import Layer


class Dropout(Layer, keras.layers.Dropout):
    """Keras's layer, which a model of ours can call barely."""
