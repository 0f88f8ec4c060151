"""The beginners' guard: wrong values are refused in words, not as NaN, a wrapped index or a graph node's name.

Layers look at values in eager calls, where they can be seen, and at shapes; `fit`, `evaluate` and `predict` of
`kn.Model`, `kn.Sequential` and any Keras model given to `kn.guarded` look at their arrays once, at the door. Nothing is
added to a compiled step. Datasets and generators pass the door unseen.
`kn.set_guard(False)` or the environment variable `KERASNETS_GUARD=0` turns the guard off.
"""

import contextlib
import contextvars
import functools
import inspect
import itertools
import math
import os
import weakref

import keras
import numpy as np
from keras import ops, tree

from kerasnets import backend

DOORS = ("fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch")

_enabled = os.environ.get("KERASNETS_GUARD", "1") != "0"
_note = contextvars.ContextVar("note", default=None)  # told of ids in place of a check, while the door tries a model
_embedded = weakref.WeakKeyDictionary()  # model → {shapes and dtypes of its inputs: what `embedded_inputs` found}


def set_guard(enabled):
    """Turn the guard on or off for this process; returns the previous setting."""
    global _enabled
    previous, _enabled = _enabled, bool(enabled)
    return previous


def guard_enabled():
    return _enabled


def looks_at(array):
    """Whether the values of `array` are to be checked: they can be seen, and are not what the door tries a model on."""
    return _enabled and backend.is_concrete(array) and _note.get() is None


def check_token_ids(ids, vocab_size, where):
    """Raise if an id lies outside [0, vocab_size); symbolic, traced and sparse ids pass unseen."""
    if not (_enabled and backend.is_concrete(ids)):
        return
    note = _note.get()
    if note is None:
        check_values(ops.convert_to_numpy(ids), vocab_size, where)
    else:
        note(ids, vocab_size)


def check_values(ids, vocab_size, where):
    """The same for a NumPy array; ids given as floats count without their fraction, as Keras casts them."""
    if ids.size == 0 or (ids.min() > -1 and ids.max() < vocab_size):
        return
    position = tuple(int(i) for i in np.argwhere(~((ids > -1) & (ids < vocab_size)))[0])
    raise ValueError(
        f"{where}: token ids must lie in [0, {vocab_size}), but the id at position {position} is {ids[position]}. "
        "kerasnets.set_guard(False) turns this check off."
    )


def check_not_empty(shape, where):
    """Raise if the batch holds no sample."""
    if _enabled and shape[:1] == (0,):
        raise ValueError(f"{where}: the batch is empty: received shape {tuple(shape)}, expected at least one sample.")


def check_mask(mask, shape, where):
    """Raise if a padding mask is not (B, T) for inputs of `shape` (B, T, …)."""
    if not _enabled or mask is None:
        return
    expected, received = tuple(shape[:2]), tuple(mask.shape)
    if len(received) != 2 or any(None not in (e, r) and e != r for e, r in zip(expected, received, strict=True)):
        raise ValueError(
            f"{where}: `mask` must have shape (batch, time) = {expected} to fit inputs of shape {tuple(shape)}, "
            f"but it has shape {received}."
        )


def check_alike(name, array, input_ids, where):
    """Raise if an input that says something of each token is not (B, T) as the ids are."""
    if not _enabled or array is None:
        return
    expected, received = tuple(input_ids.shape), tuple(array.shape)
    if len(received) != len(expected) or any(
        None not in (e, r) and e != r for e, r in zip(expected, received, strict=True)
    ):
        raise ValueError(f"{where}: `{name}` must have the shape of `input_ids`, {expected}; it has {received}.")


def check_inputs(model, inputs, batch_size=None):
    """The door: raise if arrays do not fit the model's layers, are empty, or hold ids outside a vocabulary."""
    if not _enabled:
        return
    named = [("x" + "".join(f"[{key!r}]" for key in path), array) for path, array in tree.flatten_with_path(inputs)]
    if not all(hasattr(array, "shape") for _, array in named):
        return
    for name, array in named:
        check_not_empty(tuple(array.shape), f"{model.name}: {name}")
    arrays = [array if hasattr(array, "dtype") else np.asarray(array) for _, array in named]
    if not all(symbolic_dtype(array) for array in arrays):
        return
    for index, vocab_size in embedded_inputs(model, inputs, arrays, batch_size):
        ids = arrays[index]
        ids = ops.convert_to_numpy(ids) if backend.is_concrete(ids) else np.asarray(ids)
        if ids.dtype.kind in "iuf":  # not the objects that NumPy makes of ragged and sparse arrays
            check_values(ids, vocab_size, f"{model.name}: {named[index][0]}")


def symbolic_dtype(array):
    """The dtype in which an array of numbers reaches a model; None where it holds no numbers."""
    try:
        dtype = keras.backend.standardize_dtype(array.dtype)
    except ValueError:
        return None
    if "float" in dtype:
        return keras.config.floatx()
    return dtype if "int" in dtype or dtype == "bool" else None


def embedded_inputs(model, inputs, arrays, batch_size):
    """(index, vocabulary size) of each array that an `Embedding` of ours reads as it is; tried out once per shape."""
    known = _embedded.setdefault(model, {})
    key = tuple((tuple(array.shape[1:]), str(array.dtype)) for array in arrays)
    if key not in known:
        rows = arrays[0].shape[0]
        rows = min(batch_size or rows, rows)
        try_on_symbols(model, inputs, arrays, rows)
        known[key] = Bits(model).arriving(inputs, arrays, rows)
    return known[key]


def try_on_symbols(model, inputs, arrays, rows):
    """Build the model as `fit` would do, and let a layer that these shapes do not fit say so; nothing is computed."""
    symbols = [keras.KerasTensor((rows, *array.shape[1:]), symbolic_dtype(array)) for array in arrays]
    try:
        with noted_by(lambda ids, vocab_size: None):
            Trial(model, inputs).compute_output_spec(*symbols)
    except ValueError:
        raise
    except Exception:  # a model that needs values, or has a mistake of its own: its training will tell
        return


class Trial(keras.Operation):
    """A model's call as a function of flat inputs."""

    def __init__(self, model, inputs):
        super().__init__()
        self.model, self.inputs = model, inputs

    def call(self, *arrays):
        return self.model(tree.pack_sequence_as(self.inputs, arrays))


@contextlib.contextmanager
def noted_by(note):
    token = _note.set(note)
    try:
        yield
    finally:
        _note.reset(token)


class Bits:
    """Finds the token ids among a model's inputs: random bits go in, and those that arrive at an embedding are ids.

    The call is eager, is dropped at the last embedding, and leaves no trace: states that it changes are thrown away.
    """

    def __init__(self, model):
        self.model, self.arrived = model, []
        self.embeddings = [layer for layer in model._flatten_layers() if getattr(layer, "reads_token_ids", False)]

    def arriving(self, inputs, arrays, rows):
        """(index, vocabulary size) of each input that arrives."""
        bits = []
        # EveryEmbeddingSeen, or the model's own error, which its training will tell better.
        with contextlib.suppress(Exception), keras.StatelessScope(), noted_by(self.note):
            if self.embeddings:
                random = np.random.default_rng(0)
                if rows * min(math.prod(array.shape[1:]) for array in arrays) < 8:
                    rows = 32  # so few bits could be the same in two inputs by chance
                bits = [random.integers(0, 2, (rows, *a.shape[1:])).astype(symbolic_dtype(a)) for a in arrays]
                self.calls_expected = max(len(self.embeddings), len(bits))
                self.model(tree.pack_sequence_as(inputs, bits))
        pairs = itertools.product(enumerate(bits), self.arrived)
        return sorted({(i, size) for (i, sent), (ids, size) in pairs if np.array_equal(sent, ids)})

    def note(self, ids, vocab_size):
        self.arrived.append((ops.convert_to_numpy(ids), vocab_size))
        if len(self.arrived) >= self.calls_expected:
            raise EveryEmbeddingSeen


class EveryEmbeddingSeen(Exception):
    """What follows the embeddings need not run."""


def check_trainable(model):
    """Raise for a layer whose weights are rounded: small steps would leave them where they are."""
    for layer in model._flatten_layers():
        if not getattr(layer.dtype_policy, "can_be_trained", True):
            raise ValueError(
                f"{layer.name!r} has its weights in 8 bits, which cannot be trained: train, then quantize."
            )


def at_the_door(method):
    """A model's `method` that looks at `x`, and at `validation_data`, before it begins."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        if method.__name__ in ("fit", "train_on_batch"):
            check_trainable(given["self"])
        batch_size = None if "on_batch" in method.__name__ else given.get("batch_size") or 32
        check_inputs(given["self"], given.get("x"), batch_size)
        if isinstance(given.get("validation_data"), (tuple, list)):
            check_inputs(given["self"], given["validation_data"][0], batch_size)
        return method(*args, **kwargs)

    return checked


class Guarded:
    """Mix-in for a `keras.Model` whose `fit`, `evaluate`, `predict` and batch methods look at their inputs first."""

    fit, evaluate, predict, train_on_batch, test_on_batch, predict_on_batch = (
        at_the_door(getattr(keras.Model, name)) for name in DOORS
    )


def guarded(model):
    """Give any Keras model that holds our layers the guard at its door; returns the same model."""
    for name in DOORS:
        setattr(model, name, functools.partial(at_the_door(getattr(type(model), name)), model))
    return model
