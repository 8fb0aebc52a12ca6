"""What lowering a node needs: pointers to values in the layout asked for, constant tables, and a place to put steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from monstera.compiler.grids import Layouts
from monstera.compiler.ir import Constant, Conv, Graph, Linear, Node, Recurrent, Reshape, Shape, Slice
from monstera.compiler.layout import Flat, Layout, Planes, lane_masks
from monstera.compiler.lowering.copies import copy_steps, paste_step, phase_planes, split_step
from monstera.compiler.lowering.slots import Slots, concat_slots, root_of
from monstera.compiler.lowering.tuned import TunedLayers
from monstera.compiler.lowering.windows import as_five, grid_args
from monstera.compiler.program import Field, Gathered, Kernel, Read, Ref, Step, Sweep, Work, named
from monstera.compiler.taps import Taps, taps_of
from monstera.compiler.targets import Target


@dataclass(slots=True)
class Lowering:
    """The state of one lowering: grows steps, buffers and tables while the nodes are walked in order."""

    graph: Graph
    layouts: Layouts
    target: Target
    threads: int
    tuned: TunedLayers
    steps: list[Step] = field(default_factory=list)
    buffers: dict[str, int] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    places: dict[str, Gathered] = field(default_factory=dict)
    _nodes: dict[str, Node] = field(default_factory=dict)
    _shapes: Mapping[str, Shape] = field(default_factory=dict)
    _slots: Slots = field(default_factory=dict)
    _copies: dict[tuple[str, Layout, Shape], Ref] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes = {n.name: n for n in self.graph.nodes}
        self._shapes = self.graph.shapes()
        self._slots = concat_slots(self.graph, self.layouts)

    def shape(self, value: str) -> Shape:
        """A value's shape."""
        return self._shapes[value]

    def layout(self, value: str) -> Layout:
        """Where a value lies by itself."""
        return self.layouts.values[value]

    # Pointers -------------------------------------------------------------------------------------------------------

    def result(self, node: Node) -> tuple[Ref, tuple[tuple[Ref, int], ...]]:
        """Where a node puts its value (its first element), and the pads it must clear first."""
        layout = self.layout(node.name)
        root, plane = root_of(node.name, self._slots)
        ref = self.buffer(root, self.layout(root)) + plane
        if not isinstance(layout, Planes):
            return ref, ()
        pad = layout.lead if plane == 0 else min(layout.lead, layout.grid.stride - layout.run())
        return ref, ((ref + -pad, pad),) if pad else ()

    def buffer(self, name: str, layout: Layout) -> Ref:
        """The first element of a buffer that holds `layout`, made on first use."""
        self.buffers.setdefault(name, layout.lead + layout.size)
        return Ref("arena", name, layout.lead)

    def scratch(self, stem: str, layout: Layout) -> Ref:
        """The first element of a new buffer that belongs to no value; `stem` is what its name begins with."""
        name = stem
        while name in self._shapes or name in self.buffers:  # whoever made the graph was free to choose any name
            name += "'"
        return self.buffer(name, layout)

    def own(self, value: str) -> Ref:
        """A value where it lies by itself."""
        if (node := self._nodes.get(value)) is None:
            return Ref("in", value)
        if isinstance(node.op, Constant):
            return self.table(self.graph.params[node.op.value])
        if isinstance(node.op, Reshape):
            return self.flat(node.inputs[0])
        if (start := self.run_start(node)) is not None:
            return self.flat(node.inputs[0]) + start
        return self.result(node)[0]

    def run_start(self, node: Node) -> int | None:
        """Where a slice lies in its dense source, if it is one run of it: it is read there."""
        if not isinstance(node.op, Slice) or not isinstance(self.layout(node.name), Flat):
            return None
        dense = isinstance(self.layout(node.inputs[0]), Flat)
        return node.op.run_start(self.shape(node.inputs[0]), node.shape) if dense else None

    def flat(self, value: str) -> Ref:
        """A value in row-major order; planes are copied once."""
        layout = self.layout(value)
        return self.own(value) if isinstance(layout, Flat) else self.copied(value, Flat(layout.shape))

    def planes(self, value: str, layout: Planes) -> Ref:
        """A value in the planes asked for, its shape broadcast to theirs; copied once if it lies otherwise."""
        return self.own(value) if self.layout(value) == layout else self.copied(value, layout)

    def unreshaped(self, value: str) -> str:
        """The value behind a chain of reshapes: the same numbers in the same row-major order."""
        while (node := self._nodes.get(value)) is not None and isinstance(node.op, Reshape):
            value = node.inputs[0]
        return value

    def copied(self, value: str, layout: Layout) -> Ref:
        """A copy of a value in another layout, broadcast to its shape."""
        key = (value, layout, layout.shape)
        if key not in self._copies:
            ref = self._copies[key] = self.scratch(f"{value}.{len(self._copies)}", layout)
            clears = ((ref + -layout.lead, layout.lead),) if layout.lead else ()
            kind = "planes" if isinstance(layout, Planes) else "dense order"
            if isinstance(layout, Planes) and layout.step != (1, 1):
                self._split(value, layout, ref)
            else:
                self.copy(f"{value} to {kind}", value, layout, ref, clears=clears, layer=self.layer(value))
        return self._copies[key]

    def layer(self, value: str) -> str:
        """What people call the maker of a value."""
        node = self._nodes.get(value)
        return value if node is None else node.layer or node.name

    def in_place(self, value: str, concat: str) -> bool:
        """Whether a value is made in its slot of a concatenation, so that nothing is left to copy."""
        return self._slots.get(value, ("", 0))[0] == concat

    # Tables ---------------------------------------------------------------------------------------------------------

    def table(self, array: np.ndarray) -> Ref:
        """A constant table, stored once per content."""
        name, array = named(array)
        self.tables.setdefault(name, array)
        return Ref("weights", name)

    def gathered(self, columns: np.ndarray, places: np.ndarray) -> Ref:
        """The table of where columns read; what it is made of is kept, as other shapes have other places."""
        ref = self.table(places[columns])
        self.places.setdefault(ref.name, Gathered(columns, places))
        return ref

    def bias(self, op: Conv | Linear | Recurrent) -> np.ndarray:
        """What is added to each row: `[rows]`, zeros if the operator has none."""
        rows = len(self.graph.params[op.weight])
        return self.graph.params[op.bias] if op.bias else np.zeros(rows, np.float32)

    def taps(self, node: Node) -> Taps:
        """What a convolution reads of its input."""
        op = node.op
        assert isinstance(op, Conv)
        return taps_of(op, self.graph.params[op.weight].shape[2:], self.shape(node.inputs[0]), node.shape)

    def mask(self, pixels: np.ndarray) -> Ref:
        """Lane masks of a run (see `lane_masks`), padded so that a tile may read beyond the end."""
        masks = lane_masks(pixels, self.target.lanes)
        return self.table(np.concatenate([masks, np.zeros(16, np.uint16)]))

    # Steps ----------------------------------------------------------------------------------------------------------

    def add(
        self,
        node: Node,
        title: str,
        kernel: Kernel,
        struct: str,
        fields: Mapping[str, Field],
        operands: tuple[Ref | int | None, ...] = (),
        work: Work | None = None,
        over: Ref | None = None,
        sweep: Sweep | None = None,
    ) -> None:
        """Append a step that makes a node's value; it may be laid over a buffer (see `Step.over`)."""
        to, clears = self.result(node)
        self.steps.append(
            Step(
                node.layer or node.name,
                title,
                kernel,
                struct,
                fields,
                operands,
                over=over.name if over is not None and (over.space, over.offset) == ("arena", to.offset) else "",
                writes=(node.name,),
                clears=clears,
                work=work or Work(),
                sweep=sweep,
            )
        )

    def copy(
        self,
        title: str,
        value: str,
        into: Layout,
        to: Ref,
        *,
        start: tuple[int, ...] = (),
        step: tuple[int, ...] = (),
        dims: tuple[int, ...] = (),
        seen_as: Flat | None = None,
        clears: tuple[tuple[Ref, int], ...] = (),
        layer: str = "",
    ) -> None:
        """Append the steps that fill all of a layout with a value, broadcast, or with a strided slice of it.

        `dims` says which dimension of the value each dimension of the layout is (default: the same); a dense value may
        be seen as one of another shape before.
        """
        if not start and not dims and self.layout(value) == into and isinstance(into, Flat):
            # The same order on both sides: one row, whatever the number of dimensions.
            into, source, strides = Flat((into.size,)), self.own(value), (1,)
        elif dims:
            source = self.own(value) if seen_as is None else self.flat(value)
            own = (seen_as or self.layout(value)).strides
            strides = tuple(own[d] for d in dims)
        else:
            source, strides = self.source(value, into.shape)
        source += sum(s * t for s, t in zip(start, strides, strict=bool(start)))
        strides = tuple(s * t for s, t in zip(step, strides, strict=True)) if step else strides
        self.steps.extend(copy_steps(layer, title, source, strides, into, to, clears))

    def _split(self, value: str, into: Planes, to: Ref) -> None:
        """Append the step that splits a value into phase planes."""
        source, strides = self.source(value, into.shape)
        phase = self.table(phase_planes(into))
        reads = self.reads_rows(value, into.step[0], -into.origin[0], into.step[0] - into.origin[0])
        title = f"{value} to {len(into.kept)} phase planes"
        self.steps.append(split_step(self.layer(value), title, source, strides, into, to, phase, reads))

    def reads_rows(self, value: str, step: int, first: int, past: int) -> tuple[Read, ...] | None:
        """What a sweep over rows reads of a value: output row r needs rows from `r * step + first` to `+ past`.

        None if rows do not follow each other: a batch, or several slices. An input of the program is always there.
        """
        layout, ref = self.layout(value), self.own(value)
        n, _, depth, _, _ = as_five(layout.shape, 1)
        if n * depth != 1:
            return None
        if ref.space != "arena":
            return ()
        if not isinstance(layout, Planes):
            return None
        pitch = layout.grid.pitch
        return (Read(ref.name, step * pitch, first * pitch, past * pitch),)

    def paste(
        self, node: Node, value: str, at: tuple[int, ...], start: tuple[int, ...], count: tuple[int, ...]
    ) -> None:
        """Append a step that copies `count` elements of a value, from `start` on, to `at` in a node's own layout."""
        source, strides = self.source(value, self.shape(value))
        source += sum(s * t for s, t in zip(start, strides, strict=True))
        into = self.layout(node.name)
        to = self.result(node)[0] + sum(s * t for s, t in zip(at, into.strides, strict=True))
        title, layer = f"{value} into {node.name}", node.layer or node.name
        self.steps.append(paste_step(layer, title, source, strides, count, node.name, grid_args(into), to))

    def source(self, value: str, shape: Shape) -> tuple[Ref, tuple[int, ...]]:
        """Pointer to a value and its strides over the dimensions of `shape`, to which it is broadcast."""
        layout = self.layout(value)
        missing = len(shape) - len(layout.shape)
        sizes, own = (1,) * missing + layout.shape, (0,) * missing + layout.strides
        strides = tuple(0 if size == 1 and want > 1 else s for s, size, want in zip(own, sizes, shape, strict=True))
        return self.own(value), strides
