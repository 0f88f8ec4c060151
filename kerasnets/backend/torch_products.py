"""Products of a few rows and a matrix, as each token of a text takes them, in parts for PyTorch's threads.

MKL multiplies a few rows by a matrix on one thread, and reads the matrix at half the speed of the memory or less. So W
is cut, and `bmm` gives each thread a part. No weight is copied; which cut is best depends on how W lies:

    1, 2 rows, W by rows, as Keras makes it         x W = Σ_p x_p W_p           `by_rows`
    1 to 4, W by columns, as many checkpoints do    (x W)ᵀ = (W_pᵀ xᵀ)_p        `by_columns`: the fastest of all
    more                                            x W = (x W_p)_p             `side_by_side`
"""

import math

import torch

aten = torch.ops.aten


def cut_products(graph, parts):
    """Each x W (B, D), (D, F) → (B, F) of a few rows and a matrix that is not small: in parts, one for each thread."""
    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default):
            continue
        *bias, x, kernel = node.args
        (rows, depth), width = shape_of(x), shape_of(kernel)[1]
        strides = kernel.meta["val"].stride()
        is_small = depth * width <= 2**16  # a quarter of a MB, which is there before a second thread is awake
        if is_small or parts < 2 or rows > 64 or node.kwargs or kernel.meta["val"].device.type != "cpu":
            continue
        if rows <= 2 and strides == (width, 1) and depth % parts == 0:
            cut = by_rows
        elif strides == (1, depth) and width % parts == 0 and rows <= (4 if depth <= 1024 else 2):
            cut = by_columns
        elif width % parts == 0 and strides in ((width, 1), (1, depth)):
            cut = side_by_side
        else:
            continue
        with graph.inserting_before(node):
            y = cut(graph.call_function, x, kernel, (rows, depth, width), parts)
            y = graph.call_function(aten.add.Tensor, (y, bias[0])) if bias else y
        node.replace_all_uses_with(y)


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
    """The columns of W in parts, (x W_p)_p, four for each thread: smaller ones stay in its cache."""
    rows, depth, width = sizes
    parts = math.gcd(4 * parts, width)
    pieces = call(aten.transpose.int, (call(aten.view.default, (kernel, [depth, parts, width // parts])), 0, 1))
    x = call(aten.expand.default, (call(aten.unsqueeze.default, (x, 0)), [parts, rows, depth]))
    y = call(aten.transpose.int, (call(aten.bmm.default, (x, pieces)), 0, 1))
    return call(aten.reshape.default, (y, [rows, width]))


def shape_of(node):
    return tuple(node.meta["val"].shape)
