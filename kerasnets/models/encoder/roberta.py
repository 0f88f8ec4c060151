"""RoBERTa: BERT's network, trained ten times longer on ten times more text.

Liu et al. 2019, arXiv:1907.11692; in a hundred languages, XLM-R: Conneau et al. 2019, arXiv:1911.02116. Against BERT:
- No second training task, and so one segment only; its row is added to every token.
- Positions are counted over the ids that are not padding, and begin behind the row of the padding id.
- A classifier has a layer of its own over the first token, <s>, instead of BERT's pooler.
- Hidden words are drawn anew each time a text is read, and the vocabulary is cut from bytes.
"""

import dataclasses

from keras import ops

from kerasnets import encoder, encoder_files, layers
from kerasnets.checkpoint import Family
from kerasnets.encoder_files import layer, masked_lm_rows, read_labels, sizes, write_labels
from kerasnets.layers.activations import ACTIVATIONS
from kerasnets.layers.layer import public
from kerasnets.models.encoder import bert
from kerasnets.models.encoder.bert import COMMON, FIELDS, POOLER, WEIGHTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(bert.Config):
    vocab_size: int = 50265
    num_segments: int = 1
    epsilon: float = 1e-5
    bos_token_id: int | None = 0
    eos_token_id: tuple = (2,)
    pad_token_id: int | None = 1


PRESETS = {
    "roberta-base": {},
    "roberta-large": sizes(24, 1024, 16, 4096),
    "distilroberta-base": sizes(6, 768, 12, 3072),
    "xlm-roberta-base": {"vocab_size": 250002},
    "xlm-roberta-large": sizes(24, 1024, 16, 4096, vocab_size=250002),
}


@public
class RoBERTa(bert.BERT):
    """The backbone: ids (B, T) → hidden states (B, T, D). `model.pooler(hidden)` is the text's vector (B, D)."""

    Config, presets = Config, PRESETS

    def make_embedding(self):
        c = self.config
        rows = c.max_length + c.pad_token_id + 1
        return layers.BERTEmbedding(c.vocab_size, c.hidden_size, rows, c.num_segments, c.dropout, c.epsilon)

    def positions_of(self, input_ids, padding):
        """pad + 1, pad + 2, … for the ids that are not padding, pad for those that are, whatever the mask says."""
        is_real = ops.cast(ops.not_equal(input_ids, self.config.pad_token_id), "int32")
        return ops.cumsum(is_real, axis=1) * is_real + self.config.pad_token_id


@public
class RoBERTaMaskedLM(encoder.MaskedLM):
    """RoBERTa that fills in hidden words: ids (B, T) → logits (B, T, V)."""

    Backbone = RoBERTa

    def make_head(self):
        config = self.config
        activation = ACTIVATIONS["gelu"]  # in the blocks the config chooses, here it does not
        self.head = layers.MaskedLMHead(config.vocab_size, tied=True, activation=activation, epsilon=config.epsilon)


@public
class RoBERTaSequenceClassifier(encoder.SequenceClassifier):
    """RoBERTa that says of which kind a text, or a pair of texts, is: ids (B, T) → logits (B, labels)."""

    Backbone, reads_pooler = RoBERTa, False

    def make_head(self):
        self.pooler = layers.FirstTokenPooler()
        super().make_head()

    def pool(self, hidden, padding):
        return self.pooler(self.dropout(hidden), padding)


@public
class RoBERTaTokenClassifier(encoder.TokenClassifier):
    """RoBERTa that says of which kind each token is: ids (B, T) → logits (B, T, labels)."""

    Backbone = RoBERTa


@public
class RoBERTaQuestionAnswerer(encoder.QuestionAnswerer):
    """RoBERTa that finds the answer in a text: ids (B, T) → logits (B, T, 2) of its first and its last token."""

    Backbone = RoBERTa


# What transformers takes where config.json has no such field: not what any published RoBERTa has.
ABSENT = {"vocab_size": 50265, "epsilon": 1e-12, "num_segments": 2}


def read(fields, config):
    """The labels, and how many tokens fit into the table of positions: its rows up to the padding's stay unused."""
    config = {"max_length": 512, **ABSENT, **read_labels(fields, config)}
    padding = config.get("pad_token_id", 1)
    if not isinstance(padding, int) or not isinstance(config["max_length"], int):
        fields.refuse(f"pad_token_id must be an id, for positions are counted from it; it is {padding!r}")
        return config
    if config["max_length"] <= padding + 1:
        fields.refuse(f"max_position_embeddings {config['max_length']} leaves no rows behind pad_token_id {padding}")
    return config | {"max_length": config["max_length"] - padding - 1}


def write(config, values):
    rows = config.max_length + config.pad_token_id + 1
    return write_labels(config, values) | {"max_position_embeddings": rows}


KNOWN = [("roberta." + theirs, "backbone." + ours, *how) for theirs, ours, *how in POOLER]
HEADS = {
    "masked_lm": masked_lm_rows("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "sequence_classifier": [
        *layer("classifier.dense", "pooler.dense"),
        *layer("classifier.out_proj", "head"),
    ],
    "token_classifier": layer("classifier", "head"),
    "question_answerer": layer("qa_outputs", "head"),
    "unread": KNOWN,
}

FAMILY = Family(
    model_types=("roberta", "xlm-roberta"),
    tasks=encoder_files.tasks(RoBERTa, RoBERTaMaskedLM, RoBERTaSequenceClassifier, RoBERTaTokenClassifier,
                        RoBERTaQuestionAnswerer),
    architectures=encoder_files.architectures("Roberta", "XLMRoberta"),
    fields=FIELDS,
    weights=WEIGHTS,
    heads=HEADS,
    prefix="roberta.",
    repeated={"lm_head.decoder.weight": "embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"},
    **{**COMMON, "read": read, "write": write},
).register()  # fmt: skip
