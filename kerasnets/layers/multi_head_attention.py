"""Multi-head attention 多头注意力: several small attentions side by side, each with projections of its own.

Vaswani et al. 2017, arXiv:1706.03762, 3.2.2; fewer heads for keys and values than for queries: Shazeer 2019,
arXiv:1911.02150 (one), Ainslie et al. 2023, arXiv:2305.13245 (groups); gates: Qiu et al. 2025, arXiv:2505.06708.
The equation is in `attention.py`; here are its projections, its masks, and the arguments of Keras's layers.
"""

from keras import regularizers

from kerasnets.layers.layer import positive_integer, public
from kerasnets.layers.projected_attention import ProjectedAttention


@public
class MultiHeadAttention(ProjectedAttention):
    """y = concat(A₁ V₁, …, A_N V_N) W + b, Aₙ = softmax(Qₙ Kₙᵀ / √H).   (B, T, D), (B, S, D′) → (B, T, D).

    Qₙ, Kₙ, Vₙ: head n of the projections `query`, `key` (D, N, key_dim) and `value` (D, N, value_dim); W: `out`
    (N, value_dim, D). `use_gate` multiplies the heads by σ of one more projection of the query. `attention_axes` are
    those attended along where inputs have several, (B, …, D). A query looks where `attention_mask` (B, T, S), the
    padding masks of its inputs, `use_causal_mask` and |i − j| < `sliding_window` all allow it.
    Raises `ValueError` for arguments that are no sizes and for keys and values that don't belong together.
    """

    # fmt: off
    def __init__(self, num_heads, key_dim, value_dim=None, dropout=0.0, use_bias=True, output_shape=None,
                 attention_axes=None, sliding_window=None, flash_attention=None,
                 kernel_initializer="glorot_uniform", bias_initializer="zeros",
                 kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None,
                 kernel_constraint=None, bias_constraint=None, use_gate=False, seed=None, **kwargs):
        # fmt: on
        positive_integer("num_heads", num_heads)
        positive_integer("key_dim", key_dim)
        if value_dim is not None:
            positive_integer("value_dim", value_dim)
        super().__init__(**kwargs)
        self.set_arguments({name: value for name, value in locals().items() if name != "output_shape"})
        self.value_dim = value_dim or key_dim
        self.attention_axes = axes_of(attention_axes)
        # Private, since Keras's summaries ask layers for `output_shape`, and layers regularize what they return.
        self._output_shape = output_axes(output_shape)
        self._activity_regularizer = regularizers.get(activity_regularizer)
        self.check_settings()

    def build(self, query_shape, value_shape, key_shape=None):
        key_shape = value_shape if key_shape is None else key_shape
        rank = len(query_shape)
        axes = range(1, rank - 1) if self.attention_axes is None else self.attention_axes
        self.attention_axes = tuple(axis % rank for axis in axes)
        heads, sizes = (self.num_heads, self.num_heads), (self.key_dim, self.value_dim)
        self.project((query_shape, key_shape, value_shape), heads, sizes, self._output_shape or query_shape[-1:])

    def compute_output_shape(self, query_shape, value_shape, key_shape=None):
        self.check_shapes(value_shape, value_shape if key_shape is None else key_shape)
        return (*query_shape[:-1], *(self._output_shape or query_shape[-1:]))

    def get_config(self):
        activity_regularizer = regularizers.serialize(self._activity_regularizer)
        own = {"output_shape": self._output_shape, "activity_regularizer": activity_regularizer}
        return {**super().get_config(), **own}


@public
class GroupedQueryAttention(ProjectedAttention):
    """Multi-head attention whose query heads share keys and values, n read one.   (B, T, D), (B, S, D) → (B, T, D).

    query (D, num_query_heads, head_dim), key and value (D, num_key_value_heads, head_dim), out (N, head_dim, D): query
    head i reads key head ⌊i / n⌋, n = num_query_heads / num_key_value_heads. Gate and masks as above.
    Exported as `GroupQueryAttention`, since Keras does so: this name is in its files and in what it calls layers.
    Raises `ValueError` for heads that don't divide evenly and for keys and values that don't belong together.
    """

    # fmt: off
    def __init__(self, head_dim, num_query_heads, num_key_value_heads, dropout=0.0, use_bias=True,
                 sliding_window=None, flash_attention=None,
                 kernel_initializer="glorot_uniform", bias_initializer="zeros",
                 kernel_regularizer=None, bias_regularizer=None, activity_regularizer=None,
                 kernel_constraint=None, bias_constraint=None, use_gate=False, seed=None, **kwargs):
        # fmt: on
        positive_integer("head_dim", head_dim)
        positive_integer("num_query_heads", num_query_heads)
        positive_integer("num_key_value_heads", num_key_value_heads)
        if num_query_heads % num_key_value_heads:
            raise ValueError(
                "`num_query_heads` must be divisible by `num_key_value_heads`. "
                f"Received: num_query_heads={num_query_heads}, num_key_value_heads={num_key_value_heads}"
            )
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.set_arguments(locals())
        self._activity_regularizer = self.activity_regularizer
        self.check_settings()

    def build(self, query_shape, value_shape, key_shape=None):
        key_shape = value_shape if key_shape is None else key_shape
        heads, sizes = (self.num_query_heads, self.num_key_value_heads), (self.head_dim, self.head_dim)
        self.project((query_shape, key_shape, value_shape), heads, sizes, query_shape[-1:])

    def compute_output_shape(self, query_shape, value_shape, key_shape=None):
        if query_shape[-1] != value_shape[-1]:
            raise ValueError(
                "The last dimension of `query` and `value` must be equal. "
                f"Received: query_shape={tuple(query_shape)} and value_shape={tuple(value_shape)}"
            )
        self.check_shapes(value_shape, value_shape if key_shape is None else key_shape)
        return query_shape


def axes_of(attention_axes):
    """A tuple of axes, or None for all."""
    if attention_axes is None:
        return None
    if not isinstance(attention_axes, (int, list, tuple)):
        raise ValueError(f"`attention_axes` must be an int, list, or tuple. Received: {attention_axes!r}")
    return (attention_axes,) if isinstance(attention_axes, int) else tuple(attention_axes)


def output_axes(output_shape):
    """A tuple of sizes, or None for that of the query."""
    if not output_shape:
        return None
    try:
        return (output_shape,) if isinstance(output_shape, int) else tuple(output_shape)
    except TypeError:
        raise ValueError(f"Invalid `output_shape`: {output_shape!r}. It should be a tuple, list, or int.") from None
