"""Heads: from hidden states to an answer for each token of the vocabulary.

The table of the embedding read backwards ("tied"): Press & Wolf 2017, arXiv:1608.05859.
"""

from keras import ops

from kerasnets.layers.layer import Layer, positive_integer, public


@public
class CausalLMHead(Layer):
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
        shape = (input_shape[-1], self.vocab_size)
        self.kernel = None if self.tied else self.make_weight("kernel", shape)
        self.bias = self.make_weight("bias", shape[1:]) if self.use_bias else None

    def call(self, x, embeddings=None):
        if self.tied and embeddings is None:
            raise ValueError(f"Layer {self.name!r} is tied to an embedding: call it with its table, `layer(x, table)`.")
        kernel = ops.transpose(ops.cast(embeddings, x.dtype)) if self.tied else self.kernel
        logits = ops.matmul(x, kernel)
        return logits if self.bias is None else logits + self.bias

    def compute_output_shape(self, input_shape, *_):
        return (*input_shape[:-1], self.vocab_size)
