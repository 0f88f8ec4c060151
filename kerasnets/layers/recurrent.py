"""Recurrent layers: one cell, applied to each step of a sequence with the state it left at the step before.

The equations are the cells' `gates`; `cell.py` has what all cells share, `recurrence.py` runs them over time.
(B, T, D) → (B, U), or (B, T, U) with `return_sequences=True`. Kernels hold their gates side by side, in the order of
the letters in each equation.
"""

from keras import activations, ops

from kerasnets.layers.cell import Cell, split_gates
from kerasnets.layers.layer import public
from kerasnets.layers.recurrence import Recurrent


@public
class SimpleRNNCell(Cell):
    """h′ = φ(x W + h U + b).   (B, D), (B, U) → (B, U).   Elman 1990, doi:10.1207/s15516709cog1402_1."""

    default_name = "simple_rnn_cell"
    num_gates = 1

    # fmt: off
    def __init__(self, units, activation="tanh", use_bias=True,
                 kernel_initializer="glorot_uniform", recurrent_initializer="orthogonal", bias_initializer="zeros",
                 kernel_regularizer=None, recurrent_regularizer=None, bias_regularizer=None,
                 kernel_constraint=None, recurrent_constraint=None, bias_constraint=None,
                 dropout=0.0, recurrent_dropout=0.0, seed=None, **kwargs):
        # fmt: on
        super().__init__(locals(), **kwargs)

    @property
    def formula(self):
        return {activations.tanh: "rnn_tanh", activations.relu: "rnn_relu"}.get(self.activation)

    def gates(self, seen, states):
        return (self.activation(seen[0]),)


@public
class LSTMCell(Cell):
    """Long short-term memory: a cell state c that is only scaled and added to.   (B, D), [(B, U), (B, U)] → (B, U).

        i, f, g, o = x W + h U + b         input gate, forget gate, candidate, output gate
        c′ = σ(f) ⊙ c + σ(i) ⊙ φ(g)        forget 0 = forget all, 1 = keep all
        h′ = σ(o) ⊙ φ(c′)

    Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; forget gate: Gers et al. 2000, and its bias of 1
    (`unit_forget_bias`): Jozefowicz et al. 2015. φ is `activation`, σ `recurrent_activation`.
    """

    default_name = "lstm_cell"
    num_gates = 4
    num_states = 2

    # fmt: off
    def __init__(self, units, activation="tanh", recurrent_activation="sigmoid", use_bias=True,
                 kernel_initializer="glorot_uniform", recurrent_initializer="orthogonal", bias_initializer="zeros",
                 unit_forget_bias=True,
                 kernel_regularizer=None, recurrent_regularizer=None, bias_regularizer=None,
                 kernel_constraint=None, recurrent_constraint=None, bias_constraint=None,
                 dropout=0.0, recurrent_dropout=0.0, seed=None, **kwargs):
        # fmt: on
        super().__init__(locals(), **kwargs)

    @property
    def formula(self):
        return "lstm" if self.has_standard_activations() else None

    def initial_bias(self, shape, dtype=None):
        bias = self.bias_initializer(shape, dtype=dtype)
        if not self.unit_forget_bias:
            return bias
        i, _, g, o = ops.split(bias, 4)
        return ops.concatenate([i, ops.ones_like(i), g, o])

    def gates(self, seen, states):
        (z,), (_, c) = seen, states
        _, _, g, _ = ops.split(z, 4, axis=-1)
        i, f, _, o = split_gates(self.recurrent_activation(z), 4)
        c = f * c + i * self.activation(g)
        return o * self.activation(c), c


@public
class GRUCell(Cell):
    """Gated recurrent unit: the new state lies between the old one and a candidate.   (B, D), (B, U) → (B, U).

        z = σ(x W_z + h U_z + b_z)                    update gate
        r = σ(x W_r + h U_r + b_r)                    reset gate
        h̃ = φ(x W_h + b_h + r ⊙ (h U_h + b_u))        candidate;  reset_after=False: φ(x W_h + (r ⊙ h) U_h + b_h)
        h′ = z ⊙ h + (1 − z) ⊙ h̃

    Cho et al. 2014, arXiv:1406.1078: its first version has the reset gate before the product, as `reset_after=False`.
    The bias is (2, 3U) with `reset_after`, one row for x W and one for h U, else (3U,).
    """

    default_name = "gru_cell"
    num_gates = 3
    reads = ("xh", "x", "h")

    # fmt: off
    def __init__(self, units, activation="tanh", recurrent_activation="sigmoid", use_bias=True,
                 kernel_initializer="glorot_uniform", recurrent_initializer="orthogonal", bias_initializer="zeros",
                 kernel_regularizer=None, recurrent_regularizer=None, bias_regularizer=None,
                 kernel_constraint=None, recurrent_constraint=None, bias_constraint=None,
                 dropout=0.0, recurrent_dropout=0.0, reset_after=True, seed=None, **kwargs):
        # fmt: on
        super().__init__(locals(), **kwargs)
        self.bias_in_recurrence = reset_after
        self.gates_need_only_products = reset_after

    @property
    def formula(self):
        return "gru" if self.reset_after and self.has_standard_activations() else None

    def combine(self, x, recurrent):
        """The update and reset gates' sums; the candidate's two parts, since the reset gate scales only the second."""
        edge = 2 * self.units
        return x[:, :edge] + recurrent[:, :edge], x[:, edge:], recurrent[:, edge:]

    def gates(self, seen, states):
        (zr, x_h, u_h), (h,) = seen, states
        z, r = split_gates(self.recurrent_activation(zr), 2)
        candidate = self.activation(x_h + r * u_h)
        return (z * h + (1 - z) * candidate,)

    def call(self, inputs, states, training=False):
        if self.reset_after:
            return super().call(inputs, states, training)
        nested = isinstance(states, (list, tuple))
        h = states[0] if nested else states
        mask = self.recurrent_mask(h, training)
        mask_z, mask_r, mask_h = mask if isinstance(mask, list) else [1 if mask is None else mask] * 3
        x_z, x_r, x_h = ops.split(self.project(inputs, training), 3, axis=-1)
        U_z, U_r, U_h = ops.split(self.recurrent_kernel, 3, axis=-1)
        z = self.recurrent_activation(x_z + ops.matmul(h * mask_z, U_z))
        r = self.recurrent_activation(x_r + ops.matmul(h * mask_r, U_r))
        candidate = self.activation(x_h + ops.matmul(r * h * mask_h, U_h))
        h = z * h + (1 - z) * candidate
        return h, [h] if nested else h


@public
class SimpleRNN(Recurrent):
    """h_t = φ(x_t W + h_{t−1} U + b).   (B, T, D) → (B, U), or (B, T, U) with `return_sequences`.   Elman 1990."""

    Cell = SimpleRNNCell

    # fmt: off
    def __init__(self, units, activation="tanh", use_bias=True,
                 kernel_initializer="glorot_uniform", recurrent_initializer="orthogonal", bias_initializer="zeros",
                 kernel_regularizer=None, recurrent_regularizer=None, bias_regularizer=None, activity_regularizer=None,
                 kernel_constraint=None, recurrent_constraint=None, bias_constraint=None,
                 dropout=0.0, recurrent_dropout=0.0, return_sequences=False, return_state=False, go_backwards=False,
                 stateful=False, unroll=False, seed=None, **kwargs):
        # fmt: on
        super().__init__(locals(), **kwargs)


@public
class LSTM(Recurrent):
    """`LSTMCell` at each step.   (B, T, D) → (B, U), or (B, T, U) with `return_sequences`.   Hochreiter 1997."""

    Cell = LSTMCell

    # fmt: off
    def __init__(self, units, activation="tanh", recurrent_activation="sigmoid", use_bias=True,
                 kernel_initializer="glorot_uniform", recurrent_initializer="orthogonal", bias_initializer="zeros",
                 unit_forget_bias=True,
                 kernel_regularizer=None, recurrent_regularizer=None, bias_regularizer=None, activity_regularizer=None,
                 kernel_constraint=None, recurrent_constraint=None, bias_constraint=None,
                 dropout=0.0, recurrent_dropout=0.0, seed=None, return_sequences=False, return_state=False,
                 go_backwards=False, stateful=False, unroll=False, use_cudnn="auto", **kwargs):
        # fmt: on
        super().__init__(locals(), **kwargs)


@public
class GRU(Recurrent):
    """`GRUCell` at each step.   (B, T, D) → (B, U), or (B, T, U) with `return_sequences`.   Cho et al. 2014."""

    Cell = GRUCell

    # fmt: off
    def __init__(self, units, activation="tanh", recurrent_activation="sigmoid", use_bias=True,
                 kernel_initializer="glorot_uniform", recurrent_initializer="orthogonal", bias_initializer="zeros",
                 kernel_regularizer=None, recurrent_regularizer=None, bias_regularizer=None, activity_regularizer=None,
                 kernel_constraint=None, recurrent_constraint=None, bias_constraint=None,
                 dropout=0.0, recurrent_dropout=0.0, seed=None, return_sequences=False, return_state=False,
                 go_backwards=False, stateful=False, unroll=False, reset_after=True, use_cudnn="auto", **kwargs):
        # fmt: on
        super().__init__(locals(), **kwargs)
