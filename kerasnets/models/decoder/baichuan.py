"""Baichuan and Baichuan2: LLaMA for Chinese and English.

Yang et al. 2023, arXiv:2309.10305. Against LLaMA:
- Query, key and value are one matrix in the file.
- The 13B models do not turn queries and keys: ALiBi lowers the scores of what is far away (Press et al. 2021,
  arXiv:2108.12409).
- Baichuan2's head compares directions: the rows of its matrix are brought to length 1 (NormHead).
"""

import dataclasses

from keras import ops

from kerasnets import layers
from kerasnets.checkpoint import Family, transposed
from kerasnets.layers import masking, quantized
from kerasnets.layers.layer import public
from kerasnets.layers.position import alibi_bias
from kerasnets.model import CausalLM
from kerasnets.models.decoder import llama
from kerasnets.models.decoder.llama import LLaMA, LLaMAAttention, LLaMABlock, sizes

BAICHUAN2_VOCABULARY = 125696


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    vocab_size: int = 64000
    max_length: int = 4096
    position: str = "rotary"  # or "alibi"
    normalized_head: bool = False
    pad_token_id: int | None = 0


BAICHUAN2 = {"vocab_size": BAICHUAN2_VOCABULARY, "normalized_head": True}
PRESETS = {
    "baichuan-7b": sizes(4096, 32, 32, 32, 11008),
    "baichuan-13b": sizes(5120, 40, 40, 40, 13696) | {"position": "alibi"},
    "baichuan2-7b": BAICHUAN2 | sizes(4096, 32, 32, 32, 11008),
    "baichuan2-13b": BAICHUAN2 | sizes(5120, 40, 40, 40, 13696) | {"position": "alibi"},
}


class AlibiAttention(LLaMAAttention):
    """LLaMA's attention with a bias on the scores in place of the rotation."""

    def call(self, x, places, visible=None, cache=None, training=False):
        visible = masking.causal_mask(x.shape[1])[:, None] if visible is None else visible
        return self.attend(*self.project(x), visible, places, cache, training)


class AlibiBlock(LLaMABlock):
    """LLaMA's block around `AlibiAttention`."""

    Attention = AlibiAttention


class NormHead(layers.CausalLMHead):
    """logits = x W′, each column of W brought to length 1.   (B, T, D) → (B, T, V)."""

    def call(self, x, embeddings=None):
        table = ops.transpose(embeddings[:]) if self.tied else quantized.as_kernel(self.kernel)
        length = ops.sqrt(ops.sum(ops.square(ops.cast(table, "float32")), axis=0))
        return ops.matmul(x, table) / ops.cast(ops.maximum(length, 1e-12), x.dtype)


@public
class Baichuan(LLaMA):
    """The backbone: ids (B, T) → hidden states (B, T, D), after the final norm."""

    Config, presets = Config, PRESETS

    def make_layers(self):
        if self.config.position not in ("rotary", "alibi"):
            raise ValueError(f'position must be "rotary" or "alibi"; received {self.config.position!r}.')
        super().make_layers()

    def make_block(self, depth):
        return AlibiBlock(self.config) if self.config.position == "alibi" else super().make_block(depth)

    def places(self, positions, cache):
        """cos and sin, or ALiBi's bias (1, N, T, S)."""
        if self.config.position == "rotary":
            return super().places(positions, cache)
        keys, first = (None, 0) if cache is None else (cache.keys.shape[1], cache.length)
        return alibi_bias(self.config.num_heads, positions.shape[1], keys, first)


@public
class BaichuanCausalLM(CausalLM):
    """Baichuan with its head: ids (B, T) → logits (B, T, V) of the token that follows each."""

    Backbone = Baichuan

    def make_head(self):
        Head = NormHead if self.config.normalized_head else layers.CausalLMHead
        return Head(self.config.vocab_size, tied=self.config.tied)


FIELDS = {  # in config.json: in `Config`
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "feedforward_size",
    "hidden_act": "activation",
    "rms_norm_eps": "epsilon",
    "tie_word_embeddings": "tied",
}

PACKED = (
    "layers.{i}.self_attn.W_pack.weight",
    tuple(f"blocks.{{i}}.attention.{part}.kernel" for part in ("query", "key", "value")),
    transposed,
)
WEIGHTS = [PACKED] + [
    row
    for row in llama.WEIGHTS
    if not row[0].endswith(".bias") and row[0].split(".")[-2] not in ("q_proj", "k_proj", "v_proj")
]


def read(fields, config):
    """Rotary or ALiBi, NormHead or not: no config says so, hence the fields "position" and "normalized_head" of ours.

    Where they are absent: the 7B models have `max_position_embeddings`, the 13B models only `model_max_length`;
    Baichuan2 has its vocabulary or `z_loss_weight`.
    """
    has_positions, z_loss = "max_position_embeddings" in fields.values, fields.get("z_loss_weight")
    is_second = config.get("vocab_size") == BAICHUAN2_VOCABULARY or z_loss is not None
    length = fields.size("max_position_embeddings" if has_positions else "model_max_length", Config.max_length)
    fields.skip(("model_max_length",))
    position = fields.text("position", ("rotary", "alibi"), "rotary" if has_positions else "alibi")
    return config | {
        "max_length": length,
        "position": position,
        "normalized_head": fields.flag("normalized_head", is_second),
    }


def write(config, values):
    """In the original names, and with what `read` would have to guess."""
    length = "max_position_embeddings" if config.position == "rotary" else "model_max_length"
    values |= {length: config.max_length, "position": config.position, "normalized_head": config.normalized_head}
    return values | ({"z_loss_weight": 0} if config.normalized_head else {})


FAMILY = Family(
    model_types=("baichuan",),
    tasks={"backbone": Baichuan, "causal_lm": BaichuanCausalLM},
    architectures={
        "BaichuanForCausalLM": "causal_lm",
        "BaiChuanForCausalLM": "causal_lm",
        "BaichuanModel": "backbone",
        "BaiChuanModel": "backbone",
        "Model": "backbone",
    },
    fields=FIELDS,
    harmless=("gradient_checkpointing", "_from_model_config", "tokenizer_class"),
    read=read,
    write=write,
    **llama.COMMON | {"weights": WEIGHTS},
).register()
