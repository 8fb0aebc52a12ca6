"""Torch operators that treat every element alike: activations and arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from monstera.compiler.frontends.builder import Builder, Call, Value, operand
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import Activate, Activation, Add, Mul, Shape
from monstera.compiler.ir.ops import ActivationKind


def _clamp(low: float | None, high: float | None) -> Activation:
    if isinstance(low, str | torch.Tensor) or isinstance(high, str | torch.Tensor):
        raise UnsupportedError("clamp with tensors as bounds; use numbers")
    inf = float("inf")
    return Activation("clamp", low=-inf if low is None else float(low), high=inf if high is None else float(high))


_ACTIVATIONS: Mapping[str, Callable[[Call], Activation]] = {
    "relu": lambda _: Activation("relu"),
    "relu6": lambda _: _clamp(0, 6),
    "hardtanh": lambda call: _clamp(call["min_val"], call["max_val"]),
    "clamp": lambda call: _clamp(call["min"], call["max"]),
    "clip": lambda call: _clamp(call["min"], call["max"]),
    "clamp_min": lambda call: _clamp(call["min"], None),
    "clamp_max": lambda call: _clamp(None, call["max"]),
    "leaky_relu": lambda call: Activation("leaky_relu", slope=float(call["negative_slope"])),
    "silu": lambda _: Activation("silu"),
    "hardswish": lambda _: Activation("hardswish"),
    "hardsigmoid": lambda _: Activation("hardsigmoid"),
    "sigmoid": lambda _: Activation("sigmoid"),
    "tanh": lambda _: Activation("tanh"),
    "gelu": lambda call: Activation("gelu_tanh" if call["approximate"] == "tanh" else "gelu"),
    "erf": lambda _: Activation("erf"),
    "exp": lambda _: Activation("exp"),
    "cos": lambda _: Activation("cos"),
    "sin": lambda _: Activation("sin"),
    "sqrt": lambda _: Activation("sqrt"),
    "rsqrt": lambda _: Activation("rsqrt"),
    "reciprocal": lambda _: Activation("reciprocal"),
    "abs": lambda _: Activation("leaky_relu", slope=-1.0),
}


def _activation(build: Builder, call: Call) -> Value:
    return build.add(Activate(_ACTIVATIONS[call.op](call)), (call["self"],), call.shape)


def _add(build: Builder, call: Call) -> Value:
    return _sum(build, call["self"], build.times(call["other"], call["alpha"]), call.shape)


def _sub(build: Builder, call: Call) -> Value:
    return _sum(build, call["self"], build.times(call["other"], -call["alpha"]), call.shape)


def _rsub(build: Builder, call: Call) -> Value:
    return _sum(build, build.times(call["self"], -call["alpha"]), call["other"], call.shape)


def _neg(build: Builder, call: Call) -> Value:
    return build.times(call["self"], -1)


def _mul(build: Builder, call: Call) -> Value:
    return build.add(Mul(), (operand(call["self"]), operand(call["other"])), call.shape)


def _div(build: Builder, call: Call) -> Value:
    if call.args.get("rounding_mode"):
        raise UnsupportedError(f"division that rounds ({call['rounding_mode']!r})")
    if isinstance(call["other"], str):
        factor = build.add(Activate(Activation("reciprocal")), (call["other"],), build.shape(call["other"]))
        return build.add(Mul(), (operand(call["self"]), factor), call.shape)
    divisor = torch.as_tensor(call["other"], dtype=torch.float64)
    return build.add(Mul(), (call["self"], (1 / divisor).to(torch.float32)), call.shape)


def _pow(build: Builder, call: Call) -> Value:
    x, exponent = call["self"], call["exponent"]
    if not isinstance(x, str) or isinstance(exponent, str | torch.Tensor) or exponent not in _POWERS:
        known = ", ".join(f"{p:g}" for p in _POWERS)
        raise UnsupportedError(f"the power {exponent} of a tensor; expected one of the numbers {known}")
    times, kind = _POWERS[exponent]
    y = x
    for _ in range(times - 1):
        y = build.add(Mul(), (y, x), call.shape)
    return y if kind is None else build.add(Activate(Activation(kind)), (y,), call.shape)


def _square(build: Builder, call: Call) -> Value:
    return build.add(Mul(), (call["self"], call["self"]), call.shape)


# How often the number is a factor, and the function of that.
_POWERS: Mapping[float, tuple[int, ActivationKind | None]] = {
    1: (1, None),
    2: (2, None),
    3: (3, None),
    4: (4, None),
    0.5: (1, "sqrt"),
    -0.5: (1, "rsqrt"),
    -1: (1, "reciprocal"),
    -2: (2, "reciprocal"),
}


def _sum(build: Builder, a: Value | float, b: Value | float, shape: Shape) -> Value:
    return build.add(Add(), (operand(a), operand(b)), shape)


ELEMENTWISE: Mapping[str, Callable[[Builder, Call], Value]] = {
    **dict.fromkeys(_ACTIVATIONS, _activation),
    "add": _add,
    "sub": _sub,
    "subtract": _sub,
    "rsub": _rsub,
    "neg": _neg,
    "pow": _pow,
    "square": _square,
    "mul": _mul,
    "multiply": _mul,
    "div": _div,
    "divide": _div,
    "true_divide": _div,
}
