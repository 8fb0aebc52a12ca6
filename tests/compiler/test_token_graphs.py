"""Random networks over tokens: passes keep them, and the engine computes what interpreter and torch compute."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.agreement import compare, torch_answers
from compiler.batch import compile_batch, narrower, run
from compiler.graphs import fitting_inputs
from compiler.token_graphs import imported_tokens, token_model
from monstera.compiler.ir import error_bound, interpret
from monstera.compiler.passes import PASSES, optimize
from monstera.compiler.targets import TARGETS, Target

pytestmark = pytest.mark.usefixtures("nan_before_first_use")


def check(seeds: range, threads: int = 1, target: Target | None = None) -> None:
    """Compile the models of these seeds together and compare each, twice, as the second run finds a used arena."""
    models = [token_model(np.random.default_rng(seed)) for seed in seeds]
    graphs = [imported_tokens(model) for model in models]
    runners = compile_batch(graphs, threads, target)
    for seed, model, graph, runner in zip(seeds, models, graphs, runners, strict=True):
        inputs = fitting_inputs(graph, seed)
        theirs = torch_answers(model, graph, inputs)
        for _ in range(2):
            compare(f"seed {seed}", graph.graph, inputs, run(runner, graph, inputs), theirs)


@pytest.mark.parametrize("seed", range(60))
def test_every_pass_and_all_together_keep_what_a_network_over_tokens_computes(seed):
    imported = imported_tokens(token_model(np.random.default_rng(seed)))
    graph, inputs = imported.graph, fitting_inputs(imported, seed)
    before, bounds = interpret(graph, inputs), error_bound(graph, inputs)
    for rewrite in [*dict.fromkeys(PASSES), optimize]:
        rewritten = rewrite(graph)
        after = interpret(rewritten, inputs)
        for old, new in zip(graph.outputs, rewritten.outputs, strict=True):
            assert (np.abs(before[old] - after[new]) <= bounds[old] + 1e-9).all(), rewrite


def test_forty_networks_over_tokens_agree_with_the_interpreter_and_with_torch():
    check(range(40))


def test_networks_over_tokens_agree_on_three_threads():
    check(range(40, 55), threads=3)


@narrower
def test_networks_over_tokens_agree_on_the_narrower_instruction_set():
    check(range(55, 70), target=TARGETS["avx2"])


@pytest.mark.full
@pytest.mark.parametrize("first", range(1000, 2000, 25))
def test_a_thousand_networks_over_tokens_agree(first):
    check(range(first, first + 25))
