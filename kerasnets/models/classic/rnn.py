"""The recurrent network (RNN): a sequence is read step by step into a state, and the state is classified or regressed.

SimpleRNN: Elman 1990, doi:10.1207/s15516709cog1402_1.  LSTM: Hochreiter & Schmidhuber 1997,
doi:10.1162/neco.1997.9.8.1735.  GRU: Cho et al. 2014, arXiv:1406.1078.  Bidirectional: Schuster & Paliwal 1997.
- One recurrent cell, shared by all time steps: h_t = cell(x_t, h_{t−1}); `cell` chooses which.
- `num_layers` of them stand on one another: the states of one are the sequence that the next one reads.
- `bidirectional` reads the sequence from both ends and puts the two states side by side.
- With a `vocab_size` the sequence holds token ids, and id 0 is padding: it is skipped, not read.
"""

import dataclasses

import keras

from kerasnets import layers
from kerasnets.layers.layer import public
from kerasnets.model import Model

CELLS = {"simple": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}


@public
class RNN(Model):
    """h_t = cell(x_t, h_{t−1}),  y = W h_T + b.   (B, T, C) or ids (B, T) → (B, num_outputs).

    With `return_sequences` every step answers, y_t = W h_t + b: → (B, T, num_outputs). The outputs are logits (or
    numbers, for regression): no activation follows. Raises `ValueError` for a `cell` that is not simple, lstm or gru.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        num_outputs: int
        cell: str = "lstm"
        hidden_size: int = 64
        num_layers: int = 1
        bidirectional: bool = False
        return_sequences: bool = False
        vocab_size: int | None = None  # None: the sequence holds numbers
        embedding_size: int = 64
        dropout: float = 0.0

    def make_layers(self):
        config = self.config
        if config.cell not in CELLS:
            raise ValueError(f"RNN: `cell` must be one of {sorted(CELLS)}; received cell={config.cell!r}.")
        self.token_embedding = None
        if config.vocab_size:
            self.token_embedding = layers.Embedding(config.vocab_size, config.embedding_size, mask_zero=True)
        self.blocks = [self.make_block(is_last=i == config.num_layers - 1) for i in range(config.num_layers)]
        self.dropout = keras.layers.Dropout(config.dropout)
        self.head = layers.Dense(config.num_outputs)

    def make_block(self, is_last):
        config = self.config
        # Each hands on all its states, for the next one to read; the last one may keep only the final state.
        block = CELLS[config.cell](config.hidden_size, return_sequences=config.return_sequences or not is_last)
        return keras.layers.Bidirectional(block) if config.bidirectional else block

    def call(self, inputs, training=None):
        x = inputs
        if self.token_embedding is not None:
            x = self.token_embedding(x)  # (B, T) → (B, T, C); its padding mask travels with x
        for block in self.blocks:
            x = block(x, training=training)  # → (B, T, H); the last one: (B, H)
            x = self.dropout(x, training=training)
        return self.head(x)
