"""Products with weights in 8 bits by PyTorch on a processor: Q is read as it is, and x and y are floats.

y = Σ_d x_d Q_d is a sum of rows with weights, which is what a bag of embeddings is, and FBGEMM adds up rows of 8 bits
at the speed of the memory, without rounding x. What it asks for:

- Q lies with an input's weights in a row, in blocks of outputs that the processor's registers hold; behind each row
  stand a scale and an offset as floats, so that a second digit's row counts 1 / 254. Q is packed so once, as long as
  it stays what it is, which takes a little more memory than Q again.
- Threads share the bags: where there are fewer blocks than threads, a bag adds up a part of the inputs.
"""

import functools

import torch

FLOAT_ROWS = 32  # so many are multiplied in floats: about as fast from 16 rows on, and twice as fast at 63
BLOCK = 96  # outputs: twelve registers of eight floats, which leaves four for the rest
OFFSET = 128  # of whole numbers from 0 to 255

# Each of these is one call to `make_fx`, which takes a while for each call; `inline` says what the first is made of.
library = torch.library.Library("kerasnets", "FRAGMENT")
library.define("int8_product(Tensor x, Tensor values, Tensor scale, Tensor twice) -> Tensor")
library.define("packed(Tensor values, Tensor twice, int rows, int parts) -> (Tensor, Tensor, Tensor, Tensor)")


def is_there():
    """Whether this PyTorch has the kernel, which other processors' builds may lack."""
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(
        torch.ops.quantized, "embedding_bag_byte_rowwise_offsets"
    )


def product(x, values, scale, twice):
    """x ((Q + Q₂ / 254) s)ᵀ, Q₂ of the inputs `twice`.   (B, D), (F, D + k) int8, (F,), (k,) → (B, F)."""
    rows, outputs = x.shape[0], values.shape[0]
    blocks = -(-outputs // BLOCK)
    parts = -(-torch.get_num_threads() // blocks)
    table, columns, places, bags = torch.ops.kerasnets.packed(values, twice, rows, parts)
    x = x.index_select(1, columns).expand(blocks, rows, -1)
    y = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(table, places, bags, per_sample_weights=x.reshape(-1))
    y = y.view(blocks, rows, parts, BLOCK).sum(2) if parts > 1 else y.view(blocks, rows, BLOCK)
    return y.transpose(0, 1).reshape(rows, blocks * BLOCK)[:, :outputs] * scale


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
        return make_fx(product)(*(torch.zeros(shape, dtype=dtype) for shape, dtype in kinds)).graph


def packed(values, twice, rows, parts):
    """Q in blocks, kept with Q's memory until that goes or is written to; which inputs it reads; and `bags_of` them.

    (F, D + k) int8, (k,), B, P → (F / BLOCK · (D + k), BLOCK + 8) uint8, (D + k,) int32, and two more of int32.
    """
    memory, version = values.untyped_storage(), values._version
    if getattr(memory, "packed", (None,))[0] != version:
        memory.packed = version, pack(values, twice.shape[0])
    outputs, inputs = values.shape
    columns = torch.cat([torch.arange(inputs - twice.shape[0], dtype=torch.int32), twice])
    return memory.packed[1], columns, *bags_of(-(-outputs // BLOCK), rows, inputs, parts)


def pack(values, twice):
    """Q + 128 as the kernel wants it, so that q + 128 and its row's scale and offset make q, or q / 254."""
    outputs, inputs = values.shape
    values = torch.nn.functional.pad(values, [0, 0, 0, -outputs % BLOCK])
    blocks = (values.view(torch.uint8) ^ OFFSET).view(-1, BLOCK, inputs).transpose(1, 2)
    scales = torch.ones(inputs, 2)
    scales[inputs - twice :] = 1 / 254
    scales[:, 1] *= -OFFSET
    scales = scales.view(torch.uint8).expand(len(blocks), inputs, 8)
    return torch.cat([blocks, scales], dim=2).view(-1, BLOCK + 8)


@functools.lru_cache(maxsize=16)
def bags_of(blocks, rows, inputs, parts):
    """The rows of the table that each bag adds up, and where each bag begins: for each block, row of x, and part.

    A model has few shapes, and its products of one shape read the same numbers, which stay in the processor's cache.
    """
    places = torch.arange(blocks * inputs, dtype=torch.int32).view(blocks, 1, inputs).expand(-1, rows, -1)
    begins = torch.arange(blocks * rows, dtype=torch.int32)[:, None] * inputs
    parts = torch.arange(parts, dtype=torch.int32) * inputs // parts
    return places.reshape(-1), (begins + parts).view(-1)


library.impl("int8_product", product, "CPU")
library.impl("packed", packed, "CPU")
