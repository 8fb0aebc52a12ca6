"""Measures what the processor could compute at best, so that an engine's speed can be given as a part of it."""

from __future__ import annotations

import ctypes
from pathlib import Path

from monstera.measure.probe import best_rate, probe

_SOURCE = Path(__file__).with_name("peak.c")
# Trials are short, so that some of them meet no other program even on a machine that is not idle.
_STEPS = 200_000
_TRIALS = 100


def fma_peak_gflops(threads: int = 1) -> float | None:
    """Return the fp32 FMA rate in GFLOP/s of `threads` threads together, or None without a working C compiler.

    The best of a hundred trials of about a millisecond. It changes with the clock, so probe it in the run whose times
    it judges.

    Raises:
        ValueError: fewer than 1 thread.
    """
    if threads < 1:
        raise ValueError(f"expected at least 1 thread, got {threads}")
    library = probe(_SOURCE)
    if library is None:
        return None
    multiply_add = library.monstera_fma_probe
    multiply_add.restype = ctypes.c_double
    multiply_add.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float, ctypes.POINTER(ctypes.c_float)]

    def run() -> float:
        return multiply_add(_STEPS, 0.5, 0.25, ctypes.byref(ctypes.c_float()))

    return best_rate([run] * threads, _TRIALS)
