"""Qwen2 and Qwen2.5: LLaMA with a bias on queries, keys and values.

Yang et al. 2024, arXiv:2407.10671 and 2412.15115 (2.5). Against LLaMA:
- The bias, which lets the model read longer texts than it was trained on (Su 2023, spaces.ac.cn/archives/9577).
- In some checkpoints the later blocks look back no further than a window (Beltagy et al. 2020, arXiv:2004.05150).
- YaRN for the longest texts.
"""

import dataclasses

from kerasnets import layers
from kerasnets.checkpoint import Family
from kerasnets.fields import window_fields
from kerasnets.layers.layer import public
from kerasnets.layers.masking import narrowed
from kerasnets.model import CausalLM
from kerasnets.models.decoder import llama
from kerasnets.models.decoder.llama import LLaMA, LLaMAAttention, LLaMABlock, sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    vocab_size: int = 151936
    feedforward_size: int = 22016
    max_length: int = 32768
    attention_bias: bool = True
    window: int | None = None  # how many tokens, itself included, a query of these blocks sees
    windowed_blocks: tuple = ()
    bos_token_id: int | None = None
    eos_token_id: tuple = ()


QWEN2 = {"rope_theta": 1e6, "max_length": 131072, "bos_token_id": 151643, "eos_token_id": (151643,)}
SMALL = QWEN2 | {"tied": True}
LARGE = QWEN2 | {"vocab_size": 152064}
PRESETS = {
    "qwen2-0.5b": SMALL | sizes(896, 24, 14, 2, 4864),
    "qwen2-1.5b": SMALL | sizes(1536, 28, 12, 2, 8960),
    "qwen2-7b": LARGE | sizes(3584, 28, 28, 4, 18944),
    "qwen2-72b": LARGE | sizes(8192, 80, 64, 8, 29568),
    "qwen2.5-0.5b": SMALL | sizes(896, 24, 14, 2, 4864) | {"max_length": 32768},
    "qwen2.5-1.5b": SMALL | sizes(1536, 28, 12, 2, 8960),
    "qwen2.5-3b": SMALL | sizes(2048, 36, 16, 2, 11008) | {"max_length": 32768},
    "qwen2.5-7b": LARGE | sizes(3584, 28, 28, 4, 18944),
    "qwen2.5-14b": LARGE | sizes(5120, 48, 40, 8, 13824) | {"epsilon": 1e-5},
    "qwen2.5-32b": LARGE | sizes(5120, 64, 40, 8, 27648) | {"epsilon": 1e-5},
    "qwen2.5-72b": LARGE | sizes(8192, 80, 64, 8, 29568) | {"epsilon": 1e-5},
}


class Qwen2Attention(LLaMAAttention):
    """LLaMA's attention without a bias on its output, and in some blocks with a window."""

    def __init__(self, config, window=None, **kwargs):
        super().__init__(config, **kwargs)
        self.window = window

    def make_out(self, config):
        return layers.Dense(config.hidden_size, use_bias=False)

    def attend(self, q, k, v, visible, bias, cache, training):
        visible = visible if self.window is None else narrowed(visible, self.window, q, cache)
        return super().attend(q, k, v, visible, bias, cache, training)


class Qwen2Block(LLaMABlock):
    """LLaMA's block around `Qwen2Attention`."""

    Attention = Qwen2Attention


@public
class Qwen2(LLaMA):
    """The backbone: ids (B, T) → hidden states (B, T, D), after the final norm."""

    Config, presets = Config, PRESETS

    def make_block(self, depth):
        return Qwen2Block(self.config, window=self.config.window if depth in self.config.windowed_blocks else None)


@public
class Qwen2CausalLM(CausalLM):
    """Qwen2 with its head: ids (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = Qwen2


def read(fields, config):
    """The rotation and the window."""
    config = llama.read(fields, config, Config.max_length)
    config.setdefault("num_kv_heads", 32)
    window, blocks = fields.window(config.get("num_layers") or Config.num_layers)
    return config | {"window": window, "windowed_blocks": blocks}


def write(config, values):
    """The window in the spelling of transformers 5."""
    values = llama.write(config, values) | window_fields(config.window, config.windowed_blocks, config.num_layers)
    return {name: value for name, value in values.items() if not (name == "head_dim" and value is None)}


FAMILY = Family(
    model_types=("qwen2",),
    tasks={"backbone": Qwen2, "causal_lm": Qwen2CausalLM},
    architectures={"Qwen2Model": "backbone", "Qwen2ForCausalLM": "causal_lm"},
    fields={name: field for name, field in llama.FIELDS.items() if not name.endswith("_bias")},
    expected={"use_mrope": (False,)},
    read=read,
    write=write,
    **llama.COMMON,
).register()
