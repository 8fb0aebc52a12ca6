"""Measures how fast the processor reads from each cache and from memory: the other limit of a kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from monstera.measure.probe import best_rate, probe

_SOURCE = Path(__file__).with_name("bandwidth.c")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# Where the system does not say: the sizes of a small server core.
_USUAL = {"L1": 32 << 10, "L2": 512 << 10, "L3": 16 << 20}
_MEMORY_BYTES = 256 << 20
_STEP = 512
# What a trial reads at least, so that starting its threads takes no part of the time; memory gets one pass.
_TRIAL_BYTES = 128 << 20
_TRIALS = 10


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """How fast `threads` threads together read a working set of `bytes` bytes, of which each has a part, in GB/s."""

    level: str
    bytes: int
    gbytes_per_s: float


def read_bandwidths(threads: int = 1) -> tuple[Bandwidth, ...]:
    """Measure reading from L1, L2, L3 and memory ("DRAM"); nothing without a working C compiler.

    The working set is half of each cache (a share of it for each thread where it is the last level), and for memory at
    least four times the last one. The best of ten trials.

    Raises:
        ValueError: fewer than 1 thread.
    """
    if threads < 1:
        raise ValueError(f"expected at least 1 thread, got {threads}")
    library = probe(_SOURCE)
    if library is None:
        return ()
    read = library.monstera_read_probe
    read.restype = ctypes.c_double
    read.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
    return tuple(_measured(read, level, size, threads) for level, size in working_sets(cache_bytes(), threads).items())


def cache_bytes() -> dict[str, int]:
    """Return the size in bytes of each level of data cache of the first processor, as the system tells it."""
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = int(size.removesuffix("K")) << 10
    return found or dict(_USUAL)


def working_sets(caches: dict[str, int], threads: int) -> dict[str, int]:
    """Return how many bytes each thread reads to meet each level, a multiple of 512."""
    last = max(caches)
    sets = {level: size // (2 * threads if level == last else 2) for level, size in caches.items()}
    sets["DRAM"] = max(_MEMORY_BYTES, 4 * caches[last]) // threads
    return {level: size // _STEP * _STEP for level, size in sets.items()}


def _measured(read: Callable[..., float], level: str, size: int, threads: int) -> Bandwidth:
    buffers = [_aligned(size) for _ in range(threads)]
    passes = max(1, _TRIAL_BYTES // size)
    runs = [partial(read, buffer.ctypes.data, size, passes) for buffer in buffers]
    return Bandwidth(level, size * threads, best_rate(runs, _TRIALS))


def _aligned(size: int) -> np.ndarray:
    """`size` bytes from a cache line on, written once so that the memory is really there."""
    buffer = np.ones(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size]
