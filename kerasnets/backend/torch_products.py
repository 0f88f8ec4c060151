"""Products of a few rows and a matrix, as each token of a text takes them, in parts for PyTorch's threads.

MKL multiplies a few rows by a matrix on one thread, or on all of them but far below the speed of the memory; how far,
and which way lies nearest to it, is another thing on each processor. So W may be cut, and `bmm` gives each thread a
part. No weight is copied. The ways, of which `fastest` takes the one that took least time here:

    whole                               x W
    by_rows                             Σ_p x_p W_p
    by_columns                          (x W)ᵀ = (W_pᵀ xᵀ)_p
    side_by_side, in_small_parts        x W = (x W_p)_p, one part for each thread, or four, which stay in its cache
"""

import functools
import math
import time

import torch

aten = torch.ops.aten
SAMPLE = 2**23  # numbers that are read to measure a way: 32 MB, more than the cache of a core
ROUNDS = 4


def cut_products(graph, parts):
    """Each x W (B, D), (D, F) → (B, F) of a few rows and a matrix that is not small, in the way that is fastest."""
    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default):
            continue
        *bias, x, kernel = node.args
        sizes, value = (*shape_of(x), shape_of(kernel)[1]), kernel.meta["val"]
        rows, depth, width = sizes
        is_small = depth * width <= 2**16  # a quarter of a MB, which is there before a second thread is awake
        if is_small or parts < 2 or rows > 64 or node.kwargs or value.device.type != "cpu":
            continue
        if value.stride() not in ((width, 1), (1, depth)):
            continue
        way = fastest(sizes, value.stride() == (1, depth), value.dtype, parts)
        if way is whole:
            continue
        with graph.inserting_before(node):
            y = way(graph.call_function, x, kernel, sizes, parts)
            y = graph.call_function(aten.add.Tensor, (y, bias[0])) if bias else y
        node.replace_all_uses_with(y)


@functools.cache
def fastest(sizes, is_by_columns, dtype, parts):
    """The way that takes least time for such a product, of a matrix that is not in the cache and lies so in memory."""
    rows, depth, width = sizes
    fitting = ways(sizes, parts)
    width = min(width, max(1, SAMPLE // depth // (4 * parts)) * 4 * parts)
    matrices = torch.ones((max(1, SAMPLE // (depth * width)), width, depth), dtype=dtype)
    matrices = matrices.transpose(1, 2) if is_by_columns else matrices.view(-1, depth, width)
    x, seconds = torch.ones((rows, depth), dtype=dtype), {}
    for _ in range(ROUNDS):
        for way in fitting:
            start = time.perf_counter()
            for matrix in matrices:
                way(at_once, x, matrix, (rows, depth, width), parts)
            seconds[way] = min(time.perf_counter() - start, seconds.get(way, math.inf))
    return min(seconds, key=seconds.get)


def ways(sizes, parts):
    """Those that can be taken for a product of these sizes (B, D, F)."""
    _, depth, width = sizes
    by = {whole: True, by_rows: depth % parts == 0, by_columns: width % parts == 0, side_by_side: width % parts == 0}
    return [way for way, fits in (by | {in_small_parts: width % (4 * parts) == 0}).items() if fits]


def at_once(target, args, kwargs=None):
    return target(*args, **(kwargs or {}))


def whole(call, x, kernel, sizes, parts):
    return call(aten.mm.default, (x, kernel))


def by_rows(call, x, kernel, sizes, parts):
    """The rows of W in parts: Σ_p x_p W_p."""
    rows, depth, width = sizes
    pieces = call(aten.view.default, (kernel, [parts, depth // parts, width]))
    x = call(aten.transpose.int, (call(aten.view.default, (x, [rows, parts, depth // parts])), 0, 1))
    return call(aten.sum.dim_IntList, (call(aten.bmm.default, (x, pieces)), [0]))


def by_columns(call, x, kernel, sizes, parts):
    """The columns of W in parts, each of them read along its memory: (W_pᵀ xᵀ)_p, one below the other, transposed."""
    rows, depth, width = sizes
    pieces = call(aten.view.default, (call(aten.t.default, (kernel,)), [parts, width // parts, depth]))
    x = call(aten.transpose.int, (call(aten.view.default, (x, [1, rows, depth])), 1, 2))
    y = call(aten.bmm.default, (pieces, call(aten.expand.default, (x, [parts, depth, rows]))))
    if rows == 1:
        return call(aten.view.default, (y, [1, width]))
    y = call(aten.t.default, (call(aten.view.default, (y, [width, rows])),))
    return call(aten.clone.default, (y,), {"memory_format": torch.contiguous_format})


def side_by_side(call, x, kernel, sizes, parts):
    """The columns of W in parts, (x W_p)_p."""
    rows, depth, width = sizes
    pieces = call(aten.transpose.int, (call(aten.view.default, (kernel, [depth, parts, width // parts])), 0, 1))
    x = call(aten.expand.default, (call(aten.unsqueeze.default, (x, 0)), [parts, rows, depth]))
    y = call(aten.transpose.int, (call(aten.bmm.default, (x, pieces)), 0, 1))
    return call(aten.reshape.default, (y, [rows, width]))


def in_small_parts(call, x, kernel, sizes, parts):
    return side_by_side(call, x, kernel, sizes, 4 * parts)


def shape_of(node):
    return tuple(node.meta["val"].shape)
