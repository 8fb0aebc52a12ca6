"""Which rule an operator of ATen follows, and how its arguments are read. What is not listed fixes what it touches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.node import map_arg

from monstera.sparsity.channels import movements, pointwise, products
from monstera.sparsity.channels.axes import Axes, Ledger, Shape, Value

_ELEMENTWISE = """
    abs add alias celu clamp clamp_max clamp_min clone contiguous cos detach div dropout elu eq erf exp feature_dropout
    ge gelu gt hardsigmoid hardswish hardtanh le leaky_relu lift_fresh_copy log log1p logical_and logical_not logical_or
    lt masked_fill maximum minimum mish mul ne neg ones_like pow reciprocal relu relu6 rsqrt rsub selu sigmoid silu sin
    softplus sqrt square sub tanh to true_divide where zeros_like _to_copy
"""
# Results are the positions of the first argument in another order or shape, all of them or some.
_MOVEMENT = """
    channel_shuffle chunk expand expand_as flatten flip mT movedim narrow numpy_T permute pixel_shuffle pixel_unshuffle
    repeat repeat_interleave reshape roll select slice split split_with_sizes squeeze swapaxes swapdims t transpose
    unbind unflatten unsafe_chunk unsafe_split unsqueeze view view_as _unsafe_view
"""
_REDUCTIONS = ["all", "amax", "amin", "any", "mean", "norm", "std", "sum", "var"]
POOLS = {f"{kind}{n}d": n for n in (1, 2, 3) for kind in ("max_pool", "avg_pool", "adaptive_avg_pool")}
_RESIZED = {f"upsample_{kind}{n}d": n for kind, n in (("nearest", 1), ("nearest", 2), ("nearest", 3), ("bilinear", 2))}
# Sums of products, and which two arguments are multiplied.
PRODUCTS = {
    **{f"conv{n}d": ("input", "weight") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": ("input", "weight") for n in (1, 2, 3)},
    "linear": ("input", "weight"),
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "addmm": ("mat1", "mat2"),
}
MOVEMENTS = frozenset(_MOVEMENT.split())
_SOFTMAX = ("softmax", "log_softmax", "_softmax", "_log_softmax")

Arguments = Mapping[str, Any]
Read = Callable[[Ledger, Arguments, Shape], Axes]


def axes_of(ledger: Ledger, node: fx.Node, arguments: Arguments, shapes: Sequence[Shape]) -> list[Axes]:
    """The axes of each result of a node.

    Args:
        arguments: by name of the schema, with values in place of nodes, and what was left out at its default.
        shapes: of the results.
    """
    name = operator_name(node)
    given = [v for argument in arguments.values() for v in _values(argument)]
    if not any(value.axes for value in given) or _only_looks(node, shapes):
        return [()] * len(shapes)
    if name in MOVEMENTS and arguments.get("self") is given[0]:
        if len(given) > (2 if name.endswith("_as") else 1):
            return [pointwise.unknown(ledger, given, "moves it by numbers computed on the way")] * len(shapes)
        return [movements.moved(ledger, given[0], source) for source in _sources(node, given[0].shape)]
    if len(shapes) == 1 and (read := _READ.get(name)):
        return [read(ledger, arguments, shapes[0])]
    return [pointwise.unknown(ledger, given, "is an operator that is not known here")] * len(shapes)


def operator_name(node: fx.Node) -> str:
    """`conv2d` of `aten.conv2d.default`; what is done in place counts as what it is."""
    target = node.target
    name = target._schema.name.removeprefix("aten::") if isinstance(target, torch._ops.OpOverload) else str(target)
    return name if name.startswith("_") or not name.endswith("_") else name.removesuffix("_")


def _only_looks(node: fx.Node, shapes: Sequence[Shape]) -> bool:
    """Whether a node is a check, such as those that export inserts: no result, and nothing is written to."""
    return not shapes and isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable


def _values(argument: Any) -> list[Value]:
    if isinstance(argument, Value):
        return [argument]
    return [v for a in argument for v in _values(a)] if isinstance(argument, (list, tuple)) else []


def _sources(node: fx.Node, shape: Shape) -> list[np.ndarray]:
    """For every result of a movement the positions in its input: what the operator does to numbered positions."""
    numbered = torch.arange(int(np.prod(shape))).reshape(shape)
    target = node.target
    assert callable(target)
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: numbered if n is node.args[0] else n.meta["val"])
    result = target(*args, **kwargs)
    return [part.numpy() for part in (result if isinstance(result, (list, tuple)) else [result])]


def _convolution(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return products.convolution(ledger, shape, a["input"], a["weight"], a["bias"], a["groups"], False)


def _transposed_convolution(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return products.convolution(ledger, shape, a["input"], a["weight"], a["bias"], a["groups"], True)


def _elementwise(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return pointwise.elementwise(ledger, [v for argument in a.values() for v in _values(argument)], shape)


def _vectors(a: Arguments, *names: str) -> list[Value]:
    return [a[name] for name in names if a[name] is not None]


def _batch_norm(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return pointwise.batch_norm(ledger, shape, a["input"], _vectors(a, "weight", "bias", "running_mean", "running_var"))


def _prelu(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return pointwise.batch_norm(ledger, shape, a["self"], [a["weight"]])


def _layer_norm(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    count = len(a["normalized_shape"])
    return pointwise.layer_norm(ledger, shape, a["input"], count, [a[n] for n in ("weight", "bias") if a.get(n)])


def _group_norm(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return pointwise.group_norm(ledger, shape, a["input"], a["num_groups"], _vectors(a, "weight", "bias"))


def _linear(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return products.linear(ledger, shape, a["input"], a["weight"], a["bias"])


def _matmul(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return products.matmul(ledger, a["self"], a["mat2"] if "mat2" in a else a["other"], shape)


def _addmm(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return products.addmm(ledger, shape, a["self"], a["mat1"], a["mat2"])


def _attention(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return products.attention(ledger, shape, a["query"], a["key"], a["value"], a["attn_mask"])


def _embedding(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return products.embedding(ledger, shape, a["weight"])


def _concatenated(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    return movements.concatenated(ledger, a["tensors"], a["dim"], shape)


def _padded(ledger: Ledger, a: Arguments, _: Shape) -> Axes:
    return movements.padded(ledger, a["self"], a["pad"], a.get("mode", "constant") == "constant")


def _reduction(ledger: Ledger, a: Arguments, shape: Shape) -> Axes:
    x: Value = a["self"]
    dim = a.get("dim")
    dims = range(x.rank) if dim is None or dim == [] else dim if isinstance(dim, (list, tuple)) else [dim]
    return pointwise.reduction(ledger, x, list(dims), len(shape) == x.rank)


def _softmax(ledger: Ledger, a: Arguments, _: Shape) -> Axes:
    x: Value = a["self"]
    return pointwise.normalised(ledger, x, [a["dim"] % x.rank])


def _windowed(count: int) -> Read:
    return lambda ledger, a, _: pointwise.windowed(ledger, next(v for x in a.values() for v in _values(x)), count)


_READ: dict[str, Read] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_SOFTMAX, _softmax),
    **{name: _windowed(n) for name, n in {**POOLS, **_RESIZED}.items()},
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed_convolution for n in (1, 2, 3)},
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    "linear": _linear,
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "prelu": _prelu,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "scaled_dot_product_attention": _attention,
    "embedding": _embedding,
    "cat": _concatenated,
    "pad": _padded,
    "constant_pad_nd": _padded,
}
