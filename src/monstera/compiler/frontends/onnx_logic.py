"""ONNX operators that compare, choose by a condition, or turn one kind of number into another."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from monstera.compiler.frontends import aten_logic
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.onnx_call import Rule, as_torch
from monstera.compiler.ir import Compare

_TORCH = aten_logic.LOGIC


def _is_nan(build: Builder, call: Call) -> Value:
    # NaN alone differs from itself.
    same = build.add(Compare("eq"), (call["X"], call["X"]), call.shape)
    return build.add(Compare("eq"), (same, torch.zeros(())), call.shape)


def _two(op: str) -> Rule:
    return as_torch(_TORCH, op, self="A", other="B")


LOGIC: Mapping[str, Rule] = {
    "Equal": _two("eq"),
    "Less": _two("lt"),
    "LessOrEqual": _two("le"),
    "Greater": _two("gt"),
    "GreaterOrEqual": _two("ge"),
    "And": _two("logical_and"),
    "Or": _two("logical_or"),
    "Xor": _two("ne"),
    "Not": as_torch(_TORCH, "logical_not", self="X"),
    "IsNaN": _is_nan,
    "Where": as_torch(_TORCH, "where", condition="condition", self="X", other="Y"),
    "Cast": as_torch(_TORCH, "to", self="input"),
    "CastLike": as_torch(_TORCH, "to", self="input"),
}
