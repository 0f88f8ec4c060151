"""Running a cell over time: the layer that applies it to each step of a sequence."""

import inspect

import keras
from keras import ops

from kerasnets import backend, guard
from kerasnets.layers.layer import Layer, record
from kerasnets.layers.unrolled import GATES, unrolled


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
        keras.layers.RNN.build(self, sequences_shape, initial_state_shape)
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: sequences_shape[-1]})

    def call(self, sequences, initial_state=None, mask=None, training=False):
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        guard.check_mask(mask, sequences.shape, f"Layer {self.name!r}")
        if self.stateful or self.obstacle(training):
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        if initial_state is None:
            initial_state = self.get_initial_state(ops.shape(sequences)[0])
        states = initial_state if isinstance(initial_state, (list, tuple)) else [initial_state]
        states = [ops.convert_to_tensor(state, self.cell.compute_dtype) for state in states]
        _, outputs, states = self.inner_loop(sequences, states, mask, training)
        self._maybe_reset_dropout_masks(self.cell)
        outputs = outputs if self.return_sequences else outputs[:, 0]
        return (outputs, *states) if self.return_state else outputs

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """(last output, outputs, last states); `RNN.call` does more around it for layers with a memory."""
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
