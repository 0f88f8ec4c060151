"""mT5: T5 of version 1.1 in 101 languages.

Xue et al. 2020, arXiv:2010.11934. Against T5:
- A vocabulary eight times as large.
- The head is never divided, whether it has a table of its own, as in the published models, or the embedding's.
"""

import dataclasses

from kerasnets.checkpoint import Family
from kerasnets.layers.layer import public
from kerasnets.models.encoder_decoder import t5
from kerasnets.models.encoder_decoder.t5 import T5, T5Seq2SeqLM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(t5.Config):
    vocab_size: int = 250112
    num_layers: int = 8
    num_heads: int = 6
    feedforward_size: int = 1024
    activation: str = "gated-gelu"
    tied: bool = False
    scale_head: bool = False


PRESETS = {f"mt5-{size}": fields for size, fields in t5.SECOND.items()}


@public
class MT5(T5):
    """The backbone: source (B, S) and target (B, T) → the target's hidden states (B, T, D), after the final norm."""

    Config, presets = Config, PRESETS


@public
class MT5Seq2SeqLM(T5Seq2SeqLM):
    """mT5 with its head: source (B, S) and target (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = MT5


def read(fields, config):
    """Where the file does not say them, the activation is gated here, and the head tied, as transformers 5 has it."""
    config = {"activation": Config.activation, "tied": True, **config}
    return t5.checked(fields, config) | {"scale_head": False}


FAMILY = Family(
    model_types=("mt5",),
    tasks={"backbone": MT5, "seq2seq_lm": MT5Seq2SeqLM},
    architectures={"MT5Model": "backbone", "MT5ForConditionalGeneration": "seq2seq_lm"},
    read=read,
    **t5.COMMON,
).register()
