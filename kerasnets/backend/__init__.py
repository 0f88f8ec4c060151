"""The same few functions on each backend; the only package that may import one.

`from kerasnets import backend; backend.is_concrete(x)` is the active backend's function: `jax.py`, `tensorflow.py`
and `torch.py` beside this file each define every name in `FUNCTIONS`, and only the active one is ever imported.
"""

import importlib

FUNCTIONS = (
    "adam",
    "added",
    "after_way_back",
    "all_rows",
    "attention",
    "average_pool",
    "compiled",
    "compiles_each_shape",
    "convolution",
    "cross_entropy",
    "dense",
    "gelu",
    "int8_product",
    "is_concrete",
    "lay_out",
    "looped",
    "max_pool",
    "placed",
    "product",
    "recurrence",
    "recurrence_path",
    "rms_normalization",
    "stepped",
    "settled",
    "supports_jit_around_recurrence",
    "whole",
    "whole_gradient",
)


def __getattr__(name):
    if name not in FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import keras

    active = importlib.import_module(f"kerasnets.backend.{keras.config.backend()}")
    globals().update({function: getattr(active, function) for function in FUNCTIONS})
    return globals()[name]
