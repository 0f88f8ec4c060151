"""The Transformer: translation by attention alone, without recurrence or convolution.

Vaswani et al. 2017, arXiv:1706.03762. To be trained from scratch: there are no checkpoints of it.
- The encoder attends to all of the source; the decoder to the target so far, and to the source.
- Each sublayer is added to what it was given, and a norm stands after the sum.
- Positions are sines and cosines, added to the token embedding times √D.
- One table embeds source and target, and is the head, read backwards.
- Trained with label smoothing, `kn.losses.TokenCrossEntropy(label_smoothing=0.1)`, and with `WarmUp`:
  keras.optimizers.Adam(kn.WarmUp(512), beta_2=0.98, epsilon=1e-9).
"""

import dataclasses

import keras
from keras import ops

from kerasnets import layers
from kerasnets.layers import masking
from kerasnets.layers.attention import attention, merge_heads, remember, split_heads
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, public
from kerasnets.seq2seq import EncoderDecoder, Seq2SeqLM, of_block, source_mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    vocab_size: int = 37000
    hidden_size: int = 512
    num_layers: int = 6  # of the encoder, and of the decoder
    num_heads: int = 8
    feedforward_size: int = 2048
    dropout: float = 0.1
    epsilon: float = 1e-6
    pad_token_id: int | None = 0
    decoder_start_token_id: int | None = 1
    eos_token_id: tuple = (2,)


PRESETS = {
    "transformer-base": {},
    "transformer-big": {"hidden_size": 1024, "num_heads": 16, "feedforward_size": 4096, "dropout": 0.3},
}


class TransformerAttention(Layer):
    """softmax(x W_Q (y W_K)ᵀ / √H) y W_V W_O, head by head; y is x itself, or a source whose products are in memory."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        if config.hidden_size % config.num_heads:
            raise ValueError(f"{config.num_heads} heads can't share hidden_size={config.hidden_size} evenly.")
        self.num_heads, self.head_size = config.num_heads, config.hidden_size // config.num_heads
        parts = (layers.Dense(config.hidden_size, use_bias=False) for _ in range(4))
        self.query, self.key, self.value, self.out = parts

    def call(self, x, visible=None, memory=None, cache=None, is_causal=False):
        q = split_heads(self.query(x), self.num_heads)
        k, v, cache = remember(cache, *self.keys_values(x)) if memory is None else (*memory, None)
        return self.out(merge_heads(attention(q, k, v, visible, is_causal=is_causal))), cache

    def keys_values(self, y):
        """(B, S, D) → (B, S, N, H) twice."""
        return tuple(split_heads(part(y), self.num_heads) for part in (self.key, self.value))


class TransformerEncoderPart(Layer):
    """x ← norm(x + attention(x)), then x ← norm(x + feedforward(x))."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.attention = TransformerAttention(config)
        self.attention_norm = layers.LayerNormalization(epsilon=config.epsilon)
        self.feedforward = layers.FeedForward(config.feedforward_size, "relu")
        self.feedforward_norm = layers.LayerNormalization(epsilon=config.epsilon)
        self.dropout = Dropout(config.dropout)

    def call(self, x, visible=None):
        attended, _ = self.attention(x, visible)
        x = self.attention_norm(x + self.dropout(attended))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class TransformerDecoderPart(TransformerEncoderPart):
    """The same, and between the two x ← norm(x + cross_attention(x, source))."""

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.cross_attention = TransformerAttention(config)
        self.cross_attention_norm = layers.LayerNormalization(epsilon=config.epsilon)

    def call(self, x, visible=None, memory=None, cache=None):
        attended, cache = self.attention(x, visible, cache=cache, is_causal=visible is None)
        x = self.attention_norm(x + self.dropout(attended))
        *memory, source_visible = memory
        read, _ = self.cross_attention(x, source_visible, memory=memory)
        x = self.cross_attention_norm(x + self.dropout(read))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x))), cache


@public
class Transformer(EncoderDecoder):
    """The backbone: source (B, S) and target (B, T) → the target's hidden states (B, T, D)."""

    Config, presets = Config, PRESETS

    def make_layers(self):
        config = self.config
        small = keras.initializers.RandomNormal(stddev=config.hidden_size**-0.5)  # times √D: as large as the positions
        self.token_embedding = layers.Embedding(config.vocab_size, config.hidden_size, small)
        self.dropout = Dropout(config.dropout)
        self.encoder_blocks = [TransformerEncoderPart(config) for _ in range(config.num_layers)]
        self.decoder_blocks = [TransformerDecoderPart(config) for _ in range(config.num_layers)]

    def embed(self, input_ids, positions):
        """√D E[i] + sines and cosines.   (B, T) twice → (B, T, D)."""
        x = self.token_embedding(input_ids) * self.config.hidden_size**0.5
        return self.dropout(x + ops.cast(layers.sinusoidal(positions, self.config.hidden_size), x.dtype))

    def encode(self, inputs):
        input_ids, padding = self.unpack(inputs, "input_ids", "attention_mask")
        x, visible = self.embed(input_ids, masking.positions_of(input_ids, padding)), source_mask(padding)
        for block in self.encoder_blocks:
            x = block(x, visible)
        return x, padding

    def decode(self, input_ids, positions, visible=None, cache=None, memory=None):
        x = self.embed(input_ids, positions)
        cache = list(cache or [None] * len(self.decoder_blocks))
        for i, block in enumerate(self.decoder_blocks):
            x, cache[i] = block(x, visible, memory=of_block(memory, i), cache=cache[i])
        return x, cache


@public
class TransformerSeq2SeqLM(Seq2SeqLM):
    """The Transformer and its head: source (B, S) and target (B, T) → logits (B, T, V) of what follows each token."""

    Backbone = Transformer


@public
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """η = s D^(−1/2) min(n^(−1/2), n w^(−3/2)), at step n = 1, 2, …: up a straight line for w steps, then down slowly.

    D: hidden_size, w: warmup_steps, s: scale, 1 in the paper. Norms after the sums need it: without, the first steps
    are too large for the upper layers (Xiong et al. 2020, arXiv:2002.04745).
    """

    def __init__(self, hidden_size, warmup_steps=4000, scale=1.0):
        self.hidden_size, self.warmup_steps, self.scale = hidden_size, warmup_steps, scale

    def __call__(self, step):
        n = ops.cast(step, "float32") + 1.0
        return self.scale * self.hidden_size**-0.5 * ops.minimum(n**-0.5, n * self.warmup_steps**-1.5)

    def get_config(self):
        return {"hidden_size": self.hidden_size, "warmup_steps": self.warmup_steps, "scale": self.scale}
