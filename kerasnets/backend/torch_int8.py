"""Products with weights in 8 bits by PyTorch on a processor: Q is read as it is, and x and y are floats.

y = Σ_d x_d Q_d is a sum of rows with weights, which is what a bag of embeddings is, and FBGEMM adds up rows of 8 bits
at the speed of the memory, without rounding x. What it asks for:

- Q lies with an input's weights in a row, in blocks of outputs that the processor's registers hold; behind each row
  stand a scale and an offset as floats, so that a second digit's row counts 1 / 254. Q is packed so once, as long as
  it stays what it is, which takes a little more memory than Q again.
- One bag is one part of the inputs of one block: many bags for the threads, and short sums, which are more exact.
"""

import torch

FLOAT_ROWS = 64  # so many are multiplied in floats: products of many rows wait for the processor, not the memory
BLOCK = 64  # outputs
PARTS = 4  # of the inputs
OFFSET = 128  # of whole numbers from 0 to 255

library = torch.library.Library("kerasnets", "FRAGMENT")
library.define("packed(Tensor values, int twice) -> Tensor")


def is_there():
    """Whether this PyTorch has the kernel, which other processors' builds may lack."""
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(
        torch.ops.quantized, "embedding_bag_byte_rowwise_offsets"
    )


def product(x, values, scale, twice):
    """x ((Q + Q₂ / 254) s)ᵀ, Q₂ of the inputs `twice`.   (B, D), (F, D + k) int8, (F,), (k,) → (B, F)."""
    rows, (outputs, inputs) = x.shape[0], values.shape
    blocks = -(-outputs // BLOCK)
    x = torch.cat([x, x.index_select(1, twice)], dim=1)
    table = torch.ops.kerasnets.packed(values, twice.shape[0])
    places = torch.arange(blocks * inputs, dtype=torch.int32).view(blocks, 1, inputs).expand(-1, rows, -1)
    bags = torch.arange(blocks * rows, dtype=torch.int32)[:, None] * inputs
    parts = torch.arange(PARTS, dtype=torch.int32) * inputs // PARTS
    y = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        table, places.reshape(-1), (bags + parts).view(-1), per_sample_weights=x.expand(blocks, -1, -1).reshape(-1)
    )
    y = y.view(blocks, rows, PARTS, BLOCK).sum(2)
    return y.transpose(0, 1).reshape(rows, blocks * BLOCK)[:, :outputs] * scale


def packed(values, twice):
    """Q in blocks as the kernel wants them, kept with Q's memory until that goes or is written to.

    (F, D + k) int8, k → (F / BLOCK · (D + k), BLOCK + 8) uint8.
    """
    memory, version = values.untyped_storage(), values._version
    if getattr(memory, "packed", (None,))[0] != version:
        memory.packed = version, pack(values, twice)
    return memory.packed[1]


def pack(values, twice):
    outputs, inputs = values.shape
    values = torch.nn.functional.pad(values, [0, 0, 0, -outputs % BLOCK])
    blocks = (values.view(torch.uint8) ^ OFFSET).view(-1, BLOCK, inputs).transpose(1, 2)  # q + 128 as 8 bits are
    scales = torch.ones(inputs, 2)
    scales[inputs - twice :] = 1 / 254
    scales[:, 1] *= -OFFSET
    scales = scales.view(torch.uint8).expand(len(blocks), inputs, 8)
    return torch.cat([blocks, scales], dim=2).view(-1, BLOCK + 8)


library.impl("packed", packed, "CPU")
