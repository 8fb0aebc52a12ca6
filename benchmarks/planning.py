"""Asks for plans and looks whether they deliver: `python benchmarks/planning.py resnet50`.

Every goal is asked of `monstera.plan`: speedups against our own dense engine, and a latency, which is the dense time by
`--by`. The first goal is asked twice, first in an empty cache, so that this network's layers have to be timed; all
others find them. Then the dense network and every plan run interleaved in one process, each with the right answer
before it is timed: what a plan reached is judged by that, not by what it measured itself.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn

from monstera import measure, zoo
from monstera.compiler import BuildError, UnsupportedError
from monstera.report import planning_table, terminal
from monstera.search import Goal, GoalError, Planned, Rules, choose
from monstera.sparsity import pattern, projected_copy

RESULTS = Path(__file__).parent / "results"
SPEEDUPS = [2.0, 3.0, 4.0]


def main(
    name: Annotated[str, typer.Argument(metavar="NETWORK", help=f"One of {', '.join(zoo.NETWORKS)}.")] = "resnet50",
    speedups: Annotated[list[float], typer.Option("--speedup", help="Asked for; repeatable.")] = SPEEDUPS,
    by: Annotated[float, typer.Option(help="The latency asked for is the dense one by this; 0 asks for none.")] = 2.5,
    patterns: Annotated[list[str], typer.Option("--pattern", help="Candidates; those of `Rules` if left out.")] = [],  # noqa: B006
    trained: Annotated[Path | None, typer.Option(help="Weights, a safetensors file; random if left out.")] = None,
    shape: Annotated[str, typer.Option("--input", help="CxHxW or CxTxHxW; the usual size if left out.")] = "",
    threads: Annotated[int, typer.Option(help="Threads of the engines.")] = 1,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds, at least 3.")] = 5,
    round_s: Annotated[float, typer.Option("--seconds", help="Seconds an engine has in a round.")] = 0.3,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = RESULTS,
) -> None:
    """Plan NETWORK for every goal, race the plans against the dense network, and write the result as JSON."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    measure.pin(threads)
    size = measure.input_size(name, shape)
    with console.status("planning") as status, torch.random.fork_rng(), tempfile.TemporaryDirectory() as cache:
        torch.manual_seed(0)
        os.environ["MONSTERA_CACHE"] = cache
        pictures, example = measure.example(name, size, 2), measure.example(name, size)
        dense = measure.trained_network(name, trained) if trained else measure.dense_network(name, pictures)
        rules = Rules(tuple(map(pattern, patterns))) if patterns else Rules()
        asked = Asked(dense, example, threads, rules)
        tried = list(asked.answers(speedups, by))
        cases = [measure.Case(name, "dense", "dense", dense, example, threads)]
        for goal, answer in tried:
            sparse = zoo.calibrate_(projected_copy(dense, answer.planned.plan), pictures)
            cases.append(measure.Case(name, answer.table, goal, sparse, example, threads, facts=answer.facts()))
        points = measure.race_cases(cases, rounds=rounds, round_s=round_s, on_step=status.update)
    study = measure.make_study("planning", name, points, measure.fma_peaks([threads]))
    path = out / f"planning-{name}-t{threads}-{study.machine.instructions}.json"
    measure.write_study(study, path)
    console.print(terminal(planning_table(study)))
    console.print(f"written to {path}", style="dim")


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan, how long it took to make, and whether the layers' times were there."""

    planned: Planned
    seconds: float
    table: str

    def facts(self) -> dict[str, measure.Fact]:
        planned = self.planned
        kind = "speedup" if planned.goal.speedup is not None else "latency_ms"
        return {
            "kind": kind,
            "asked": planned.goal.speedup or planned.goal.latency_ms or 0.0,
            "predicted": planned.predicted,
            "measured": planned.reached,
            "tries": planned.tries,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """The network that plans are asked for."""

    model: nn.Module
    example: measure.Inputs
    threads: int
    rules: Rules

    def answers(self, speedups: Sequence[float], by: float) -> Iterator[tuple[str, Answer]]:
        """Yield each goal in words and its plan; the first without a table, then once more with it.

        Later goals that are out of reach are told and left out.
        """
        goals = [Goal(speedup=speedup) for speedup in speedups]
        first = self.answer(goals[0], "no table")
        yield str(goals[0]), first
        if by:
            goals.append(Goal(latency_ms=round(first.planned.dense_cost / by, 3)))
        for goal in goals:
            try:
                answer = self.answer(goal, "table")
            except GoalError as refused:
                Console(stderr=True).print(f"left out: {refused}", style="yellow", markup=False)
            else:
                yield str(goal), answer

    def answer(self, goal: Goal, table: str) -> Answer:
        begin = time.perf_counter()
        planned = choose(self.model, self.example, goal, rules=self.rules, threads=self.threads, quiet=True)
        return Answer(planned, time.perf_counter() - begin, table)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, OSError, UnsupportedError, BuildError) as reason:
        sys.exit(f"error: {reason}")
