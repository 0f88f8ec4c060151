"""Products with weights in 8 bits by PyTorch on a processor, in whole numbers all the way.

64 + 63 x / r = d₀ + d₁ / 128 + d₂ / 128² + d₃ / 128³, r the largest |x| of its row: four digits from 0 to 127, more
bits than a float32 has. A row of x becomes four rows of digits, which FBGEMM multiplies by Q and adds up in 32 bits,
and it reads Q at the speed of the memory. What it asks for:

- Q is packed for it once, as long as it stays what it is, which takes as much memory again.
- It finds out by itself which floats its 8 bits shall stand for, from the smallest and the largest one. A last row,
  whose result counts nothing, holds 0 and 255: so each digit stands for itself.
- Digits have 7 bits, since processors without VNNI add pairs of products up in 16.
"""

import functools
import warnings

import torch

FLOAT_ROWS = 64  # so many are multiplied in floats: products of many rows wait for the processor, not the memory
DIGITS, BASE, MIDDLE = 4, 128.0, 64
ROUNDING = BASE ** (1 - DIGITS) / 2  # half of the last digit
aten = torch.ops.aten

# Each of these is one call to `make_fx`; `inline` says what the first is made of.
library = torch.library.Library("kerasnets", "FRAGMENT")
library.define("int8_product(Tensor x, Tensor values, Tensor scale, Tensor twice) -> Tensor")
library.define("packed(Tensor values) -> (Tensor, Tensor)")
library.define(
    "multiply(Tensor x, Tensor weight, Tensor packed, Tensor sums, Scalar scale, Scalar zero, Tensor bias) -> Tensor"
)


def is_there():
    """Whether this PyTorch has the kernel: it is said to go one day, and other processors' builds may lack it."""
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(torch, "fbgemm_pack_quantized_matrix")


def product(x, values, scale, twice):
    """x ((Q + Q₂ / 254) s)ᵀ, Q₂ of the inputs `twice`.   (B, D), (F, D + k) int8, (F,), (k,) → (B, F)."""
    (rows, inputs), outputs = x.shape, values.shape[0]
    digits, worth = digits_of(x)
    columns = torch.cat([torch.arange(inputs), inputs + twice.long()])
    packed, sums = torch.ops.kerasnets.packed(values)
    bias = sums * (-MIDDLE / sum(BASE**-i for i in range(DIGITS)))  # of each row of digits: together −64 Σ Q
    weight = scale.new_empty(()).expand(outputs, values.shape[1])  # asked for its shape alone, now that Q is packed
    y = torch.ops.kerasnets.multiply(digits.index_select(1, columns), weight, packed, sums, 1.0, 0, bias)
    return (y.view(DIGITS + 1, rows, outputs) * worth).sum(0) * scale


def digits_of(x):
    """Rows of digits of x and of x / 254, then those that say what they mean; and what each is worth.

    (B, D) → (5 B, 2 D) whole numbers, (5, B, 1): products with the same x share them.
    """
    inputs = x.shape[-1]
    none = torch.zeros(1)
    places = torch.cat([BASE ** torch.arange(DIGITS), none])[:, None, None, None]
    is_last = places == 0
    parts = places * (MIDDLE - 1) / torch.cat([none + 1, none + 254])[:, None]
    smallest_and_largest = torch.where(torch.arange(2 * inputs).view(2, inputs) > 0, 255.0, 0.0)
    beginning = torch.where(is_last, smallest_and_largest, places * (MIDDLE + ROUNDING))
    r = torch.linalg.vector_norm(x, float("inf"), -1, keepdim=True)
    z = (x / (r + torch.finfo(x.dtype).tiny)).nan_to_num()  # or the range of all rows were none; `worth` tells it
    steps = torch.addcmul(beginning, z[:, None], parts).floor()  # (5, B, 2, D)
    before = (steps * torch.where(is_last, 0.0, 1 / BASE)).floor()  # what the digits above say
    digits = torch.sub(steps, before, alpha=BASE)
    worth = torch.cat([BASE ** -torch.arange(DIGITS), none])[:, None, None] / (MIDDLE - 1)
    return digits.view(-1, 2 * inputs), r * worth


def inline(graph):
    """Each product that was one call becomes the calls it is made of, those that torch itself knows."""
    for node in list(graph.nodes):
        if node.target is torch.ops.kerasnets.int8_product.default:
            made_of = traced(*((x.meta["val"].shape, x.meta["val"].dtype) for x in node.args))
            inputs = [other for other in made_of.nodes if other.op == "placeholder"]
            with graph.inserting_before(node):
                y = graph.graph_copy(made_of, dict(zip(inputs, node.args, strict=True)))
            node.replace_all_uses_with(y)
            graph.erase_node(node)


@functools.cache
def traced(*kinds):
    """The calls of a product of such shapes and dtypes."""
    from torch.fx.experimental.proxy_tensor import make_fx  # which takes a while to import

    with torch.inference_mode(False), torch.no_grad():
        graph = make_fx(product)(*(torch.zeros(shape, dtype=dtype) for shape, dtype in kinds)).graph
    for node in graph.nodes:
        if node.target is torch.ops.kerasnets.multiply.default:
            node.target = aten.fbgemm_linear_int8_weight_fp32_activation.default
    return graph


def in_silence(function):
    """Without what torch says once: that the kernel will go one day, which `is_there` looks at."""

    def silent(*arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return function(*arguments)

    return silent


@in_silence
def packed(values):
    """Q as the kernel wants it, and Σ of each row; kept with Q's memory until that goes or is written to."""
    memory, version = values.untyped_storage(), values._version
    if getattr(memory, "packed", (None,))[0] != version:
        memory.packed = version, torch.fbgemm_pack_quantized_matrix(values), values.sum(1, dtype=torch.int32)
    return memory.packed[1:]


@in_silence
def multiply(*arguments):
    return torch.fbgemm_linear_int8_weight_fp32_activation(*arguments)


library.impl("int8_product", product, "CPU")
library.impl("packed", packed, "CPU")
library.impl("multiply", multiply, "CPU")
