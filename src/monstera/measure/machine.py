"""Says which machine a number comes from."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# What decides the speed of fp32 and, later, int8 and bf16 code.
_TELLING_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "asimd", "asimddp", "sve")
# The instruction sets that tell machines apart by the flag that says so, the widest first.
INSTRUCTIONS = {"avx512f": "avx512", "avx2": "avx2", "asimd": "neon"}
_PACKAGES = ("monstera", "torch", "onnxruntime", "openvino", "ncnn", "onnx", "transformers", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor and the software on it, as far as they decide how fast a network runs."""

    cpu: str
    architecture: str
    cores: int
    flags: tuple[str, ...]
    system: str
    python: str
    packages: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flags", tuple(self.flags))

    @property
    def instructions(self) -> str:
        """The widest vectors that all engines may use: avx512, avx2, neon; else what the processor is."""
        return next((name for flag, name in INSTRUCTIONS.items() if flag in self.flags), self.architecture)


def this_machine() -> Machine:
    """Describe the machine this process runs on; `cores` counts those the process may use."""
    info = _cpuinfo()
    present = set(info.get("flags", info.get("Features", "")).split())
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        flags=tuple(flag for flag in _TELLING_FLAGS if flag in present),
        system=platform.platform(aliased=True, terse=True),
        python=platform.python_version(),
        packages={name: found for name in _PACKAGES if (found := _version(name))},
    )


def pin(cores: int) -> None:
    """Keep this process, and the threads it starts from now on, on the first `cores` of the cores it may use.

    Raises:
        ValueError: the process may not use that many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= cores <= len(allowed):
        raise ValueError(f"asked for {cores} threads, but this process may use {len(allowed)} cores")
    os.sched_setaffinity(0, allowed[:cores])


def _cpuinfo() -> dict[str, str]:
    """Return the first processor's entries of /proc/cpuinfo, or nothing where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
