"""The base class of every model: its config is one frozen dataclass, and its doors are guarded."""

import dataclasses

import keras
import numpy as np

from kerasnets import guard


class Model(guard.Guarded, keras.Model):
    """A `keras.Model` described by the keyword fields of its nested frozen dataclass `Config`.

    `CNN(num_classes=10)` keeps `CNN.Config(num_classes=10)` as `model.config`. A subclass defines `Config`, makes its
    layers from `self.config` in `make_layers`, and writes `call`; the layers take the model's `dtype`. `compile`,
    `fit`, `summary`, `save("x.keras")` and `keras.models.load_model` work, and a file written on one backend loads on
    the others.

    Raises `ValueError` for a field that `Config` does not have and for one that is missing, naming those it has.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """A model without settings."""

    def __init__(self, *, name=None, dtype=None, trainable=True, **fields):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.config = self.make_config(fields)
        outside = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype_policy)  # Keras's layers ask no model, only this setting
        try:
            self.make_layers()
        finally:
            keras.config.set_dtype_policy(outside)

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

    def get_config(self):
        fields = {field.name: getattr(self.config, field.name) for field in dataclasses.fields(self.Config)}
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy.name, **fields}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


def is_required(field):
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def plain(value):
    """A config's value as it is read back from a file: NumPy's numbers become Python's, lists and arrays tuples."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    return tuple(plain(item) for item in value) if isinstance(value, (list, tuple)) else value


class Sequential(guard.Guarded, keras.Sequential):
    """`keras.Sequential` whose `fit`, `evaluate` and `predict` refuse bad inputs in words (see `kerasnets.guard`)."""
