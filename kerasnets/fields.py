"""config.json read field by field: each is used, known to do nothing, or refused by name."""

import dataclasses
import math
import typing

# Fields of every family that no output of ours depends on: what generates, trains, labels or prints.
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
    "repetition_penalty",
)
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
REQUIRED = object()


class Fields:
    """The values of a config.json; everything wrong with them is collected and raised once, by `finish`."""

    def __init__(self, values, source="config.json"):
        self.values, self.source = values, source
        self.read = {*HARMLESS, *TOKENS}
        self.errors = []

    def read_all(self, config, names, choices):
        """{field: value} for each name of `names`, {in the file: in `config`}, that is there, by the field's type."""
        types = {field.name: field for field in dataclasses.fields(config)}
        found = {ours: self.typed(theirs, types[ours], choices.get(ours)) for theirs, ours in names.items()}
        found = {ours: value for ours, value in found.items() if value is not REQUIRED}
        return found | {name: value for name, value in self.tokens().items() if name in types}

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
        except TypeError:
            right = False
        if not right:
            self.errors.append(f"{name} must be {expected}; it is {value!r}")
        return value

    def tokens(self):
        """bos, eos, pad: each an id, for eos one or several; those that the file does not name stay unset."""
        found = {name: self.values.get(name) for name in TOKENS if name in self.values}
        for name, value in found.items():
            ids = value if isinstance(value, list) else [value]
            if value is not None and not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
                self.errors.append(f"{name} must be a token id; it is {value!r}")
        if "eos_token_id" in found:
            eos = found["eos_token_id"]
            found["eos_token_id"] = () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
        return found

    def expect(self, expected):
        """Fields {name: values} of which only these values are done here; a field that is not there is fine."""
        for name, allowed in expected.items():
            value = self.get(name, allowed[0])
            if not any(value is a or value == a and type(value) is type(a) for a in allowed):
                self.errors.append(f"{name} is {value!r}, and only {' or '.join(map(repr, allowed))} is done here")

    def skip(self, names):
        self.read.update(names)

    def refuse(self, message):
        self.errors.append(message)

    def finish(self):
        """Raise if anything was wrong, or a field is left that nobody has read."""
        left = sorted(name for name, value in self.values.items() if name not in self.read and value is not None)
        self.errors += [f"{name} ({self.values[name]!r}) is not known here, so it cannot be ignored" for name in left]
        if self.errors:
            raise ValueError(f"{self.source}: config.json cannot be followed exactly:\n  " + "\n  ".join(self.errors))
