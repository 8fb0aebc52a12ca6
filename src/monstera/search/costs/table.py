"""What layers took, kept by what they are: for this machine in its cache, and in files that travel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from pathlib import Path

from monstera.compiler import kernels
from monstera.compiler.build import cache_folder, compiler_command, compiler_version
from monstera.compiler.targets import TARGETS, Target
from monstera.compiler.tuning.table import circumstances
from monstera.locks import locked
from monstera.measure.machine import this_machine
from monstera.runtime.strict_json import decoded, encoded, parse_json
from monstera.search.costs.signature import Signature
from monstera.sparsity.files import write_atomically

FORMAT, VERSION = "monstera costs", 1


class CostTableError(ValueError):
    """A file is no cost table, or a damaged or newer one; or a table does not hold what it is asked for."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where times were taken: processor, target, compiler, and digests of the kernels and of all of these together."""

    cpu: str
    target: str
    compiler: str
    kernels: str
    digest: str


@dataclass(frozen=True, slots=True)
class Point:
    """A layer with holes of one pattern: milliseconds a call, surviving multiply-accumulates, bytes of weights and
    indices, and the price that the compiler's model puts on them, in floating-point operations at the peak.

    A layer without holes has the pattern "" and density 1.
    """

    pattern: str
    density: float
    ms: float
    macs: int
    bytes: int
    price: float

    def __post_init__(self) -> None:
        counts = isfinite(self.price) and min(self.macs, self.bytes, self.price) >= 0
        if not (0 < self.ms < inf and 0 < self.density <= 1 and counts):
            raise ValueError(f"expected a positive time and a density in (0, 1], got {self}")


@dataclass(frozen=True, slots=True)
class Record:
    """A layer and what was measured of it."""

    signature: Signature
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        if len({(p.pattern, p.density) for p in self.points}) < len(self.points):
            raise ValueError(f"a layer has two times for the same holes: {self.points}")

    def at(self, pattern: str, density: float) -> Point | None:
        """What was measured for just these holes."""
        return next((p for p in self.points if (p.pattern, p.density) == (pattern, density)), None)


@dataclass(frozen=True, slots=True)
class Rest:
    """What a network takes beside its layers with weights: milliseconds, bytes touched, multiply-accumulates."""

    ms: float
    bytes: int
    macs: int

    def __post_init__(self) -> None:
        if not (0 <= self.ms < inf and min(self.bytes, self.macs) >= 0):
            raise ValueError(f"expected times and counts of at least 0, got {self}")


@dataclass(frozen=True, slots=True)
class CostTable:
    """Everything measured on one machine for one target: layers by key, and the rest of networks by fingerprint."""

    machine: Machine
    layers: Mapping[str, Record] = field(default_factory=dict)
    rests: Mapping[str, Rest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := [key for key, record in self.layers.items() if record.signature.key != key]:
            raise ValueError(f"the record under {wrong[0]!r} is of another layer")
        if self.machine.target not in TARGETS:
            raise ValueError(f"unknown target {self.machine.target!r}; expected one of {', '.join(TARGETS)}")

    @property
    def points(self) -> int:
        """How many times it holds, the rests of networks left out."""
        return sum(len(record.points) for record in self.layers.values())

    def point(self, signature: Signature, pattern: str = "", density: float = 1.0) -> Point | None:
        """What was measured of a layer, if it was."""
        record = self.layers.get(signature.key)
        return record.at(pattern, density) if record else None

    def with_points(self, signature: Signature, points: Iterable[Point]) -> CostTable:
        """The table with points of one layer; what is there stays as it is, so that plans stay what they were."""
        known = self.layers.get(signature.key, Record(signature, ()))
        new = tuple(p for p in points if known.at(p.pattern, p.density) is None)
        return replace(self, layers={**self.layers, signature.key: Record(signature, known.points + new)})

    def joined(self, other: CostTable) -> CostTable:
        """This table, and what another one of the same machine has beyond it.

        Raises:
            ValueError: it is of another machine, target, compiler or kernels.
        """
        if other.machine != self.machine:
            raise ValueError(f"times of {other.machine} are none of {self.machine}; keep the tables apart")
        table = self
        for record in other.layers.values():
            table = table.with_points(record.signature, record.points)
        return replace(table, rests={**other.rests, **self.rests})

    def with_rest(self, name: str, rest: Rest) -> CostTable:
        """The table with the rest of one network, unless it is there."""
        return self if name in self.rests else replace(self, rests={**self.rests, name: rest})


def empty_table(target: Target) -> CostTable:
    """A table for what this machine measures.

    Raises:
        BuildError: there is no C compiler.
    """
    compiler = compiler_version(tuple(compiler_command(target)))
    return CostTable(
        Machine(this_machine().cpu, target.name, compiler, kernels.fingerprint()[:16], circumstances(target))
    )


def write_costs(table: CostTable, path: str | os.PathLike[str]) -> None:
    """Write a table as JSON, all of it or nothing.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps({"format": FORMAT, "version": VERSION, **encoded(table)}, indent=1, allow_nan=False)
    write_atomically(path, text.encode())


def read_costs(path: str | os.PathLike[str]) -> CostTable:
    """Read a table that `write_costs` wrote, on any machine.

    Raises:
        CostTableError: the file is something else, damaged, or of a newer version.
        OSError: it cannot be read.
    """
    try:
        raw = parse_json(Path(path).read_bytes())
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
            raise CostTableError(f"{path}: not a cost table (its format is not {FORMAT!r})")
        if (version := raw.pop("version", None)) != VERSION:
            raise CostTableError(f"{path}: version {version!r:.40} of the format, expected {VERSION}; update Monstera")
        return decoded(CostTable, raw, "table")
    except CostTableError:
        raise
    except ValueError as error:
        raise CostTableError(f"{path}: not a cost table, or a damaged one: {error}") from error


def cached_path(target: Target) -> Path:
    """Where this machine keeps what it measures for a target with this compiler and these kernels."""
    return cache_folder() / "costs" / f"{circumstances(target)}.json"


def cached_costs(target: Target) -> CostTable:
    """What this machine has measured for a target; an empty table if it has not, or what it kept is damaged."""
    try:
        return read_costs(cached_path(target))
    except (CostTableError, FileNotFoundError):
        return empty_table(target)


def keep_costs(table: CostTable, target: Target) -> None:
    """Keep a table on this machine, together with what other processes have kept meanwhile, or are keeping.

    Raises:
        OSError: the cache cannot be written; set MONSTERA_CACHE to a folder that can.
    """
    path = cached_path(target)
    with locked(path.with_suffix(".lock")):
        write_costs(table.joined(cached_costs(target)), path)
