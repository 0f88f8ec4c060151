"""config.json read field by field: each is used, known to do nothing, or refused by name."""

import dataclasses
import json
import math
import typing

from kerasnets.layers.frequencies import inverse_frequencies

# Fields of every family that no output of ours depends on: what generates, trains, labels or prints.
# A family for which one of them does change something names it in its `expected`.
HARMLESS = (  # fmt: skip
    "_name_or_path",
    "architectures",
    "auto_map",
    "chunk_size_feed_forward",
    "dtype",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "unsloth_version",
    "use_cache",
    "_attn_implementation",
    "max_length",
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "num_beams",
    "early_stopping",
    "length_penalty",
    "min_length",
    "no_repeat_ngram_size",
    "repetition_penalty",
)
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
REQUIRED = object()
SLIDING, FULL = "sliding_attention", "full_attention"


class Fields:
    """The values of a config.json; everything wrong with them is collected and raised once, by `finish`."""

    def __init__(self, values, source, file="config.json"):
        self.values, self.source, self.file = values, source, file
        self.read = {*HARMLESS, *TOKENS}
        self.errors = []

    def read_all(self, config, names, choices):
        """{field: value} for each name of `names`, {in the file: in `config`}, that is there, by the field's type."""
        types = {field.name: field for field in dataclasses.fields(config)}
        found = {ours: self.typed(theirs, types[ours], choices.get(ours)) for theirs, ours in names.items()}
        found = {ours: value for ours, value in found.items() if value is not REQUIRED}
        return found | {name: value for name, value in self.tokens().items() if name in types}

    def read_more(self, read, config):
        """read(self, config), which may stumble over a value of which it is known by now that it is wrong."""
        try:
            return read(self, config)
        except Exception:
            self.complain()
            raise

    def typed(self, name, field, choices):
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        optional = type(None) in typing.get_args(field.type)
        kinds = {int: self.size, float: self.number, bool: self.flag, str: self.text}
        kind = next((k for k in typing.get_args(field.type) or (field.type,) if k in kinds), None)
        if name not in self.values:
            self.read.add(name)
            if is_required:
                self.errors.append(f"{name} is missing")
            return REQUIRED
        if self.values[name] is None:
            self.read.add(name)
            if not optional:
                self.errors.append(f"{name} is null")
            return None if optional else REQUIRED
        return self.text(name, choices) if choices else kinds[kind](name)

    def get(self, name, default=None):
        """The value as it stands, now read."""
        self.read.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def size(self, name, default=REQUIRED):
        """A positive integer."""
        return self.checked(name, default, "a positive integer", lambda v: isinstance(v, int) and v > 0)

    def number(self, name, default=REQUIRED):
        """A finite number that is not negative."""
        return self.checked(name, default, "a finite number, not negative", lambda v: math.isfinite(v) and v >= 0)

    def flag(self, name, default=REQUIRED):
        return self.checked(name, default, "true or false", lambda v: isinstance(v, bool), allow_bool=True)

    def text(self, name, choices=None, default=REQUIRED):
        if choices is None:
            return self.checked(name, default, "a string", lambda v: isinstance(v, str))
        wanted = f"one of {sorted(map(str, choices))}"
        return self.checked(name, default, wanted, lambda v: v in choices, allow_bool=True)

    def checked(self, name, default, expected, is_right, allow_bool=False):
        value = self.get(name, default)
        if value is REQUIRED:
            self.errors.append(f"{name} is missing")
            return None
        try:
            right = is_right(value) and (allow_bool or not isinstance(value, bool))
        except (TypeError, OverflowError):
            right = False
        if not right:
            self.errors.append(f"{name} must be {expected}; it is {value!r}")
        return value

    def tokens(self):
        """The ids of `TOKENS`: one each, for eos one or several, -1 being none; those not in the file stay unset."""
        found = {name: self.values.get(name) for name in TOKENS if name in self.values}
        for name, value in found.items():
            several = name == "eos_token_id" and isinstance(value, list)
            ids = value if several else [] if value is None else [value]
            if not all(isinstance(i, int) and not isinstance(i, bool) and i >= -1 for i in ids):
                self.errors.append(f"{name} must be a token id; it is {value!r}")
                ids = []
            ids = tuple(i for i in ids if i != -1)
            found[name] = ids if name == "eos_token_id" else ids[0] if ids else None
        return found

    def rotary(self, max_length, partial=1.0):
        """{"rope_theta", "rope_scaling", "partial_rotary_factor"}, as transformers 4 and 5 spell them.

        partial: the share of the channels that turn where the file does not say it.
        """
        older, newer = self.get("rope_scaling"), self.get("rope_parameters")
        given = older or newer or {}
        if not isinstance(given, dict):
            self.refuse(f"rope_scaling must be a dict; it is {given!r}")
            given = {}
        given = {name: value for name, value in given.items() if value is not None}
        theta = given.pop("rope_theta", self.number("rope_theta", 10000.0))
        partial = given.pop("partial_rotary_factor", self.number("partial_rotary_factor", partial))
        kind = given.pop("type", "default")
        kind = given.pop("rope_type", kind)
        original = self.get("original_max_position_embeddings", given.get("original_max_position_embeddings"))
        if kind in ("llama3", "yarn"):
            given["original_max_position_embeddings"] = original or max_length
        if kind == "default" and given:
            self.refuse(f"rope_type 'default' knows nothing of {sorted(given)}")
        scaling = None if kind == "default" else {"rope_type": kind, **given}
        try:
            inverse_frequencies(2, theta, scaling)
        except (ArithmeticError, TypeError, ValueError) as error:
            self.refuse(f"rope_theta {theta!r} or rope_scaling: {error}")
        return {"rope_theta": theta, "rope_scaling": scaling, "partial_rotary_factor": partial}

    def window(self, depth):
        """(window, blocks that have it) of `depth` blocks: transformers 5 lists their kinds, 4 counts those without."""
        has_window, window = self.flag("use_sliding_window", False), self.size("sliding_window", 4096)
        first = self.checked("max_window_layers", 28, "a number of blocks", lambda v: isinstance(v, int) and v >= 0)
        kinds = self.get("layer_types")
        if kinds is None:
            kinds = [SLIDING if has_window and i >= first else FULL for i in range(depth)]
        if not isinstance(kinds, list) or len(kinds) != depth or not set(map(str, kinds)) <= {SLIDING, FULL}:
            self.refuse(f"layer_types must be a list of {depth}, each {FULL!r} or {SLIDING!r}; it is {kinds!r}")
        elif SLIDING in kinds and not has_window:
            self.refuse(f"layer_types has {SLIDING!r} while use_sliding_window is false")
        blocks = tuple(i for i, kind in enumerate(kinds) if kind == SLIDING)
        return (window if blocks else None), blocks

    def expect(self, expected):
        """Fields {name: values} of which only these values are done here; a field that is not there is fine."""
        for name, allowed in expected.items():
            value = self.get(name, allowed[0])
            if not any(value is a or value == a and type(value) is type(a) for a in allowed):
                self.errors.append(f"{name} is {value!r}, and only {' or '.join(map(repr, allowed))} is done here")

    def divide(self, config, found):
        """Sizes that must divide each other: heads share the width, and groups of heads their keys and values."""
        sizes = {field.name: field.default for field in dataclasses.fields(config)} | found
        pairs = [("num_heads", "num_kv_heads")] + [("hidden_size", "num_heads")] * (sizes.get("head_size") is None)
        for whole, part in pairs:
            n, d = sizes.get(whole), sizes.get(part)
            if type(n) is type(d) is int and n > 0 and d > 0 and n % d:
                self.errors.append(f"{whole} {n} is not a multiple of {part} {d}")

    def skip(self, names):
        self.read.update(names)

    def refuse(self, message):
        self.errors.append(message)

    def finish(self):
        """Raise if anything was wrong, or a field is left that nobody has read."""
        left = sorted(name for name, value in self.values.items() if name not in self.read and value is not None)
        self.errors += [f"{name} ({self.values[name]!r}) is not known here, so it cannot be ignored" for name in left]
        self.complain()

    def complain(self):
        """Raise if anything was wrong so far."""
        refuse(f"{self.source}: {self.file} cannot be followed exactly", self.errors)


def told_by_tensors(default):
    """A field of a `Config` that no config.json has a place for: which tensors are there says it."""
    return dataclasses.field(default=default, metadata={"told_by_tensors": True})


def refuse(subject, problems):
    """Raise one `ValueError` that lists all problems, if there are any."""
    if problems:
        more = [f"… and {len(problems) - 40} more"] if len(problems) > 40 else []
        raise ValueError(f"{subject}:\n  " + "\n  ".join([*problems[:40], *more]))


def kept(config, values, read):
    """`values`, if `read` makes the same `config` of them again, dropout aside; raises for what they do not say."""
    again = read(json.loads(json.dumps(values)), "to_pretrained")
    fields = [field for field in dataclasses.fields(config) if "dropout" not in field.name]
    fields = [field for field in fields if "told_by_tensors" not in field.metadata]
    lost = [field.name for field in fields if again.get(field.name, field.default) != getattr(config, field.name)]
    lost = [f"{name}={getattr(config, name)!r}" for name in lost]
    refuse("to_pretrained: the config.json of this family has no place for", lost)
    return values


def window_fields(window, blocks, depth):
    """What `Fields.window` reads, as transformers 5 writes it."""
    kinds = [SLIDING if i in blocks else FULL for i in range(depth)]
    return {"layer_types": kinds, "use_sliding_window": SLIDING in kinds, "sliding_window": window}
