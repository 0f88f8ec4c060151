"""`kn.trace`: every named intermediate of one forward pass, on every backend.

    trace = kn.trace(model, batch)                              print(trace)
    trace["backbone.blocks.0.attention.probabilities"]          trace.matching("*.probabilities")

- A layer's output stands under the path that leads to it, attribute names and list indices; in a functional or
  Sequential model a layer's own name leads to it. What goes into it is `<path>.input`: of a norm, the residual stream.
- What layers `record` stands beside: attention's q, k, v, scores, probabilities; a recurrent layer's gates and states
  at each step, in the order in which it reads. They are computed again beside the normal pass, which stays as it is.
- Of several outputs the first has the name alone, the others `.1`, `.2`; a second call of a layer is `<path>#2`.
"""

import collections
import contextlib
import difflib
import fnmatch
import functools
import threading

import keras
import numpy as np
from keras import ops, tree
from keras.src.backend.common.symbolic_scope import in_symbolic_scope  # Keras is only finding out shapes

from kerasnets import backend
from kerasnets.layers.layer import recording
from kerasnets.layers.reading import calling_fully

_lock = threading.RLock()  # one trace at a time changes `keras.layers.Layer.__call__` and puts it back


def trace(model, inputs, only=None):
    """One pass `model(inputs)` and all that was computed on its way, as a `Trace`.

    model: any Keras model or layer. only: a glob or several; what none of them names is not kept, and what would have
    to be computed for it alone is not computed.

    Raises `ValueError` for something that is no Keras layer, and for a glob that names nothing.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"kn.trace takes a Keras model or layer; received {type(model).__name__}.")
    tracer = Tracer(model, [only] if isinstance(only, str) else only)
    with intercepted(tracer), recording(tracer.record), calling_fully():
        outputs = model(inputs)
    tracer.check_globs()
    outputs = tree.map_structure(lambda x: to_numpy(x) if is_array(x) else x, outputs)
    return Trace(tracer.arrays, outputs, type(model).__name__)


class Trace(collections.abc.Mapping):
    """The intermediates of one pass: a mapping from names to NumPy arrays, bfloat16 as float32, in order of computing.

    `output` is what the model returned, with NumPy arrays.
    """

    def __init__(self, arrays, output, title):
        self.arrays, self.output, self.title = dict(arrays), output, title

    def __getitem__(self, name):
        if name not in self.arrays:
            close = similar(name, self.arrays)
            hint = f"close to it: {', '.join(close)}" if close else "print(trace) shows all names"
            raise KeyError(f"{name!r} is not in this trace; {hint}")
        return self.arrays[name]

    def __iter__(self):
        return iter(self.arrays)

    def __len__(self):
        return len(self.arrays)

    def matching(self, glob):
        """{name: array} of the names that fit, such as "*.attention.probabilities"; * stands for dots too."""
        return {name: array for name, array in self.arrays.items() if fnmatch.fnmatchcase(name, glob)}

    def __repr__(self):
        return f"<Trace of {self.title}: {len(self)} arrays>"

    def __str__(self):
        """A table; inputs that are another layer's output, and stand there already, are left out."""
        shown, rows = set(), [("name", "shape", "mean", "std", "min", "max", "NaN")]
        for name, array in self.arrays.items():
            if id(array) not in shown or not is_input(name):
                rows.append((name, "×".join(map(str, array.shape)) or "scalar", *statistics(array)))
            shown.add(id(array))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        aligned = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
        return "\n".join([f"Trace of {self.title}", *map("  ".join, aligned)])


def is_input(name):
    return "input" in name.split(".")


def statistics(array):
    """Mean, standard deviation, smallest and largest value of those that are numbers, and how many are not."""
    values = array.astype("float64").ravel()
    missing = np.isnan(values)
    values = values[~missing]
    if values.size == 0:
        return ("-", "-", "-", "-", str(missing.sum()))
    with np.errstate(invalid="ignore", over="ignore"):
        found = values.mean(), values.std(), values.min(), values.max()
    return (*(f"{number:.4g}" for number in found), str(missing.sum()))


def similar(name, names):
    """The three names nearest to `name`, as a whole or in what stands after the last dot."""

    def nearness(other):
        pairs = (name, other), (name.rsplit(".", 1)[-1], other.rsplit(".", 1)[-1])
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return [other for other in sorted(dict.fromkeys(names), key=nearness, reverse=True)[:3] if nearness(other) > 0.5]


class Tracer:
    """Follows one pass: knows the layers that are being called, names what it sees and keeps what is wanted."""

    def __init__(self, model, globs):
        self.model, self.globs = model, globs
        self.thread = threading.get_ident()
        self.calls = []  # (layer, name of this call), outermost first
        self.counts = collections.Counter()
        self.arrays, self.names, self.copies, self.places = {}, [], {}, {}

    def call(self, original, layer, args, kwargs):
        """The call as it would be, and a look at what goes in and what comes out."""
        if self.is_hidden(args, kwargs):
            return original(layer, *args, **kwargs)
        name = self.numbered(self.path_of(layer))
        self.keep(joined(name, "input"), args[0] if args else next(iter(kwargs.values()), None))
        self.calls.append((layer, name))
        try:
            outputs = original(layer, *args, **kwargs)
        finally:
            self.calls.pop()
        self.keep(name or "output", outputs)
        return outputs

    def record(self, make, names):
        """What a layer shows of itself while it is called; made if something of it may be wanted."""
        if in_symbolic_scope() or not self.calls:
            return
        path = self.calls[-1][1]
        self.names += [joined(path, name) for name in names]
        if names and not any(self.wants(joined(path, name)) for name in names):
            return
        for name, array in make().items():
            self.keep(self.numbered(joined(path, name)), array)

    def is_hidden(self, args, kwargs):
        """Another thread calls; a recurrent layer calls its cell, whose steps `unrolled` shows; nothing is computed."""
        in_loop = bool(self.calls) and isinstance(self.calls[-1][0], keras.layers.RNN)
        symbols = (isinstance(x, keras.KerasTensor) for x in tree.flatten((args, kwargs)))
        return threading.get_ident() != self.thread or in_loop or in_symbolic_scope() or any(symbols)

    def path_of(self, layer):
        """The name of the call of `layer` that begins: its path from the layer whose call this one is a part of."""
        if not self.calls:
            return "" if layer is self.model else layer.name
        caller, name = self.calls[-1]
        place = self.places_in(caller).get(id(layer))
        if place is None and id(layer) in self.places_in(self.model):
            return self.places_in(self.model)[id(layer)]
        return joined(name, place or layer.name)

    def places_in(self, layer):
        if id(layer) not in self.places:
            self.places[id(layer)] = paths(layer)
        return self.places[id(layer)]

    def numbered(self, name):
        self.counts[name] += 1
        return name if self.counts[name] == 1 else f"{name}#{self.counts[name]}"

    def wants(self, name):
        return self.globs is None or any(fnmatch.fnmatchcase(name, glob) for glob in self.globs)

    def keep(self, name, outputs):
        for path, array in tree.flatten_with_path(outputs):
            name_here = name if path == (0,) else joined(name, *map(str, path))
            if is_array(array):
                self.names.append(name_here)
                if self.wants(name_here):
                    self.arrays[name_here] = self.copy_of(array)

    def copy_of(self, array):
        """A NumPy copy, since a layer may write into its input; one for all names of an array that did not change."""
        _, copy = self.copies.get(id(array), (None, None))
        now = to_numpy(array)
        if copy is None or not np.array_equal(copy, now, equal_nan=True):
            copy = np.array(now)
            self.copies[id(array)] = (array, copy)  # the array lives on, so that no other gets its id
        return copy

    def check_globs(self):
        for glob in self.globs or ():
            if not fnmatch.filter(self.names, glob):
                close = ", ".join(similar(glob.strip("*."), self.names)) or "nothing"
                raise ValueError(f"only={glob!r} names nothing in this pass; close to it: {close}.")


def joined(*parts):
    return ".".join(part for part in parts if part)


def is_array(x):
    """A dense array of numbers whose values can be looked at."""
    try:
        dtype = keras.backend.standardize_dtype(x.dtype)
    except (AttributeError, ValueError):
        return False
    return dtype != "string" and (isinstance(x, np.ndarray) or backend.is_concrete(x))


def to_numpy(x):
    is_half = keras.backend.standardize_dtype(x.dtype).startswith(("bfloat16", "float8"))
    return ops.convert_to_numpy(ops.cast(x, "float32") if is_half else x)


def paths(layer):
    """{id of a layer: the shortest path to it} of all that are reached from `layer`."""
    found, waiting = {}, collections.deque([("", layer)])
    while waiting:
        path, parent = waiting.popleft()
        for name, child in children(parent):
            if id(child) not in found and child is not layer:
                found[id(child)] = joined(path, name)
                waiting.append((found[id(child)], child))
    return found


def children(layer):
    """(name, layer) of those that a layer holds: by attribute and index, else by the name that Keras knows it by."""
    attributes = {**vars(layer), **vars(layer).get("_modules", {})}  # torch keeps modules apart
    for name, value in attributes.items():
        if not name.startswith("_"):
            yield from ((joined(name, path), child) for path, child in layers_in(value))
    yield from ((child.name, child) for child in layer._flatten_layers(include_self=False, recursive=False))


def layers_in(value):
    """(path, layer) of the layers in an attribute: itself, or those in lists, tuples and dictionaries."""
    if isinstance(value, keras.layers.Layer):
        yield "", value
    elif isinstance(value, (list, tuple, dict)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from ((joined(str(key), path), layer) for path, layer in layers_in(item))


@contextlib.contextmanager
def intercepted(tracer):
    """Within this, each call of a layer goes through the tracer; then all is as it was, whatever happened."""
    with _lock:
        original = keras.layers.Layer.__call__

        @functools.wraps(original)
        def call(layer, *args, **kwargs):
            return tracer.call(original, layer, args, kwargs)

        keras.layers.Layer.__call__ = call
        try:
            yield
        finally:
            keras.layers.Layer.__call__ = original
