"""Heads: from hidden states to an answer for each token of the vocabulary.

The table of the embedding read backwards ("tied"): Press & Wolf 2017, arXiv:1608.05859.
"""

from keras import ops

from kerasnets.layers import quantized
from kerasnets.layers.dense import Dense
from kerasnets.layers.layer import Layer, anew, positive_integer, public
from kerasnets.layers.normalization import LayerNormalization


class VocabularyHead(Layer):
    """What the heads share: one score for each token, from a kernel or from the embedding's table."""

    def make_projection(self, width):
        self.kernel = None if self.tied else quantized.make_kernel(self, "kernel", (width, self.vocab_size))
        self.bias = self.make_weight("bias", (self.vocab_size,)) if self.use_bias else None

    def project(self, x, embeddings):
        if self.tied and embeddings is None:
            raise ValueError(f"Layer {self.name!r} is tied to an embedding: call it with its table, `layer(x, table)`.")
        logits = quantized.dense_by_table(x, embeddings) if self.tied else quantized.dense(x, self.kernel)
        return logits if self.bias is None else logits + self.bias


@public
class CausalLMHead(VocabularyHead):
    """logits = x W + b, or x Eᵀ + b with the embedding's own table E.   (B, T, D) → (B, T, V).

    W: kernel (D, V), unless `tied`: then `call` is given E (V, D). b: bias (V,), if `use_bias`.
    Raises `ValueError` for a tied head without E.
    """

    # fmt: off
    def __init__(self, vocab_size, tied=False, use_bias=False, kernel_initializer="glorot_uniform",
                 bias_initializer="zeros", **kwargs):
        # fmt: on
        positive_integer("vocab_size", vocab_size)
        super().__init__(**kwargs)
        self.set_arguments(locals())

    def build(self, input_shape, *_):
        self.make_projection(input_shape[-1])

    def call(self, x, embeddings=None):
        return self.project(x, embeddings)

    def compute_output_shape(self, input_shape, *_):
        return (*input_shape[:-1], self.vocab_size)


@public
class MaskedLMHead(VocabularyHead):
    """h = norm(φ(x W₁ + b₁)), logits = h W + b, or h Eᵀ + b with the embedding's own table E.   (B, T, D) → (B, T, V).

    W₁: dense.kernel (D, D), φ: activation, W: kernel (D, V), unless `tied`: then `call` is given E (V, D).
    Given `mask_positions` (B, P), only the tokens at these places are looked at: (B, T, D) → (B, P, V).
    Raises `ValueError` for a tied head without E. Devlin et al. 2018, arXiv:1810.04805.
    """

    # fmt: off
    def __init__(self, vocab_size, tied=False, activation="gelu", epsilon=1e-5, use_bias=True,
                 kernel_initializer="glorot_uniform", bias_initializer="zeros", **kwargs):
        # fmt: on
        positive_integer("vocab_size", vocab_size)
        super().__init__(**kwargs)
        self.set_arguments(locals())

    def build(self, input_shape, *_):
        settings = {"kernel_initializer": anew(self.kernel_initializer), "bias_initializer": self.bias_initializer}
        self.dense = Dense(input_shape[-1], self.activation, name="dense", dtype=self.dtype_policy, **settings)
        self.norm = LayerNormalization(epsilon=self.epsilon, name="norm", dtype=self.dtype_policy)
        self.dense.build(input_shape)
        self.norm.build(input_shape)
        self.make_projection(input_shape[-1])

    def call(self, x, embeddings=None, mask_positions=None):
        if mask_positions is not None:
            x = ops.take_along_axis(x, mask_positions[:, :, None], axis=1)
        return self.project(self.norm(self.dense(x)), embeddings)

    def compute_output_shape(self, x_shape, embeddings_shape=None, mask_positions_shape=None):
        return (*(mask_positions_shape or x_shape[:-1]), self.vocab_size)
