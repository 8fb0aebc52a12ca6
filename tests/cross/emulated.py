"""Programs for 64-bit Arm, run by this machine: natively if it is one, else under qemu's user emulation."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from monstera.compiler.build import code_flags
from monstera.compiler.emit import Unit, emit
from monstera.compiler.targets import TARGETS
from monstera.runtime import architecture, pack_tensors
from monstera.runtime.tensors import data_of

NEON = TARGETS["neon"]
DRIVER = Path(__file__).with_name("driver.c")
SYSROOT = Path("/usr/aarch64-linux-gnu")
Arrays = Sequence[np.ndarray]


def emulator() -> list[str]:
    """What goes before a program for 64-bit Arm. Fails the test where there is nothing."""
    if architecture() == "aarch64":
        return []
    for name in ("qemu-aarch64", "qemu-aarch64-static"):
        if found := shutil.which(name):
            return [found]
    pytest.fail(
        "the cross tests run code for 64-bit Arm under qemu-aarch64, which is not installed; "
        "get it by `apt-get install qemu-user` (Debian, Ubuntu) or `dnf install qemu-user` (Fedora)"
    )


def zig(system: str, *arguments: str, folder: Path) -> None:
    """Run the ziglang wheel's C compiler for 64-bit Arm with the flags of our own builds; `system` as "linux-musl"."""
    line = [sys.executable, "-m", "ziglang", "cc", "-target", f"aarch64-{system}", *code_flags(NEON), "-w", *arguments]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def answers(units: Sequence[Unit], inputs: Sequence[Arrays], threads: int, folder: Path) -> list[list[Arrays]]:
    """Build the units into one program without a dynamic library, run it; the outputs by unit, run (two) and output."""
    command = [*emulator(), "./driver"]  # before anything is built for it
    (folder / "net.c").write_text(emit(units, NEON, threads))
    zig("linux-musl", "-static", nets(units), "-o", "driver", str(DRIVER), "net.c", "-lm", "-lpthread", folder=folder)
    return run_driver(command, units, inputs, folder)


def nets(units: Sequence[Unit]) -> str:
    """The compiler's argument that tells the driver its networks."""
    return "-DNETS=" + " ".join(f"NET({u.prefix})" for u in units)


def run_driver(command: list[str], units: Sequence[Unit], inputs: Sequence[Arrays], folder: Path) -> list[list[Arrays]]:
    """Hand the cases to a driver and read its answers."""
    cases = b"".join(_case(u, i) for u, i in zip(units, inputs, strict=True))
    (folder / "cases").write_bytes(cases)
    done = subprocess.run([*command, "cases", "answers"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"the driver ended with {done.returncode}: {done.stderr}"
    floats = np.fromfile(folder / "answers", "<f4")
    return _split(floats, [[shape for _, shape in u.program.outputs] for u in units])


def _case(u: Unit, inputs: Arrays) -> bytes:
    parts = [_count(len(inputs))]
    for array in inputs:
        parts += [_count(array.size), np.ascontiguousarray(array, "<f4").tobytes()]
    parts.append(_count(len(u.program.outputs)))
    parts += [_count(int(np.prod(shape))) for _, shape in u.program.outputs]
    weights = data_of(pack_tensors(u.program.tables))
    return b"".join([*parts, _count(weights.size), weights.tobytes()])


def _count(value: int) -> bytes:
    return struct.pack("<q", value)


def _split(floats: np.ndarray, shapes: Sequence[Sequence[tuple[int, ...]]]) -> list[list[Arrays]]:
    answers, at = [], 0
    for outputs in shapes:
        rounds: list[Arrays] = []
        for _ in range(2):
            arrays = []
            for shape in outputs:
                size = int(np.prod(shape))
                arrays.append(floats[at : at + size].reshape(shape))
                at += size
            rounds.append(arrays)
        answers.append(rounds)
    assert at == floats.size, f"the driver wrote {floats.size} floats, expected {at}"
    return answers


def arrays_of(inputs: Mapping[str, np.ndarray], order: Sequence[str]) -> list[np.ndarray]:
    """Inputs in the order in which the program takes them."""
    return [inputs[name] for name in order]
