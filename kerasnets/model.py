"""The base class of every model: its config is one frozen dataclass, its presets are lines, its doors are guarded."""

import contextlib
import dataclasses

import keras
import numpy as np

from kerasnets import generation, guard, layers
from kerasnets.layers import masking
from kerasnets.layers.building import calling_one_of_each
from kerasnets.layers.layer import public
from kerasnets.layers.reading import barely


class Model(guard.Guarded, keras.Model):
    """A `keras.Model` described by the keyword fields of its nested frozen dataclass `Config`.

    `CNN(num_classes=10)` keeps `CNN.Config(num_classes=10)` as `model.config`. A subclass defines `Config`, makes its
    layers from `self.config` in `make_layers`, and writes `call`; the layers take the model's `dtype`. `compile`,
    `fit`, `summary`, `save("x.keras")` and `keras.models.load_model` work, and a file written on one backend loads on
    the others. A class with `presets`, {name: fields}, makes one with random weights by `from_preset(name)`.

    Raises `ValueError` for a field that `Config` does not have and for one that is missing, naming those it has.
    """

    presets = {}

    @dataclasses.dataclass(frozen=True)
    class Config:
        """A model without settings."""

    def __init__(self, *, name=None, dtype=None, trainable=True, **fields):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.config = self.make_config(fields)
        with layers_of(self.dtype_policy):
            self.make_layers()

    def make_config(self, fields):
        known = [field.name for field in dataclasses.fields(self.Config)]
        required = [field.name for field in dataclasses.fields(self.Config) if is_required(field)]
        unknown, missing = sorted(set(fields) - set(known)), [name for name in required if name not in fields]
        if unknown or missing:
            found = [f"{kind} {names}" for kind, names in (("unknown", unknown), ("missing", missing)) if names]
            raise ValueError(f"{type(self).__name__} takes the fields {known}; {' and '.join(found)}.")
        return self.Config(**{name: plain(value) for name, value in fields.items()})

    def make_layers(self):
        """Make the layers that `self.config` describes."""

    @classmethod
    def from_preset(cls, preset, **changes):
        """The model of a published size with random weights; `changes` are fields that differ from it."""
        if preset not in cls.presets:
            raise ValueError(f"{cls.__name__} has the presets {sorted(cls.presets)}; received {preset!r}.")
        return cls(**{**cls.presets[preset], **changes})

    def stateless_call(self, trainable_variables, non_trainable_variables, *args, return_losses=False, **kwargs):
        """As in Keras, but for one thing: the model is called, and so tells its layers whether it is being trained.

        Keras calls `call` here, which JAX's `fit` comes through, and no dropout that was not told would drop anything.
        """
        values = [*trainable_variables, *non_trainable_variables]
        mapping = list(zip([*self.trainable_variables, *self.non_trainable_variables], values, strict=True))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=return_losses) as scope:
            outputs = self(*args, **kwargs)
            losses = [self.losses] if return_losses else []
        return outputs, [scope.get_current_value(v) for v in self.non_trainable_variables], *losses

    def get_config(self):
        policy = self.dtype_policy
        dtype = policy.name if type(policy) is keras.DTypePolicy else keras.dtype_policies.serialize(policy)
        return {"name": self.name, "trainable": self.trainable, "dtype": dtype, **vars(self.config)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


class WholeModel(Model):
    """A model whose weights are made with it, so that they can be counted, set and loaded at once.

    For that it is called on its smallest inputs; not where it `is_part` of such a model, which calls it.
    """

    def __init__(self, *, is_part=False, **kwargs):
        super().__init__(**kwargs)
        if not is_part:
            with calling_one_of_each():
                self(self.smallest_inputs())

    def smallest_inputs(self):
        """{name: symbol in place of a batch}"""
        raise NotImplementedError(f"{type(self).__name__} must say on what its layers are to be built.")

    def build(self, input_shape=None):
        """Nothing is left to build."""

    def get_build_config(self):
        return None


class TextModel(WholeModel):
    """A model whose first input is `input_ids` (B, T): `model(ids)` or `model({"input_ids": ids, …})`.

    `inputs_taken` names all. Raises `ValueError` for an input that it does not take, and for one that is not (B, T).
    """

    inputs_taken = ("input_ids", "attention_mask", "position_ids", "token_type_ids")

    def smallest_inputs(self):
        return {"input_ids": keras.KerasTensor((1, 2), dtype="int32")}

    def unpack(self, inputs, *names):
        """The named arrays of `inputs`, None for those that did not come; an array alone is `input_ids`."""
        if not isinstance(inputs, dict):
            inputs = {"input_ids": inputs}
        unknown = sorted(set(inputs) - set(self.inputs_taken))
        if unknown or "input_ids" not in inputs:
            raise ValueError(
                f"{type(self).__name__} takes the inputs {list(self.inputs_taken)}, input_ids always; "
                f"received {sorted(inputs)}."
            )
        for name in ("attention_mask", "position_ids", "token_type_ids"):
            guard.check_alike(name, inputs.get(name), inputs["input_ids"], type(self).__name__)
        return [inputs.get(name) for name in names]


class Decoder(TextModel):
    """The door of a decoder-only backbone: ids → hidden states (B, T, D), each token seeing itself and those before it.

    A family writes `decode(input_ids, positions, visible, cache) → (hidden, cache)`, which generation calls too.
    `visible` (B, 1, T, S) says where a query may look; None says: wherever it is no later than itself.
    Positions count each row's real tokens, so that rows padded left or right give what they give alone.
    """

    @barely
    def call(self, inputs, training=None):
        input_ids, padding, positions = self.unpack(inputs, "input_ids", "attention_mask", "position_ids")
        visible = None
        if padding is not None:
            visible = masking.combined(masking.causal_mask(input_ids.shape[1]), masking.padding_mask(padding))
        if positions is None:
            positions = masking.positions_of(input_ids, padding)
        hidden, _ = self.decode(input_ids, positions, visible)
        return hidden


class CausalLM(TextModel):
    """A decoder with a head: logits (B, T, V) of the token that follows each token.   Loss: cross-entropy with it."""

    Backbone = None
    generate, stream = generation.generate, generation.stream

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.Config, cls.presets = cls.Backbone.Config, cls.Backbone.presets

    def make_layers(self):
        self.backbone = self.Backbone(**vars(self.config), name="backbone", is_part=True)
        self.head = self.make_head()

    def make_head(self):
        return layers.CausalLMHead(self.config.vocab_size, tied=self.config.tied)

    @barely
    def call(self, inputs, training=None):
        return self.predict_next(self.backbone(inputs))

    def predict_next(self, hidden):
        """(B, T, D) → logits (B, T, V)."""
        return self.head(hidden, self.backbone.token_embedding.embeddings)


@contextlib.contextmanager
def layers_of(policy):
    """Within this, layers take the dtype policy of their model: Keras's layers ask no model, only this setting."""
    outside = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(outside)


def is_required(field):
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def plain(value):
    """A config's value as it is read back from a file: NumPy's numbers become Python's, lists and arrays tuples."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    return tuple(plain(item) for item in value) if isinstance(value, (list, tuple)) else value


@public
class Sequential(guard.Guarded, keras.Sequential):
    """`keras.Sequential` whose `fit`, `evaluate` and `predict` refuse bad inputs in words (see `kerasnets.guard`)."""
