"""What tuning found: a choice for each layer, kept by what the layer is, in files that travel.

A layer's key covers all that its code depends on (holes, offsets, plane, activation, threads, target), so layers of
different networks share their entries. The machine's own cache is kept apart by processor, compiler and kernels.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from monstera.compiler import kernels
from monstera.compiler.build import cache_folder, compiler_command, compiler_version
from monstera.compiler.lowering.choice import ORDERS, Choice
from monstera.compiler.targets import Target
from monstera.runtime import Engine
from monstera.sparsity.files import write_atomically

FORMAT, VERSION = "monstera tuning", 1

# More than any search asks for; tables travel, and a loop that is unrolled a million times would never compile.
_MOST = {"tile": 64, "chunk": 1 << 20, "unroll": 16, "groups": 64}


class TableError(ValueError):
    """A file is no tuning table, or a damaged or newer one."""


@dataclass(frozen=True, slots=True)
class Table:
    """Choices by layer key; `ms` says how long each took where it was timed, in milliseconds."""

    choices: Mapping[str, Choice] = field(default_factory=dict)
    ms: Mapping[str, float] = field(default_factory=dict)

    def joined(self, other: Table) -> Table:
        """This table with the entries of another, which win."""
        return Table({**self.choices, **other.choices}, {**self.ms, **other.ms})

    def of(self, keys: Iterable[str]) -> dict[str, Any]:
        """The entries of these layers as plain JSON."""
        return {k: {**asdict(self.choices[k]), "ms": self.ms.get(k)} for k in sorted(keys) if k in self.choices}


def table_of(entries: Mapping[str, Any]) -> Table:
    """A table from plain JSON: what `Table.of` gives, or an engine's manifest holds.

    Raises:
        ValueError, KeyError, TypeError: the entries are something else.
    """
    choices = {str(key): _choice(entry) for key, entry in entries.items()}
    return Table(choices, {str(key): float(e["ms"]) for key, e in entries.items() if e["ms"] is not None})


def write_tuning(tuned: Table | Engine, path: str | os.PathLike[str]) -> None:
    """Write a table, or the choices that an engine was tuned to, as JSON: all of it or nothing."""
    table = tuned if isinstance(tuned, Table) else table_of(tuned.manifest.tuning)
    text = json.dumps({"format": FORMAT, "version": VERSION, "layers": table.of(table.choices)}, indent=1)
    write_atomically(Path(path), text.encode())


def read_tuning(path: str | os.PathLike[str]) -> Table:
    """Read a table that `write_tuning` wrote, on any machine.

    Raises:
        TableError: the file is something else, damaged, or of a newer version.
        OSError: it cannot be read.
    """
    try:
        raw = json.loads(Path(path).read_bytes())
        if raw["format"] != FORMAT:
            raise TableError(f"{path}: not a tuning table (its format is {raw['format']!r})")
        if raw["version"] != VERSION:
            raise TableError(f"{path}: version {raw['version']!r} of the format, expected {VERSION}; update Monstera")
        return table_of(raw["layers"])
    except TableError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"{path}: not a tuning table, or a damaged one: {error!r}") from error


def _choice(entry: Mapping[str, Any]) -> Choice:
    numbers = [*((entry[name], most) for name, most in _MOST.items()), *((n, 64) for n in entry["sizes"])]
    if not all(type(n) is int and 0 <= n <= most for n, most in numbers) or entry["order"] not in ORDERS:
        raise ValueError(f"expected whole numbers up to {_MOST}, and an order of {ORDERS}, in {dict(entry)}")
    return Choice(
        entry["order"], tuple(entry["sizes"]), entry["tile"], entry["chunk"], entry["unroll"], entry["groups"]
    )


def cached_table(keys: set[str], target: Target, effort: str) -> Table:
    """The entries that this machine has kept for these layers; damaged ones are as good as none."""
    folder, table = _folder(target, effort), Table()
    for key in sorted(keys):
        path = folder / f"{key}.json"
        if path.exists():
            try:
                table = table.joined(read_tuning(path))
            except (TableError, OSError):
                continue
    return Table({k: c for k, c in table.choices.items() if k in keys}, table.ms)


def keep(table: Table, target: Target, effort: str) -> None:
    """Keep every entry on this machine."""
    folder = _folder(target, effort)
    folder.mkdir(parents=True, exist_ok=True)
    for key, choice in table.choices.items():
        write_tuning(Table({key: choice}, {key: table.ms[key]}), folder / f"{key}.json")


def _folder(target: Target, effort: str) -> Path:
    return cache_folder() / "tuning" / f"{circumstances(target)}-{effort}"


def circumstances(target: Target) -> str:
    """A digest of what timings depend on beside the layer: the processor, the compiler, the target and the kernels."""
    words = [processor(), compiler_version(tuple(compiler_command(target))), target.name, kernels.fingerprint()]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def processor() -> str:
    """The processor's name and, where the system tells them, its family, model and caches."""
    path = Path("/proc/cpuinfo")
    wanted = ("vendor_id", "cpu family", "model", "model name", "cache size", "CPU implementer", "CPU part")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else [platform.processor()]
    return "\n".join(line for line in lines if line.split("\t")[0].split(":")[0].strip() in wanted)
