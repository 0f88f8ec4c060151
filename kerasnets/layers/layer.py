"""What is the same in every layer: arguments, weights, configuration, the guard. Equations are in the files beside."""

import contextlib
import contextvars
import inspect
import math

import keras
from keras import activations, constraints, initializers, regularizers

from kerasnets import backend, guard
from kerasnets.layers.building import called_once
from kerasnets.layers.reading import bare_training, is_bare

# How an argument of this ending is read from a string, an object or a config, and written back.
KINDS = {
    "activation": activations,
    "initializer": initializers,
    "regularizer": regularizers,
    "constraint": constraints,
}

# Names in `locals()` that are no settings of ours: Python's, and what `keras.layers.Layer` keeps itself.
NOT_SETTINGS = {"self", "kwargs", "__class__", "name", "activity_regularizer"}

_recorder = contextvars.ContextVar("recorder", default=None)  # told of intermediates while `kn.trace` runs


def record(make, *names):
    """Within `kn.trace`: show it the intermediates {name: array} that `make()` gives; nothing is made otherwise.

    Where the names are told, nothing is made either unless the trace wants one of them.
    """
    recorder = _recorder.get()
    if recorder is not None:
        recorder(make, names)


@contextlib.contextmanager
def recording(recorder):
    """Within this, `record` tells `recorder(make, names)`."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


_blank = contextvars.ContextVar("blank", default=None)  # within `blank_weights`: how many numbers a weight may hold


@contextlib.contextmanager
def blank_weights(limit=math.inf):
    """Within this, layers begin with `Blank` weights, for a checkpoint's to take their place.

    A weight of more numbers than `limit` is refused before memory is asked for it.
    """
    token = _blank.set(limit)
    try:
        yield
    finally:
        _blank.reset(token)


class Blank:
    """An initializer that stands in a weight's `blank` for numbers to come: what `source()` gives, else anything.

    Within `keras.StatelessScope` Keras calls it on leaving, until when the weight has a shape and takes no memory.
    It keeps its `error`, since Keras would be left with half of its weights made.
    """

    source = error = None

    def __call__(self, shape, dtype=None):
        try:
            if self.source is None:
                return keras.ops.empty(shape, dtype)
            return backend.settled(keras.ops.cast(self.source(), dtype))
        except Exception as error:
            self.error = error
            return keras.ops.empty(shape, dtype)


def public(cls):
    """Make the class known to Keras's saving as `kerasnets>Name`."""
    return keras.saving.register_keras_serializable(package="kerasnets")(cls)


class Layer(keras.layers.Layer):
    """A `keras.layers.Layer` whose `__init__` arguments become attributes, config entries and weights' settings.

    A subclass lists its arguments in its signature, calls `self.set_arguments(locals())`, and makes each weight with
    `self.make_weight("kernel", shape)`, which finds `kernel_initializer`, `kernel_regularizer`, `kernel_constraint`.
    """

    _argument_names = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.asks_training = "training" in inspect.signature(cls.call).parameters

    def set_arguments(self, arguments):
        """Keep each argument of `__init__` as an attribute; strings become the functions they name."""
        names = [name for name in arguments if name not in NOT_SETTINGS]
        for name in names:
            kind = KINDS.get(name.rsplit("_", 1)[-1])
            setattr(self, name, kind.get(arguments[name]) if kind else arguments[name])
        self._argument_names = tuple(names)

    def make_weight(self, name, shape, **kwargs):
        settings = name if name == "kernel" else name.removesuffix("_kernel")  # recurrent_kernel: recurrent_initializer
        if math.prod(shape) > (_blank.get() or math.inf):
            raise ValueError(f"{self.name}'s {name} would be {shape}, more than all tensors hold")
        initializer = kwargs.pop("initializer", None) or getattr(self, f"{settings}_initializer", None)
        blank = None if _blank.get() is None else Blank()
        weight = self.add_weight(
            name=name,
            shape=shape,
            initializer=blank or initializer,
            regularizer=getattr(self, f"{settings}_regularizer", None),
            constraint=getattr(self, f"{settings}_constraint", None),
            **kwargs,
        )
        weight.blank = blank
        return weight

    def build(self, input_shape=None):
        """Nothing: layers within are built as `call` comes to them, and not by calling all once more, as in Keras."""

    def mark_built(self):
        """A layer without weights is built as soon as it is made, unless a subclass of it adds a `build`."""
        self.built = type(self).build is Layer.build

    def get_config(self):
        config = super().get_config()
        for name in self._argument_names:
            kind = KINDS.get(name.rsplit("_", 1)[-1])
            value = getattr(self, name)
            config[name] = kind.serialize(value) if kind else value
        if "activity_regularizer" in inspect.signature(type(self).__init__).parameters:
            config["activity_regularizer"] = regularizers.serialize(self.activity_regularizer)
        return config

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("dtype"), dict):  # of which Keras would keep the name alone, and not our policy
            config = {**config, "dtype": keras.dtype_policies.deserialize(config["dtype"])}
        return super().from_config(config)

    def __call__(self, *args, **kwargs):
        if is_bare(self):
            training = {"training": bare_training()} if self.asks_training else {}
            return self.call(*args, **training | kwargs)
        guard.check_not_empty(getattr(next(iter(args), None), "shape", ()), f"Layer {self.name!r}")
        return called_once(self, super().__call__, args, kwargs)


def anew(setting):
    """An initializer like the one given, with random numbers of its own; any other setting as it is."""
    return setting.clone() if isinstance(setting, initializers.Initializer) else setting


def positive_integer(name, value):
    """`value`, or one error that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"The argument `{name}` must be a positive integer. Received: {name}={value!r}")
    return value


def integers(name, value, count, minimum=1):
    """A tuple of `count` integers from one integer or from as many, or one error that names the argument."""
    try:
        values = (value,) * count if isinstance(value, int) else tuple(value)
        values = tuple(int(v) for v in values)
    except (TypeError, ValueError):
        values = ()
    if len(values) != count:
        raise ValueError(f"The `{name}` argument must be a tuple of {count} integers. Received {name}={value!r}")
    too_small = {v for v in values if v < minimum}
    if too_small:
        limit = "> 0" if minimum == 1 else f">= {minimum}"
        raise ValueError(
            f"The `{name}` argument must be a tuple of {count} integers. Received {name}={value!r}, "
            f"including values {too_small} that do not satisfy `value {limit}`"
        )
    return values


def one_of(name, value, choices):
    """`value` in lower case if it is one of `choices`, or one error that names them."""
    if str(value).lower() not in choices:
        raise ValueError(f"The `{name}` argument must be one of {sorted(choices)}. Received: {name}={value!r}")
    return str(value).lower()


def data_format_or_default(data_format):
    """Where the channels stand: "channels_last" (B, …, C) or "channels_first" (B, C, …); None is Keras's setting."""
    if data_format is None:
        return keras.config.image_data_format()
    return one_of("data_format", data_format, {"channels_last", "channels_first"})
