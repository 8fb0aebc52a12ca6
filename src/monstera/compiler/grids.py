"""Chooses a layout for every value: joins tensors that must share a grid, then solves pitch, rows and pads per class.

Joined are the input and output of a stride-1 convolution, the operands of elementwise operators, concatenations and
residuals. Everything else (pooling, resizing, reductions) reads any layout, and strided convolutions read a private
copy split into phases on their output's grid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from monstera.compiler.ir import (
    Activate,
    AdaptivePool,
    Add,
    Affine,
    AvgPool,
    Concat,
    Conv,
    Graph,
    MaxPool,
    Mul,
    Node,
    Pad,
    Shape,
    Slice,
    Upsample,
)
from monstera.compiler.layout import LINE, Flat, Grid, Layout, Planes, odd_lines

_PLANAR = (Conv, Affine, Activate, Add, Mul, Concat, MaxPool, AvgPool, AdaptivePool, Upsample, Pad, Slice)


@dataclass(frozen=True, slots=True)
class Taps:
    """What a convolution reads, in input coordinates relative to `output * stride`: the rows and columns of its taps.

    `dy[i]`, `dx[j]` belong to kernel row i and column j; taps that meet padding for every output are left out of
    `rows` and `columns`, which index into them.
    """

    dy: tuple[int, ...]
    dx: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """Smallest and largest dy, smallest and largest dx among the taps that read anything (0 if none does)."""
        dy = [self.dy[i] for i in self.rows] or [0]
        dx = [self.dx[j] for j in self.columns] or [0]
        return min(dy), max(dy), min(dx), max(dx)


def taps_of(op: Conv, kernel: tuple[int, int], source: Shape, out: Shape) -> Taps:
    """The taps of a convolution over images of shape `source`, giving `out`."""
    dy = tuple(k * op.dilation[0] - op.padding[0] for k in range(kernel[0]))
    dx = tuple(k * op.dilation[1] - op.padding[1] for k in range(kernel[1]))

    def alive(offsets: tuple[int, ...], stride: int, count: int, size: int) -> tuple[int, ...]:
        return tuple(i for i, d in enumerate(offsets) if any(0 <= o * stride + d < size for o in range(count)))

    return Taps(dy, dx, alive(dy, op.stride[0], out[2], source[2]), alive(dx, op.stride[1], out[3], source[3]))


def is_planar(node: Node) -> bool:
    """Whether a node's value lies in planes: an image operator with more than one pixel."""
    return (
        isinstance(node.op, _PLANAR)
        and has_pixels(node.shape)
        and not (isinstance(node.op, Concat) and node.op.dim != 1)
    )


def has_pixels(shape: Shape) -> bool:
    """Whether a shape is `[N, C, H, W]` with more than one pixel."""
    return len(shape) == 4 and shape[2] * shape[3] > 1


@dataclass(slots=True)
class _Class:
    """Needs of one class while they are collected, in pixels; the largest of each wins."""

    pitch: int = 1
    rows: int = 1
    lead_rows: int = 0
    lead_columns: int = 0

    def need(self, pitch: int, rows: int, lead_rows: int = 0, lead_columns: int = 0) -> None:
        self.pitch, self.rows = max(self.pitch, pitch), max(self.rows, rows)
        self.lead_rows, self.lead_columns = max(self.lead_rows, lead_rows), max(self.lead_columns, lead_columns)

    def absorb(self, other: _Class) -> None:
        self.need(other.pitch, other.rows, other.lead_rows, other.lead_columns)

    def solve(self, images: int) -> Grid:
        lead = self.lead_rows * self.pitch + self.lead_columns
        stride = odd_lines(images * self.rows * self.pitch)
        return Grid(self.pitch, self.rows, stride, -(-lead // LINE) * LINE)


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


def is_direct(node: Node, graph: Graph, planar: Collection[str]) -> bool:
    """Whether a depthwise convolution reads its input's planes row by row, whatever its stride.

    Narrow planes would fill vectors badly that way, and kernels with many holes are better skipped through; both go the
    way of all other convolutions.
    """
    op = node.op
    if not isinstance(op, Conv) or node.name not in planar or node.inputs[0] not in planar:
        return False
    weight = graph.params[op.weight]
    depthwise = op.groups == len(weight) > 1 and weight.shape[1] == 1
    small = max(weight.shape[2:]) <= 7 and set(op.dilation) == {1} and min(op.padding) >= 0 and op.stride[-1] <= 2
    wide = node.shape[-1] >= 10 or is_strided(op)
    return depthwise and small and wide and 2 * np.count_nonzero(weight) >= weight.size


def _need_of_direct(node: Node, graph: Graph, shapes: Mapping[str, Shape], needs: _Class) -> None:
    """Pads for every tap of every output pixel, in the class of the input."""
    op = node.op
    assert isinstance(op, Conv)
    size, out = shapes[node.inputs[0]][2:], node.shape[2:]
    pads = []
    for axis, k in enumerate(_kernel(graph, op)):
        before = op.padding[axis]
        after = (out[axis] - 1) * op.stride[axis] - before + k - size[axis]
        pads.append((before, max(0, before, after)))
    (top, height), (left, width) = pads
    needs.need(size[1] + width, size[0] + height, top, left)


def choose_layouts(graph: Graph) -> Layouts:
    """Solve the layouts of a graph.

    A value lies in planes if an image operator makes it; a flat value that a stride-1 convolution reads (an input of
    the graph, say) is copied into planes on the convolution's grid.
    """
    shapes = graph.shapes()
    solver = _Solver()
    planar = {n.name for n in graph.nodes if is_planar(n)}
    for node in graph.nodes:
        if node.name in planar:
            solver.of(node.name).need(node.shape[3], node.shape[2])
            solver.join([node.name, *_partners(node, planar, shapes)])
            if is_direct(node, graph, planar):
                _need_of_direct(node, graph, shapes, solver.of(node.inputs[0]))
            elif isinstance(node.op, Conv):
                _need_of_conv(node, graph, shapes, solver.of(node.name))
    grids = {name: solver.of(name).solve(shapes[name][0]) for name in planar}
    values: dict[str, Layout] = {
        name: Planes(*_image(shape), grids[name]) if name in planar else Flat(shape) for name, shape in shapes.items()
    }
    inputs = {
        node.name: _conv_input(node, graph, shapes, grids[node.name], values)
        for node in graph.nodes
        if isinstance(node.op, Conv) and node.name in planar
    }
    direct = frozenset(n.name for n in graph.nodes if is_direct(n, graph, planar))
    inputs |= {n.name: own for n in graph.nodes if n.name in direct and isinstance(own := values[n.inputs[0]], Planes)}
    return Layouts(values, inputs, direct)


def _image(shape: Shape) -> tuple[int, int, int, int]:
    n, c, h, w = shape
    return n, c, h, w


def is_strided(op: Conv) -> bool:
    """Whether a convolution reads phase planes."""
    return op.stride != (1, 1)


def _partners(node: Node, planar: set[str], shapes: Mapping[str, Shape]) -> list[str]:
    """Inputs that must lie on the node's own grid."""
    same = [i for i in node.inputs if i in planar]
    match node.op:
        case Conv():
            residual = [i for i in node.inputs[1:] if i in planar]
            return residual if is_strided(node.op) else [i for i in node.inputs if i in planar]
        case Affine() | Activate() | Add() | Mul():
            return [i for i in same if shapes[i] == node.shape]
        case Concat():
            return same
        case _:
            return []


def _need_of_conv(node: Node, graph: Graph, shapes: Mapping[str, Shape], needs: _Class) -> None:
    op, source = node.op, node.inputs[0]
    assert isinstance(op, Conv)
    height, width = node.shape[2:]
    taps = taps_of(op, _kernel(graph, op), shapes[source], node.shape)
    top, bottom, left, right = taps.extent
    if is_strided(op):
        origin = (max(0, -top), max(0, -left))
        rows = (bottom + origin[0]) // op.stride[0] + height
        needs.need((right + origin[1]) // op.stride[1] + width, rows)
        return
    in_height, in_width = shapes[source][2:]
    pitch = max(width + max(right, 0), in_width + max(-left, 0))
    rows = max(height + max(bottom, 0), in_height + max(-top, 0))
    needs.need(pitch, rows, max(-top, 0), max(-left, 0))


def _kernel(graph: Graph, op: Conv) -> tuple[int, int]:
    h, w = graph.params[op.weight].shape[2:]
    return h, w


def _conv_input(
    node: Node, graph: Graph, shapes: Mapping[str, Shape], grid: Grid, values: Mapping[str, Layout]
) -> Planes:
    """Where the convolution wants its input: in place on its own grid, or as phases."""
    op, source = node.op, node.inputs[0]
    assert isinstance(op, Conv)
    n, c, h, w = _image(shapes[source])
    if not is_strided(op):
        own = values[source]
        return own if isinstance(own, Planes) else Planes(n, c, h, w, grid)
    taps = taps_of(op, _kernel(graph, op), shapes[source], node.shape)
    top, _, left, _ = taps.extent
    origin = (max(0, -top), max(0, -left))
    kept = tuple(
        sorted(
            {
                ((taps.dy[i] + origin[0]) % op.stride[0], (taps.dx[j] + origin[1]) % op.stride[1])
                for i in taps.rows
                for j in taps.columns
            }
        )
    ) or ((0, 0),)
    return Planes(n, c, h, w, Grid(grid.pitch, grid.rows, grid.stride, 0), (op.stride[0], op.stride[1]), origin, kept)
