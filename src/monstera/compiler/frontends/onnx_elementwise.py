"""ONNX operators that treat every element alike: activations and arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce

import torch

from monstera.compiler.frontends import aten_elementwise
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.frontends.onnx_call import Rule, as_torch, number
from monstera.compiler.ir import Activate, Activation, Add, Mul

_TORCH = aten_elementwise.ELEMENTWISE


def _clip(build: Builder, call: Call) -> Value:
    bounds = {"min": number(call, "min"), "max": number(call, "max")}
    return _TORCH["clamp"](build, Call("clamp", {"self": call["input"], **bounds}, call.shapes))


def _hard_sigmoid(build: Builder, call: Call) -> Value:
    slope, offset = call["alpha"], call["beta"]
    # Torch's exporter writes a sixth as it is in fp32.
    if abs(slope - 1 / 6) < 1e-7 and offset == 0.5:
        return build.add(Activate(Activation("hardsigmoid")), (call["X"],), call.shape)
    steep = build.add(Mul(), (call["X"], torch.tensor(slope)), call.shape)
    return build.add(Add(Activation("clamp", low=0, high=1)), (steep, torch.tensor(offset)), call.shape)


def _prelu(build: Builder, call: Call) -> Value:
    positive = build.add(Activate(Activation("relu")), (call["X"],), call.shape)
    negative = build.add(Activate(Activation("clamp", high=0)), (call["X"],), call.shape)
    scaled = build.add(Mul(), (negative, build.known(call["slope"], "the slope")), call.shape)
    return build.add(Add(), (positive, scaled), call.shape)


def _div(build: Builder, call: Call) -> Value:
    if not call.dtype.is_floating_point:
        raise UnsupportedError("a division of whole numbers, which rounds")
    return _TORCH["div"](build, replace(call, args={"self": call["A"], "other": call["B"]}))


def _pow(build: Builder, call: Call) -> Value:
    exponent = number(call, "Y")
    if not call.dtype.is_floating_point and not (exponent or 0) > 0:
        raise UnsupportedError(f"the power {exponent} of whole numbers, which rounds")
    return _TORCH["pow"](build, replace(call, args={"self": call["X"], "exponent": exponent}))


def _sum(build: Builder, call: Call) -> Value:
    def plus(a: Value, b: Value) -> Value:
        shape = tuple(torch.broadcast_shapes(build.shape(a), build.shape(b)))
        return build.add(Add(), (a, b), shape)

    return reduce(plus, call["data_0"])


ELEMENTWISE: Mapping[str, Rule] = {
    "Relu": as_torch(_TORCH, "relu", self="X"),
    "LeakyRelu": as_torch(_TORCH, "leaky_relu", self="X", negative_slope="alpha"),
    "Sigmoid": as_torch(_TORCH, "sigmoid", self="X"),
    "HardSwish": as_torch(_TORCH, "hardswish", self="X"),
    "Tanh": as_torch(_TORCH, "tanh", self="input"),
    "Gelu": as_torch(_TORCH, "gelu", self="X", approximate="approximate"),
    "Exp": as_torch(_TORCH, "exp", self="input"),
    "Cos": as_torch(_TORCH, "cos", self="input"),
    "Sin": as_torch(_TORCH, "sin", self="input"),
    "Sqrt": as_torch(_TORCH, "sqrt", self="X"),
    "Reciprocal": as_torch(_TORCH, "reciprocal", self="X"),
    "Abs": as_torch(_TORCH, "abs", self="X"),
    "Erf": as_torch(_TORCH, "erf", self="input"),
    "Pow": _pow,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "PRelu": _prelu,
    "Add": as_torch(_TORCH, "add", self="A", other="B", alpha=1),
    "Sub": as_torch(_TORCH, "sub", self="A", other="B", alpha=1),
    "Mul": as_torch(_TORCH, "mul", self="A", other="B"),
    "Div": _div,
    "Neg": as_torch(_TORCH, "neg", self="X"),
    "Sum": _sum,
}
