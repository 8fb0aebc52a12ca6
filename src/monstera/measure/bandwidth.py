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
    """How fast data comes from one level, in GB/s of all threads together: the level's size (of one processor's cache;
    for memory what was read), and how many bytes were read over and over.
    """

    level: str
    size_bytes: int
    read_bytes: int
    gbytes_per_s: float


def read_bandwidths(threads: int = 1) -> tuple[Bandwidth, ...]:
    """Measure reading from L1, L2, L3 and memory ("DRAM"); nothing without a working C compiler.

    What is read is four times the level below, so that little of it comes from there, but at most half of the level
    itself; all threads share the last level and memory. The best of ten trials, so no kernel should come out faster.

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
    caches = cache_bytes()
    sets = working_sets(caches, threads)
    return tuple(
        _measured(read, level, caches.get(level, part * threads), part, threads) for level, part in sets.items()
    )


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
    below, sets = 0, {}
    for level, size in caches.items():
        sharing = threads if level == last else 1
        sets[level] = min(4 * below or size, size // (2 * sharing))
        below = size
    sets["DRAM"] = max(_MEMORY_BYTES, 4 * caches[last]) // threads
    return {level: size // _STEP * _STEP for level, size in sets.items()}


def _measured(read: Callable[..., float], level: str, size: int, part: int, threads: int) -> Bandwidth:
    buffers = [_aligned(part) for _ in range(threads)]
    passes = max(1, _TRIAL_BYTES // part)
    runs = [partial(read, buffer.ctypes.data, part, passes) for buffer in buffers]
    return Bandwidth(level, size, part * threads, best_rate(runs, _TRIALS))


def _aligned(size: int) -> np.ndarray:
    """`size` bytes from a cache line on, written once so that the memory is really there."""
    buffer = np.ones(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size]
