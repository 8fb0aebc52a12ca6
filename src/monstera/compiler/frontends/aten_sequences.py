"""Torch operators of networks over tokens: norms, products of computed matrices, attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import (
    Add,
    Affine,
    Attention,
    Linear,
    MatMul,
    Norm,
    Where,
)

# The last two of four dimensions change places.
_TURN = (0, 1, 3, 2)


def _cumsum(build: Builder, call: Call) -> Value:
    """A sum up to here is a product with a triangle of ones."""
    if call["dim"] % len(call.shape) != len(call.shape) - 1:
        raise UnsupportedError("a cumulative sum along another dimension than the last")
    triangle = torch.ones(call.shape[-1], call.shape[-1]).tril()
    return build.add(Linear(build.param(triangle, "triangle")), (call["self"],), call.shape)


def _layer_norm(build: Builder, call: Call) -> Value:
    return _norm(build, call, Norm(0, call["eps"]))


def _rms_norm(build: Builder, call: Call) -> Value:
    eps = torch.finfo(torch.float32).eps if call["eps"] is None else call["eps"]
    return _norm(build, call, Norm(0, eps, centered=False))


def _norm(build: Builder, call: Call, kind: Norm) -> Value:
    """Several dimensions are normalised as one."""
    rank = len(call.shape) - len(call["normalized_shape"])
    scale, shift = (
        None if call.args.get(name) is None else build.param(build.known(call[name], name).reshape(-1), name)
        for name in ("weight", "bias")
    )
    flat = (*call.shape[:rank], prod(call.shape[rank:]))
    x = build.reshaped(call["input"], flat)
    return build.reshaped(build.add(Norm(rank, kind.eps, scale, shift, kind.centered), (x,), flat), call.shape)


def _group_norm(build: Builder, call: Call) -> Value:
    """The channels of a group and their pixels are normalised as one; scale and shift are the channels'."""
    n, channels, *pixels = call.shape
    flat = (n, call["num_groups"], channels // call["num_groups"] * prod(pixels))
    normed = build.add(Norm(2, call["eps"]), (build.reshaped(call["input"], flat),), flat)
    y = build.reshaped(normed, call.shape)
    if call["weight"] is None and call["bias"] is None:
        return y
    scale = torch.ones(channels) if call["weight"] is None else build.known(call["weight"], "weight")
    shift = torch.zeros(channels) if call["bias"] is None else build.known(call["bias"], "bias")
    return build.add(Affine(build.param(scale, "scale"), build.param(shift, "shift")), (y,), call.shape)


def _addmm(build: Builder, call: Call) -> Value:
    if (call["alpha"], call["beta"]) != (1, 1):
        raise UnsupportedError(f"factors alpha={call['alpha']} and beta={call['beta']}; only 1 is supported")
    bias = build.known(call["self"], "what is added")
    weight = build.known(call["mat2"], "the weight")
    if bias.shape != weight.shape[1:]:
        raise UnsupportedError(f"what is added has shape {tuple(bias.shape)}; expected one number a column")
    op = Linear(build.param(weight.T, "weight"), build.param(bias, "bias"))
    return build.add(op, (call["mat1"],), call.shape)


def _matmul(build: Builder, call: Call) -> Value:
    a, b = (call[name] for name in (("self", "other") if call.op == "matmul" else ("self", "mat2")))
    if min(len(build.shape(a)), len(build.shape(b))) < 2:
        raise UnsupportedError("a product with a vector; expected matrices")
    if isinstance(b, torch.Tensor) and b.ndim == 2:
        return build.add(Linear(build.param(b.T, "weight")), (a,), call.shape)
    return build.add(MatMul(), (a, b), call.shape)


def _baddbmm(build: Builder, call: Call) -> Value:
    product = build.add(MatMul(), (call["batch1"], call["batch2"]), call.shape)
    scaled = build.times(product, call["alpha"])
    # A factor of 0 keeps even NaN out, as torch does.
    if call["beta"] == 0:
        return scaled
    return build.add(Add(), (build.times(call["self"], call["beta"]), scaled), call.shape)


def _attention(build: Builder, call: Call) -> Value:
    if call["dropout_p"]:
        raise UnsupportedError("dropout in attention, although the model is in eval mode; pass dropout_p=0.0")
    shapes = [build.shape(call[name]) for name in ("query", "key", "value")]
    if any(len(shape) != 4 for shape in shapes):
        raise UnsupportedError(f"operands of shapes {shapes}; expected [batch, heads, tokens, features]")
    (_, heads, _, width), (_, groups, _, _), (_, _, _, values) = shapes
    scale = width**-0.5 if call["scale"] is None else call["scale"]
    op = Attention(scale, (width,) * groups, (values,) * groups, heads // groups, call["is_causal"])
    operands = [_channels_first(build, call[name]) for name in ("query", "key", "value")]
    if call["attn_mask"] is not None:
        operands.append(_mask(build, call["attn_mask"], call.dtypes["attn_mask"] is torch.bool))
    n, _, tokens, _ = call.shape
    y = build.add(op, tuple(operands), (n, heads * values, tokens))
    return build.permuted(build.reshaped(y, (n, heads, values, tokens)), _TURN)


def _channels_first(build: Builder, x: Value) -> Value:
    n, heads, tokens, width = build.shape(x)
    return build.reshaped(build.permuted(x, _TURN), (n, heads * width, tokens))


def _mask(build: Builder, mask: Value, is_bool: bool) -> Value:
    """What is added to scores that lie keys by queries; a truth value says which keys a query sees."""
    shape = build.shape(mask)
    if is_bool:
        mask = build.add(Where(), (mask, torch.zeros(()), torch.tensor(-torch.inf)), shape)
    return build.permuted(build.reshaped(mask, (1,) * (4 - len(shape)) + shape), _TURN)


SEQUENCES: Mapping[str, Callable[[Builder, Call], Value]] = {
    "cumsum": _cumsum,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    **dict.fromkeys(("mm", "bmm", "matmul"), _matmul),
    "scaled_dot_product_attention": _attention,
}
