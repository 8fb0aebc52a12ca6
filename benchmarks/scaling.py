"""Times Monstera along one axis after the other: `python benchmarks/scaling.py resnet50`, or `make bench-scaling`.

"density": from dense down to a hundredth. "batch": several pictures a call. "threads": the same network on more cores.
The last two dense and at one density. Points of one axis run interleaved in one process, each with the right answer
before it is timed; the FMA peak for every number of threads is measured in the same run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from monstera import measure, zoo
from monstera.compiler import BuildError, UnsupportedError
from monstera.compiler.tuning import Effort
from monstera.report import study_tables, terminal

RESULTS = Path(__file__).parent / "results"
AXES = ["threads", "density", "batch"]
DENSITIES = [1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01]
BATCHES, THREADS = [1, 2, 4, 8], [1, 2]


def main(
    name: Annotated[str, typer.Argument(metavar="NETWORK", help=f"One of {', '.join(zoo.NETWORKS)}.")],
    axes: Annotated[list[str], typer.Option("--axis", help=f"Of {', '.join(AXES)}; repeatable.")] = AXES,
    pattern: Annotated[str, typer.Option(help="CONV or CONV/LINEAR, as for networks.py.")] = "4x1/16x1",
    density: Annotated[float, typer.Option(help="Kept fraction on the axes of batch and threads.")] = 0.1,
    densities: Annotated[list[float], typer.Option("--at-density", help="Place on its axis.")] = DENSITIES,
    batches: Annotated[list[int], typer.Option("--at-batch", help="Place on its axis.")] = BATCHES,
    threads: Annotated[list[int], typer.Option("--at-threads", help="Place on its axis.")] = THREADS,
    shape: Annotated[str, typer.Option("--input", help="CxHxW or CxTxHxW; the usual size if left out.")] = "",
    tune: Annotated[Effort, typer.Option(help="Effort of the tuner, as for monstera.compile.")] = "fast",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds, at least 3.")] = 5,
    round_s: Annotated[float, typer.Option("--seconds", help="Seconds a point has in a round.")] = 0.3,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = RESULTS,
) -> None:
    """Time NETWORK along each axis and write the result as JSON."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    if unknown := [axis for axis in axes if axis not in AXES]:
        raise ValueError(f"unknown axes: {', '.join(unknown)}; there are {', '.join(AXES)}")
    used = sorted(set(threads)) if "threads" in axes else [1]
    size = measure.input_size(name, shape)
    points: tuple[measure.Point, ...] = ()
    with console.status("making the networks") as status, torch.random.fork_rng():
        torch.manual_seed(0)
        subject = Subject(name, size, pattern, density, tune)
        makers = {
            "threads": lambda: subject.over_threads(used),
            "density": lambda: subject.over_density(densities),
            "batch": lambda: subject.over_batch(batches),
        }
        measure.pin(used[-1])
        peaks = measure.fma_peaks(used)
        # Cores can only be given back, so the axis that needs more of them comes first.
        for axis in (axis for axis in AXES if axis in axes):
            measure.pin(used[-1] if axis == "threads" else 1)
            points += measure.race_cases(list(makers[axis]()), rounds=rounds, round_s=round_s, on_step=status.update)
    study = measure.make_study("scaling", name, points, peaks, tune)
    path = out / f"scaling-{name}-{study.machine.instructions}.json"
    measure.write_study(study, path)
    for table in study_tables(study):
        console.print(terminal(table))
    console.print(f"written to {path}", style="dim")


@dataclass(frozen=True, slots=True)
class Subject:
    """The network that is scaled, and the holes it gets."""

    name: str
    size: tuple[int, ...]
    pattern: str
    density: float
    tune: Effort

    def over_density(self, densities: list[float]) -> Iterator[measure.Case]:
        """Yield the network at each density; at density 1 it is the dense one."""
        dense, example = self.dense(), measure.example(self.name, self.size)
        for density in densities:
            model = self.sparse(dense, density) if density < 1 else dense
            yield measure.Case("density", self.pattern, density, model, example, options={"tune": self.tune})

    def over_batch(self, batches: list[int]) -> Iterator[measure.Case]:
        """Yield the network, dense and sparse, for several inputs a call."""
        for line, model in self.both():
            for batch in batches:
                example = measure.example(self.name, self.size, batch)
                yield measure.Case("batch", line, batch, model, example, options={"tune": self.tune})

    def over_threads(self, threads: list[int]) -> Iterator[measure.Case]:
        """Yield the network, dense and sparse, on each number of threads."""
        for line, model in self.both():
            example = measure.example(self.name, self.size)
            for count in threads:
                yield measure.Case("threads", line, count, model, example, count, {"tune": self.tune})

    def both(self) -> list[tuple[str, nn.Module]]:
        """Return the network dense and at the one density, with what each is called."""
        dense = self.dense()
        return [("dense", dense), (f"{self.pattern} at density {self.density:g}", self.sparse(dense, self.density))]

    def dense(self) -> nn.Module:
        return measure.dense_network(self.name, self.pictures())

    def sparse(self, dense: nn.Module, density: float) -> nn.Module:
        (way,) = measure.holes([self.pattern], [density])
        return measure.sparse_copy(dense, way, self.pictures())

    def pictures(self) -> Tensor | tuple[Tensor, ...]:
        return measure.example(self.name, self.size, 2)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, OSError, UnsupportedError, BuildError) as reason:
        sys.exit(f"error: {reason}")
