"""The compiled library seen from Python: loaded once, compared with the manifest before the first call."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from monstera.runtime.manifest import ArtifactError, Manifest
from monstera.runtime.tensors import aligned_empty

_DESCRIPTOR = ("abi", "arena_floats", "weight_bytes", "inputs", "outputs", "layers", "threads")


class _Context:
    """What one running call owns: an arena and a team of threads."""

    def __init__(self, library: Library) -> None:
        self.arena = aligned_empty(4 * library.arena_floats)
        self.library = library
        self.team = library.call("team_new")

    def __del__(self) -> None:
        # The threads of a team do not exist in a forked child.
        if self.library.pid == os.getpid() and self.team:
            self.library.call("team_free", ctypes.c_void_p(self.team))


class Library:
    """A loaded program with its weights. Immutable; calls from several threads each get a context of their own.

    Raises:
        ArtifactError: the library cannot be loaded, or describes itself otherwise than the manifest.
    """

    def __init__(self, path: Path, manifest: Manifest, weights: np.ndarray, prefix: str = "net") -> None:
        try:
            self._dll = ctypes.CDLL(str(path))
            self._run = getattr(self._dll, f"{prefix}_run")
            described = self._describe(prefix)
        except (OSError, AttributeError) as error:
            raise ArtifactError(f"the compiled library cannot be loaded: {error}") from error
        expected = [getattr(manifest, name) for name in _DESCRIPTOR]
        expected = [value if isinstance(value, int) else len(value) for value in expected]
        if described != expected or weights.size != manifest.weight_bytes:
            raise ArtifactError(
                "library, weights and manifest do not belong together: "
                + "; ".join(
                    f"{n} {d}, the manifest says {e}"
                    for n, d, e in zip(_DESCRIPTOR, described, expected, strict=True)
                    if d != e
                )
            )
        self.prefix = prefix
        self.arena_floats = manifest.arena_floats
        self.weights = weights
        self.pid = os.getpid()
        self._free: list[_Context] = []
        self._lock = threading.Lock()

    def call(self, name: str, *arguments: ctypes.c_void_p) -> int | None:
        """Call one of the library's functions that gives a pointer or nothing."""
        function = getattr(self._dll, f"{self.prefix}_{name}")
        function.restype = ctypes.c_void_p
        return function(*arguments)

    def run(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], seconds: np.ndarray | None = None
    ) -> None:
        """Run once: C-contiguous fp32 arrays in and out; `seconds` (float64) takes the time of each step."""
        with self._context() as context:
            if not context.team:
                raise MemoryError("no memory for the engine's threads")
            self._run(
                ctypes.c_void_p(context.team),
                ctypes.c_void_p(self.weights.ctypes.data),
                ctypes.c_void_p(context.arena.ctypes.data),
                _pointers(inputs),
                _pointers(outputs),
                ctypes.c_void_p(None if seconds is None else seconds.ctypes.data),
            )

    def _describe(self, prefix: str) -> list[int]:
        values = (ctypes.c_int64 * len(_DESCRIPTOR))()
        getattr(self._dll, f"{prefix}_describe")(values)
        return list(values)

    @contextmanager
    def _context(self) -> Iterator[_Context]:
        with self._lock:
            if self.pid != os.getpid():
                self._free, self.pid = [], os.getpid()
            context = self._free.pop() if self._free else None
        context = context or _Context(self)
        try:
            yield context
        finally:
            with self._lock:
                self._free.append(context)


def _pointers(arrays: Sequence[np.ndarray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(1, len(arrays)))(*[a.ctypes.data for a in arrays])
