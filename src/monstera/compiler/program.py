"""The program: kernel calls in order, with every pointer and number resolved. Plain values; `emit` prints them as C."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from monstera.compiler.ir import Activation, Shape
from monstera.runtime.manifest import PackingSpec

Space: TypeAlias = Literal["arena", "weights", "in", "out"]


@dataclass(frozen=True, slots=True)
class Ref:
    """A pointer: `offset` elements behind the start of a buffer, a table, an input or an output."""

    space: Space
    name: str
    offset: int = 0

    def __add__(self, elements: int) -> Ref:
        return replace(self, offset=self.offset + elements)


@dataclass(frozen=True, slots=True)
class GridArgs:
    """The C struct `grid`: extent and strides of a tensor; `tail` is -1 for a dense one."""

    n: int
    c: int
    d: int
    h: int
    w: int
    row: int
    slice: int
    image: int
    plane: int
    tail: int = -1


@dataclass(frozen=True, slots=True)
class Loop:
    """How an SpMM kernel's loop over columns is written.

    Attributes:
        unroll: columns done in one turn.
        by_rows: take a column's weights one by one, not its vectors, unless it has more of those.
        ahead: ask for the inputs of the column that comes so much later; 0 for none.
        rows: rows summed up at once; blocks of more pass over their columns again.
        line: vectors of a cache line.
    """

    unroll: int = 1
    by_rows: bool = False
    ahead: int = 0
    rows: int = 16
    line: int = 1


@dataclass(frozen=True, slots=True)
class Kernel:
    """A C function, named dtype_operator_format_tile_isa_activation as far as it has them.

    `header` is its file and `macro` what instantiates it there; `needs` are kernels that it calls. The others are
    written out: SpMM kernels for `rows` rows, tiles of these `widths` in half vectors (kernels of one name once, with
    all their widths) and a `loop` over columns, depthwise kernels for a `window` of (height, width) that moves by
    (rows, columns), dense products for `strips` of so many vectors.
    """

    name: str
    header: str
    macro: str = ""
    rows: int = 0
    widths: tuple[int, ...] = ()
    loop: Loop = Loop()
    window: tuple[tuple[int, int], tuple[int, int]] | None = None
    strips: tuple[int, ...] = ()
    activation: Activation | None = None
    needs: tuple[Kernel, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What a step does, for the profile and the plan: multiply-accumulates of the dense layer and of its surviving
    weights, bytes it touches, and how the weights lie, in blocks of each size, if it has any."""

    dense_macs: int = 0
    macs: int = 0
    bytes: int = 0
    packing: tuple[PackingSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """What a sweep reads of a buffer's planes: unit u the floats from `u * step + first` up to `u * step + past`."""

    buffer: str
    step: int
    first: int
    past: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """How a step may be done piece by piece: `units` rows or vectors, each making `floats` floats of every plane.

    `calls` is how often a piece starts anew (a block of rows, a channel), `tile` how many units are worth that.
    """

    units: int
    floats: int
    calls: int
    buffer: str
    reads: tuple[Read, ...]
    tile: int = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """A piece of a step: its units from `begin` up to `end`, or all of it."""

    step: int
    begin: int = 0
    end: int | None = None


def named(table: np.ndarray) -> tuple[str, np.ndarray]:
    """A constant table and its name, which follows from its content."""
    table = np.ascontiguousarray(table)
    return f"{table.dtype.name}.{hashlib.sha256(table.data).hexdigest()[:16]}", table


Field: TypeAlias = "int | float | Ref | GridArgs | Mapping[str, Field] | tuple[Field, ...] | None"
"""A number, a pointer, a struct of fields by name, or an array of fields."""


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call `kernel(&struct, operands..., part)`.

    `reads` and `writes` name what it touches, for liveness; `clears` are stretches of zeros laid before the call (the
    pad before a buffer's first plane). Each element of the buffer `over` is read for the last time just before the same
    element is written, so the result may take its place. Steps without a `sweep` are done whole.
    """

    layer: str
    title: str
    kernel: Kernel
    struct: str
    fields: Mapping[str, Field]
    operands: tuple[Ref | int | None, ...] = ()
    over: str = ""
    writes: tuple[str, ...] = ()
    clears: tuple[tuple[Ref, int], ...] = ()
    work: Work = Work()
    sweep: Sweep | None = None

    def refs(self) -> list[Ref]:
        """Every pointer of the step."""
        return [*_refs(self.fields), *_refs(self.operands), *(r for r, _ in self.clears)]


def _refs(field: Field) -> list[Ref]:
    match field:
        case Ref():
            return [field]
        case Mapping():
            return [ref for value in field.values() for ref in _refs(value)]
        case tuple():
            return [ref for value in field for ref in _refs(value)]
        case _:
            return []


@dataclass(frozen=True, slots=True)
class Gathered:
    """A table as what it is made of: `places[columns]`. The columns are the layer's, the places those of its planes."""

    columns: np.ndarray
    places: np.ndarray


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled graph before it is C: steps, buffers (floats each) and constant tables by name.

    `turns` say in which order the steps are done, whole or in pieces. `gathered` says of some tables what they are made
    of.
    """

    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[tuple[str, Shape], ...]
    steps: tuple[Step, ...]
    buffers: Mapping[str, int]
    tables: Mapping[str, np.ndarray]
    turns: tuple[Turn, ...]
    gathered: Mapping[str, Gathered] = field(default_factory=dict)
