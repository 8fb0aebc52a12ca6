"""What is known of the channels of a value: which of its positions move together, and with what.

An `Axis` gives every position along some dimensions of a value an atom (the channel) and a lane (the place within the
channel's run, as after a flatten). To permute channels is to move, in every value, the position (atom a, lane l) to
where (atom b, lane l) was. The `Ledger` collects what operators say about that: atoms that are one and the same, atoms
that cannot move, atoms that may only move within their row of another dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Atoms and lanes of the positions along `dims`: int64 arrays of the value's rank, of size 1 in other dimensions.

    An axis may cover several dimensions at once: after features are split into heads, each (head, feature) is an atom.
    """

    atoms: np.ndarray
    lanes: np.ndarray

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimensions along which the positions lie."""
        return tuple(d for d, size in enumerate(self.atoms.shape) if size != 1)

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> Axis:
        """The axis with both arrays changed alike."""
        return Axis(change(self.atoms), change(self.lanes))

    def aligned(self, rank: int) -> Axis:
        """The axis of the value broadcast to a higher rank."""
        return self.mapped(lambda a: a.reshape((1,) * (rank - a.ndim) + a.shape))


# Of one value; they can be permuted independently of each other.
Axes = tuple[Axis, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of the program: its shape and the axes that can be permuted independently of each other.

    What no axis covers is unknown, and only moves if nothing else depends on it. `parameter` names a value that is a
    parameter or buffer of the model itself.
    """

    shape: Shape
    axes: Axes = ()
    parameter: str | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    def along(self, dims: Iterable[int]) -> Axis | None:
        """The axis that covers exactly these dimensions."""
        wanted = tuple(sorted(dims))
        return next((axis for axis in self.axes if axis.dims == wanted), None)

    def aligned(self, rank: int) -> Value:
        """The value broadcast to a higher rank."""
        return Value((1,) * (rank - self.rank) + self.shape, tuple(axis.aligned(rank) for axis in self.axes))


@dataclass(frozen=True, slots=True, eq=False)
class Seed:
    """An axis of a parameter, as seen in `view`, a shape that the parameter is reshaped to."""

    parameter: str
    view: Shape
    axis: Axis


@dataclass(slots=True, eq=False)
class Ledger:
    """Everything that operators have said so far; read by `resolve`.

    Attributes:
        atoms: how many there are.
        ties: axes whose positions are of the same channels, and by what operator.
        made: the first atom of every axis of new ones.
        fixed: atoms that cannot move, and why.
        whole: atoms that can move but not leave, and why.
        pens: atoms and the place, a number, that they cannot leave.
        seen: the axes of all results.
        seeds: the axes of parameters.
        where: the operator at hand.
    """

    atoms: int = 0
    ties: list[tuple[Axis, Axis, str]] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    fixed: list[tuple[np.ndarray, str]] = field(default_factory=list)
    whole: list[tuple[np.ndarray, str]] = field(default_factory=list)
    pens: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    seen: list[Axis] = field(default_factory=list)
    seeds: list[Seed] = field(default_factory=list)
    where: str = ""

    def fresh(self, shape: Sequence[int]) -> Axis:
        """An axis of new atoms."""
        first = self.atoms
        self.atoms += prod(shape)
        self.made.append(first)
        return Axis(np.arange(first, self.atoms).reshape(tuple(shape)), np.zeros(tuple(shape), np.int64))

    def seed(self, parameter: str, view: Shape, dims: Iterable[int]) -> Axis:
        """A new axis of a parameter along dimensions of a view of it."""
        dims = tuple(dims)
        axis = self.fresh([size if d in dims else 1 for d, size in enumerate(view)])
        self.seeds.append(Seed(parameter, view, axis))
        return axis

    def tie(self, one: Axis, other: Axis) -> None:
        """Say that two axes of as many positions, taken in row-major order, are of the same channels."""
        self.ties.append((one, other, self.where))

    def fix(self, axis: Axis, reason: str) -> None:
        """Say that an axis cannot be permuted, in the operator at hand. An empty reason is none to tell people."""
        self.fixed.append((axis.atoms.reshape(-1), f"{self.where} {reason}" if reason else ""))

    def keep_whole(self, axis: Axis, reason: str) -> None:
        """Say that channels of an axis may be permuted, but none can be taken away."""
        self.whole.append((axis.atoms.reshape(-1), f"{self.where} {reason}"))

    def pen(self, axis: Axis, dims: Iterable[int]) -> None:
        """Say that channels of an axis cannot leave their place along some of its dimensions."""
        dims = tuple(dims)
        if not dims:
            return
        place = np.zeros((1,) * axis.atoms.ndim, np.int64)
        for d in dims:
            steps = np.arange(axis.atoms.shape[d]).reshape([-1 if e == d else 1 for e in range(axis.atoms.ndim)])
            place = place * axis.atoms.shape[d] + steps
        self.pens.append((axis.atoms.reshape(-1), np.broadcast_to(place, axis.atoms.shape).reshape(-1)))
