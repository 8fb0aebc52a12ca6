"""When answers agree: with the float64 interpreter within its own bound on rounding, and with torch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from monstera.compiler.frontends import Imported
from monstera.compiler.ir import Graph
from monstera.compiler.ir.error_bound import error_bound
from monstera.compiler.ir.interpreter import interpret
from monstera.compiler.passes import optimize

Inputs = Mapping[str, np.ndarray]


def compare(
    name: str, graph: Graph, inputs: Inputs, ours: Sequence[np.ndarray], theirs: Sequence[torch.Tensor]
) -> None:
    """Assert that the outputs `ours` are what the interpreter gives, and torch's `theirs`."""
    exact, bounds = interpret(graph, inputs), _bounds(graph, inputs)
    for i, (answer, value) in enumerate(zip(ours, graph.outputs, strict=True)):
        assert (np.abs(answer - exact[value]) <= bounds[i]).all(), f"{name}: output {i} strays from the interpreter"
        tolerance = 1e-4 * max(1.0, np.abs(exact[value]).max())
        torch.testing.assert_close(torch.from_numpy(answer), theirs[i], rtol=0, atol=tolerance, msg=f"{name}: {i}")


def torch_answers(model: torch.nn.Module, imported: Imported, inputs: Inputs) -> list[torch.Tensor]:
    """What torch gives, in the order of the graph's outputs."""
    given = [torch.from_numpy(inputs[i.name]) for i in imported.inputs]
    whole = [
        x if i.dtype == "float32" else x.to(getattr(torch, i.dtype))
        for i, x in zip(imported.inputs, given, strict=True)
    ]
    with torch.no_grad():
        answer = model(*whole)
    tensors = dict(_leaves(imported.output, answer))
    return [tensors[i] for i in range(len(imported.graph.outputs))]


def exact_answers(model: torch.nn.Module, imported: Imported, inputs: Inputs) -> list[torch.Tensor]:
    """What torch gives in float64, rounded once: for models without constants of their own in float32."""
    exact = {name: array.astype(np.float64) for name, array in inputs.items()}
    return [answer.float() for answer in torch_answers(copy.deepcopy(model).double(), imported, exact)]


def _leaves(tree: Mapping[str, Any], answer: Any) -> Iterator[tuple[int, torch.Tensor]]:
    """The tensors of the model's answer by the number of the graph's output."""
    if tree["kind"] == "value":
        yield tree["index"], answer
    for part, value in zip(tree.get("items", ()), answer.values() if tree["kind"] == "dict" else answer, strict=False):
        yield from _leaves(part, value)


def _bounds(graph: Graph, inputs: Inputs) -> list[np.ndarray]:
    """What rounding may do on the way from the model to the optimised graph, and in the program made of that."""
    better = optimize(graph)
    before, after = error_bound(graph, inputs), error_bound(better, inputs)
    return [before[a] + after[b] for a, b in zip(graph.outputs, better.outputs, strict=True)]
