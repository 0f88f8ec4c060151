"""Running a cell over time: weights and dropout of a cell, and the layer that applies it to each step of a sequence."""

import inspect

import keras
from keras import activations, ops, random

from kerasnets import backend, guard
from kerasnets.layers.layer import Layer, positive_integer, record
from kerasnets.layers.sequence_dropout import SequenceDropout
from kerasnets.layers.unrolled import GATES, unrolled


class Cell(Layer, SequenceDropout):
    """One step: (x, states) → (h′, states′), where states′ = `gates`(`combine`(x W + b, h U + b_u), states), h first.

    A subclass gives the elementwise `gates` and says how many gates its kernels hold side by side. Dropout masks are
    drawn once a sequence; with `recurrent_dropout` (or `implementation=1`) each gate has masks of its own, as in Keras.
    """

    num_gates = num_states = 1
    bias_in_recurrence = False  # a second bias, on h U
    gates_need_only_products = True  # `gates` sees h U, never h times a part of U
    reads = ("xh",)  # what each array that `gates` sees is made of: x W + b, h U + b_u, or both
    default_name = None
    formula = None  # the name of this cell's equation among a backend's fused kernels, if it has one

    def __init__(self, arguments, implementation=2, **kwargs):
        super().__init__(**kwargs)
        positive_integer("units", arguments["units"])
        self.set_arguments(arguments)
        self.dropout = min(1.0, max(0.0, self.dropout))
        self.recurrent_dropout = min(1.0, max(0.0, self.recurrent_dropout))
        self.seed_generator = random.SeedGenerator(self.seed)
        self.implementation = 1 if self.recurrent_dropout else implementation
        if self.implementation == 1 and self.num_gates > 1:
            self.dropout_mask_count = self.num_gates
        self.state_size = [self.units] * self.num_states if self.num_states > 1 else self.units
        self.output_size = self.units

    def build(self, input_shape):
        width = self.num_gates * self.units
        self.kernel = self.make_weight("kernel", (input_shape[-1], width))
        self.recurrent_kernel = self.make_weight("recurrent_kernel", (self.units, width))
        self.bias = None
        if self.use_bias:
            shape = (2, width) if self.bias_in_recurrence else (width,)
            self.bias = self.make_weight("bias", shape, initializer=self.initial_bias)

    def initial_bias(self, shape, dtype=None):
        return self.bias_initializer(shape, dtype=dtype)

    def split_bias(self):
        """(b, b_u): the bias on x W and the one on h U, None where there is none."""
        if self.bias is None or not self.bias_in_recurrence:
            return self.bias, None
        return self.bias[0], self.bias[1]

    def combine(self, x, recurrent):
        """What `gates` sees of x W + b and h U + b_u, both (B, gates · U): their sum, where that is enough."""
        return (x + recurrent,)

    def gates(self, seen, states):
        """states′ from what `combine` gives; the first of states′ is the output h′."""
        raise NotImplementedError

    def call(self, inputs, states, training=False):
        nested = isinstance(states, (list, tuple))
        states = tuple(states) if nested else (states,)
        _, recurrent_bias = self.split_bias()
        mask = self.recurrent_mask(states[0], training)
        recurrent = affine(states[0], self.recurrent_kernel, recurrent_bias, mask)
        states = self.gates(self.combine(self.project(inputs, training), recurrent), states)
        return states[0], list(states) if nested else states[0]

    def project(self, inputs, training=False):
        """x W + b, for one step (B, D) or for all of them at once (B, T, D)."""
        bias, _ = self.split_bias()
        return affine(inputs, self.kernel, bias, self.input_mask(inputs, training))

    def has_standard_activations(self):
        return self.activation is activations.tanh and self.recurrent_activation is activations.sigmoid

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, self.units), dtype=self.compute_dtype) for _ in range(self.num_states)]


def split_gates(x, num_gates):
    """(B, gates · U) → that many (B, U)."""
    return ops.split(backend.whole(x), num_gates, axis=-1)


def affine(x, kernel, bias, mask=None):
    """(x ⊙ mask) W + b; a list of masks holds one for each gate's columns of W."""
    if isinstance(mask, list):
        columns = ops.split(kernel, len(mask), axis=-1)
        y = ops.concatenate([ops.matmul(x * m, w) for m, w in zip(mask, columns, strict=True)], axis=-1)
    else:
        y = ops.matmul(x if mask is None else x * mask, kernel)
    return y if bias is None else y + bias


class Recurrent(Layer, keras.layers.RNN):
    """A cell over all steps: `keras.layers.RNN`, which loops over the cell, with a fast path to the same numbers.

    The fast path takes the inputs of all steps at once and leaves the loop to the backend's `recurrence`; masks,
    directions, initial states and dropout of the inputs keep it. `recurrent_dropout`, `unroll=True`,
    `use_cudnn=False` and equations for which the backend has no kernel take the cell loop. `layer.path_taken` says
    which of the two the last call took, and why.
    """

    Cell = None

    def __init__(self, arguments, implementation=2, **kwargs):
        own = {name: value for name, value in arguments.items() if name not in ("self", "kwargs", "__class__")}
        of_cell = [name for name in inspect.signature(self.Cell.__init__).parameters if name in own]
        cell = self.Cell(
            **{name: own.pop(name) for name in of_cell},
            implementation=implementation,
            name=self.Cell.default_name,
            dtype=kwargs.get("dtype"),
            trainable=kwargs.get("trainable", True),
        )
        if "use_cudnn" in own:
            self.use_cudnn = own.pop("use_cudnn")
            if self.use_cudnn not in ("auto", True, False):
                raise ValueError(f"`use_cudnn` must be 'auto', True or False. Received: use_cudnn={self.use_cudnn!r}")
        keras.layers.RNN.__init__(self, cell, **own, **kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.supports_jit = backend.supports_jit_around_recurrence
        self.path_taken = "not called yet"
        self._argument_names = tuple(of_cell)

    def __init_subclass__(cls, **kwargs):
        """The cell's settings are readable on the layer: `layer.units`, `layer.activation`, …"""
        super().__init_subclass__(**kwargs)
        for name in inspect.signature(cls.Cell.__init__).parameters:
            if name not in ("self", "kwargs"):
                setattr(cls, name, property(lambda layer, name=name: getattr(layer.cell, name)))

    def build(self, sequences_shape, initial_state_shape=None):
        super().build(sequences_shape, initial_state_shape)
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: sequences_shape[-1]})

    def call(self, sequences, initial_state=None, mask=None, training=False):
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        guard.check_mask(mask, sequences.shape, f"Layer {self.name!r}")
        return super().call(sequences, initial_state=initial_state, mask=mask, training=training)

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """(last output, outputs, last states); `keras.layers.RNN.call` does what surrounds it."""
        record(lambda: unrolled(self, sequences, initial_state, mask), *GATES)
        if obstacle := self.obstacle(training):
            self.note_path(f"cell loop: {obstacle}")
            return super().inner_loop(sequences, initial_state, mask, training)
        self.note_path(f"fast: {backend.recurrence_path(self.cell)}")
        sequences = ops.cast(sequences, self.cell.compute_dtype)  # integers too
        dropout_mask = self.cell.input_mask(sequences[:, 0], training)
        sequences = sequences if dropout_mask is None else sequences * dropout_mask[:, None]
        if self.go_backwards:
            sequences = ops.flip(sequences, axis=1)
            mask = None if mask is None else ops.flip(mask, axis=1)
        wanted = self.return_sequences, self.return_state or self.stateful, bool(training)
        outputs, states = backend.recurrence(self.cell, sequences, tuple(initial_state), mask, *wanted)
        outputs = outputs if self.return_sequences else outputs[:, None]
        if mask is not None and self.zero_output_for_mask:
            counts = ops.cast(mask if self.return_sequences else mask[:, -1:], "bool")
            outputs = ops.where(counts[:, :, None], outputs, ops.zeros_like(outputs))
        return outputs[:, -1], outputs, list(states)

    def note_path(self, path):
        if path != self.path_taken:  # setting an attribute of a layer is slow on torch
            self.path_taken = path

    def obstacle(self, training):
        """Why the fast path cannot be taken, or None."""
        if self.unroll:
            return "unroll=True"
        if getattr(self, "use_cudnn", "auto") is False:
            return "use_cudnn=False"
        if training and self.recurrent_dropout:
            return "recurrent_dropout"
        if type(self.cell).call is not self.Cell.call or not self.cell.gates_need_only_products:
            return "the cell has an equation of its own"
        if backend.recurrence_path(self.cell) is None:
            return "the backend has no kernel for these activations, dtype or dropout"
        return None

    def get_config(self):
        config = super().get_config()
        del config["cell"]
        return config

    @classmethod
    def from_config(cls, config):
        return cls(**config)
