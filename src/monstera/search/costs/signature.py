"""What decides how long a layer takes, without its name: layers of different networks that are alike share a record."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from math import prod

from monstera.compiler.ir import Embedding, Graph, Node, Recurrent, Shape, param_keys
from monstera.runtime.strict_json import canonical_json, encoded


@dataclass(frozen=True, slots=True)
class Use:
    """One product with a weight, or a part of it, after fusion.

    `kind` is the operator's name and `how` all that it says beside its parameters: stride, padding, dilation, groups,
    activation. `weight` is `[rows, columns, *kernel]`; the inputs are those of the graph, a fused residual included.
    """

    kind: str
    how: str
    weight: Shape
    inputs: tuple[Shape, ...]
    output: Shape

    def __post_init__(self) -> None:
        if not (self.weight and self.inputs and min(*self.weight, *self.output, 1) >= 1):
            raise ValueError(f"expected a weight, an input and positive extents, got {self}")

    @property
    def rows(self) -> int:
        """Rows of the weight as a matrix."""
        return self.weight[0]

    @property
    def columns(self) -> int:
        """Columns of the weight as a matrix, those of one convolution group."""
        return prod(self.weight[1:])

    @property
    def pixels(self) -> int:
        """How often each weight is used in a call: places of the output, times the batch; 0 in a look-up."""
        if self.kind == Embedding.__name__:
            return 0
        if self.kind == Recurrent.__name__:
            return prod(self.inputs[0][:2])
        return prod(self.output) // self.rows

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense weight, taps on padding counted."""
        return self.rows * self.columns * self.pixels

    @property
    def plane_bytes(self) -> int:
        """Bytes of what it reads and writes, once each."""
        return 4 * (sum(map(prod, self.inputs)) + prod(self.output))


@dataclass(frozen=True, slots=True)
class Signature:
    """A weight of this shape, how it holds parts and convolution groups, and its uses in a call, in order."""

    shape: Shape
    parts: int
    groups: int
    transposed: bool
    uses: tuple[Use, ...]
    threads: int

    def __post_init__(self) -> None:
        if not self.uses or self.threads < 1:
            raise ValueError(f"expected a use and at least one thread, got {self}")

    @property
    def key(self) -> str:
        """A name for tables: equal signatures, equal keys, on every machine."""
        return hashlib.sha256(canonical_json(encoded(self))).hexdigest()[:24]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a call, dense."""
        return sum(use.macs for use in self.uses)

    @property
    def plane_bytes(self) -> int:
        """Bytes of all planes that its uses read and write."""
        return sum(use.plane_bytes for use in self.uses)


def use_of(node: Node, graph: Graph) -> Use:
    """Describe a node with a weight."""
    shapes = graph.shapes()
    weight = graph.params[node.op.weight].shape  # pyright: ignore[reportAttributeAccessIssue]
    return Use(type(node.op).__name__, said(node), tuple(weight), tuple(shapes[i] for i in node.inputs), node.shape)


def said(node: Node) -> str:
    """All that a node's operator says, without the keys of its parameters."""
    keys = set(param_keys(node.op))
    blank = {f.name: "" for f in fields(node.op) if getattr(node.op, f.name) in keys}
    return repr(replace(node.op, **blank))


def fingerprint(graph: Graph, threads: int) -> str:
    """A name for a graph without its weights: operators, wiring and shapes; it ends in the threads that it runs on."""
    numbers = {name: str(i) for i, name in enumerate(graph.shapes())}
    lines = [f"{[shape for _, shape in graph.inputs]}", *(_line(n, graph, numbers) for n in graph.nodes)]
    lines.append(" ".join(numbers[o] for o in graph.outputs))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{digest[:24]}-{threads}"


def threads_of(fingerprint: str) -> int | None:
    """The threads that a fingerprint ends in; None for any other text."""
    _, _, threads = fingerprint.rpartition("-")
    return int(threads) if threads.isdecimal() else None


def _line(node: Node, graph: Graph, numbers: dict[str, str]) -> str:
    shapes = [graph.params[key].shape for key in param_keys(node.op)]
    return f"{said(node)} {_joined(numbers[i] for i in node.inputs)} {node.shape} {shapes}"


def _joined(words: Iterable[str]) -> str:
    return ",".join(words)
