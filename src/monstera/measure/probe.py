"""Builds the small C programs that find out what the processor could do at best."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from monstera.compiler.build import BuildError, compiler_command

# Contraction to FMA is asked for by name: the ISO modes of C switch it off without a word.
_FLAGS = ("-O2", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")


def probe(source: Path) -> ctypes.CDLL | None:
    """Return the library of a C file, built for this very processor, or None without a working C compiler."""
    try:
        compiler = compiler_command()
    except BuildError:
        return None
    with tempfile.TemporaryDirectory(prefix="monstera-probe-") as folder:
        library = Path(folder) / "probe.so"
        command = [*compiler, *_FLAGS, str(source), "-o", str(library)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        # Once it is mapped, the file may go.
        return ctypes.CDLL(str(library))


def best_rate(runs: Sequence[Callable[[], float]], trials: int) -> float:
    """Return the best of `trials` rates, in 1e9 a second: what all `runs` did together, each on a thread of its own.

    A run returns how much it did, and has to let go of Python's lock meanwhile, as calls into C do. Time counts from
    when the first one starts to when the last one ends: making threads is no work of theirs.
    """
    with ThreadPoolExecutor(len(runs)) as pool:
        return max(_rate(pool, runs) for _ in range(trials))


def _rate(pool: ThreadPoolExecutor, runs: Sequence[Callable[[], float]]) -> float:
    done, begins, ends = zip(*pool.map(_timed, runs), strict=True)
    return sum(done) / (max(ends) - min(begins)) / 1e9


def _timed(run: Callable[[], float]) -> tuple[float, float, float]:
    begin = time.perf_counter()
    done = run()
    return done, begin, time.perf_counter()
