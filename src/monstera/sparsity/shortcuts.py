"""Which whole layers may vanish: those beside a shortcut, so that the signal still flows when all of them are gone."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx, nn

from monstera.sparsity.channels.operators import PRODUCTS, operator_name
from monstera.sparsity.channels.trace import Example, Trace, arguments_of, trace

_MULTIPLYING = frozenset([*PRODUCTS, "mul", "div", "true_divide", "scaled_dot_product_attention"])


def layers_with_shortcut(model: nn.Module, example: Example) -> tuple[str, ...]:
    """Name the weights of convolutions and linear layers that can all be zero while outputs still depend on inputs.

    What has to stay are the layers on the way from inputs to outputs that passes the fewest of them: where both
    branches of a sum have layers, those of the shorter one stay. What is multiplied stays with both its factors.

    Args:
        model: read only; it is traced in eval mode.
        example: an input of the model, or a tuple of all its inputs.

    Raises:
        TraceError: torch.export cannot trace the model.

    Source: W. Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016, section 3.2 (depth).

    Example:
        >>> from monstera.sparsity import Plan
        >>> from monstera.zoo import resnet20
        >>> import torch
        >>> model = resnet20()
        >>> names = layers_with_shortcut(model, torch.zeros(1, 3, 32, 32))
        >>> len(names), names[0]
        (18, 'layer1.0.conv1.weight')
        >>> plan = Plan(dict.fromkeys(names, ("layer", 0.8)))
    """
    traced = trace(model, example)
    layers = _layers(traced)
    kept = _shortest(traced, set(layers))
    staying = {layers[node] for node in kept if node in layers}
    return tuple(name for name in dict.fromkeys(layers.values()) if name not in staying)


def _layers(traced: Trace) -> dict[fx.Node, str]:
    """The name of the weight of every product that has one, in the order they run."""
    found: dict[fx.Node, str] = {}
    for node in traced.program.graph.nodes:
        name = operator_name(node) if node.op == "call_function" else ""
        if name in PRODUCTS:
            weight = arguments_of(node, traced.values)[PRODUCTS[name][1]].parameter
            if weight is not None:
                found[node] = weight
    return found


def _shortest(traced: Trace, layers: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes on the way to each output that passes the fewest layers; of equal ones the first argument's.

    Where all factors of a product depend on inputs, all are on the way: a branch of zeros would take the other with it.
    """
    inputs = set(traced.program.graph_signature.user_inputs)
    passed: dict[fx.Node, int] = {}
    before: dict[fx.Node, list[fx.Node]] = {}
    outputs: list[fx.Node] = []
    for node in traced.program.graph.nodes:
        reached = [source for source in node.all_input_nodes if source in passed]
        if node.op == "output":
            outputs = reached
        elif node.op == "placeholder" and node.name in inputs:
            passed[node] = 0
        elif reached:
            every = operator_name(node) in _MULTIPLYING
            before[node] = reached if every else [min(reached, key=passed.__getitem__)]
            passed[node] = sum(passed[source] for source in before[node]) + (node in layers)
    way: set[fx.Node] = set()
    while outputs:
        node = outputs.pop()
        if node not in way:
            way.add(node)
            outputs += before.get(node, ())
    return way
