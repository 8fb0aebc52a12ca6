"""A graph in the making, as seen by the translations of single torch operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, overload

import numpy as np
import torch

from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import Constant, Graph, Mul, Node, Op, Permute, Reshape, Shape
from monstera.compiler.ir.ops import Sizes
from monstera.runtime import LARGEST_WHOLE

Value: TypeAlias = "str | torch.Tensor"
"""What a torch value has become: the name of a value of the graph, or a tensor known at compile time."""

_SPATIAL = ("depth", "height", "width")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a torch operator: its name in `aten`, arguments by schema name, the shapes of the results.

    `dtype` is that of the first result, `dtypes` has those of the arguments that are tensors; `used` are the numbers of
    the results that somebody reads, where there are several.
    """

    op: str
    args: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    dtype: torch.dtype = torch.float32
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    used: frozenset[int] = frozenset()

    @property
    def shape(self) -> Shape:
        """The shape of the only (or first) result."""
        return self.shapes[0]

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def sizes(self, name: str, rank: int) -> Sizes:
        """An argument that is one number for all of `rank` dimensions, or one for each."""
        numbers = (self.args[name],) if isinstance(self.args[name], int) else tuple(self.args[name])
        return numbers * rank if len(numbers) == 1 else numbers


@dataclass(slots=True)
class Builder:
    """Collects nodes and parameters. Names of tensors that the model holds are kept as parameter keys.

    `limits` says which inputs are rows of tables, and of how many rows.
    """

    inputs: list[tuple[str, Shape]]
    keys: dict[int, str]
    limits: dict[str, int] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    params: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    layer: str = ""
    _numbers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes.update(self.inputs)

    def add(self, op: Op, inputs: tuple[Value, ...], shape: Shape) -> str:
        """Append a node and return its name; tensors known at compile time become constants."""
        operands = tuple(i if isinstance(i, str) else self.constant(i) for i in inputs)
        return self._append(op, operands, shape)

    def reshaped(self, x: Value, shape: Shape) -> Value:
        """A value in another shape; itself where it has this one."""
        if self.shape(x) == shape:
            return x
        return x.reshape(shape) if isinstance(x, torch.Tensor) else self.add(Reshape(), (x,), shape)

    def permuted(self, x: Value, dims: Sizes) -> Value:
        """A value whose dimension `dims[d]` comes d-th."""
        if isinstance(x, torch.Tensor):
            return x.permute(dims)
        shape = self.shape(x)
        return self.add(Permute(dims), (x,), tuple(shape[d] for d in dims))

    @overload
    def times(self, x: str, factor: float) -> str: ...
    @overload
    def times(self, x: torch.Tensor | float, factor: float) -> torch.Tensor: ...
    def times(self, x: Value | float, factor: float) -> Value:
        """A value, or a number, times a known number; itself, in fp32, where that is 1.

        Raises:
            UnsupportedError: it is known, and it or the product are whole numbers that fp32 cannot hold.
        """
        held = operand(x)
        if factor == 1:
            return held
        if isinstance(x, str):
            return self.add(Mul(), (x, operand(factor)), self.shape(x))
        return operand(torch.as_tensor(x) * factor)

    def param(self, value: torch.Tensor | np.ndarray, hint: str) -> str:
        """Hold an array as fp32 and return its key: the model's own name for it, else one made from `hint`."""
        if isinstance(value, torch.Tensor) and id(value) in self.keys:
            key = self.keys[id(value)]
        else:
            key = _unused(f"{self.layer or 'graph'}:{hint}", self.params)
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        _check_whole(array, hint)
        self.params[key] = np.ascontiguousarray(array, np.float32).reshape(array.shape)
        return key

    def constant(self, value: torch.Tensor) -> str:
        """A value of the graph that holds a tensor known at compile time; single numbers are held once."""
        if value.ndim or id(value) in self.keys:
            return self._append(Constant(self.param(value, "constant")), (), tuple(value.shape))
        number = float(value).hex()
        if number not in self._numbers:
            self._numbers[number] = self._append(Constant(self.param(value, "constant")), (), ())
        return self._numbers[number]

    def shape(self, value: Value) -> Shape:
        """The shape of a value, known at compile time or not."""
        return self.shapes[value] if isinstance(value, str) else tuple(value.shape)

    def image(self, call: Call, name: str) -> tuple[Value, int]:
        """An argument that must be `[batch, channels, *spatial]`, and the spatial rank, which the operator's name says.

        Raises:
            UnsupportedError: it has another number of dimensions, an image without a batch for instance.
        """
        rank = int(call.op[-2])
        shape = self.shape(call[name])
        if len(shape) != 2 + rank:
            spatial = ", ".join(_SPATIAL[-rank:])
            raise UnsupportedError(f"the input has shape {shape}; expected [batch, channels, {spatial}]")
        return call[name], rank

    def known(self, value: Value | None, what: str) -> torch.Tensor:
        """The tensor behind a value that has to be known at compile time."""
        if isinstance(value, torch.Tensor):
            return value
        raise UnsupportedError(f"{what} is computed from the input; it must be known at compile time")

    def limit(self, value: Value, rows: int) -> None:
        """Note that a value numbers the rows of a table, if it is an input of the graph as it is."""
        made = {node.name: node for node in self.nodes}
        while (node := made.get(str(value))) is not None and isinstance(node.op, Reshape):
            value = node.inputs[0]
        if isinstance(value, str) and value in dict(self.inputs):
            self.limits[value] = min(rows, self.limits.get(value, rows))

    def stand_in(self, shape: Shape) -> str:
        """A name for a result that cannot be computed, so that the operators after it can still be looked at."""
        name = _unused("unknown", self.shapes)
        self.shapes[name] = shape
        return name

    def finish(self, outputs: tuple[str, ...]) -> Graph:
        """The graph so far, with these outputs."""
        return Graph(tuple(self.inputs), tuple(self.nodes), outputs, self.params)

    def _append(self, op: Op, inputs: tuple[str, ...], shape: Shape) -> str:
        stem = f"{self.layer}:{type(op).__name__.lower()}" if self.layer else type(op).__name__.lower()
        name = _unused(stem, self.shapes)
        self.nodes.append(Node(name, op, inputs, shape, self.layer))
        self.shapes[name] = shape
        return name


def operand(x: Value | float) -> Value:
    """What an operator reads, which may be a number, as fp32."""
    if isinstance(x, str):
        return x
    tensor = torch.as_tensor(x)
    _check_whole(tensor.detach().cpu().numpy(), "an operand")
    return tensor.to(torch.float32)


def _check_whole(array: np.ndarray, what: str) -> None:
    if array.dtype.kind in "iu" and (np.abs(array.astype(np.float64)) > LARGEST_WHOLE).any():
        raise UnsupportedError(f"{what} holds whole numbers beyond {LARGEST_WHOLE}, which fp32 cannot tell apart")


def _unused(stem: str, taken: Mapping[str, Any]) -> str:
    """`stem`, or the first of `stem.1`, `stem.2`, ... that is not taken."""
    names = (stem if i == 0 else f"{stem}.{i}" for i in range(len(taken) + 1))
    return next(n for n in names if n not in taken)
