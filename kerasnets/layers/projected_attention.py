"""What the two attention layers share: projections to heads and back, and the way between.

`MultiHeadAttention` and `GroupQueryAttention` add the arguments that Keras gives them.
"""

import keras
from keras import ops
from keras.config import is_flash_attention_enabled

from kerasnets.layers import masking
from kerasnets.layers.attended_axes import folded, folded_mask, scores_shape, unfolded, unfolded_scores, visible_places
from kerasnets.layers.attention import attend, attention
from kerasnets.layers.layer import Layer, anew, positive_integer
from kerasnets.layers.projection import Projection


class ProjectedAttention(Layer):
    """y = out(attention(query(x), key(m), value(m))), x (B, T, D) looking at m (B, S, D′), in heads.

    A subclass calls `project` in its `build`. `_compute_attention` may be overridden, as in Keras.
    """

    attention_axes = (1,)

    def check_settings(self):
        if self.sliding_window is not None:
            positive_integer("sliding_window", self.sliding_window)
        self._flash_attention = self.flash_attention or is_flash_attention_enabled()
        if self._flash_attention and self.dropout > 0:
            raise ValueError("Dropout is not supported when flash attention is enabled. Set `dropout` to 0.0.")
        self.supports_masking = True

    def check_shapes(self, value_shape, key_shape):
        if tuple(value_shape[1:-1]) != tuple(key_shape[1:-1]):
            raise ValueError(
                "All dimensions of `value` and `key`, except the last one, must be equal. "
                f"Received: value_shape={tuple(value_shape)} and key_shape={tuple(key_shape)}"
            )

    def project(self, shapes, heads, sizes, outputs):
        """Make the projections, in Keras's order: to (N, K) heads of sizes (H, H′), and together to `outputs`."""
        query_shape, key_shape, value_shape = shapes
        self.check_shapes(value_shape, key_shape)
        self.query = self.projection("query", query_shape, (heads[0], sizes[0]))
        self.key = self.projection("key", key_shape, (heads[1], sizes[0]))
        if self.use_gate:
            self.gate = self.projection("gate", query_shape, (heads[0], sizes[1]), activation="sigmoid")
        self.value = self.projection("value", value_shape, (heads[1], sizes[1]))
        self._dropout_layer = keras.layers.Dropout(self.dropout, seed=self.seed, dtype=self.dtype_policy)
        self.out = self.projection("attention_output", (*query_shape[:-1], heads[0], sizes[1]), outputs, axes_read=2)

    def projection(self, name, shape, outputs, **kwargs):
        names = [f"{of}_{kind}" for of in ("kernel", "bias") for kind in ("initializer", "regularizer", "constraint")]
        settings = {name: anew(getattr(self, name)) for name in names}
        settings |= {"activity_regularizer": self._activity_regularizer, "use_bias": self.use_bias}
        layer = Projection(outputs, name=name, dtype=self.dtype_policy, **settings, **kwargs)
        layer.build(shape)
        return layer

    # Keras's names of the same, for subclasses and in `.weights.h5` files.
    _query_dense = query_dense = property(lambda self: self.query)
    _key_dense = key_dense = property(lambda self: self.key)
    _value_dense = value_dense = property(lambda self: self.value)
    _gate_dense = property(lambda self: self.gate)
    _output_dense = output_dense = property(lambda self: self.out)
    _sliding_window = property(lambda self: self.sliding_window)

    # fmt: off
    def call(self, query, value, key=None, query_mask=None, value_mask=None, key_mask=None, attention_mask=None,
             return_attention_scores=False, training=None, use_causal_mask=False):
        # fmt: on
        key = value if key is None else key
        masks = (query_mask, value_mask, key_mask, attention_mask)
        asked = {"return_attention_scores": True} if return_attention_scores else {}
        if use_causal_mask and self.takes_causal_alone(masks):
            asked["use_causal_mask"], visible = True, None
        else:
            visible = visible_places(query, value, self.attention_axes, masks, use_causal_mask, self.sliding_window)
        q, k, v = self.query(query), self.key(key), self.value(value)
        y, scores = self._compute_attention(q, k, v, visible, training, **asked)
        y = self.out(y * self.gate(query) if self.use_gate else y)
        return (y, scores) if return_attention_scores else y

    def takes_causal_alone(self, masks):
        """Whether a kernel can do without a mask of T × S numbers; an override, by Keras's contract, is given one."""
        overridden = type(self)._compute_attention is not ProjectedAttention._compute_attention
        return not overridden and self.sliding_window is None and all(mask is None for mask in masks)

    # fmt: off
    def _compute_attention(self, query, key, value, attention_mask=None, training=None,
                           return_attention_scores=False, use_causal_mask=False):
        """(B, …, N, H), (B, …, K, H), (B, …, K, H′) → output (B, …, N, H′), and probabilities (B, …, N, T, S) or None.

        attention_mask: True where a query may look, with the last axes of the probabilities.
        """
        # fmt: on
        axes = self.attention_axes
        dtype = keras.backend.result_type(*(x.dtype for x in (query, key, value)))
        q, k, v = (folded(ops.convert_to_tensor(x, dtype), axes) for x in (query, key, value))
        visible = None if attention_mask is None else folded_mask(attention_mask, query, key, axes)
        if use_causal_mask and (visible is not None or return_attention_scores):
            causal = masking.causal_mask(ops.shape(q)[1], ops.shape(k)[1])[:, None]
            visible, use_causal_mask = causal if visible is None else ops.logical_and(visible, causal), False
        y, A = self.attended(q, k, v, visible, use_causal_mask, training, return_attention_scores)
        if visible is not None and (return_attention_scores or self.dropout or len(query.shape) > 4):
            # As in Keras: here, a query that sees nothing takes nothing. In its fused kernels, the mean of all values.
            sees = ops.any(visible, axis=-1, keepdims=True)
            y = ops.where(ops.swapaxes(sees, 1, 2), y, ops.cast(0, y.dtype))
            A = None if A is None else ops.where(sees, A, ops.cast(0, A.dtype))
        if A is not None:
            A = unfolded_scores(ops.cast(A, self.compute_dtype), query, key, axes)
        return unfolded(y, query, axes), A

    def attended(self, q, k, v, visible, is_causal, training, return_probabilities):
        """(B, T, N, H), (B, S, K, H), (B, S, K, H′) → (B, T, N, H′), and probabilities (B, N, T, S) or None."""
        if self._flash_attention and return_probabilities:
            raise ValueError(
                "Returning attention scores is not supported when flash attention is enabled. Please disable flash "
                "attention to access attention scores."
            )
        if self._flash_attention:  # or an error that says why it can't be had
            return ops.dot_product_attention(q, k, v, mask=visible, is_causal=is_causal, flash_attention=True), None
        drop = (lambda A: self._dropout_layer(A, training=True)) if training and self.dropout else None
        if return_probabilities:
            y, _, A = attend(q, k, v, visible, drop=drop)
            return y, A
        return attention(q, k, v, visible, is_causal=is_causal, drop=drop), None

    def compute_output_spec(self, query, value, key=None, *_, return_attention_scores=False, **__):
        shape = self.compute_output_shape(query.shape, value.shape, None if key is None else key.shape)
        output = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return output
        in_heads = keras.KerasTensor((*query.shape[:-1], self.query.outputs[0], 1))
        shape = scores_shape(in_heads, keras.KerasTensor((*value.shape, 1)), self.attention_axes)
        return output, keras.KerasTensor(shape, dtype=self.compute_dtype)
