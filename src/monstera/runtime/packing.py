"""The packing plan: how the weights of an engine lie, layer by layer, and what that costs, predicted and measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from monstera.runtime.manifest import LayerSpec, PackingSpec
from monstera.runtime.profile import Profile

# The FMA peak, in GFLOP/s a core, that predictions assume unless told: of the order of a server's core of the 2020s.
PEAK_GFLOPS = 100.0

_COLUMNS = ("layer", "order", "rows", "blocks", "stored", "zeros", "share", "predicted ms", "measured ms")


@dataclass(frozen=True, slots=True)
class LayerPacking:
    """The weights of one layer.

    Attributes:
        layer: its name.
        order: "natural", or "clustered" where rows that share columns were brought together.
        rows: output rows; dead ones that the compiler dropped do not count.
        blocks: (rows a block, blocks of this size), large ones first.
        dense: weights of the rows if they had no holes.
        weights: those that survive.
        stored: those that lie in memory: survivors, and zeros where the rows of a block do not share a column.
        predicted_ms: milliseconds by the price model.
        measured_ms: milliseconds measured, None if nothing was measured.
    """

    layer: str
    order: str
    rows: int
    blocks: tuple[tuple[int, int], ...]
    dense: int
    weights: int
    stored: int
    predicted_ms: float
    measured_ms: float | None = None

    @property
    def zeros(self) -> int:
        """Zeros that blocks carry."""
        return self.stored - self.weights

    @property
    def share(self) -> float:
        """Stored weights as a part of the dense ones."""
        return self.stored / self.dense if self.dense else 0.0


@dataclass(frozen=True, slots=True)
class PackingPlan:
    """All layers with weights, in the order they run; prints as a table.

    `peak_gflops` is the peak of the cores used, in GFLOP/s, that the predictions assume. They know nothing of the state
    of the caches, so measured times lie above them: look at where the ratio is odd.
    """

    layers: tuple[LayerPacking, ...]
    peak_gflops: float

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells as text, one row a layer and one for their sum."""
        return [_cells(layer) for layer in (*self.layers, self.total)]

    @property
    def total(self) -> LayerPacking:
        """The sum over layers."""
        measured = [p.measured_ms for p in self.layers if p.measured_ms is not None]
        return LayerPacking(
            layer="all",
            order=_one([p.order for p in self.layers]),
            rows=sum(p.rows for p in self.layers),
            blocks=_by_size(block for layer in self.layers for block in layer.blocks),
            dense=sum(p.dense for p in self.layers),
            weights=sum(p.weights for p in self.layers),
            stored=sum(p.stored for p in self.layers),
            predicted_ms=sum(p.predicted_ms for p in self.layers),
            measured_ms=sum(measured) if measured else None,
        )

    def __str__(self) -> str:
        table = [_COLUMNS, *self.rows()]
        widths = [max(len(row[i]) for row in table) for i in range(len(_COLUMNS))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([*lines, f"predicted for a peak of {self.peak_gflops:g} GFLOP/s"])


def packing_plan(
    steps: Sequence[LayerSpec], threads: int, profile: Profile | None, peak_gflops: float | None
) -> PackingPlan:
    """Gather the plan from a program's steps; the kernel calls of one layer become one row.

    Raises:
        ValueError: the profile was taken of another engine, or the peak is not positive.
    """
    peak = PEAK_GFLOPS * threads if peak_gflops is None else peak_gflops
    if not peak > 0:
        raise ValueError(f"peak_gflops must be positive, got {peak_gflops!r}")
    if profile is not None and [p.title for p in profile.layers] != [s.title for s in steps]:
        raise ValueError(
            f"the profile has {len(profile.layers)} steps that are not the {len(steps)} of this engine: "
            "give it what this engine's profile() returned"
        )
    times = [None] * len(steps) if profile is None else [p.ms for p in profile.layers]
    packed = [(step, step.packing, ms) for step, ms in zip(steps, times, strict=True) if step.packing]
    groups = itertools.groupby(packed, key=lambda entry: entry[0].layer)
    return PackingPlan(tuple(_layer(layer, list(entries), peak) for layer, entries in groups), peak)


def _layer(
    layer: str, entries: Sequence[tuple[LayerSpec, tuple[PackingSpec, ...], float | None]], peak_gflops: float
) -> LayerPacking:
    parts = [part for _, packing, _ in entries for part in packing]
    measured = [ms for _, _, ms in entries if ms is not None]
    return LayerPacking(
        layer=layer,
        order=_one([p.order for p in parts]),
        rows=sum(p.size * p.blocks for p in parts),
        blocks=_by_size((p.size, p.blocks) for p in parts),
        dense=sum(p.size * p.blocks * p.columns for p in parts),
        weights=sum(p.weights for p in parts),
        stored=sum(p.stored for p in parts),
        predicted_ms=sum(p.flop for p in parts) / (1e6 * peak_gflops),
        measured_ms=sum(measured) if measured else None,
    )


def _by_size(blocks: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Blocks counted by their size, large ones first."""
    sizes: dict[int, int] = {}
    for size, count in blocks:
        sizes[size] = sizes.get(size, 0) + count
    return tuple(sorted(sizes.items(), reverse=True))


def _one(names: Sequence[str]) -> str:
    """The name that all have, or "mixed"."""
    return names[0] if len(set(names)) == 1 else "mixed" if names else ""


def _cells(p: LayerPacking) -> tuple[str, ...]:
    return (
        p.layer,
        p.order,
        str(p.rows),
        ", ".join(f"{count} of {size}" for size, count in p.blocks),
        str(p.stored),
        str(p.zeros),
        f"{p.share:.3f}",
        f"{p.predicted_ms:.3f}",
        "" if p.measured_ms is None else f"{p.measured_ms:.3f}",
    )
