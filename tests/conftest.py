"""No clock for hypothesis, no waiting for a calm machine, and memory that gives faults away: full of NaN where a test
asks for it, and, under AddressSanitizer (`make test-sanitize`), with an end that is watched.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Other programs may slow the machine down; how long an example takes says nothing about the code.
settings.register_profile("monstera", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("monstera")


@pytest.fixture(autouse=True)
def _memory_that_is_watched(monkeypatch):
    """Ours has slack at both ends to start on a line, in which a read too far would not be seen."""
    if os.environ.get("MONSTERA_SANITIZE"):
        from monstera.runtime import container, library, tensors

        for module in (container, library, tensors):
            monkeypatch.setattr(module, "aligned_empty", _watched)


@pytest.fixture(autouse=True)
def _no_waiting_for_a_calm_machine(monkeypatch):
    """Times are judged by benchmarks; here the tests beside this one never let the machine be calm."""
    if (peak := sys.modules.get("monstera.measure.peak")) is not None:
        monkeypatch.setattr(peak, "_PATIENCE", 0)


@pytest.fixture
def nan_before_first_use(monkeypatch):
    """Every new arena is full of NaN."""
    from compiler.batch import poison_arenas

    poison_arenas(monkeypatch)


def _watched(size: int) -> np.ndarray:
    """Bytes on a 64-byte line; the allocation ends with the line that the last of them is in."""
    libc = ctypes.CDLL(None)
    libc.aligned_alloc.restype = ctypes.c_void_p
    address = libc.aligned_alloc(ctypes.c_size_t(64), ctypes.c_size_t(max(64, -(-size // 64) * 64)))
    block = (ctypes.c_uint8 * max(1, size)).from_address(address)
    weakref.finalize(block, libc.free, ctypes.c_void_p(address)).atexit = False
    return np.frombuffer(block, np.uint8)[:size]
