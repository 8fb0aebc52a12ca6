"""What a processor can do, as data: vector width, compiler flags, and how many accumulators fit its registers."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from monstera.runtime import architecture, cpu_features, here

# What `-march=haswell` lets a compiler use, by the names of /proc/cpuinfo (abm is lzcnt); skylake-avx512 adds to it.
_HASWELL = ("avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe", "popcnt")
_SKYLAKE = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True, slots=True)
class Target:
    """An instruction set.

    `features` is all that `flags` let the compiler use, so a processor that has them runs the code; `tiles[R]` is the
    widest tile, in vectors, for blocks of R rows, so that `rows` of them at most fit the registers at once: blocks of
    more rows pass over their columns several times. `halves` says that half a vector costs half as much, `broadcasts`
    that a multiply-add takes a float from memory for all lanes. A loop over columns is unrolled `unroll` times; where
    at most `ahead_density` of the columns are left, it asks for the inputs of the one that comes `ahead` later.
    """

    name: str
    architecture: str
    lanes: int
    flags: tuple[str, ...]
    features: tuple[str, ...]
    tiles: dict[int, int]
    rows: int = 8
    halves: bool = False
    broadcasts: bool = False
    unroll: int = 1
    ahead: int = 0
    ahead_density: float = 0.0


TARGETS = {
    t.name: t
    for t in (
        Target(
            name="avx512",
            architecture="x86_64",
            lanes=16,
            flags=("-march=skylake-avx512",),
            features=(*_SKYLAKE, *_HASWELL),
            tiles={8: 3, 4: 7, 2: 8, 1: 8},
            halves=True,
            broadcasts=True,
            ahead=2,
            ahead_density=0.6,
        ),
        Target(
            name="avx2",
            architecture="x86_64",
            lanes=8,
            flags=("-march=haswell",),
            features=_HASWELL,
            tiles={8: 3, 4: 3, 2: 6, 1: 8},
            rows=4,
            unroll=4,
            ahead=8,
            ahead_density=1.0,
        ),
        Target(
            name="neon",
            architecture="aarch64",
            lanes=4,
            # Said aloud, as the ziglang wheel's compiler would take this very processor, and artifacts travel.
            flags=("-mcpu=generic",),
            features=(),
            tiles={8: 2, 4: 5, 2: 6, 1: 8},
        ),
    )
}


def target_named(name: str) -> Target:
    """The target of this name; "native" is the widest that this machine runs.

    Raises:
        ValueError: there is no such target; lists those there are.
        RuntimeError: "native", and this machine runs none of them.
    """
    if name == "native":
        return native()
    if not isinstance(name, str) or name not in TARGETS:
        raise ValueError(f"unknown target {name!r}; expected one of native, {', '.join(TARGETS)}")
    return TARGETS[name]


def native() -> Target:
    """The widest target that this machine runs.

    Raises:
        RuntimeError: none of the known ones does.
    """
    for target in TARGETS.values():
        if target.architecture == architecture() and cpu_features().issuperset(target.features):
            return target
    raise RuntimeError(
        f"no kernels for this machine ({platform.machine()}): expected avx2 with fma, avx512, or a 64-bit Arm; "
        "run the network in torch here, or name the target of another machine"
    )


def crosses(target: Target) -> bool:
    """Whether building for a target asks for another compiler than that of this machine."""
    return target.architecture != architecture()


def platform_of(target: Target) -> str:
    """What the libraries built for a target run on; crossed ones are for Linux."""
    return f"linux-{target.architecture}" if crosses(target) else here()
