"""Torch operators that compare, choose by a condition, or turn one kind of number into another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch

from monstera.compiler.frontends.builder import Builder, Call, Value, operand
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import Activate, Activation, Add, Compare, Mul, Where


def _compare(kind: Literal["eq", "lt", "le"], swapped: bool = False) -> Callable[[Builder, Call], Value]:
    def compare(build: Builder, call: Call) -> Value:
        a, b = operand(call["self"]), operand(call["other"])
        return build.add(Compare(kind), (b, a) if swapped else (a, b), call.shape)

    return compare


def _differ(build: Builder, call: Call) -> Value:
    return _negated(build, _compare("eq")(build, call))


def _not(build: Builder, call: Call) -> Value:
    return _negated(build, _truth(build, call, "self"))


def _and(build: Builder, call: Call) -> Value:
    return build.add(Mul(), _both(build, call), call.shape)


def _or(build: Builder, call: Call) -> Value:
    # Two truth values are 0 only together.
    either = build.add(Add(), _both(build, call), call.shape)
    return build.add(Activate(Activation("not_zero")), (either,), call.shape)


def _both(build: Builder, call: Call) -> tuple[Value, Value]:
    if call.dtype is not torch.bool:
        raise UnsupportedError("bits of whole numbers; only truth values are supported")
    return _truth(build, call, "self"), _truth(build, call, "other")


def _truth(build: Builder, call: Call, name: str) -> Value:
    """An argument as 0 and 1."""
    x = call[name]
    if not isinstance(x, str):
        return torch.as_tensor(x).bool()
    if call.dtypes[name] is torch.bool:
        return x
    return build.add(Activate(Activation("not_zero")), (x,), build.shape(x))


def _negated(build: Builder, x: Value) -> Value:
    return build.add(Compare("eq"), (x, torch.zeros(())), build.shape(x))


def _where(build: Builder, call: Call) -> Value:
    operands = (call["condition"], operand(call["self"]), operand(call["other"]))
    return build.add(Where(), operands, call.shape)


def _masked_fill(build: Builder, call: Call) -> Value:
    return build.add(Where(), (call["mask"], operand(call["value"]), operand(call["self"])), call.shape)


def _cast(build: Builder, call: Call) -> Value:
    if call.dtype is torch.bool:
        return _truth(build, call, "self")
    source = call.dtypes["self"]
    if source.is_floating_point and not call.dtype.is_floating_point:
        raise UnsupportedError(f"a cast of {str(source)[6:]} to {str(call.dtype)[6:]} computed at run time")
    return call["self"]


LOGIC: Mapping[str, Callable[[Builder, Call], Value]] = {
    "eq": _compare("eq"),
    "lt": _compare("lt"),
    "le": _compare("le"),
    "gt": _compare("lt", swapped=True),
    "ge": _compare("le", swapped=True),
    "ne": _differ,
    **dict.fromkeys(("logical_not", "bitwise_not"), _not),
    **dict.fromkeys(("__and", "logical_and", "bitwise_and"), _and),
    **dict.fromkeys(("__or", "logical_or", "bitwise_or"), _or),
    "where": _where,
    "masked_fill": _masked_fill,
    **dict.fromkeys(("to", "type_as", "_to_copy"), _cast),
}
