"""Loads and calls one file in a child process that may not take more time and memory than is honest."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import resource
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import monstera as ms
from monstera.runtime import ProgramSpec, as_array, container, library, random_array, tensors

# Seconds of the processor, of the clock (on a machine that others use), and bytes on top of what the parent has.
CPU_SECONDS, CLOCK_SECONDS, MEMORY = 30, 300, 1 << 30
FINE = ("refused", "no compiler took it", "right", "other")


@dataclass(frozen=True, slots=True)
class Program:
    """A program that mutants are made of: its file, inputs by name, and the answer that they give."""

    name: str
    data: bytes
    inputs: dict[str, np.ndarray]
    answer: tuple[np.ndarray, ...]


def answer_of(engine: ms.Engine, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """All tensors that an engine gives, whatever its structure."""
    found: list[np.ndarray] = []

    def gather(value: object) -> None:
        if isinstance(value, np.ndarray):
            found.append(value)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ():
            gather(item)

    gather(engine(**inputs))
    return tuple(found)


def outcome(program: Program, path: Path, rebuild: bool) -> str:
    """What became of a file: one of FINE, or what a user must never see.

    "right" is the program's own answer bit by bit, "other" another answer of a program that was built anew.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _limit()
            said = _try(program, path, rebuild)
        except BaseException:
            said = f"raised {traceback.format_exc(limit=-3)}"
        os.write(writer, said.encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        said = answer.read().decode()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        return f"hangs ({number.name})" if number in (signal.SIGXCPU, signal.SIGALRM) else f"crashes ({number.name})"
    return said or "ended in silence"


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(CLOCK_SECONDS)
    faulthandler.disable()
    for module in (container, library, tensors):
        vars(module)["aligned_empty"] = fenced


def _try(program: Program, path: Path, rebuild: bool) -> str:
    try:
        engine = ms.load(path, rebuild=rebuild)
    except ms.ArtifactError as reason:
        return "refused" if str(reason).startswith(f"{path}: ") else f"raised {reason}"
    except ms.BuildError as reason:
        return "no compiler took it" if rebuild else f"raised {reason}"
    given = answer_of(engine, _inputs(program, engine.manifest.programs))
    exact = len(given) == len(program.answer) and all(map(_equal, given, program.answer))
    if exact:
        return "right"
    return "other" if rebuild else "gives another answer than the program"


def _inputs(program: Program, declared: Sequence[ProgramSpec]) -> dict[str, np.ndarray]:
    """The program's own inputs, or others where the manifest says otherwise what it takes."""
    for specs in (each.inputs for each in declared):
        try:
            for spec in specs:
                as_array(program.inputs[spec.name], spec)
        except (KeyError, TypeError, ValueError):
            continue
        return {spec.name: program.inputs[spec.name] for spec in specs}
    rng = np.random.default_rng(0)
    return {spec.name: random_array(spec, rng) for spec in declared[0].inputs}


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def fenced(size: int) -> np.ndarray:
    """Memory as `aligned_empty` gives it, between pages that nobody may touch."""
    page = mmap.PAGESIZE
    whole = -(-size // page) * page
    pages = mmap.mmap(-1, whole + 2 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(pages, np.uint8)
    protect = ctypes.CDLL(None).mprotect
    for fence in (0, page + whole):
        if protect(ctypes.c_void_p(memory.ctypes.data + fence), ctypes.c_size_t(page), mmap.PROT_READ * 0):
            raise OSError("mprotect failed")
    begin = page + whole - -(-size // 64) * 64
    return memory[begin : begin + size]
