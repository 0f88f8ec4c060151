"""Dropout in a recurrent cell: which units are off is drawn once a sequence, not anew at each step.

Gal & Ghahramani 2016, arXiv:1512.05287.
"""

from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell  # keras.layers.RNN prepares the masks of this class


class SequenceDropout(DropoutRNNCell):
    """The masks of x and h for one sequence, None outside training, from the shares `dropout`, `recurrent_dropout`."""

    def input_mask(self, inputs, training):
        active = training and 0 < self.dropout < 1
        return self.get_dropout_mask(inputs) if active else None

    def recurrent_mask(self, h, training):
        active = training and 0 < self.recurrent_dropout < 1
        return self.get_recurrent_dropout_mask(h) if active else None

    def reset_dropout_mask(self):
        """Only where there is one: setting an attribute of a layer is slow on torch."""
        if getattr(self, "_dropout_mask", None) is not None:
            super().reset_dropout_mask()

    def reset_recurrent_dropout_mask(self):
        if getattr(self, "_recurrent_dropout_mask", None) is not None:
            super().reset_recurrent_dropout_mask()
