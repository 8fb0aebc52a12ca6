"""Times what each idea of the compiler buys: `python benchmarks/ablation.py`, or `make bench-ablation`.

The stages are those of GRIM's ablation, each with all before it. "CSR": rows one by one, each with its own columns.
"blocks": rows that share their columns and stand together are computed together. "reorder": rows are brought together
that share them. "load elimination": several vectors of a plane at a time, so that a loaded weight is used by all of
them (a product with one vector has no such thing). "tuning": choices timed and not predicted. Two subjects: a network,
and a linear layer of the size of a GRU; each with its blocks of filters as they were pruned, and with the filters of
every layer shuffled, so that those of a block lie apart.

Source: Niu et al., "GRIM: A General, Real-Time Deep Learning Inference Framework for Mobile Devices" (2021). How we
differ: its baseline is CSR in its own loop; ours is this compiler, held to blocks of one row and tiles of one vector.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeAlias

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from monstera import measure, zoo
from monstera.compiler import BuildError, UnsupportedError
from monstera.compiler.lowering.choice import Case as Layer
from monstera.compiler.lowering.choice import Choice
from monstera.compiler.tuning import Effort
from monstera.report import study_tables, terminal

RESULTS = Path(__file__).parent / "results"
SPMV_SHAPE = (3072, 1024)

# Sweep, line, network and input.
Subject: TypeAlias = tuple[str, str, nn.Module, Tensor | tuple[Tensor, ...]]


def csr(_: Layer) -> Choice:
    """Rows one by one, one vector at a time."""
    return Choice("natural", (1,), tile=1)


def blocks(layer: Layer) -> Choice:
    """The cheapest blocks of rows as they stand."""
    best = min((c for c in layer.candidates if c.order == "natural"), key=lambda c: c.flop)
    return Choice(best.order, best.sizes, tile=1)


def reordered(layer: Layer) -> Choice:
    """The compiler's blocks, of rows in any order."""
    return replace(layer.default, tile=1)


def predicted(layer: Layer) -> Choice:
    """All that the compiler chooses, by its model of the cost."""
    return layer.default


# What layers are held to, by stage; None is left to the tuner.
STAGES: dict[str, Callable[[Layer], Choice] | None] = {
    "CSR": csr,
    "blocks": blocks,
    "reorder": reordered,
    "load elimination": predicted,
    "tuning": None,
}


def main(
    name: Annotated[str, typer.Argument(metavar="NETWORK", help=f"One of {', '.join(zoo.NETWORKS)}.")] = "resnet50",
    pattern: Annotated[str, typer.Option(help="CONV or CONV/LINEAR, as for networks.py.")] = "4x1/16x1",
    density: Annotated[float, typer.Option(help="Kept fraction.")] = 0.1,
    shape: Annotated[str, typer.Option("--input", help="CxHxW or CxTxHxW; the usual size if left out.")] = "",
    effort: Annotated[Effort, typer.Option("--tune", help="Effort of the last stage.")] = "full",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds, at least 3.")] = 5,
    round_s: Annotated[float, typer.Option("--seconds", help="Seconds a stage has in a round.")] = 0.3,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = RESULTS,
) -> None:
    """Time every stage on NETWORK and on a linear layer, on one thread, and write the result as JSON."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    measure.pin(1)
    size = measure.input_size(name, shape)
    (way,) = measure.holes([pattern], [density])
    with console.status("making the networks") as status, torch.random.fork_rng():
        torch.manual_seed(0)
        networks, products = list(stages(whole(name, size, way), effort)), list(stages(product(way), effort))
        points = measure.race_cases(networks, rounds=rounds, round_s=round_s, on_step=status.update)
        points += measure.profile_cases(products, rounds=rounds, on_step=status.update)
    study = measure.make_study("ablation", name, points, measure.fma_peaks([1]), effort)
    path = out / f"ablation-{name}-{study.machine.instructions}.json"
    measure.write_study(study, path)
    for table in study_tables(study):
        console.print(terminal(table))
    console.print(f"written to {path}", style="dim")


def stages(subjects: Iterable[Subject], effort: Effort) -> Iterator[measure.Case]:
    """Yield a case for each subject and stage."""
    for sweep, line, model, example in subjects:
        for stage, choose in STAGES.items():
            options = {"tuning": measure.held_to(choose, model, example)} if choose else {"tune": effort}
            yield measure.Case(sweep, line, stage, model, example, 1, options)


def whole(name: str, size: tuple[int, ...], way: measure.Holes) -> Iterator[Subject]:
    """Yield the network as it was pruned, and with the filters of every pruned layer shuffled."""
    pictures, example = measure.example(name, size, 2), measure.example(name, size)
    pruned = measure.sparse_copy(measure.dense_network(name, pictures), way, pictures)
    shuffled = copy.deepcopy(pruned)
    for weight in way.plan(shuffled).weights(shuffled).values():
        shuffle_(weight)
    sweep = f"{name}, {way}"
    yield sweep, "as pruned", pruned, example
    yield sweep, "filters shuffled", zoo.calibrate_(shuffled, pictures), example


def product(way: measure.Holes) -> Iterator[Subject]:
    """Yield a linear layer with the same holes, as it was pruned and with its rows shuffled."""
    outputs, inputs = SPMV_SHAPE
    pruned = nn.Linear(inputs, outputs).eval()
    with torch.no_grad():
        pruned.weight.copy_(way.linear.pattern.project(pruned.weight, way.linear.density))
    shuffled = copy.deepcopy(pruned)
    shuffle_(shuffled.weight)
    sweep, example = f"linear {outputs}x{inputs}, {way.linear}", torch.randn(1, inputs)
    yield sweep, "as pruned", pruned, example
    yield sweep, "filters shuffled", shuffled, example


@torch.no_grad()
def shuffle_(weight: Tensor) -> None:
    """Bring the filters of a weight into a random order, in place."""
    weight.copy_(weight[torch.randperm(len(weight))])


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, OSError, UnsupportedError, BuildError) as reason:
        sys.exit(f"error: {reason}")
