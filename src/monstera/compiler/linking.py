"""Puts the programs of several shapes in one library: every table once, and where they read as tables made at load.

Tables are named by their content, so programs share those that are equal: weights, rows, biases. What differs between
two shapes is where a column reads. Where columns are listed more often than there are of them, the list is stored once
for all programs, and with it, for each of them, the place of each column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monstera.compiler.emit import TapTable, Unit, unit
from monstera.compiler.memory import place
from monstera.compiler.program import Gathered, Program, named
from monstera.runtime.library import prefix_of
from monstera.runtime.tensors import data_size, offsets_of


@dataclass(frozen=True, slots=True)
class Linked:
    """Programs with their places in one weights file, its tables, and what is made of them when they are loaded."""

    units: tuple[Unit, ...]
    tables: Mapping[str, np.ndarray]
    taps: tuple[TapTable, ...] = ()
    tap_bytes: int = 0


def link(programs: Sequence[Program]) -> Linked:
    """Place programs in one library."""
    if len(programs) == 1:
        return Linked((unit(programs[0]),), programs[0].tables)
    made = _made(programs)
    parts = {name: (named(_narrow(table.columns)), named(table.places)) for name, table in made.items()}
    tables = {name: table for p in programs for name, table in p.tables.items() if name not in made}
    tables |= dict(part for pair in parts.values() for part in pair)
    stored, size = offsets_of(tables), data_size(tables)
    room = {name: np.empty(len(table.columns), np.int32) for name, table in made.items()}
    behind = {name: size + offset for name, offset in offsets_of(room).items()}
    taps = tuple(
        TapTable(behind[name], stored[columns], stored[places], len(table), table.itemsize > 2)
        for name, ((columns, table), (places, _)) in parts.items()
    )
    units = (Unit(prefix_of(i), p, place(p), stored | behind, size) for i, p in enumerate(programs))
    return Linked(tuple(units), tables, taps, data_size(room))


def _made(programs: Sequence[Program]) -> dict[str, Gathered]:
    """The tables that are worth being made at load: those of columns that several tables are made of."""
    tables = {name: table for program in programs for name, table in program.gathered.items()}
    lists = {name: named(table.columns)[0] for name, table in tables.items()}
    uses = Counter(lists.values())
    return {
        name: table
        for name, table in tables.items()
        if uses[lists[name]] > 1 and len(table.columns) > len(table.places)
    }


def _narrow(columns: np.ndarray) -> np.ndarray:
    return columns.astype(np.uint16 if columns.max(initial=0) < 1 << 16 else np.int32)
