"""Qwen3: LLaMA whose queries and keys are normalized before they turn.

Yang et al. 2025, arXiv:2505.09388; the norm: Dehghani et al. 2023, arXiv:2302.05442. Against Qwen2:
- No biases; RMSNorm over the channels of each query and key head keeps the scores small instead.
- The size of a head is a number of its own: heads × size need not be the width.
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
    head_size: int = 128
    feedforward_size: int = 22016
    max_length: int = 32768
    window: int | None = None  # how many tokens, itself included, a query of these blocks sees
    windowed_blocks: tuple = ()
    bos_token_id: int | None = None
    eos_token_id: tuple = ()


QWEN3 = {"rope_theta": 1e6, "max_length": 40960, "bos_token_id": 151643, "eos_token_id": (151645,)}
PRESETS = {
    "qwen3-0.6b": QWEN3 | sizes(1024, 28, 16, 8, 3072) | {"tied": True},
    "qwen3-1.7b": QWEN3 | sizes(2048, 28, 16, 8, 6144) | {"tied": True},
    "qwen3-4b": QWEN3 | sizes(2560, 36, 32, 8, 9728) | {"tied": True},
    "qwen3-8b": QWEN3 | sizes(4096, 36, 32, 8, 12288),
    "qwen3-14b": QWEN3 | sizes(5120, 40, 40, 8, 17408),
    "qwen3-32b": QWEN3 | sizes(5120, 64, 64, 8, 25600),
}


class Qwen3Attention(LLaMAAttention):
    """LLaMA's attention with a norm on each query and key, and in some blocks with a window."""

    def __init__(self, config, window=None, **kwargs):
        super().__init__(config, **kwargs)
        self.window = window
        self.query_norm = layers.RMSNormalization(epsilon=config.epsilon)
        self.key_norm = layers.RMSNormalization(epsilon=config.epsilon)

    def project(self, x):
        q, k, v = super().project(x)
        return self.query_norm(q), self.key_norm(k), v

    def attend(self, q, k, v, visible, bias, cache, training):
        visible = visible if self.window is None else narrowed(visible, self.window, q, cache)
        return super().attend(q, k, v, visible, bias, cache, training)


class Qwen3Block(LLaMABlock):
    """LLaMA's block around `Qwen3Attention`."""

    Attention = Qwen3Attention


@public
class Qwen3(LLaMA):
    """The backbone: ids (B, T) → hidden states (B, T, D), after the final norm."""

    Config, presets = Config, PRESETS

    def make_block(self, depth):
        return Qwen3Block(self.config, window=self.config.window if depth in self.config.windowed_blocks else None)


@public
class Qwen3CausalLM(CausalLM):
    """Qwen3 with its head: ids (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = Qwen3


NORMS = [
    ("layers.{i}.self_attn.q_norm.weight", "blocks.{i}.attention.query_norm.scale"),
    ("layers.{i}.self_attn.k_norm.weight", "blocks.{i}.attention.key_norm.scale"),
]


def read(fields, config):
    """The rotation and the window."""
    config = llama.read(fields, config, Config.max_length)
    config.setdefault("num_kv_heads", 32)
    window, blocks = fields.window(config.get("num_layers") or Config.num_layers)
    return config | {"window": window, "windowed_blocks": blocks}


def write(config, values):
    """The window in the spelling of transformers 5."""
    return llama.write(config, values) | window_fields(config.window, config.windowed_blocks, config.num_layers)


FAMILY = Family(
    model_types=("qwen3",),
    tasks={"backbone": Qwen3, "causal_lm": Qwen3CausalLM},
    architectures={"Qwen3Model": "backbone", "Qwen3ForCausalLM": "causal_lm"},
    fields={name: field for name, field in llama.FIELDS.items() if name != "mlp_bias"},
    read=read,
    write=write,
    **llama.COMMON | {"weights": llama.WEIGHTS + NORMS},
).register()
