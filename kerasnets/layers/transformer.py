"""The Transformer's blocks: attention, then a feed-forward layer, each added to what it was given.

Vaswani et al. 2017, arXiv:1706.03762, figure 1. The norm stands after each sum there, and before each sublayer with
`norm_first`, which trains without a warm-up: Xiong et al. 2020, arXiv:2002.04745.
"""

from kerasnets.layers.dropout import Dropout
from kerasnets.layers.feedforward import FeedForward
from kerasnets.layers.layer import Layer, anew, positive_integer, public
from kerasnets.layers.multi_head_attention import MultiHeadAttention
from kerasnets.layers.normalization import LayerNormalization


class TransformerBlock(Layer):
    """What the two blocks share: their settings, their sublayers, and how one of these is added."""

    # fmt: off
    def __init__(self, num_heads, feedforward_size, dropout=0.0, activation="relu", norm_first=False, epsilon=1e-5,
                 kernel_initializer="glorot_uniform", bias_initializer="zeros", **kwargs):
        # fmt: on
        positive_integer("num_heads", num_heads)
        positive_integer("feedforward_size", feedforward_size)
        super().__init__(**kwargs)
        self.set_arguments(locals())
        self.supports_masking = True

    def make_attention(self, name, query_shape, value_shape):
        """The attention and its norm."""
        width = query_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"Layer {self.name!r}: {self.num_heads} heads can't share {width} channels evenly.")
        attention = MultiHeadAttention(
            self.num_heads, width // self.num_heads, dropout=self.dropout, name=name, **self.settings()
        )
        attention.build(query_shape, value_shape)
        return attention, self.make_norm(f"{name}_norm", query_shape)

    def make_norm(self, name, shape):
        norm = LayerNormalization(epsilon=self.epsilon, name=name, dtype=self.dtype_policy)
        norm.build(shape)
        return norm

    def make_feedforward(self, shape):
        """The norm and the feed-forward layer, and the dropout that all sublayers share."""
        self.feedforward_norm = self.make_norm("feedforward_norm", shape)
        self.feedforward = FeedForward(self.feedforward_size, self.activation, name="feedforward", **self.settings())
        self.feedforward.build(shape)
        self.residual_dropout = Dropout(self.dropout, dtype=self.dtype_policy)

    def settings(self):
        initializers = {name: anew(getattr(self, name)) for name in ("kernel_initializer", "bias_initializer")}
        return {**initializers, "dtype": self.dtype_policy}

    def add(self, x, sublayer, norm):
        """norm(x + sublayer(x)), or x + sublayer(norm(x)) with `norm_first`."""
        if self.norm_first:
            return x + self.residual_dropout(sublayer(norm(x)))
        return norm(x + self.residual_dropout(sublayer(x)))

    def compute_output_shape(self, x_shape, *_, **__):
        return x_shape


@public
class TransformerEncoderBlock(TransformerBlock):
    """x ← norm(x + attention(x, x)), x ← norm(x + feedforward(x)).   (B, T, D) → (B, T, D).

    padding_mask: (B, T), 1 for real tokens, unless x brings Keras's own; attention_mask: (B, T, T), 1 where a token may
    look. `norm_first`: x ← x + attention(norm(x)), and so on; then a last norm is due after the last block.
    Raises `ValueError` for a width that the heads can't share.
    """

    def build(self, x_shape):
        self.attention, self.attention_norm = self.make_attention("attention", x_shape, x_shape)
        self.make_feedforward(x_shape)

    def call(self, x, padding_mask=None, attention_mask=None):
        def attend(x):
            return self.attention(x, x, value_mask=padding_mask, attention_mask=attention_mask)

        x = self.add(x, attend, self.attention_norm)
        return self.add(x, self.feedforward, self.feedforward_norm)


@public
class TransformerDecoderBlock(TransformerBlock):
    """x ← norm(x + attention(x, x)), x ← norm(x + attention(x, memory)), x ← norm(x + feedforward(x)).

    (B, T, D), memory (B, S, D′) → (B, T, D). A block that is first called without memory has no cross-attention, and is
    one of a decoder alone. No token looks ahead unless `use_causal_mask` is False. Masks as in the encoder's block:
    `memory_padding_mask` (B, S), `memory_attention_mask` (B, T, S).
    Raises `ValueError` for a width that the heads can't share, and where a memory comes or is missing unlike before.
    """

    def build(self, x_shape, memory_shape=None):
        self.attention, self.attention_norm = self.make_attention("attention", x_shape, x_shape)
        self.reads_memory = memory_shape is not None
        if self.reads_memory:
            cross = self.make_attention("cross_attention", x_shape, memory_shape)
            self.cross_attention, self.cross_attention_norm = cross
        self.make_feedforward(x_shape)

    # fmt: off
    def call(self, x, memory=None, padding_mask=None, attention_mask=None, memory_padding_mask=None,
             memory_attention_mask=None, use_causal_mask=True):
        # fmt: on
        def attend(x):
            masks = {"value_mask": padding_mask, "attention_mask": attention_mask}
            return self.attention(x, x, use_causal_mask=use_causal_mask, **masks)

        def read(x):
            masks = {"value_mask": memory_padding_mask, "attention_mask": memory_attention_mask}
            return self.cross_attention(x, memory, **masks)

        self.check_memory(memory)
        x = self.add(x, attend, self.attention_norm)
        x = self.add(x, read, self.cross_attention_norm) if self.reads_memory else x
        return self.add(x, self.feedforward, self.feedforward_norm)

    def check_memory(self, memory):
        if self.reads_memory != (memory is not None):
            built, came = ("with", "without") if self.reads_memory else ("without", "with")
            raise ValueError(f"Layer {self.name!r} was built {built} cross-attention, but is called {came} a memory.")
