"""The equations, as layers: drop-in for `keras.layers`, each file a page of the textbook."""

from keras.layers import Bidirectional

from kerasnets.layers.bert_embedding import BERTEmbedding
from kerasnets.layers.convolution import Conv1D, Conv2D
from kerasnets.layers.dense import Dense
from kerasnets.layers.embedding import Embedding
from kerasnets.layers.feedforward import FeedForward, GatedFeedForward
from kerasnets.layers.heads import CausalLMHead, MaskedLMHead
from kerasnets.layers.multi_head_attention import GroupedQueryAttention as GroupQueryAttention
from kerasnets.layers.multi_head_attention import MultiHeadAttention
from kerasnets.layers.normalization import LayerNormalization, RMSNormalization
from kerasnets.layers.poolers import FirstTokenPooler
from kerasnets.layers.pooling import (
    AveragePooling1D,
    AveragePooling2D,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    MaxPooling1D,
    MaxPooling2D,
)
from kerasnets.layers.position import (
    PositionEmbedding,
    RelativePositionBias,
    RotaryEmbedding,
    alibi_bias,
    rotate,
    sinusoidal,
)
from kerasnets.layers.recurrent import GRU, LSTM, GRUCell, LSTMCell, SimpleRNN, SimpleRNNCell
from kerasnets.layers.reshaping import Flatten, ZeroPadding2D
from kerasnets.layers.transformer import TransformerDecoderBlock, TransformerEncoderBlock

__all__ = [
    "AveragePooling1D",
    "AveragePooling2D",
    "BERTEmbedding",
    "Bidirectional",
    "CausalLMHead",
    "Conv1D",
    "Conv2D",
    "Dense",
    "Embedding",
    "FeedForward",
    "FirstTokenPooler",
    "Flatten",
    "GRU",
    "GRUCell",
    "GatedFeedForward",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GroupQueryAttention",
    "LSTM",
    "LSTMCell",
    "LayerNormalization",
    "MaskedLMHead",
    "MaxPooling1D",
    "MaxPooling2D",
    "MultiHeadAttention",
    "PositionEmbedding",
    "RMSNormalization",
    "RelativePositionBias",
    "RotaryEmbedding",
    "SimpleRNN",
    "SimpleRNNCell",
    "TransformerDecoderBlock",
    "TransformerEncoderBlock",
    "ZeroPadding2D",
    "alibi_bias",
    "rotate",
    "sinusoidal",
]
