"""BERT: an encoder that learned to say which words are hidden, and so what words mean among others.

Devlin et al. 2018, arXiv:1810.04805. Masked LM 掩码语言模型; bidirectional: each token sees those on both sides of it.
- Three tables are added: the token, which of two texts it belongs to, and its position, learned.
- The norm stands after each sum ("post-norm"), as in the Transformer's encoder.
- GELU by its exact formula, and norms with a tiny ε.
- The first token, [CLS], stands for the whole text: the pooler reads it, and a classifier reads the pooler.
- The head that fills in words is the token table read backwards, after one more layer and norm.
"""

import dataclasses

from kerasnets import encoder, encoder_files, layers
from kerasnets.checkpoint import Family
from kerasnets.encoder_files import layer, masked_lm_rows, norm, sizes
from kerasnets.fields import told_by_tensors
from kerasnets.layers import masking
from kerasnets.layers.activations import ACTIVATIONS
from kerasnets.layers.attention import attention, merge_heads, split_heads
from kerasnets.layers.dropout import Dropout
from kerasnets.layers.layer import Layer, public


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(encoder.TaskConfig):
    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feedforward_size: int = 3072
    max_length: int = 512
    num_segments: int = 2
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    has_pooler: bool = told_by_tensors(True)
    bos_token_id: int | None = None
    eos_token_id: tuple = ()
    pad_token_id: int | None = 0


PRESETS = {
    "bert-base-uncased": {},
    "bert-base-cased": {"vocab_size": 28996},
    "bert-large-uncased": sizes(24, 1024, 16, 4096),
    "bert-large-cased": sizes(24, 1024, 16, 4096, vocab_size=28996),
    "bert-base-chinese": {"vocab_size": 21128},
    "bert-base-multilingual-cased": {"vocab_size": 119547},
    "bert-tiny": sizes(2, 128, 2, 512),
    "bert-mini": sizes(4, 256, 4, 1024),
    "bert-small": sizes(4, 512, 8, 2048),
    "bert-medium": sizes(8, 512, 8, 2048),
    "minilm-l6": sizes(6, 384, 12, 1536),
    "minilm-l12": sizes(12, 384, 12, 1536),
}


class BERTAttention(Layer):
    """Self-attention both ways: each token asks all that are not padding."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = config.num_heads
        self.query, self.key, self.value, self.out = (layers.Dense(config.hidden_size) for _ in range(4))
        self.dropout = Dropout(config.attention_dropout)

    def call(self, x, visible=None, training=False):
        q, k, v = (split_heads(project(x), self.num_heads) for project in (self.query, self.key, self.value))
        drop = self.dropout if training and self.dropout.rate else None
        return self.out(merge_heads(attention(q, k, v, visible, drop=drop)))


class BERTBlock(Layer):
    """x ← norm(x + attention(x)), then x ← norm(x + feedforward(x))."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.attention = BERTAttention(config)
        self.attention_norm = layers.LayerNormalization(epsilon=config.epsilon)
        self.feedforward = layers.FeedForward(config.feedforward_size, ACTIVATIONS[config.activation])
        self.feedforward_norm = layers.LayerNormalization(epsilon=config.epsilon)
        self.dropout = Dropout(config.dropout)

    def call(self, x, visible=None):
        x = self.attention_norm(x + self.dropout(self.attention(x, visible)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


@public
class BERT(encoder.Encoder):
    """The backbone: ids (B, T) → hidden states (B, T, D). `model.pooler(hidden)` is the text's vector (B, D)."""

    Config, presets = Config, PRESETS

    def make_layers(self):
        config = self.config
        if config.hidden_size % config.num_heads:
            raise ValueError(f"{config.num_heads} heads can't share hidden_size={config.hidden_size} evenly.")
        self.embedding = self.make_embedding()
        self.blocks = [BERTBlock(config) for _ in range(config.num_layers)]
        self.pooler = layers.FirstTokenPooler() if config.has_pooler else None
        if self.pooler:
            self.pooler.build((None, None, config.hidden_size))

    def make_embedding(self):
        c = self.config
        return layers.BERTEmbedding(c.vocab_size, c.hidden_size, c.max_length, c.num_segments, c.dropout, c.epsilon)

    def encode(self, input_ids, segments, positions, padding):
        x = self.embedding(input_ids, segments, positions)
        return self.through_blocks(x, padding)

    def through_blocks(self, x, padding):
        visible = None if padding is None else masking.combined(masking.padding_mask(padding))
        for block in self.blocks:
            x = block(x, visible)
        return x


@public
class BERTMaskedLM(encoder.MaskedLM):
    """BERT that fills in hidden words: ids (B, T) → logits (B, T, V)."""

    Backbone = BERT


@public
class BERTSequenceClassifier(encoder.SequenceClassifier):
    """BERT that says of which kind a text, or a pair of texts, is: ids (B, T) → logits (B, labels)."""

    Backbone = BERT


@public
class BERTTokenClassifier(encoder.TokenClassifier):
    """BERT that says of which kind each token is: ids (B, T) → logits (B, T, labels)."""

    Backbone = BERT


@public
class BERTQuestionAnswerer(encoder.QuestionAnswerer):
    """BERT that finds the answer in a text: ids (B, T) → logits (B, T, 2) of its first and its last token."""

    Backbone = BERT


FIELDS = encoder_files.FIELDS | {"type_vocab_size": "num_segments", "classifier_dropout": "classifier_dropout"}

BLOCK, OURS = "encoder.layer.{i}.", "blocks.{i}."
CLS = "cls.predictions."
POOLER = layer("pooler.dense", "pooler.dense")
WEIGHTS = [  # in the file, in the model
    ("embeddings.word_embeddings.weight", "embedding.token_embedding.embeddings"),
    ("embeddings.position_embeddings.weight", "embedding.position_embedding.embeddings"),
    ("embeddings.token_type_embeddings.weight", "embedding.segment_embedding.embeddings"),
    *norm("embeddings.LayerNorm", "embedding.norm"),
    *layer(BLOCK + "attention.self.query", OURS + "attention.query"),
    *layer(BLOCK + "attention.self.key", OURS + "attention.key"),
    *layer(BLOCK + "attention.self.value", OURS + "attention.value"),
    *layer(BLOCK + "attention.output.dense", OURS + "attention.out"),
    *norm(BLOCK + "attention.output.LayerNorm", OURS + "attention_norm"),
    *layer(BLOCK + "intermediate.dense", OURS + "feedforward.wide"),
    *layer(BLOCK + "output.dense", OURS + "feedforward.narrow"),
    *norm(BLOCK + "output.LayerNorm", OURS + "feedforward_norm"),
    *POOLER,
]


def heads(prefix):
    """The rows of the tasks. A classifier reads the pooler too, which the files of the other tasks may hold unread."""
    return {
        "masked_lm": masked_lm_rows(CLS + "transform.dense", CLS + "transform.LayerNorm", CLS + "bias"),
        "sequence_classifier": [
            *((prefix + theirs, "backbone." + ours, *how) for theirs, ours, *how in POOLER),
            *layer("classifier", "head"),
        ],
        "token_classifier": layer("classifier", "head"),
        "question_answerer": layer("qa_outputs", "head"),
    }


# What the files of this family and of those built like it have in common.
COMMON = dict(
    choices={"activation": ACTIVATIONS},
    expected={"tie_word_embeddings": (True,), "position_embedding_type": ("absolute",), "is_decoder": (False,),
              "add_cross_attention": (False,), "pruned_heads": ({},)},
    harmless=("gradient_checkpointing", "output_past", "directionality", "pooler_fc_size", "pooler_num_attention_heads",
              "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"),
    ignored=(r"embeddings\.position_ids", r"cls\.seq_relationship\.(weight|bias)"),
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    read=encoder_files.read_labels,
    write=encoder_files.write_labels,
    look=encoder_files.pooler_or_not,
)  # fmt: skip

FAMILY = Family(
    model_types=("bert",),
    tasks=encoder_files.tasks(BERT, BERTMaskedLM, BERTSequenceClassifier, BERTTokenClassifier, BERTQuestionAnswerer),
    architectures=encoder_files.architectures("Bert") | {"BertForPreTraining": "masked_lm"},
    fields=FIELDS,
    weights=WEIGHTS,
    heads=heads("bert."),
    prefix="bert.",
    repeated={"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
              "cls.predictions.decoder.bias": "cls.predictions.bias"},
    **COMMON,
).register()  # fmt: skip
