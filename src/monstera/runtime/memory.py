"""Memory for arenas and weights: on 64-byte lines and, where it is large, on pages of 2 MiB.

A run walks through all of its weights; on pages of 4 KiB that is thousands of look-ups of addresses.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

LINE = 64
HUGE_PAGE = 2 << 20


def aligned_empty(size: int) -> np.ndarray:
    """Memory of `size` bytes as uint8, of any content, that starts on a 64-byte line.

    From 2 MiB on it starts on a page of that size where the system has such pages (transparent huge pages of Linux).
    """
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        return _from(_huge_pages(size + HUGE_PAGE), size, HUGE_PAGE)
    return _from(np.empty(size + LINE, np.uint8), size, LINE)


def _from(raw: np.ndarray, size: int, alignment: int) -> np.ndarray:
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]


def _huge_pages(size: int) -> np.ndarray:
    # Private, as parent and child of a fork would both write a shared one. It is unmapped with the last array on it.
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel built without huge pages refuses, and its small ones do as well.
    with contextlib.suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)
