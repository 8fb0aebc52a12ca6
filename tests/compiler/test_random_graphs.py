"""Random networks: the engine computes what the interpreter and torch compute, from memory that held NaN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from compiler.batch import compile_batch, poison_arenas, run
from compiler.graphs import imported, random_inputs, random_model
from monstera.compiler.ir import Graph
from monstera.compiler.ir.error_bound import error_bound
from monstera.compiler.ir.interpreter import interpret
from monstera.compiler.passes import optimize
from monstera.compiler.targets import TARGETS, Target, native

BATCH = 25
Inputs = dict[str, np.ndarray]
# Shrinking would compile again and again; a failure names its seed: `random_model(np.random.default_rng(seed))`.
COMMON = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}
seeds = st.lists(st.integers(0, 2**32 - 1), min_size=BATCH, max_size=BATCH, unique=True)


def check(batch: list[int], threads: int = 1, target: Target | None = None) -> None:
    """Compile the models of these seeds together and compare each, twice, as the second run finds a used arena."""
    models = {seed: random_model(np.random.default_rng(seed)) for seed in batch}
    graphs = [imported(model) for model in models.values()]
    runners = compile_batch(graphs, threads, target)
    for (seed, model), graph, runner in zip(models.items(), graphs, runners, strict=True):
        inputs = random_inputs(graph.graph, seed)
        with torch.no_grad():
            answer = model(*[torch.from_numpy(inputs[i.name]) for i in graph.inputs])
        theirs = dict(_leaves(graph.output, answer))
        for _ in range(2):
            _compare(f"seed {seed}", graph.graph, inputs, run(runner, graph, inputs), theirs)


def _compare(name: str, graph: Graph, inputs: Inputs, ours: list[np.ndarray], theirs: dict[int, torch.Tensor]) -> None:
    exact, bounds = interpret(graph, inputs), _bounds(graph, inputs)
    for i, (answer, value) in enumerate(zip(ours, graph.outputs, strict=True)):
        assert (np.abs(answer - exact[value]) <= bounds[i]).all(), f"{name}: output {i} strays from the interpreter"
        tolerance = 1e-4 * max(1.0, np.abs(exact[value]).max())
        torch.testing.assert_close(torch.from_numpy(answer), theirs[i], rtol=0, atol=tolerance, msg=f"{name}: {i}")


def _leaves(tree: dict[str, Any], answer: Any) -> Iterator[tuple[int, torch.Tensor]]:
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


@pytest.fixture(autouse=True)
def _nan_before_first_use(monkeypatch):
    poison_arenas(monkeypatch)


@settings(max_examples=8, derandomize=True, **COMMON)
@given(seeds)
def test_two_hundred_random_networks_agree_with_the_interpreter_and_with_torch(batch):
    check(batch)


@settings(max_examples=1, derandomize=True, **COMMON)
@given(seeds)
def test_random_networks_agree_on_two_threads(batch):
    check(batch, threads=2)


@pytest.mark.skipif(native().name != "avx512", reason="the avx2 code is the native one here, or cannot run")
@settings(max_examples=1, derandomize=True, **COMMON)
@given(seeds)
def test_random_networks_agree_on_the_narrower_instruction_set(batch):
    check(batch, target=TARGETS["avx2"])


@pytest.mark.full
@settings(max_examples=80, **COMMON)
@given(seeds)
def test_thousands_of_random_networks_agree_with_the_interpreter_and_with_torch(batch):
    check(batch)
