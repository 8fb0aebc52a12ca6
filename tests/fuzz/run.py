"""Fuzzes artifacts: `make fuzz`. Prints what was tried, and every file that was worse than refused."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import monstera as ms
from compiler.graphs import random_model
from compiler.token_graphs import token_model
from fuzz.mutations import mutant
from fuzz.trial import FINE, Program, answer_of, outcome
from monstera.runtime import random_array


def corpus() -> list[Program]:
    """Small programs of every kind of layer: a CNN on two threads, a linear one, random ones, two over tokens.

    And one of two lengths, once for each.
    """
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.MaxPool2d(2)]
    cnn = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 5), nn.Softmax(1)).eval()
    ms.prune(cnn, ms.Plan({"0.weight": ("4x1", 0.5)}))
    programs = [_program("cnn", cnn, (torch.randn(1, 3, 10, 11),), 2)]
    programs.append(_program("linear", nn.Linear(20, 33).eval(), (torch.randn(2, 20),), 1))
    for seed, spatial in ((1, None), (4, None), (6, 1), (3, 2), (5, 3)):
        model = random_model(np.random.default_rng(seed), spatial)
        programs.append(_program(f"random {seed} {spatial}", model, model.example(seed), 1))
    # A table and causal attention with keys that heads share; features, masks, and heads whose queries are dead.
    for seed in (15, 42):
        model = token_model(np.random.default_rng(seed))
        programs.append(_program(f"tokens {seed}", model, model.example(), 1))
    return [*programs, *_lengths()]


def _lengths() -> tuple[Program, Program]:
    """The same file, asked at either of its lengths; tables are made when it is loaded."""
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 24)).eval()
    ms.prune(model, ms.Plan({"0.weight": ("4x1", 0.5), "2.weight": ("4x1", 0.5)}))
    short, long = ((torch.randn(1, length, 24),) for length in (11, 37))
    first = _program("lengths", model, short, 1, [long])
    inputs = {name: long[0].numpy() for name in first.inputs}
    return first, Program("longer", first.data, inputs, answer_of(ms.compile(model, long), inputs))


def _program(
    name: str, model: nn.Module, example: tuple[torch.Tensor, ...], threads: int, also: Sequence[Any] = ()
) -> Program:
    engine = ms.compile(model, example, also=also, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        engine.save(Path(folder) / "net.monstera")
        data = (Path(folder) / "net.monstera").read_bytes()
    rng = np.random.default_rng(0)
    inputs = {spec.name: random_array(spec, rng) for spec in engine.manifest.inputs}
    return Program(name, data, inputs, answer_of(engine, inputs))


def fuzz(programs: list[Program], seed: int, numbers: range) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Try the mutants of these numbers: how often each kind had each outcome, and what must not be."""
    files = [program.data for program in programs]
    counts: Counter[tuple[str, str]] = Counter()
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MONSTERA_CACHE"] = folder
        path = Path(folder) / "mutant.monstera"
        for number in numbers:
            which, changed = mutant(files, seed, number)
            path.write_bytes(changed.data)
            said = outcome(programs[which], path, changed.rebuild)
            kind = f"{changed.kind}, built anew" if changed.rebuild else changed.kind
            counts[kind, said if said in FINE else "BAD"] += 1
            if said not in FINE:
                bad.append(f"seed {seed} number {number}, {kind} of {programs[which].name!r}: {said}")
                print(bad[-1], flush=True)
            if (number + 1) % 1000 == 0:
                print(f"{number + 1} done, {len(bad)} bad", flush=True)
    return counts, bad


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=10_000)
    options.add_argument("--first", type=int, default=0, help="number of the first mutant, to try one again")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    programs = corpus()
    counts, bad = fuzz(programs, given.seed, range(given.first, given.first + given.count))
    table = Table(title=f"{counts.total()} mutants of {len(programs)} programs, seed {given.seed}")
    for column in ("mutation", *FINE, "BAD"):
        table.add_column(column)
    for kind in sorted({kind for kind, _ in counts}):
        table.add_row(kind, *(str(counts[kind, said] or "") for said in (*FINE, "BAD")))
    Console(width=120).print(table)
    print(f"{len(bad)} of them crashed, hung, took too much memory or gave a wrong answer")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
