"""Measures what the processor could do at best, so that an engine's speed can be given as a part of it."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from monstera.compiler.build import BuildError, compiler_command

_SOURCE = Path(__file__).with_name("peak.c")
# Contraction to FMA is asked for by name: the ISO modes of C switch it off without a word.
_FLAGS = ("-O2", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
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
    with tempfile.TemporaryDirectory(prefix="monstera-peak-") as folder:
        library = Path(folder) / "peak.so"
        if not _build(library):
            return None
        probe = ctypes.CDLL(str(library)).monstera_fma_probe
        probe.restype = ctypes.c_double
        probe.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float, ctypes.POINTER(ctypes.c_float)]

        def run(steps: int) -> float:
            return probe(steps, 0.5, 0.25, ctypes.byref(ctypes.c_float()))

        with ThreadPoolExecutor(threads) as pool:
            return max(_trial(pool, run, threads) for _ in range(_TRIALS))


def _trial(pool: ThreadPoolExecutor, run: Callable[[int], float], threads: int) -> float:
    start = time.perf_counter()
    operations = sum(pool.map(run, [_STEPS] * threads))
    return operations / (time.perf_counter() - start) / 1e9


def _build(library: Path) -> bool:
    try:
        compiler = compiler_command()
    except BuildError:
        return False
    command = [*compiler, *_FLAGS, str(_SOURCE), "-o", str(library)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
