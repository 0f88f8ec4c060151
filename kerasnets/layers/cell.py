"""One step of a recurrent layer: what all cells share, their weights, their dropout and the products of the inputs."""

from keras import activations, ops, random

from kerasnets import backend
from kerasnets.layers.layer import Layer, positive_integer
from kerasnets.layers.sequence_dropout import SequenceDropout


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

    def __init_subclass__(cls, **kwargs):
        """Gates of a subclass's own are an equation that no kernel has, unless it names one."""
        super().__init_subclass__(**kwargs)
        if {"gates", "combine"} & vars(cls).keys() and "formula" not in vars(cls):
            cls.formula = None

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
        backend.lay_out(self)

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
