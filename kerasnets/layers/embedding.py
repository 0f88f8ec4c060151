"""The embedding 词嵌入: a table with one learned row for each word.

Bengio et al. 2003, jmlr.org/papers/v3/bengio03a.html. Reading row i is the product of a one-hot vector and the table;
a `Dense` layer without bias would do the same, multiplying by all the zeros.
"""

import keras
from keras import ops

from kerasnets import guard
from kerasnets.layers import quantized
from kerasnets.layers.layer import Layer, positive_integer, public


@public
class Embedding(Layer):
    """y = E[i] = one_hot(i) E.   (…) integers in [0, input_dim) → (…, output_dim).

    E: embeddings (input_dim, output_dim). With `mask_zero`, id 0 means padding: the layers that follow receive the mask
    i ≠ 0. `weights` is a table to begin with. Raises `ValueError` for an id outside the table (see `kerasnets.guard`).
    """

    reads_token_ids = True  # for the guard

    # fmt: off
    def __init__(self, input_dim, output_dim, embeddings_initializer="uniform", embeddings_regularizer=None,
                 embeddings_constraint=None, mask_zero=False, weights=None, **kwargs):
        # fmt: on
        positive_integer("input_dim", input_dim)
        positive_integer("output_dim", output_dim)
        super().__init__(**kwargs)
        self.set_arguments({name: value for name, value in locals().items() if name != "weights"})
        self.supports_masking = mask_zero
        self.autocast = False  # float16 counts only to 2048: ids given as floats keep their precision
        if weights is not None:
            self.build()
            self.set_weights(weights if isinstance(weights, list) and len(weights) == 1 else [weights])

    def build(self, input_shape=None):
        if not self.built:
            self.embeddings = quantized.make_table(self, "embeddings", (self.input_dim, self.output_dim))
            quantized.unwrap(self, "embeddings")

    def call(self, inputs):
        guard.check_token_ids(inputs, self.input_dim, f"Layer {self.name!r}")
        if keras.backend.standardize_dtype(inputs.dtype) not in ("int32", "int64"):
            inputs = ops.cast(inputs, "int32")
        return ops.cast(quantized.rows_of(self.embeddings, inputs), self.compute_dtype)

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype, ragged=getattr(inputs, "ragged", False))
