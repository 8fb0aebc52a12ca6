"""Measures what the processor could compute at best, so that an engine's speed can be given as a part of it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from monstera.measure.probe import best_rate, probe

T = TypeVar("T")

_SOURCE = Path(__file__).with_name("peak.c")
# Some milliseconds a trial: starting its threads takes no part of the time, and on a machine that is not idle some
# trials meet no other program.
_STEPS, _KERNEL_STEPS = 2_000_000, 30_000
_TRIALS = 5
# Which part of the peak is full pace.
_FULL = 0.93
# Who shares a processor core may be busy for seconds: how long the peak is looked for at first, at most.
_LOOK_S = 4.0
# Calm turns may take so many times as long as they would without waiting.
_PATIENCE = 10


def fma_peak_gflops(threads: int = 1) -> float | None:
    """Return the fp32 FMA rate in GFLOP/s of `threads` threads together, or None without a working C compiler.

    The best of some seconds (see `Pace`). It changes with the clock, so probe it in the run whose times it judges.

    Raises:
        ValueError: fewer than 1 thread.
    """
    return Pace(threads).peak_gflops


class Pace:
    """How fast the machine is at the moment, against the FMA peak of `threads` threads, which is found on the way.

    On a virtual machine whose cores somebody else uses as well, speed falls to a half for seconds at a time. Times
    taken then say nothing about engines, so they are taken while the machine keeps its full pace: in multiply-adds out
    of registers, by which the peak is told, and in such as kernels do, with their loads. A guest on the same core may
    leave the first as they are and slow the others.

    Args:
        threads: how many threads the probe runs on at once.
        planned_s: how long the turns will take if none is disturbed; bounds the search for the peak, and ten times as
            long is waited for calm ones.

    Raises:
        ValueError: fewer than 1 thread.
    """

    def __init__(self, threads: int = 1, planned_s: float = _LOOK_S) -> None:
        self._threads, self._runs = threads, _probes(threads)
        self._best = [0.0] * len(self._runs)
        self._patience_s = _PATIENCE * planned_s
        end = time.perf_counter() + min(_LOOK_S, planned_s)
        while self._runs:
            self.is_full()
            if time.perf_counter() >= end:
                break

    @property
    def peak_gflops(self) -> float | None:
        """The best rate of multiply-adds seen until now; None without a C compiler."""
        return self._best[0] if self._runs else None

    def is_full(self) -> bool:
        """Whether the machine does what it can, now; always true without a C compiler."""
        rates = [best_rate([run] * self._threads, _TRIALS) for run in self._runs]
        self._best = [max(pair) for pair in zip(rates, self._best, strict=True)]
        return all(rate >= _FULL * best for rate, best in zip(rates, self._best, strict=True))

    def undisturbed(self, turn: Callable[[], T]) -> tuple[T, bool]:
        """Take a turn, again if the machine was slow before or after it and there is patience left.

        Return what came at last, and whether that was at full pace.
        """
        while True:
            start = time.perf_counter()
            if self.is_full():
                came = turn()
                if self.is_full():
                    return came, True
            self._patience_s -= time.perf_counter() - start
            if self._patience_s <= 0:
                return turn(), False


def _probes(threads: int) -> list[Callable[[], float]]:
    """Multiply-adds out of registers, and as a kernel does them; none without a C compiler."""
    if threads < 1:
        raise ValueError(f"expected at least 1 thread, got {threads}")
    library = probe(_SOURCE)
    if library is None:
        return []
    number = ctypes.c_float
    plain, kernel = library.monstera_fma_probe, library.monstera_kernel_probe
    plain.restype = kernel.restype = ctypes.c_double
    plain.argtypes = [ctypes.c_long, number, number, ctypes.POINTER(number)]
    kernel.argtypes = [ctypes.c_long, ctypes.POINTER(number)]
    return [
        lambda: plain(_STEPS, 0.5, 0.25, ctypes.byref(number())),
        lambda: kernel(_KERNEL_STEPS, ctypes.byref(number())),
    ]
