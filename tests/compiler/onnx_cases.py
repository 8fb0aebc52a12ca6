"""The test cases that come with onnx, one for each use of an operator, as models whose weights are inside.

In these cases everything is an input, weights and shapes too. `frozen` makes constants of all inputs but those that a
network computes, at opset 21 at most.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

NEWEST = 21
# Operators of which every input is one that networks compute.
ALL_COMPUTED = (
    *("Add", "Concat", "Div", "MatMul", "Mul", "Sub", "Sum"),
    *("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Where", "Xor"),
)


@dataclass(frozen=True)
class NodeCase:
    """A model of one node, its inputs and what it gives."""

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
    """All cases of an operator that compute fp32 from fp32 and exist at opset 13 to 21."""
    return tuple(c for case in _all_cases() if case.model.graph.node[0].op_type == op for c in _frozen(case))


def _frozen(case: TestCase) -> Iterator[NodeCase]:
    if len(case.model.graph.node) != 1 or not case.data_sets:
        return
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    version = model.opset_import[0].version
    model.opset_import[0].version = max(13, min(version, NEWEST))
    node, (given, expected) = model.graph.node[0], case.data_sets[0]
    if not all(isinstance(x, np.ndarray | np.generic) for x in [*given, *expected]):
        return
    values = dict(zip((i.name for i in model.graph.input), map(np.asarray, given), strict=True))
    free = [name for name, x in values.items() if x.dtype == np.float32 and x.size]
    computed = free if node.op_type in ALL_COMPUTED else [n for n in free if n == node.input[0]]
    if not computed:
        return
    for name in values.keys() - set(computed):
        model.graph.initializer.append(numpy_helper.from_array(values[name], name))
    kept = [i for i in model.graph.input if i.name in computed]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        # It uses what a newer opset brought.
        return
    yield NodeCase(case.name, node.op_type, model, {n: values[n] for n in computed}, tuple(expected))
