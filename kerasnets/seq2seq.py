"""The base classes of encoder–decoder models 编码器–解码器: one part reads a source, the other writes a target.

    model({"input_ids": …, "attention_mask": …, "decoder_input_ids": …})          logits of the next token of the target

Sutskever et al. 2014, arXiv:1409.3215; with attention: Bahdanau et al. 2014, arXiv:1409.0473. What the decoder reads of
the source are keys and values, which stay the same while it writes; they are made once, as a `memory`:

    {"keys": [(B, S, N, H) of each block], "values": [(B, S, N, H) of each block], "visible": (B, 1, 1, S) if padded}
"""

import keras
import numpy as np
from keras import ops

from kerasnets import generation, guard, layers
from kerasnets.checkpoint import transposed
from kerasnets.layers import masking
from kerasnets.layers.reading import barely
from kerasnets.model import WholeModel
from kerasnets.processors import ForcedToken, SuppressTokens

PROCESSORS = ("forced_bos_token_id", "suppress_tokens", "begin_suppress_tokens")


class Seq2SeqModel(WholeModel):
    """A model of a source and a target, `model({name: array})`; `inputs_taken` names them, the masks may be left out.

    Raises `ValueError` for an input that it does not take, one that is missing, and a mask not shaped like its ids.
    """

    inputs_taken = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")

    def smallest_inputs(self):
        return {name: keras.KerasTensor((1, 2), "int32") for name in self.inputs_taken if not name.endswith("mask")}

    def unpack(self, inputs, *names):
        """The named arrays of `inputs`, None for a mask that did not come; an array alone is `input_ids`."""
        inputs = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
        missing = [name for name in names if name not in inputs and not name.endswith("mask")]
        if missing or not set(inputs) <= set(self.inputs_taken):
            raise ValueError(
                f"{type(self).__name__} takes the inputs {list(self.inputs_taken)}, all but masks always; "
                f"received {sorted(inputs)}."
            )
        for mask, ids in (("attention_mask", "input_ids"), ("decoder_attention_mask", "decoder_input_ids")):
            if ids in inputs:
                guard.check_alike(mask, inputs.get(mask), inputs[ids], type(self).__name__)
        return [inputs.get(name) for name in names]


class EncoderDecoder(Seq2SeqModel):
    """The backbone: source and target → the target's hidden states (B, T, D), each token seeing those before it.

    A family has `decoder_blocks` with a `cross_attention`, and writes `encode(inputs) → (hidden (B, S, D), padding or
    None)` and `decode(input_ids, positions, visible, cache, memory) → (hidden, cache)`, which generation calls too.
    """

    @barely
    def call(self, inputs, training=None):
        input_ids, padding = self.unpack(inputs, "decoder_input_ids", "decoder_attention_mask")
        visible = None
        if padding is not None:
            visible = masking.combined(masking.causal_mask(input_ids.shape[1]), masking.padding_mask(padding))
        positions = masking.positions_of(input_ids, padding)
        hidden, _ = self.decode(input_ids, positions, visible, memory=self.remember_source(inputs))
        return hidden

    def remember_source(self, inputs):
        """The memory: what each block's cross-attention looks at, and where it may look."""
        source, padding = self.encode(inputs)
        keys, values = zip(*(block.cross_attention.keys_values(source) for block in self.decoder_blocks), strict=True)
        memory = {"keys": list(keys), "values": list(values)}
        return memory if padding is None else memory | {"visible": source_mask(padding)}


def source_mask(padding):
    """Where one may look at the source, from padding (B, S) or None.   → (B, 1, 1, S) or None."""
    return None if padding is None else masking.combined(masking.padding_mask(padding))


def of_block(memory, i):
    """(keys, values, visible or None): what block i reads of the source."""
    return memory["keys"][i], memory["values"][i], memory.get("visible")


class Seq2SeqLM(Seq2SeqModel):
    """Encoder and decoder with a head: logits (B, T, V) of the token that follows each of the target.

    Loss: cross-entropy with it; the decoder reads the labels `shift_right`.
    """

    Backbone = None
    generate, stream = generation.generate, generation.stream

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.Config, cls.presets, cls.inputs_taken = (
            getattr(cls.Backbone, n) for n in ("Config", "presets", "inputs_taken")
        )

    def make_layers(self):
        self.backbone = self.Backbone(**vars(self.config), name="backbone", is_part=True)
        self.head = self.make_head()

    def make_head(self):
        return layers.CausalLMHead(self.config.vocab_size, tied=True)

    def smallest_inputs(self):
        return self.backbone.smallest_inputs()

    @barely
    def call(self, inputs, training=None):
        return self.predict_next(self.backbone(inputs))

    def predict_next(self, hidden):
        """(B, T, D) → logits (B, T, V)."""
        return self.head(hidden, self.backbone.token_embedding.embeddings)

    def remember_source(self, inputs):
        """What the decoder reads of the source, made once: see `kerasnets.seq2seq`."""
        return self.backbone.remember_source(inputs)

    def processors(self):
        """What the config asks of a text that is generated: how it begins, and what is never in it."""
        settings = vars(self.config)
        first, never, not_first = (settings.get(name) for name in PROCESSORS)
        found = [] if first is None else [ForcedToken(first)]
        found += [SuppressTokens(tuple(never))] if never else []
        return found + ([SuppressTokens(tuple(not_first), 0, 0)] if not_first else [])

    def cache_spaces(self):
        """((N, H), (N, H)) of the keys and values that each block of the decoder remembers."""
        spaces = [(block.attention.num_heads, block.attention.head_size) for block in self.backbone.decoder_blocks]
        return [(space, space) for space in spaces]


def shift_right(labels, start, pad, ignored_label=-100):
    """What the decoder reads in order to say `labels`: start, then each label but the last.   (B, T) → (B, T).

    Labels that count for nothing are read as `pad`. NumPy arrays stay such.
    """
    xp = np if isinstance(labels, np.ndarray) else ops
    shifted = xp.concatenate([xp.full_like(labels[:, :1], start), labels[:, :-1]], axis=1)
    return xp.where(shifted == ignored_label, xp.full_like(shifted, pad), shifted)


# How files that come from fairseq, and those that follow them, name the tensors of a block.
def block_rows(part):
    """The rows of the blocks of a part, "encoder" or "decoder"; `{i}` is the block."""
    theirs, ours = f"{part}.layers.{{i}}", f"{part}_blocks.{{i}}"
    return [
        *attention_rows(f"{theirs}.self_attn", f"{ours}.attention"),
        *(attention_rows(f"{theirs}.encoder_attn", f"{ours}.cross_attention") if part == "decoder" else []),
        *linear_rows(f"{theirs}.fc1", f"{ours}.feedforward.wide"),
        *linear_rows(f"{theirs}.fc2", f"{ours}.feedforward.narrow"),
        *norm_rows(f"{theirs}.final_layer_norm", f"{ours}.feedforward_norm"),
    ]


def attention_rows(theirs, ours):
    pairs = [("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")]
    rows = [row for name, path in pairs for row in linear_rows(f"{theirs}.{name}", f"{ours}.{path}")]
    return rows + norm_rows(f"{theirs}_layer_norm", f"{ours}_norm")


def linear_rows(theirs, ours):
    return [(f"{theirs}.weight", f"{ours}.kernel", transposed), (f"{theirs}.bias", f"{ours}.bias")]


def norm_rows(theirs, ours):
    return [(f"{theirs}.weight", f"{ours}.gamma"), (f"{theirs}.bias", f"{ours}.beta")]
