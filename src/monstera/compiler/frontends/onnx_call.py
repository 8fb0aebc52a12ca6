"""What the rules for ONNX operators share: reading arguments, and handing over to the rule of a torch operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir.ops import Padding, Sizes

Rule: TypeAlias = Callable[[Builder, Call], "Value | tuple[Value, ...]"]
"""Translates one call. Arguments have the names of the operator's schema: inputs are Values, attributes plain Python,
None is what was left out. An argument that is an attribute in one opset and an input in another is read the same way.
"""


def as_torch(rules: Mapping[str, Callable[..., Any]], op: str, **arguments: Any) -> Rule:
    """Do what torch's `op` does: a string names an argument of the call, anything else is itself."""

    def rule(build: Builder, call: Call) -> Value | tuple[Value, ...]:
        given = {name: call[a] if isinstance(a, str) else a for name, a in arguments.items()}
        renamed = {name: call.dtypes[a] for name, a in arguments.items() if a in call.dtypes}
        return rules[op](build, replace(call, op=op, args=given, dtypes=renamed))

    return rule


def integers(call: Call, name: str) -> tuple[int, ...] | None:
    """Whole numbers that must be known; None where they are left out.

    Raises:
        UnsupportedError: they are computed from the model's input.
    """
    value = call.args.get(name)
    if isinstance(value, str):
        raise UnsupportedError(f"{name} is computed from the input; it must be known at compile time")
    if value is None:
        return None
    return tuple(int(n) for n in (value.reshape(-1).tolist() if isinstance(value, torch.Tensor) else value))


def number(call: Call, name: str) -> float | None:
    """One number that must be known; None where it is left out.

    Raises:
        UnsupportedError: it is computed from the model's input, or is more than one.
    """
    value = call.args.get(name)
    if isinstance(value, str) or (isinstance(value, torch.Tensor) and value.numel() != 1):
        raise UnsupportedError(f"{name} must be one number, known at compile time")
    return None if value is None else float(value)


def axes(call: Call, rank: int, name: str = "axes") -> tuple[int, ...] | None:
    """Dimensions that the call names, none of them negative; None where it names none."""
    given = integers(call, name)
    return None if given is None else tuple(d % rank for d in given)


def image(build: Builder, call: Call, name: str = "X") -> tuple[Value, int]:
    """An argument that must be `[batch, channels, *spatial]` with 1 to 3 spatial dimensions, and how many these are.

    Raises:
        UnsupportedError: it has another number of dimensions.
    """
    shape = build.shape(call[name])
    if len(shape) not in (3, 4, 5):
        raise UnsupportedError(f"the input has shape {shape}; expected [batch, channels] and 1 to 3 spatial dimensions")
    return call[name], len(shape) - 2


def spatial(call: Call, name: str, rank: int) -> Sizes:
    """One number for each spatial dimension, ones where they are left out."""
    return integers(call, name) or (1,) * rank


def padding(call: Call, sizes: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Padding:
    """The padding of a window that moves over `sizes` pixels: before all dimensions, then after."""
    mode = call["auto_pad"]
    if mode == "NOTSET":
        return integers(call, "pads") or (0,) * 2 * len(sizes)
    if mode == "VALID":
        return (0,) * 2 * len(sizes)
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
    ]
    return halves(total, mode)


def halves(total: list[int], mode: str) -> Padding:
    """Half of each total before and half after; of an odd one, SAME_UPPER leaves the larger half behind."""
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return (*small, *large) if mode == "SAME_UPPER" else (*large, *small)
