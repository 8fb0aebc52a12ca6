"""`preview`: what would a plan gain? Compiled and measured on a masked copy, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from monstera.compiler.api import compile as compile_
from monstera.runtime import Profile
from monstera.sparsity import Plan, projected_copy

# A layer that gets less than this faster than its dense self does not pay for its holes.
WORTHWHILE = 1.1


@dataclass(frozen=True, slots=True)
class LayerPreview:
    """One layer, both engines: milliseconds, surviving share of its weights' work, and what the plan asks."""

    layer: str
    planned: str
    dense_ms: float
    sparse_ms: float

    @property
    def speedup(self) -> float:
        """Dense time by sparse time."""
        return self.dense_ms / self.sparse_ms if self.sparse_ms else float("inf")

    @property
    def gains(self) -> bool:
        """Whether a planned layer really gets faster."""
        return self.speedup >= WORTHWHILE


@dataclass(frozen=True, slots=True)
class Preview:
    """Measured on this machine: whole runs in milliseconds, and every layer with weights. Prints as a table."""

    layers: tuple[LayerPreview, ...]
    dense_ms: float
    sparse_ms: float

    @property
    def speedup(self) -> float:
        """Of the whole network, against our own dense engine."""
        return self.dense_ms / self.sparse_ms

    @property
    def without_gain(self) -> tuple[str, ...]:
        """Planned layers that will not get faster: better left dense."""
        return tuple(p.layer for p in self.layers if p.planned and not p.gains)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table("layer", "plan", title="Preview: ms a layer on this machine")
        for column in ("dense ms", "sparse ms", "times faster"):
            table.add_column(column, justify="right")
        for p in self.layers:
            verdict = "" if p.gains or not p.planned else "  will not gain"
            table.add_row(
                p.layer, p.planned or "dense", f"{p.dense_ms:.3f}", f"{p.sparse_ms:.3f}", f"{p.speedup:.2f}{verdict}"
            )
        table.add_section()
        table.add_row("whole network", "", f"{self.dense_ms:.3f}", f"{self.sparse_ms:.3f}", f"{self.speedup:.2f}")
        yield table

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as text:
            console.print(self)
        return text.get()


def preview(
    model: torch.nn.Module, example: Any, plan: Plan, *, threads: int = 1, rounds: int = 20, quiet: bool = False
) -> Preview:
    """Compile the model and a masked copy of it, measure both here, print ms per layer and what will not gain.

    The model is not modified. Accuracy is not looked at: the copy is pruned by magnitude, untrained.

    Args:
        model, example, threads: as for `compile`.
        plan: the holes to try.
        rounds: runs timed; medians are shown.
        quiet: do not print.

    Raises:
        PlanError: the plan does not fit the model.
        ValueError, UnsupportedError, BuildError: as for `compile`.
    """
    engines = [compile_(m, example, threads=threads) for m in (model, projected_copy(model, plan))]
    dense, sparse = (engine.profile(rounds=rounds) for engine in engines)
    result = Preview(_layers(dense, sparse, plan), dense.ms, sparse.ms)
    if not quiet:
        Console().print(result)
    return result


def _layers(dense: Profile, sparse: Profile, plan: Plan) -> tuple[LayerPreview, ...]:
    """Layers with weights, in the order they run; the steps of one layer are added up."""
    planned = {name.rpartition(".")[0]: str(entry) for name, entry in plan.items()}
    before, after = _sums(dense), _sums(sparse)
    weighted = {p.layer for p in dense.layers if p.dense_macs}
    return tuple(
        LayerPreview(layer, planned.get(layer, ""), ms, after.get(layer, 0.0))
        for layer, ms in before.items()
        if layer in weighted
    )


def _sums(profile: Profile) -> dict[str, float]:
    sums: dict[str, float] = {}
    for p in profile.layers:
        sums[p.layer] = sums.get(p.layer, 0.0) + p.ms
    return sums
