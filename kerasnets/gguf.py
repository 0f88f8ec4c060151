"""GGUF, llama.cpp's one file for config, tokenizer and weights, often quantized: LLaMA's and Qwen2's are read.

The `gguf` package reads and dequantizes. Here its metadata become what a config.json would say, its tensors' names
those of Hugging Face, and the rows of queries and keys, which llama.cpp keeps in another order, return to theirs.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import pathlib
import re
from functools import partial

import numpy as np

from kerasnets.fields import Fields
from kerasnets.formats import Tensors
from kerasnets.gguf_file import reader, values_of
from kerasnets.layers.frequencies import inverse_frequencies

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
# What is said of the file, of the tokenizer and of how the quantization came about changes no weight.
HARMLESS = r"(general|tokenizer|quantize\.imatrix)\..*|split\.(no|tensors\.count)|\w+\.rope\.scaling\.finetuned"
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROTATION = "rope_freqs.weight"  # what each frequency is divided by
BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}  # of yarn
NUMBERS = 2**20  # dequantized at a time


def opened(path):
    """(what a config.json would say, the tensors) of a GGUF file.

    Raises `ValueError` for another architecture, for metadata of it that are not known here and for a broken file.
    """
    file, path = reader(path), pathlib.Path(path)
    tensors = Gguf(path, file.tensors)
    config = config_of(values_of(file), tensors, path)
    if config["model_type"] == "llama":
        tensors.heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    return config, tensors


def config_of(values, tensors, path):
    """The metadata as config.json says them; each is used, known to do nothing, or refused by name."""
    architecture = values.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{path}: general.architecture is {architecture!r}; known are {sorted(ARCHITECTURES)}.")
    key, fields = f"{architecture}.{{}}".format, Fields(values, path, "its metadata")
    fields.skip(name for name in values if re.fullmatch(HARMLESS, name))
    fields.expect({"general.type": ("model",), "split.count": (0, 1)})
    fields.expect({key("expert_count"): (0,), key("expert_used_count"): (0,), key("attention.causal"): (True,)})
    fields.expect({key("tensor_data_layout"): ("Meta AI original pth",)})
    config = {
        "model_type": architecture,
        "architectures": [ARCHITECTURES[architecture]],
        "hidden_act": "silu",
        "hidden_size": fields.size(key("embedding_length")),
        "num_hidden_layers": fields.size(key("block_count")),
        "intermediate_size": fields.size(key("feed_forward_length")),
        "num_attention_heads": fields.size(key("attention.head_count")),
        "num_key_value_heads": fields.size(key("attention.head_count_kv"), values.get(key("attention.head_count"))),
        "max_position_embeddings": fields.size(key("context_length")),
        "rms_norm_eps": fields.number(key("attention.layer_norm_rms_epsilon")),
        "vocab_size": fields.size(key("vocab_size"), tensors.vocab_size()),
        "tie_word_embeddings": "lm_head.weight" not in tensors.names(),
        "rope_theta": fields.number(key("rope.freq_base"), 10000.0),
    }
    config |= fields.read_more(lambda fields, config: head_size(fields, config, key), config)
    config |= fields.read_more(lambda fields, config: rotation(fields, config, key, tensors.factors), config)
    fields.finish()
    if architecture == "llama":
        biases = {"attention_bias": "self_attn.q_proj.bias", "mlp_bias": "mlp.up_proj.bias"}
        config |= {name: f"model.layers.0.{bias}" in tensors.names() for name, bias in biases.items()}
    return config | token_ids(values)


def head_size(fields, config, key):
    """{"head_dim": H} unless it is the width divided among the heads; queries, keys, values and rotation share it."""
    usual = config["hidden_size"] // config["num_attention_heads"]
    size = fields.size(key("attention.key_length"), usual)
    fields.expect({key("attention.value_length"): (size,), key("rope.dimension_count"): (size,)})
    return {"head_dim": size} if size != usual else {}


def rotation(fields, config, key, factors):
    """{"rope_scaling": …} as config.json says it: linear and yarn are told by the metadata, llama3 by a tensor."""
    key = key("rope.scaling.{}").format
    kind = fields.text(key("type"), ("none", "linear", "yarn"), "linear")
    factor = fields.number(key("factor"), fields.number(key("scale_linear").replace("scaling.", ""), 1.0)) or 1.0
    original = fields.size(key("original_context_length"), config["max_position_embeddings"])
    betas = {name: fields.number(key(f"yarn_{name}"), default) for name, default in BETAS.items()}
    fields.expect({key("attn_factor"): (1.0,), key("yarn_attn_factor"): (1.0,), key("yarn_ext_factor"): (1.0,)})
    scaling = None if factor == 1 else {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling = {"rope_type": kind, "factor": factor, "original_max_position_embeddings": original, **betas}
    if factors is not None:
        size = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
        told, scaling = scaling, llama3(factors, size, config["rope_theta"])
        if told or scaling is None:
            fields.refuse(f"{ROTATION} is not what llama3's scaling of the rotation is, or not alone")
    if kind == "none" and factor != 1:
        fields.refuse(f"{key('type')} is none, and {key('factor')} is {factor}")
    return {"rope_scaling": scaling}


def llama3(factors, size, theta):
    """The scaling that divides the frequencies by these factors, with the numbers of every LLaMA since 3.1, or None."""
    if factors.shape != (size // 2,) or not np.isfinite(factors).all():
        return None
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    expected = inverse_frequencies(size, theta) / inverse_frequencies(size, theta, scaling)
    return scaling if np.allclose(factors, expected, rtol=1e-5, atol=0) else None


def token_ids(values):
    """bos, pad, and all that end a text or a turn."""
    ids = {name: values.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "eom", "padding")}
    ends = list(dict.fromkeys(ids[name] for name in ("eos", "eot", "eom") if ids[name] is not None))
    return {"bos_token_id": ids["bos"], "eos_token_id": ends or None, "pad_token_id": ids["padding"]}


class Gguf(Tensors):
    """The tensors of a GGUF file under Hugging Face's names; each is mapped, dequantized and let go."""

    readable = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q6_K")

    def __init__(self, path, tensors):
        self.factors = next((np.array(t.data) for t in tensors if t.name == ROTATION), None)
        # Not the tensors themselves: they hold the whole file in memory.
        self.places = {hugging_face(t.name): (t.data_offset, t.data.shape, t.data.dtype) for t in tensors}
        self.listed = [(t.name, t.shape[::-1].tolist(), t.tensor_type) for t in tensors if t.name != ROTATION]
        self.heads = {}  # of "q" and "k", if their rows are in llama.cpp's order
        super().__init__([path])

    def contents(self, path):
        return [(hugging_face(name), shape, kind.name) for name, shape, kind in self.listed]

    def label(self, name):
        return llama_cpp(name)

    def vocab_size(self):
        return next(iter(self.shapes.get("model.embed_tokens.weight", ())), None)

    def fetch(self, path, name):
        import gguf

        offset, shape, dtype = self.places[name]
        stored = np.memmap(path, dtype, "r", offset, shape)
        kind = gguf.GGMLQuantizationType[self.stored[name]]
        # The library's `dequantize` takes the blocks of 16 rows at a time, which takes twice as long.
        blocks = getattr(gguf.quants, kind.name, None)  # None: plain numbers
        dequantize = blocks.dequantize_rows if blocks else partial(gguf.dequantize, qtype=kind)
        tensor = np.empty(self.shapes[name], "float32")
        rows = NUMBERS // max(1, math.prod(tensor.shape[1:])) + 1
        for start in range(0, len(tensor), rows):
            tensor[start : start + rows] = dequantize(stored[start : start + rows])
        part = re.fullmatch(r".*\.self_attn\.([qk])_proj\.\w+", name)
        return unpermuted(tensor, self.heads[part[1]]) if part and self.heads else tensor


def unpermuted(tensor, heads):
    """Rows of each head from pairs side by side, (0, H/2, 1, H/2 + 1, …), back to halves, (0, 1, …, H/2, …)."""
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def hugging_face(name):
    """blk.0.attn_q.weight → model.layers.0.self_attn.q_proj.weight; a name that is not known → "unknown …"."""
    block, stem, kind = re.fullmatch(r"(?:blk\.(\d+)\.)?(.*?)\.?(\w*)", name).groups()
    if block is None:
        return f"{OUTSIDE[stem]}.{kind}" if stem in OUTSIDE else f"unknown {name}"
    return f"model.layers.{block}.{IN_BLOCK[stem]}.{kind}" if stem in IN_BLOCK else f"unknown {name}"


def llama_cpp(name):
    """The way back."""
    block, stem, kind = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.*?)\.?(\w*)", name).groups()
    names = {ours: theirs for theirs, ours in (OUTSIDE if block is None else IN_BLOCK).items()}
    prefix = "" if block is None else f"blk.{block}."
    return f"{prefix}{names[stem]}.{kind}" if stem in names else name.removeprefix("unknown ")
