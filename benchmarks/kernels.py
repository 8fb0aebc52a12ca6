"""Times every kernel against the machine's limits: `python benchmarks/kernels.py`, or `make bench-kernels`.

Each case is one layer, compiled like any network and timed without the copies at its ends. "spmm": 3x3 convolutions on
planes of 56x56 to 7x7, with as many channels as ResNet has there, in which blocks of R filters share K columns; run in
blocks of R rows, by the fastest of the tiles of P vectors. "spmv": a linear layer of the size of a GRU, in which blocks
of R rows share K columns, run in blocks of R rows. "patterns": one convolution under every kind of pattern at the same
density, run as the compiler chooses. Which kernel ran is read off the profile. The FMA peak and the bandwidths of
caches and memory are measured in the same run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from monstera import measure
from monstera.compiler import BuildError, UnsupportedError
from monstera.compiler.lowering.choice import Case as Layer
from monstera.compiler.lowering.choice import Choice
from monstera.compiler.targets import Target, target_named
from monstera.compiler.tuning import Effort
from monstera.report import study_tables, terminal
from monstera.sparsity import NOfM, pattern

RESULTS = Path(__file__).parent / "results"
# Side of the plane -> channels in and out.
PLANES = {56: 64, 28: 128, 14: 256, 7: 512}
SIDES, COLUMNS = list(PLANES), [8, 16, 32, 64, 128, 256]
SPMV_SHAPE, SPMV_ROWS = (3072, 1024), (16, 8, 4, 1)
SWEEPS = ["spmm", "spmv", "patterns"]

# 8x4 is KGS, 8x4xall a kernel group. N:M patterns know their density.
PATTERNS = ["4x1", "8x1", "16x1", "8x4", "8x4xall", "bcr16x64", "kernel", "filter", "channel", "unstructured"]
N_OF_M = {0.5: ["2:4", "4x1@2:4"], 0.25: ["1:4", "4x1@1:4"]}
# Four of nine positions: at a density of 4/9 all kernels are left, and whole kernels go below.
KERNEL_PATTERN = "patterns4of8"


def main(
    sweeps: Annotated[list[str], typer.Option("--sweep", help=f"Of {', '.join(SWEEPS)}; repeatable.")] = SWEEPS,
    target: Annotated[str, typer.Option(help="Instruction set, as for monstera.compile.")] = "native",
    sides: Annotated[list[int], typer.Option("--plane", help="Side of the planes; repeatable.")] = SIDES,
    columns: Annotated[list[int], typer.Option("--columns", help="Columns of a block; repeatable.")] = COLUMNS,
    tune: Annotated[Effort, typer.Option(help="Effort of the tuner for the patterns.")] = "fast",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds, at least 3.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = RESULTS,
) -> None:
    """Time the kernels of one target on one thread, and write the result as JSON."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    if unknown := [*(s for s in sweeps if s not in SWEEPS), *(str(s) for s in sides if s not in PLANES)]:
        raise ValueError(f"unknown: {', '.join(unknown)}; there are {', '.join([*SWEEPS, *map(str, PLANES)])}")
    measure.pin(1)
    chosen = target_named(target)
    makers = {
        "spmm": lambda: spmm_cases(sides, columns, chosen),
        "spmv": lambda: spmv_cases(columns, chosen),
        "patterns": lambda: pattern_cases(chosen, tune),
    }
    points: tuple[measure.Point, ...] = ()
    with console.status("making the layers") as status, torch.random.fork_rng():
        torch.manual_seed(0)
        for sweep in sweeps:
            points += measure.profile_cases(list(makers[sweep]()), rounds=rounds, on_step=status.update)
    study = measure.make_study("kernels", chosen.name, points, measure.fma_peaks([1]), tune)
    path = out / f"kernels-{chosen.name}.json"
    measure.write_study(study, path)
    for table in study_tables(study):
        console.print(terminal(table))
    console.print(f"written to {path}", style="dim")


def spmm_cases(sides: list[int], columns: list[int], target: Target) -> Iterator[measure.Case]:
    """Yield a convolution for every plane, number of rows that share columns, and number of columns."""
    for side, size, count in ((s, r, k) for s in sides for r in sorted(target.tiles) for k in columns):
        conv = nn.Conv2d(PLANES[side], PLANES[side], 3, padding=1).eval()
        share_columns_(conv.weight, size, count)
        example = torch.randn(1, PLANES[side], side, side)
        tuning = measure.fastest_of(partial(tiles, rows=size, target=target), conv, example, target=target.name)
        (choice,) = tuning.choices.values()
        options = {"target": target.name, "tuning": tuning}
        facts = {"rows": size, "columns": count, "tile": choice.tile}
        yield measure.Case(f"spmm {side}x{side}", f"{size} rows", count, conv, example, 1, options, facts)


def tiles(layer: Layer, rows: int, target: Target) -> list[Choice]:
    """Return blocks of `rows` rows with tiles of every width that may be the best: the widest down to half of it."""
    widest = target.tiles[rows]
    return [measure.in_blocks(layer, rows, tile) for tile in range(widest, widest // 2, -1)]


def spmv_cases(columns: list[int], target: Target) -> Iterator[measure.Case]:
    """Yield a linear layer for every number of rows that share columns, and number of columns."""
    outputs, inputs = SPMV_SHAPE
    example = torch.randn(1, inputs)
    for size, count in ((r, k) for r in SPMV_ROWS for k in sorted({*columns, inputs})):
        linear = nn.Linear(inputs, outputs).eval()
        share_columns_(linear.weight, size, count)
        tuning = measure.held_to(partial(measure.in_blocks, rows=size), linear, example, target=target.name)
        options = {"target": target.name, "tuning": tuning}
        facts = {"rows": size, "columns": count}
        yield measure.Case(f"spmv {outputs}x{inputs}", f"{size} rows", count, linear, example, 1, options, facts)


def pattern_cases(target: Target, tune: Effort) -> Iterator[measure.Case]:
    """Yield one convolution under every pattern that reaches a density, for two densities; and dense."""
    options = {"target": target.name, "tune": tune}
    dense = nn.Conv2d(256, 256, 3, padding=1).eval()
    example = torch.randn(1, 256, 14, 14)
    yield measure.Case("patterns", "dense", "dense", dense, example, 1, options)
    for density, fixed in N_OF_M.items():
        masks = {name: pattern_mask(name, dense.weight, density) for name in (*PATTERNS, *fixed)}
        if density <= 4 / 9:
            masks["kernel pattern"] = pattern_mask(KERNEL_PATTERN, dense.weight, density)
        for name, mask in masks.items():
            conv = nn.Conv2d(256, 256, 3, padding=1).eval()
            conv.load_state_dict(dense.state_dict())
            keep_(conv.weight, mask)
            yield measure.Case("patterns", f"density {density:g}", name, conv, example, 1, options)


def share_columns_(weight: Tensor, rows: int, columns: int) -> None:
    """Leave `columns` columns, drawn anew for each block of `rows` rows, of a weight seen as a matrix."""
    blocks, width = len(weight) // rows, weight[0].numel()
    kept = torch.rand(blocks, width).argsort(1).argsort(1) < columns
    keep_(weight, kept.repeat_interleave(rows, 0).view_as(weight))


def pattern_mask(name: str, weight: Tensor, density: float) -> Tensor:
    """Return the mask of the largest groups of a pattern."""
    block = pattern(name)
    return block.mask(weight.detach().square(), None if isinstance(block.scope, NOfM) else density)


@torch.no_grad()
def keep_(weight: Tensor, mask: Tensor) -> None:
    """Set a weight to zero outside the mask, in place."""
    weight.masked_fill_(~mask, 0)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, RuntimeError, OSError, UnsupportedError, BuildError) as reason:
        sys.exit(f"error: {reason}")
