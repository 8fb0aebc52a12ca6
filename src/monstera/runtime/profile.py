"""Where an engine's time goes, layer by layer, and how much memory it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from monstera.runtime.manifest import LayerSpec

_COLUMNS = ("layer", "what", "kernel", "ms", "MMAC dense", "MMAC", "GFLOP/s", "MB")


@dataclass(frozen=True, slots=True)
class Memory:
    """What an engine holds, in bytes. Everything is had before the first run ends; a run allocates nothing.

    `arena_bytes` is the peak of all planes together, once for each call that runs at the same time; `best_bytes` is the
    largest sum of planes that one step needs alive, which no placement can undercut; `weight_bytes` are shared by all.
    """

    arena_bytes: int
    best_bytes: int
    weight_bytes: int

    def __str__(self) -> str:
        arena, best, weights = (f"{n / 1e6:.2f} MB" for n in (self.arena_bytes, self.best_bytes, self.weight_bytes))
        return f"memory: arena {arena} (at best {best}), weights {weights}"


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One step: median milliseconds, multiply-accumulates of the dense layer and of the surviving weights, bytes of
    weights and planes it touches, and the kernel chosen."""

    layer: str
    title: str
    kernel: str
    ms: float
    dense_macs: int
    macs: int
    bytes: int

    @property
    def gflops(self) -> float:
        """Surviving multiply-accumulates as 2 FLOP each, per second, in 1e9."""
        return 2e-6 * self.macs / self.ms if self.ms else 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """All steps in the order they run, and the median milliseconds of a whole run."""

    layers: tuple[LayerProfile, ...]
    ms: float

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells as text, one row a step."""
        return [
            (
                p.layer,
                p.title,
                p.kernel,
                f"{p.ms:.3f}",
                f"{p.dense_macs / 1e6:.2f}",
                f"{p.macs / 1e6:.2f}",
                f"{p.gflops:.1f}",
                f"{p.bytes / 1e6:.2f}",
            )
            for p in self.layers
        ]

    def __str__(self) -> str:
        table = [_COLUMNS, *self.rows()]
        widths = [max(len(row[i]) for row in table) for i in range(len(_COLUMNS))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([*lines, f"one run: {self.ms:.3f} ms"])


def timed(run: Callable[[np.ndarray | None], None], layers: Sequence[LayerSpec], rounds: int) -> Profile:
    """Time every step and, without looking at the clock between them, the whole: medians over so many rounds.

    Args:
        run: runs the program once; takes float64 `[layers]` for the seconds of each step, or None.
    """
    seconds = np.zeros((rounds, max(1, len(layers))))
    whole = np.zeros(rounds)
    run(None)
    for i in range(rounds):
        run(seconds[i])
        start = time.perf_counter()
        run(None)
        whole[i] = time.perf_counter() - start
    medians = 1e3 * np.median(seconds, 0)
    rows = [
        LayerProfile(s.layer, s.title, s.kernel, float(ms), s.dense_macs, s.macs, s.bytes)
        for s, ms in zip(layers, medians, strict=False)
    ]
    return Profile(tuple(rows), float(1e3 * np.median(whole)))
