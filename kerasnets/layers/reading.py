"""Calling a model's layers barely: their `call` and no more, where what Keras does around it has no effect.

For each layer that is called, Keras converts, casts and looks at all arguments, which takes 0.1 to 0.2 ms. A compiled
step pays that once; an eager one of 85 layers waits 9 ms each time. A layer is called barely where it is built and has
the dtypes of the whole model, so that nothing needs casting, neither its weights nor what comes from another layer.
"""

import contextlib
import contextvars
import functools

import keras
import numpy as np

from kerasnets import backend, guard

NO_POLICY = ""  # no layer has it

_bare = contextvars.ContextVar("bare", default=None)  # (the name of the model's dtype policy, whether it is trained)


def is_bare(layer):
    """Whether `layer` is to be called barely: within `reading_with` or a `barely` call, of a model of its dtypes."""
    bare = _bare.get()
    if bare is None or not layer.built or layer.activity_regularizer is not None:
        return False
    return layer.dtype_policy.name == bare[0]


def bare_training():
    """The `training` of the model that is being called barely."""
    return _bare.get()[1]


@contextlib.contextmanager
def within(policy, training=False):
    token = _bare.set((policy, training))
    try:
        yield
    finally:
        _bare.reset(token)


def calling_fully():
    """Within this, no layer is called barely."""
    return within(NO_POLICY)


def barely(call):
    """A model's `call`, within which its layers are called barely where the values are at hand: not in a graph."""

    @functools.wraps(call)
    def bare_call(self, inputs, training=None):
        first = next(iter(inputs.values())) if isinstance(inputs, dict) and inputs else inputs
        if _bare.get() is not None or not (isinstance(first, np.ndarray) or backend.is_concrete(first)):
            return call(self, inputs, training)
        guard.check_not_empty(tuple(first.shape), self.name)
        with within(policy_of(self), training):
            return call(self, inputs, training)

    return bare_call


def policy_of(model):
    """The name of the policy of layers that cast nothing."""
    policy = model.dtype_policy
    return policy.name if policy.compute_dtype == policy.variable_dtype else NO_POLICY


@contextlib.contextmanager
def reading_with(values, variables, model):
    """Within this, the `variables` of a model have these values, tensors of their own dtype; nothing is trained.

    A scope that is given its values looks at them anew each time, which takes 2 ms for 100 of them.
    """
    scope = keras.StatelessScope()
    for variable, value in zip(variables, values, strict=True):
        scope.add_update((variable, value))
    with within(policy_of(model)), scope:
        yield
