"""One step of a loop on PyTorch, captured as a graph of torch's own calls and replayed without Keras's layers.

Keras dispatches each operation anew: of the 86 ms that a step of a 30-layer model took, 40 were spent between the
products. `make_fx` runs the step once and notes the 3,000 calls that reach torch, in 2 to 4 s; `torch.compile` brings
no more here, since the products wait for memory, and takes 40 s. Then the graph is made shorter:

- What two nodes compute alike is computed once, and what only hands its input on is left out.
- What depends on weights, settings and constants alone is computed before the loop, not in it: views, masks, tables.
- New keys and values are written into the cache itself.
- Products of few rows are cut in parts for the threads: see `torch_products.py`.
- Products with weights in 8 bits become the calls that they are made of: see `torch_int8.py`.

The calls that are left are made by TorchScript's interpreter, not by Python's: a step of a small model takes two thirds
of the time, and tracing it again a tenth of that of `make_fx`.
"""

import sys
import warnings

import torch
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

from kerasnets.backend import torch_int8
from kerasnets.backend.torch_products import cut_products

aten = torch.ops.aten
HANDS_ON = {aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default}
VIEWS = {aten.view.default, aten._unsafe_view.default}


class Step:
    """`function(weights, carry, fixed) → (carry, …)` for one set of weights and fixed arrays, as `step(carry)`.

    `graphs` keeps what was captured, by the shapes of what came.
    """

    def __init__(self, function, graphs, weights, fixed):
        self.function, self.graphs = function, graphs
        self.weights, self.fixed = [w.detach() for w in weights], fixed
        self.shapes = None

    @torch.inference_mode()
    def __call__(self, carry):
        leaves = self.leaves_of(carry)
        return _pytree.tree_unflatten(self.replay(*self.prepared, *leaves), self.spec)

    @torch.inference_mode()
    def repeated(self, carry):
        """For a function that gives (carry, whether to go on): the last carry."""
        leaves, goes_on = self.leaves_of(carry), True
        while goes_on:
            *leaves, goes_on = self.replay(*self.prepared, *leaves)
        return _pytree.tree_unflatten([*leaves, goes_on], self.spec)[0]

    def leaves_of(self, carry):
        """The carry's tensors, for whose shapes all is prepared."""
        leaves, spec = _pytree.tree_flatten(carry)
        if self.shapes != shapes_of(leaves):
            self.shapes = shapes_of(leaves)
            self.prepare(leaves, spec)
        return leaves

    def prepare(self, carry, spec):
        """Capture the step unless it was captured before, and compute what does not change from step to step."""
        fixed, fixed_spec = _pytree.tree_flatten(self.fixed)
        constant = [*self.weights, *fixed]
        lying = tuple(leaf.stride() for leaf in constant)
        key = (self.shapes, shapes_of(constant), lying, spec, fixed_spec, torch.get_num_threads())
        if key not in self.graphs:
            self.graphs[key] = self.capture(carry, spec, fixed, fixed_spec)
        prepare, self.replay, self.spec = self.graphs[key]
        self.prepared = prepare(*constant)

    def capture(self, carry, spec, fixed, fixed_spec):
        spec_of_result = None

        def flat(*leaves):
            nonlocal spec_of_result
            weights, rest = list(leaves[: len(self.weights)]), leaves[len(self.weights) :]
            arguments = _pytree.tree_unflatten(list(rest[len(fixed) :]), spec)
            result = self.function(weights, arguments, _pytree.tree_unflatten(list(rest[: len(fixed)]), fixed_spec))
            leaves, spec_of_result = _pytree.tree_flatten(result)
            return leaves

        leaves = [*self.weights, *fixed, *carry]
        with torch.inference_mode(False), torch.no_grad():
            leaves = [leaf.clone() if leaf.is_inference() else leaf for leaf in leaves]
            module = make_fx(torch.func.functionalize(flat, remove="mutations"))(*leaves)
        give_back(module.graph)
        shorten(module.graph)
        cut_products(module.graph, torch.get_num_threads())
        torch_int8.inline(module.graph)
        shorten(module.graph)
        write_in_place(module.graph)
        prepare, replay = parted(module, len(leaves) - len(carry))
        prepared = prepare(*leaves[: -len(carry)])
        return prepare, interpreted(replay, [*prepared, *map(torch.clone, leaves[-len(carry) :])]), spec_of_result


def shapes_of(leaves):
    return tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def give_back(graph):
    """What a kernel of torch's own still writes into its input is given back instead, so that equal calls are equal."""
    for node in graph.nodes:
        if node.op == "call_function" and hasattr(node.target, "_schema") and node.target._schema.is_mutable:
            name, kind = node.target._schema.name.removeprefix("aten::"), node.target._overloadname
            node.target, source = getattr(getattr(aten, name.removesuffix("_")), kind), node.args[0]
            for user in list(source.users):
                if node < user:
                    user.replace_input_with(source, node)


def shorten(graph):
    """Equal calls become one; a view of a view is one; calls that hand on what they got, and those nobody reads, go."""
    known = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        key = (node.target, torch.fx.node.map_aggregate(node.args, repeatable), tuple(node.kwargs.items()))
        twin = node.args[0] if node.target in HANDS_ON else known.setdefault(key, node)
        if node.target is aten.t.default and getattr(node.args[0], "target", None) is aten.t.default:
            twin = node.args[0].args[0]
        if node.target in VIEWS and getattr(node.args[0], "target", None) in VIEWS:
            node.args = (node.args[0].args[0], node.args[1])
        if twin is not node:
            node.replace_all_uses_with(twin)
    graph.eliminate_dead_code()


def repeatable(argument):
    """Lists become tuples, which a dict can have as keys; 1 and 1.0 stay apart."""
    return argument if isinstance(argument, torch.fx.Node) else (type(argument), repr(argument))


def write_in_place(graph):
    """A cache that came with the carry, and that nobody else reads, takes what is new itself."""
    for node in graph.nodes:
        if node.target is aten.index_copy.default and node.args[0].op == "placeholder" and len(node.args[0].users) == 1:
            node.target = aten.index_copy_.default


def parted(module, count):
    """(what the first `count` inputs alone say → values, (*values, *the other inputs) → results)."""
    before, after, early, copies = Graph(), Graph(), {}, {}
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node in module.graph.nodes:
        is_early = node in inputs[:count] or node.op == "get_attr"
        if node.op == "call_function":
            is_early = all(source in early for source in node.all_input_nodes)
        if is_early:
            early[node] = before.node_copy(node, early.__getitem__)
    needed = [node for node in early if any(user not in early for user in node.users)]
    before.output(tuple(early[node] for node in needed))
    copies = {node: after.placeholder(f"constant_{i}") for i, node in enumerate(needed)}
    for node in module.graph.nodes:
        if node not in early:
            copies[node] = after.node_copy(node, copies.__getitem__)
    return GraphModule(module, before), GraphModule(module, after)


def interpreted(module, inputs):
    """The module as a program of TorchScript, which torch does not support from Python 3.14 on.

    torch advises `torch.compile` in its place, and says so at each trace; see above for what that costs here.
    """
    if sys.version_info >= (3, 14):
        return module
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(module, tuple(inputs), check_trace=False, strict=False)
