"""Random networks: the engine computes what the interpreter and torch compute, from memory that held NaN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from compiler.agreement import compare, torch_answers
from compiler.batch import compile_batch, narrower, run
from compiler.graphs import imported, random_inputs, random_model
from monstera.compiler.targets import TARGETS, Target

BATCH = 25
# Shrinking would compile again; a failure names its seed: `random_model(np.random.default_rng(seed), spatial)`.
COMMON = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}
seeds = st.lists(st.integers(0, 2**32 - 1), min_size=BATCH, max_size=BATCH, unique=True)


def check(batch: list[int], threads: int = 1, target: Target | None = None, spatial: int | None = None) -> None:
    """Compile the models of these seeds together and compare each, twice, as the second run finds a used arena.

    `spatial` chooses the pool that they are drawn from.
    """
    models = {seed: random_model(np.random.default_rng(seed), spatial) for seed in batch}
    graphs = [imported(model) for model in models.values()]
    runners = compile_batch(graphs, threads, target)
    for (seed, model), graph, runner in zip(models.items(), graphs, runners, strict=True):
        inputs = random_inputs(graph.graph, seed)
        theirs = torch_answers(model, graph, inputs)
        for _ in range(2):
            compare(f"seed {seed}, spatial {spatial}", graph.graph, inputs, run(runner, graph, inputs), theirs)


pytestmark = pytest.mark.usefixtures("nan_before_first_use")


# One test for each batch, so that several processes share them.
@pytest.mark.parametrize("first", range(0, 200, BATCH))
def test_two_hundred_random_networks_agree_with_the_interpreter_and_with_torch(first):
    check([*range(first, first + BATCH)])


@settings(max_examples=1, derandomize=True, **COMMON)
@given(seeds)
def test_random_networks_agree_on_two_threads(batch):
    check(batch, threads=2)


@narrower
@settings(max_examples=1, derandomize=True, **COMMON)
@given(seeds)
def test_random_networks_agree_on_the_narrower_instruction_set(batch):
    check(batch, target=TARGETS["avx2"])


dimensions = pytest.mark.parametrize("spatial", [1, 2, 3])


@dimensions
@settings(max_examples=1, derandomize=True, **COMMON)
@given(seeds)
def test_random_networks_over_one_two_and_three_dimensions_agree(spatial, batch):
    check(batch, spatial=spatial)


@settings(max_examples=1, derandomize=True, **COMMON)
@given(seeds)
def test_random_networks_over_three_dimensions_agree_on_two_threads(batch):
    check(batch, threads=2, spatial=3)


@narrower
@settings(max_examples=1, derandomize=True, **COMMON)
@given(seeds)
def test_random_networks_over_three_dimensions_agree_on_the_narrower_instruction_set(batch):
    check(batch, target=TARGETS["avx2"], spatial=3)


@pytest.mark.full
@dimensions
@settings(max_examples=20, **COMMON)
@given(seeds)
def test_hundreds_of_random_networks_over_one_two_and_three_dimensions_agree(spatial, batch):
    check(batch, spatial=spatial)


@pytest.mark.full
@settings(max_examples=80, **COMMON)
@given(seeds)
def test_thousands_of_random_networks_agree_with_the_interpreter_and_with_torch(batch):
    check(batch)
