"""The three tables 词元、句段与位置嵌入: what a token is, which text it belongs to, and where it stands.

Devlin et al. 2018, arXiv:1810.04805, figure 2. Attention sees a set of vectors; whatever it is to know of a token must
be in them, so the three are added, brought to one scale and, in training, thinned by dropout.
"""

from keras import ops

from kerasnets.layers.dropout import Dropout
from kerasnets.layers.embedding import Embedding
from kerasnets.layers.layer import Layer, anew, positive_integer, public
from kerasnets.layers.normalization import LayerNormalization


@public
class BERTEmbedding(Layer):
    """y = norm(E[i] + S[s] + P[t]), i the token's id, s its segment, t its position.   (B, T) three times → (B, T, D).

    E: token_embedding (V, D), S: segment_embedding (num_segments, D), P: position_embedding (max_length, D).
    Segments are 0 and positions 0, 1, 2, … unless given. With num_segments 0 there is no S, with max_length None no P.
    `others` (B, T, D) is added too, before the norm.
    Raises `ValueError` for a text longer than the table P, and for an id, a segment or a position outside its table.
    """

    # fmt: off
    def __init__(self, vocab_size, hidden_size, max_length=512, num_segments=2, dropout=0.0, epsilon=1e-12,
                 embeddings_initializer="uniform", **kwargs):
        # fmt: on
        super().__init__(**kwargs)
        self.set_arguments({name: value for name, value in locals().items() if name != "dropout"})
        positive_integer("vocab_size", vocab_size)
        positive_integer("hidden_size", hidden_size)
        positive_integer("max_length", max_length or 1)
        positive_integer("num_segments", num_segments or 1)
        self.token_embedding = self.table("token_embedding", vocab_size)
        self.segment_embedding = self.table("segment_embedding", num_segments)
        self.position_embedding = self.table("position_embedding", max_length)
        self.norm = LayerNormalization(epsilon=epsilon, name="norm", dtype=self.dtype_policy)
        self.dropout = Dropout(dropout, name="dropout", dtype=self.dtype_policy)
        self.autocast = False  # float16 counts only to 2048: ids given as floats keep their precision

    def table(self, name, size):
        initializer = anew(self.embeddings_initializer)
        return Embedding(size, self.hidden_size, initializer, name=name, dtype=self.dtype_policy) if size else None

    def build(self, *_):
        for table in (self.token_embedding, self.segment_embedding, self.position_embedding):
            if table:
                table.build()
        self.norm.build((None, None, self.hidden_size))

    def call(self, input_ids, segments=None, positions=None, others=None):
        x = self.token_embedding(input_ids)
        if self.segment_embedding:
            x = x + (self.first_segment() if segments is None else self.segment_embedding(segments))
        if self.position_embedding:
            x = x + self.position_embedding(self.places(input_ids) if positions is None else positions)
        return self.dropout(self.norm(x if others is None else x + others))

    def first_segment(self):
        return ops.cast(self.segment_embedding.embeddings[0], self.compute_dtype)

    def places(self, input_ids):
        length = input_ids.shape[1]
        if length is not None and length > self.max_length:
            raise ValueError(f"Layer {self.name!r} has {self.max_length} positions; received {length} tokens.")
        return ops.arange(ops.shape(input_ids)[1])[None]

    def compute_output_shape(self, input_shape, *_, **__):
        return (*input_shape, self.hidden_size)

    def get_config(self):
        return {**super().get_config(), "dropout": self.dropout.rate}
