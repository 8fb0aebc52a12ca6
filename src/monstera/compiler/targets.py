"""What a processor can do, as data: vector width, compiler flags, and how many accumulators fit its registers."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """An instruction set.

    `tiles[R]` is the widest tile, in vectors, that keeps R rows of accumulators in registers; `halves` says that half a
    vector costs half as much, and `narrow` for which R tiles are made of halves alone.
    """

    name: str
    lanes: int
    flags: tuple[str, ...]
    features: tuple[str, ...]
    tiles: dict[int, int]
    halves: bool = False
    narrow: tuple[int, ...] = ()


TARGETS = {
    t.name: t
    for t in (
        Target(
            name="avx512",
            lanes=16,
            flags=("-march=skylake-avx512",),
            features=("avx512f", "avx512bw", "avx512vl", "avx512dq", "fma"),
            tiles={8: 3, 4: 7, 2: 8, 1: 8},
            halves=True,
            narrow=(1,),
        ),
        Target(
            name="avx2", lanes=8, flags=("-march=haswell",), features=("avx2", "fma"), tiles={8: 1, 4: 3, 2: 4, 1: 6}
        ),
        Target(name="neon", lanes=4, flags=(), features=(), tiles={8: 2, 4: 5, 2: 6, 1: 8}),
    )
}


@lru_cache(maxsize=1)
def native() -> Target:
    """The widest target that this machine runs.

    Raises:
        RuntimeError: none of the known ones does.
    """
    if platform.machine().lower() in {"aarch64", "arm64"}:
        return TARGETS["neon"]
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    for name in ("avx512", "avx2"):
        if flags.issuperset(TARGETS[name].features):
            return TARGETS[name]
    raise RuntimeError(
        f"no kernels for this machine ({platform.machine()}): expected avx2 with fma, avx512, or a 64-bit Arm; "
        "run the network in torch here, or compile on another machine"
    )
