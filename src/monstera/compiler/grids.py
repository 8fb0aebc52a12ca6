"""Chooses a layout for every value: joins tensors that must share a grid, then solves pitch, rows and pads per class.

Joined are the input and output of a stride-1 convolution, the operands of elementwise operators, concatenations and
residuals. Everything else (pooling, resizing, reductions) reads any layout, and convolutions with a stride in height or
width read a private copy split into phases on their output's grid. A stride in depth asks for nothing: slices are done
one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product

from monstera.compiler.ir import Activate, Add, Affine, Concat, Conv, Graph, Mul, Node, Norm, Shape
from monstera.compiler.layout import LINE, Flat, Grid, Layout, Planes, odd_lines, three
from monstera.compiler.planar import is_direct, is_strided, planar_values
from monstera.compiler.taps import Taps, slabs_of, taps_of


@dataclass(slots=True)
class _Class:
    """Needs of one class while they are collected, in pixels; the largest of each wins."""

    pitch: int = 1
    rows: int = 1
    lead_rows: int = 0
    lead_columns: int = 0
    height: int = 1
    width: int = 1
    apart: bool = False

    def need(self, pitch: int, rows: int, lead_rows: int = 0, lead_columns: int = 0) -> None:
        self.pitch, self.rows = max(self.pitch, pitch), max(self.rows, rows)
        self.lead_rows, self.lead_columns = max(self.lead_rows, lead_rows), max(self.lead_columns, lead_columns)

    def hold(self, height: int, width: int) -> None:
        """A tensor of this size belongs to the class."""
        self.height, self.width = max(self.height, height), max(self.width, width)
        self.need(width, height)

    def absorb(self, other: _Class) -> None:
        self.need(other.pitch, other.rows, other.lead_rows, other.lead_columns)
        self.hold(other.height, other.width)
        self.apart |= other.apart

    def solve(self, images: int, slices: int) -> Grid:
        lead = self.lead_rows * self.pitch + self.lead_columns
        rows = self.rows
        if self.apart:
            # The last vector of a slab may reach beyond its last pixel, but never to a pixel of the next slab.
            rows = max(rows, -(-((self.height - 1) * self.pitch + self.width + LINE - 1) // self.pitch))
        stride = odd_lines(images * slices * rows * self.pitch)
        return Grid(self.pitch, rows, stride, -(-lead // LINE) * LINE, slices)


@dataclass(frozen=True, slots=True)
class Layouts:
    """The choice: `values` says where each value lies; `inputs[node]` where a convolution wants its input.

    `direct` names the depthwise convolutions that read their input row by row (see `is_direct`).
    """

    values: Mapping[str, Layout]
    inputs: Mapping[str, Planes]
    direct: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Solver:
    """Union-find over value names with the needs of each class."""

    parent: dict[str, str] = field(default_factory=dict)
    needs: dict[str, _Class] = field(default_factory=dict)

    def find(self, name: str) -> str:
        self.parent.setdefault(name, name)
        self.needs.setdefault(name, _Class())
        while self.parent[name] != name:
            self.parent[name] = self.parent[self.parent[name]]
            name = self.parent[name]
        return name

    def join(self, names: Iterable[str]) -> None:
        first, *rest = [self.find(n) for n in names]
        for other in rest:
            first = self.find(first)
            if (other := self.find(other)) != first:
                self.parent[other] = first
                self.needs[first].absorb(self.needs.pop(other))

    def of(self, name: str) -> _Class:
        return self.needs[self.find(name)]


def _need_of_direct(node: Node, graph: Graph, shapes: Mapping[str, Shape], needs: _Class) -> None:
    """Pads for every tap of every output pixel, in the class of the input."""
    op = node.op
    assert isinstance(op, Conv)
    pads = []
    taps = _taps(node, graph, shapes)
    for axis in (taps.y, taps.x):
        before = -axis.offsets[0]
        after = (axis.out - 1) * axis.stride - before + len(axis.offsets) - axis.size
        pads.append((before, max(0, before, after)))
    (top, height), (left, width) = pads
    needs.need(taps.x.size + width, taps.y.size + height, top, left)


def choose_layouts(graph: Graph) -> Layouts:
    """Solve the layouts of a graph.

    A value lies in planes if an image operator makes it; a flat value that a stride-1 convolution reads (an input of
    the graph, say) is copied into planes on the convolution's grid.
    """
    shapes = graph.shapes()
    solver = _Solver()
    planar = planar_values(graph)
    for node in graph.nodes:
        if node.name in planar:
            solver.of(node.name).hold(*three(node.shape[2:], 1)[1:])
            solver.join([node.name, *_partners(node, planar, shapes)])
            if is_direct(node, graph, planar):
                _need_of_direct(node, graph, shapes, solver.of(node.inputs[0]))
            elif isinstance(node.op, Conv):
                _need_of_conv(node, graph, shapes, solver.of(node.name))
    grids = {name: solver.of(name).solve(shapes[name][0], three(shapes[name][2:], 1)[0]) for name in planar}
    values: dict[str, Layout] = {
        name: _planes_of(shape, grids[name]) if name in planar else Flat(shape) for name, shape in shapes.items()
    }
    inputs = {
        node.name: _conv_input(node, graph, shapes, grids[node.name], values)
        for node in graph.nodes
        if isinstance(node.op, Conv) and node.name in planar
    }
    direct = frozenset(n.name for n in graph.nodes if is_direct(n, graph, planar))
    inputs |= {n.name: own for n in graph.nodes if n.name in direct and isinstance(own := values[n.inputs[0]], Planes)}
    return Layouts(values, inputs, direct)


def _planes_of(shape: Shape, grid: Grid) -> Planes:
    """A tensor of shape `[N, C, *spatial]` on a grid."""
    depth, height, width = three(shape[2:], 1)
    return Planes(shape[0], shape[1], height, width, grid, d=depth, rank=len(shape))


def _partners(node: Node, planar: set[str], shapes: Mapping[str, Shape]) -> list[str]:
    """Inputs that must lie on the node's own grid."""
    same = [i for i in node.inputs if i in planar]
    match node.op:
        case Conv():
            residual = [i for i in node.inputs[1:] if i in planar]
            return residual if is_strided(node.op) else [i for i in node.inputs if i in planar]
        case Affine() | Activate() | Add() | Mul():
            return [i for i in same if shapes[i] == node.shape]
        case Concat() | Norm():
            return same
        case _:
            return []


def _need_of_conv(node: Node, graph: Graph, shapes: Mapping[str, Shape], needs: _Class) -> None:
    op = node.op
    assert isinstance(op, Conv)
    taps = _taps(node, graph, shapes)
    (top, bottom), (left, right) = taps.y.reach, taps.x.reach
    needs.apart |= len(slabs_of(taps.z)) > 1 or (node.shape[0] > 1 and taps.z.size != taps.z.out)
    if is_strided(op):
        origin = (max(0, -top), max(0, -left))
        rows = (bottom + origin[0]) // taps.y.stride + taps.y.out
        needs.need((right + origin[1]) // taps.x.stride + taps.x.out, rows)
        return
    pitch = max(taps.x.out + max(right, 0), taps.x.size + max(-left, 0))
    rows = max(taps.y.out + max(bottom, 0), taps.y.size + max(-top, 0))
    needs.need(pitch, rows, max(-top, 0), max(-left, 0))


def _taps(node: Node, graph: Graph, shapes: Mapping[str, Shape]) -> Taps:
    op = node.op
    assert isinstance(op, Conv)
    return taps_of(op, graph.params[op.weight].shape[2:], shapes[node.inputs[0]], node.shape)


def _conv_input(
    node: Node, graph: Graph, shapes: Mapping[str, Shape], grid: Grid, values: Mapping[str, Layout]
) -> Planes:
    """Where the convolution wants its input: in place on its own grid, or as phases."""
    op, source = node.op, node.inputs[0]
    assert isinstance(op, Conv)
    taps, own = _taps(node, graph, shapes), values[source]
    if not is_strided(op) and isinstance(own, Planes):
        return own
    # The output's grid, but with the input's own depth.
    stride = odd_lines(node.shape[0] * taps.z.size * grid.slice)
    if not is_strided(op):
        return _planes_of(shapes[source], replace(grid, stride=stride, slices=taps.z.size))
    origin = (max(0, -taps.y.reach[0]), max(0, -taps.x.reach[0]))
    step = (taps.y.stride, taps.x.stride)
    rows, columns = (
        {(axis.offsets[i] + first) % axis.stride for i in axis.alive}
        for axis, first in zip((taps.y, taps.x), origin, strict=True)
    )
    kept = tuple(sorted(product(rows, columns))) or ((0, 0),)
    plain = _planes_of(shapes[source], replace(grid, stride=stride, slices=taps.z.size, lead=0))
    return replace(plain, step=step, origin=origin, kept=kept)
