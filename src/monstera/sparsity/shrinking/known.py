"""What a program computes whatever its inputs are: the program is run with NaN for everything that is not known.

Operators that hand NaN on to whatever depends on it are run as they are. Products leave out what a weight of zero
multiplies. Of other operators nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from monstera.sparsity.channels.operators import MOVEMENTS, POOLS, PRODUCTS, operator_name

Known = Mapping[fx.Node, Tensor | None]

# Tests check each against NaN.
NAN_FAITHFUL = """
    add alias cat celu clamp clone constant_pad_nd contiguous div dropout elu exp gelu hardsigmoid hardswish
    hardtanh leaky_relu mean mish neg pad relu relu6 rsub selu sigmoid silu softplus sub tanh to upsample_nearest1d
    upsample_nearest2d upsample_nearest3d _to_copy
"""
_RUN = frozenset([*NAN_FAITHFUL.split(), *MOVEMENTS, *POOLS])


def known_values(program: torch.export.ExportedProgram, tensors: Mapping[str, Tensor]) -> Known:
    """For every node of a program its result where that is known, NaN elsewhere; None where it is no such tensor.

    Args:
        tensors: parameters and buffers by name.
    """
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    known: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                own = tensors.get(names.get(node.name, ""))
                known[node] = _nothing(node) if own is None else own.detach()
            elif node.op == "call_function":
                known[node] = _known(node, known)
    return known


def uniform(known: Tensor, dims: tuple[int, ...]) -> Tensor:
    """For every position along `dims`, flattened, the number that stands there everywhere, else NaN."""
    count = prod(known.shape[d] for d in dims)
    front = known.movedim(dims, tuple(range(len(dims)))).reshape(count, -1)
    low, high = front.amin(1), front.amax(1)
    return torch.where(low == high, low, torch.nan)


def _known(node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
    name, target = operator_name(node), node.target
    given: Any = map_arg((node.args, node.kwargs), known.get)
    args, kwargs = given
    if name == "<built-in function getitem>":
        return None if args[0] is None else args[0][args[1]]
    if not isinstance(target, torch._ops.OpOverload) or any(known.get(n) is None for n in node.all_input_nodes):
        return _nothing(node)
    if name == "mul":
        a, b = args[0], args[1]
        return torch.where((torch.as_tensor(a) == 0) | (torch.as_tensor(b) == 0), 0.0, a * b)
    if name in PRODUCTS:
        return _product(node, args, kwargs)
    if name == "batch_norm":
        return _normed(target(*args, **kwargs), args[1], args[2])
    if name == "scaled_dot_product_attention":
        return _attended(node, args, kwargs)
    # What is done in place must not change what is known of the operand.
    found = target(*_copied(args), **kwargs) if name in _RUN else _nothing(node)
    # Whole numbers cannot say that they are not known.
    return None if isinstance(found, Tensor) and not found.is_floating_point() else found


def _nothing(node: fx.Node) -> Any:
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return [None] * len(value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    return torch.full(tuple(value.shape), torch.nan, dtype=value.dtype, device=value.device)


def _copied(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in args)


def _product(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """A sum of products is known unless something unknown is multiplied by something that is not zero."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    given = {**dict(zip([a.name for a in target._schema.arguments], args, strict=False)), **kwargs}
    left, right = PRODUCTS[operator_name(node)]
    x, w = given[left], given[right]
    result = target(**{**given, left: x.nan_to_num(0), right: w.nan_to_num(0)})
    alone = {name: torch.zeros_like(v) if isinstance(v, Tensor) else v for name, v in given.items()}
    reached = target(**{**alone, left: x.isnan().to(x.dtype), right: (w != 0).to(w.dtype)})
    reached += target(**{**alone, left: (x != 0).to(x.dtype), right: w.isnan().to(w.dtype)})
    return result.masked_fill(reached != 0, torch.nan)


def _normed(result: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """What a norm's factor of zero leaves of its channel is the shift."""
    if weight is None:
        return result
    column = (-1, *[1] * (result.dim() - 2))
    shift = torch.zeros_like(weight) if bias is None else bias
    return torch.where((weight == 0).view(column), shift.view(column), result)


def _attended(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Weights of a softmax add up to one: a feature that all values share is the result's."""
    value = args[2] if len(args) > 2 else kwargs["value"]
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    shape = tuple(node.meta["val"].shape)
    if mask is not None or value.shape[:-2] != shape[:-2]:
        return _nothing(node)
    same = (value == value[..., :1, :]).all(-2, keepdim=True)
    return torch.where(same, value[..., :1, :], torch.nan).expand(shape)
