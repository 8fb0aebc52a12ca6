"""Predicts random plans, and times them: `python benchmarks/prediction.py resnet20`, or `make bench-prediction`.

Every layer draws its own pattern and density, log-uniform between 0.05 and 1. Its costs are measured first, where this
machine has not kept them, or looked up in a table. Then every plan is predicted, its holes are put in by magnitude, the
network is compiled, has to give torch's answer, and is timed, while the machine keeps its full pace. Weights are random
but not degenerate (see `monstera.zoo.randomize_`).
"""

from __future__ import annotations

import random
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn

from monstera import measure, zoo
from monstera.compiler import BuildError, UnsupportedError
from monstera.report import terminal
from monstera.report.predictions import plans_table
from monstera.search import NetworkCosts, costs_of
from monstera.search.costs.trials import Trial, Trials, random_plan, write_trials
from monstera.sparsity import Plan, pattern, projected_copy

RESULTS = Path(__file__).parent / "results"
PATTERNS = ["4x1", "8x4", "unstructured"]


def main(
    name: Annotated[str, typer.Argument(metavar="NETWORK", help=f"One of {', '.join(zoo.NETWORKS)}.")],
    plans: Annotated[int, typer.Option(min=1, help="How many random plans.")] = 20,
    patterns: Annotated[list[str], typer.Option("--pattern", help="What layers draw from; repeatable.")] = PATTERNS,
    seed: Annotated[int, typer.Option(help="Seed of the plans.")] = 0,
    shape: Annotated[str, typer.Option("--input", help="As for networks.py; the usual size if left out.")] = "",
    threads: Annotated[int, typer.Option(help="Threads, and cores the process is kept on.")] = 1,
    table: Annotated[Path | None, typer.Option(help="A cost table; without, layers are measured here.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds a plan is timed in, at least 3.")] = 5,
    round_s: Annotated[float, typer.Option("--seconds", help="Seconds of a round.")] = 0.3,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = RESULTS,
) -> None:
    """Compare predicted with measured times of NETWORK under random plans, and write the result as JSON."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    measure.pin(threads)
    size, rng = measure.input_size(name, shape), random.Random(seed)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pictures, example = measure.example(name, size, 2), measure.example(name, size)
        dense = measure.dense_network(name, pictures)
        # One pattern after another: each call has a time of its own to measure.
        for count in range(len(patterns)):
            costs_of(dense, example, patterns=patterns[:count], threads=threads, table=table)
        costs = costs_of(dense, example, patterns=patterns, threads=threads, table=table)
        chosen = [random_plan(dense, costs.weights, [*map(pattern, patterns)], rng) for _ in range(plans)]
        trials = []
        with console.status("timing engines") as status:
            for i, plan in enumerate([Plan(), *chosen]):
                status.update(f"plan {i} of {plans}")
                trials.append(trial(dense, plan, pictures, example, costs, rounds, round_s))
    result = Trials(
        network=name,
        inputs=size,
        threads=threads,
        date=datetime.now(timezone.utc).date().isoformat(),
        machine=measure.this_machine(),
        command=shlex.join(["python", "benchmarks/prediction.py", *sys.argv[1:]]),
        patterns=tuple(patterns),
        seed=seed,
        law=str(costs.law.quality) if costs.law else "",
        dense=trials[0],
        plans=tuple(trials[1:]),
    )
    path = out / f"prediction-{name}-t{threads}-{result.machine.instructions}.json"
    write_trials(result, path)
    console.print(terminal(plans_table(result)))
    console.print(f"median error {result.median_error:.1%}, rank correlation {result.rank_correlation:.3f}")
    console.print(f"written to {path}", style="dim")


def trial(
    dense: nn.Module,
    plan: Plan,
    pictures: torch.Tensor | tuple[torch.Tensor, ...],
    example: measure.Inputs,
    costs: NetworkCosts,
    rounds: int,
    round_s: float,
) -> Trial:
    """Return predicted and measured time of a plan."""
    sparse = zoo.calibrate_(projected_copy(dense, plan), pictures)
    case = measure.Case("random plans", "", 0, sparse, example, costs.threads)
    (point,) = measure.race_cases([case], rounds=rounds, round_s=round_s)
    assert point.timing is not None
    assert point.error is not None
    return Trial(
        predicted_ms=costs.network_ms(plan),
        measured_ms=point.timing.median_ms,
        density=point.macs.surviving / point.macs.dense,
        error=point.error,
        spread=point.timing.spread,
        disturbed=point.timing.disturbed,
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, OSError, UnsupportedError, BuildError) as reason:
        sys.exit(f"error: {reason}")
