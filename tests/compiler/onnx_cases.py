"""The test cases that come with onnx, one for each use of an operator, as models whose weights are inside.

In these cases everything is an input, weights and shapes too. All inputs become constants but those that a network
computes, at opset 21 at most; results that are whole numbers or truth values are cast to fp32.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

NEWEST = 21
DTYPES = (np.float32, np.int64, np.int32, np.bool_)
# Operators of which every input is one that networks compute.
ALL_COMPUTED = (
    *("Add", "Concat", "Div", "MatMul", "Mul", "Sub", "Sum"),
    *("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Where", "Xor"),
)


@dataclass(frozen=True)
class NodeCase:
    """A model of one node, its inputs and what it gives, as fp32 numbers."""

    name: str
    op: str
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    outputs: tuple[np.ndarray, ...]


@cache
def _all_cases() -> tuple[TestCase, ...]:
    with warnings.catch_warnings():
        # Making the expected values of some operators warns of overflow.
        warnings.simplefilter("ignore")
        return tuple(collect_testcases(None))


def node_cases(op: str) -> tuple[NodeCase, ...]:
    """All cases of an operator whose numbers the compiler has, and that exist at opset 13 to 21."""
    return tuple(c for case in _all_cases() if case.model.graph.node[0].op_type == op for c in _frozen(case))


def _frozen(case: TestCase) -> Iterator[NodeCase]:
    if len(case.model.graph.node) != 1 or not case.data_sets:
        return
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    version = model.opset_import[0].version
    model.opset_import[0].version = max(13, min(version, NEWEST))
    node, (given, expected) = model.graph.node[0], case.data_sets[0]
    if node.op_type == "LayerNormalization":
        # The other results are for training.
        expected = expected[:1]
        del node.output[1:], model.graph.output[1:]
    if not all(isinstance(x, np.ndarray | np.generic) for x in [*given, *expected]):
        return
    if any(np.asarray(x).dtype not in DTYPES for x in expected):
        return
    values = dict(zip((i.name for i in model.graph.input), map(np.asarray, given), strict=True))
    for suffix, wanted in _computed(node, values):
        computed = [n for n in wanted if n in values and values[n].dtype in DTYPES and values[n].size]
        if computed and (frozen := _with_constants(model, values, computed)) is not None:
            inputs = {n: values[n].astype(np.float32) for n in computed}
            numbers = tuple(np.asarray(x, np.float32) for x in expected)
            yield NodeCase(case.name + suffix, node.op_type, frozen, inputs, numbers)


def _computed(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> list[tuple[str, list[str]]]:
    """Inputs that a network computes, in one way or two, and what the case is called then."""
    # Engines refuse rows counted from the end.
    if node.op_type == "Gather" and (values[node.input[1]] >= 0).all():
        return [("", [node.input[0]]), ("_looked_up", [node.input[1]])]
    return [("", [*node.input] if node.op_type in ALL_COMPUTED else [node.input[0]])]


def _with_constants(
    model: onnx.ModelProto, values: dict[str, np.ndarray], computed: list[str]
) -> onnx.ModelProto | None:
    """The model with all else as constants, None where it uses what a newer opset brought."""
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    for name in values.keys() - set(computed):
        frozen.graph.initializer.append(numpy_helper.from_array(values[name], name))
    kept = [i for i in model.graph.input if i.name in computed]
    del frozen.graph.input[:]
    frozen.graph.input.extend(kept)
    for i, output in enumerate(model.graph.output):
        if output.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            frozen.graph.node.append(onnx.helper.make_node("Cast", [output.name], [f"number{i}"], to=1))
            frozen.graph.output[i].name = f"number{i}"
            frozen.graph.output[i].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    try:
        onnx.checker.check_model(frozen)
    except onnx.checker.ValidationError:
        return None
    return frozen
