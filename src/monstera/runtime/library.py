"""The compiled library seen from Python: loaded once, compared with the manifest before the first call."""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import hashlib
import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monstera.runtime.manifest import ArtifactError, Manifest, ProgramSpec
from monstera.runtime.memory import aligned_empty

_DESCRIPTOR = ("abi", "arena_floats", "weight_bytes", "inputs", "outputs", "layers", "threads")


def prefix_of(index: int, first: str = "net") -> str:
    """What the functions of a program in a library begin with: "net" for the first, then "net2" and so on."""
    return f"{first}{index + 1}" if index else first


@dataclass(frozen=True, slots=True)
class Seal:
    """What a library was built for: the SHA-256 of a manifest without its checksums, and of a weights file.

    Empty in libraries that never leave the process that made them. The tables that the code reads by are in the weights
    file, so a library whose seal is compared never reads tables that its compiler did not write.
    """

    manifest: str = ""
    weights: str = ""

    def __str__(self) -> str:
        return f"{self.manifest} {self.weights}"

    @staticmethod
    def of(manifest: Manifest, weights: np.ndarray) -> Seal:
        """The seal of a manifest and the weights file that goes with it."""
        return Seal(manifest.description_sha256(), hashlib.sha256(weights.data).hexdigest())

    @staticmethod
    def parse(text: str) -> Seal:
        """The seal that prints as `text`."""
        manifest, _, weights = text.partition(" ")
        return Seal(manifest, weights)


class _Code:
    """A loaded library and the functions of one program in it; unloaded when nobody holds it any more."""

    def __init__(self, path: Path, prefix: str) -> None:
        self._dll = ctypes.CDLL(str(path))
        # ctypes never unloads by itself; a server that changes its engines would grow for ever.
        _when_gone(self, _ctypes.dlclose, self._dll._handle)
        self.run = self.function(f"{prefix}_run")
        self.team_new = self.function(f"{prefix}_team_new")
        self.team_free = self.function(f"{prefix}_team_free")
        self._describe = self.function(f"{prefix}_describe")
        self._seal = self.function(f"{prefix}_seal")
        self.team_new.restype = ctypes.c_void_p
        self._seal.restype = ctypes.c_char_p

    def describe(self) -> list[int]:
        values = (ctypes.c_int64 * len(_DESCRIPTOR))()
        self._describe(values)
        return list(values)

    def seal(self) -> str:
        return (self._seal() or b"").decode("ascii", "replace")

    def function(self, name: str) -> Any:
        """A function of the library.

        Raises:
            AttributeError: it has none of this name.
        """
        return getattr(self._dll, name)


class _Context:
    """What one running call owns: an arena and a team of threads. They belong to the process that made them."""

    def __init__(self, code: _Code, arena_floats: int) -> None:
        self.pid = os.getpid()
        self.code = code
        self.arena = aligned_empty(4 * arena_floats)
        self.team = code.team_new()
        if not self.team:
            raise MemoryError("no memory for the engine's threads")
        # The finalizer holds the code, so that of a ring of garbage the code does not go before its threads.
        _when_gone(self, _free_team, code, self.team, self.pid)


def _when_gone(owner: object, call: Callable[..., object], *arguments: object) -> None:
    """Call when the owner is collected, but not when the process ends: threads may still be inside the code then."""
    weakref.finalize(owner, call, *arguments).atexit = False


def _free_team(code: _Code, team: int, pid: int) -> None:
    # The threads of a team do not exist in a forked child.
    if pid == os.getpid():
        code.team_free(ctypes.c_void_p(team))


class Library:
    """A loaded library with its weights: a program for each set of shapes.

    Immutable; calls from several threads each get a context of their own, which serves any program. `weights` is the
    data of the weights file, and room behind for the tables that are made of it.

    Args:
        seal: what it must have been built for; None takes it as it is.

    Raises:
        ArtifactError: the library cannot be loaded, describes itself otherwise than the manifest, or has another seal.
    """

    def __init__(
        self, path: Path, manifest: Manifest, weights: np.ndarray, prefix: str = "net", seal: Seal | None = None
    ) -> None:
        try:
            self._codes = [_Code(path, prefix_of(i, prefix)) for i in range(len(manifest.programs))]
            load_taps = self._codes[0].function(f"{prefix}_load_taps") if manifest.tap_bytes else None
        except (OSError, AttributeError) as error:
            raise ArtifactError(f"the compiled library cannot be loaded: {error}") from error
        for code, program in zip(self._codes, manifest.programs, strict=True):
            _check_description(code.describe(), manifest, program, weights.size)
        if seal:
            for code in self._codes:
                _check_seal(Seal.parse(code.seal()), seal)
        self._arena_floats = manifest.arena_floats
        self._weights = weights
        if load_taps:
            load_taps(ctypes.c_void_p(weights.ctypes.data))
        # Contexts at rest. A deque needs no lock of ours, which a fork might find taken.
        self._idle: deque[_Context] = deque()

    def run(
        self,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        seconds: np.ndarray | None = None,
        program: int = 0,
    ) -> None:
        """Run a program once: C-contiguous fp32 arrays in and out; `seconds` (float64) takes the time of each step.

        Raises:
            MemoryError: no memory for the arena or the threads.
        """
        context = self._context()
        self._codes[program].run(
            ctypes.c_void_p(context.team),
            ctypes.c_void_p(self._weights.ctypes.data),
            ctypes.c_void_p(context.arena.ctypes.data),
            _pointers(inputs),
            _pointers(outputs),
            ctypes.c_void_p(None if seconds is None else seconds.ctypes.data),
        )
        self._idle.append(context)

    def _context(self) -> _Context:
        """One at rest, or a new one; those from before a fork are dropped."""
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                context = self._idle.pop()
                if context.pid == os.getpid():
                    return context
        return _Context(self._codes[0], self._arena_floats)


def _check_description(described: list[int], manifest: Manifest, program: ProgramSpec, weight_bytes: int) -> None:
    counts = {"abi": manifest.abi, "weight_bytes": manifest.weight_bytes, "threads": manifest.threads}
    counts |= {name: len(getattr(program, name)) for name in ("inputs", "outputs", "layers")}
    counts |= {"arena_floats": program.arena_floats}
    expected = [counts[name] for name in _DESCRIPTOR]
    names, described = [*_DESCRIPTOR, "bytes in the weights file"], [*described, weight_bytes - manifest.tap_bytes]
    found = zip(names, described, [*expected, manifest.weight_bytes], strict=True)
    if differing := [f"{name} {is_}, the manifest says {says}" for name, is_, says in found if is_ != says]:
        raise ArtifactError("library, weights and manifest do not belong together: " + "; ".join(differing))


def _check_seal(found: Seal, expected: Seal) -> None:
    if found != expected:
        other = "manifest" if found.manifest != expected.manifest else "weights"
        raise ArtifactError(
            "library, weights and manifest do not belong together: the library was built for other "
            f"{other}; get the file again, or compile the model again"
        )


def _pointers(arrays: Sequence[np.ndarray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(1, len(arrays)))(*[a.ctypes.data for a in arrays])
