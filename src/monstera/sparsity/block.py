"""Patterns: a block cuts a weight into groups that live or die together, a scope says which groups compete.

Density is the kept fraction of groups. Of `n` competing groups `ceil(density * n)` survive, at least one; the sum is
forgiven a relative float error of 1e-9 (see `kept_groups`). Equal scores are decided for the lower index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from monstera.sparsity.errors import PatternError
from monstera.sparsity.pattern import ALL, Extent, Pattern, Shape, check_extents, opened
from monstera.sparsity.scores import widened
from monstera.sparsity.selection import kept_groups, most_of_m, top, top_n_of_m
from monstera.sparsity.view import PLAIN, Layout, WeightView


@dataclass(frozen=True, slots=True)
class NOfM:
    """A scope: of every m neighbouring groups along `in`, n survive. The density of such a pattern is n / m.

    What is left over at the end of `in`, fewer than m, keeps n as well, or all it has: as if padded with zeros.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise PatternError(f"N:M needs 1 <= N < M, got {self.n}:{self.m}")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


Scope: TypeAlias = Literal["layer", "network"] | NOfM


@dataclass(frozen=True, slots=True)
class Block(Pattern):
    """Groups of `out` x `in_` x `positions` weights, cut inside the slices of a weight (see `view`).

    Blocks at the far edges are smaller where the weight does not divide evenly; they count as groups like any other and
    have the energy they have. Methods take a tensor (2-D to 5-D, `[out, in, *kernel]`, any dtype and device) or a
    `WeightView`; the layout of a tensor that holds parts or convolution groups is given by `layout`.

    Attributes:
        out: filters (rows) in a block, or "all".
        in_: input channels (columns) in a block, or "all".
        positions: kernel positions in a block, or "all".
        scope: "layer" (all groups of one weight compete), "network" (those of all weights with this entry in a plan
            do; a weight by itself is a network of one), or `NOfM`.

    Raises:
        PatternError: an extent below 1, an unknown scope, or `NOfM` together with `in_="all"`.

    Example:
        >>> weight = torch.tensor([[4.0, 1.0, 3.0, 2.0], [0.0, 2.0, 1.0, 2.0]])
        >>> Block(2, 1).project(weight, 0.5)
        tensor([[4., 0., 3., 0.],
                [0., 0., 1., 0.]])
    """

    out: Extent = 1
    in_: Extent = 1
    positions: Extent = 1
    scope: Scope = "layer"

    def __post_init__(self) -> None:
        check_extents("Block", {"out": self.out, "in_": self.in_, "positions": self.positions})
        if self.scope not in ("layer", "network") and not isinstance(self.scope, NOfM):
            raise PatternError(f'Block.scope is "layer", "network" or NOfM(n, m), got {self.scope!r}')
        if isinstance(self.scope, NOfM) and self.in_ == ALL:
            raise PatternError('NOfM compares neighbours along `in`; with in_="all" there is only one')

    @property
    def exact(self) -> bool:
        """Whether `project` is the Euclidean projection. True: the groups are disjoint."""
        return True

    @property
    def name(self) -> str:
        """The short name, which `pattern` turns back into an equal block."""
        for name, block in NAMED.items():
            if block == self:
                return name
        extents = [self.out, self.in_] + ([] if self.positions == 1 else [self.positions])
        block = "x".join(map(str, extents))
        if isinstance(self.scope, NOfM) and block == "1x1":
            return str(self.scope)
        return block if self.scope == "layer" else f"{block}@{self.scope}"

    def describe(self) -> str:
        """One line for people."""
        block = f"{self.out} x {self.in_} x {self.positions}"
        if isinstance(self.scope, NOfM):
            return f"blocks of {block} (out x in x positions), {self.scope.n} kept of every {self.scope.m} along in"
        return f"blocks of {block} (out x in x positions), the strongest of the {self.scope} kept"

    # ---- groups -----------------------------------------------------------------------------------------------------

    def groups(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:
        """The group of every weight: int64 of the weight's shape, counting from 0 in canonical row-major order."""
        weight, layout = opened(weight, layout)
        grid = self._grid(weight.shape, layout)
        index = torch.arange(_product(grid), device=weight.device).view(grid)
        return self.expand(index, weight.shape, layout)

    def group_scores(self, score: Tensor, layout: Layout = PLAIN) -> Tensor:
        """Sum a score of the weight's shape over each group: `[slices, out, in, positions]` counted in blocks.

        Differentiable, in the score's dtype (bool and integer scores are counted in int64).
        """
        canonical = layout.to_canonical(score)
        extents = self._extents(canonical.shape)
        padding = [
            p for size, block in zip(canonical.shape[:0:-1], extents[::-1], strict=True) for p in (0, -size % block)
        ]
        padded = F.pad(canonical, padding) if any(padding) else canonical
        out, in_, positions = extents
        return padded.unflatten(3, (-1, positions)).unflatten(2, (-1, in_)).unflatten(1, (-1, out)).sum((2, 4, 6))

    def sums(self, score: Tensor, layout: Layout = PLAIN) -> list[Tensor]:
        """The sum of a score over the group that every weight is in: one tensor of the score's shape."""
        return [self.expand(self.group_scores(score, layout), score.shape, layout)]

    def expand(self, values: Tensor, shape: Shape, layout: Layout = PLAIN) -> Tensor:
        """Give every weight the value of its group: the way back from `group_scores`, to a weight of `shape`."""
        _, *canonical = layout.extents(shape)
        for dim, (size, block) in enumerate(zip(canonical, self._extents(layout.extents(shape)), strict=True), start=1):
            if block > 1:
                values = values.repeat_interleave(block, dim).narrow(dim, 0, size)
        return layout.from_canonical(values, shape)

    def count(self, shape: Shape, layout: Layout = PLAIN) -> int:
        """How many groups a weight of this shape has."""
        return _product(self._grid(shape, layout))

    def alive(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:
        """Which groups hold at least one non-zero weight: bool, the shape of `group_scores`."""
        weight, layout = opened(weight, layout)
        return self.group_scores(weight != 0, layout) > 0

    # ---- choosing ---------------------------------------------------------------------------------------------------

    def select(self, scores: Tensor, density: float | None = None) -> Tensor:
        """Which groups survive, given `group_scores`: bool of the same shape.

        Raises:
            PatternError: the density does not fit the pattern, or a score is NaN.
        """
        density = self.density(density)
        if isinstance(self.scope, NOfM):
            return top_n_of_m(scores, self.scope.n, self.scope.m)
        return top(scores, kept_groups(density, scores.numel()))

    def mask(self, score: Tensor, density: float | None = None, layout: Layout = PLAIN) -> Tensor:
        """The weights to keep: bool of the score's shape. The score of a group is the sum over its weights.

        Raises:
            PatternError: the density does not fit the pattern, or a score is NaN.
        """
        kept = self.select(self.group_scores(widened(score), layout), density)
        return self.expand(kept, score.shape, layout)

    def masks_together(self, scores: Iterable[Tensor], density: float, layouts: Sequence[Layout]) -> list[Tensor]:
        """The masks of weights whose groups all compete, whatever weight they are in."""
        # One score after the other: a whole network's, in the widest float, need not exist at once.
        made = [(s.shape, self.group_scores(widened(s), layout)) for s, layout in zip(scores, layouts, strict=True)]
        flat = torch.cat([group.flatten().to(made[0][1].device) for _, group in made])
        kept = top(flat, kept_groups(density, flat.numel())).split([group.numel() for _, group in made])
        return [
            self.expand(part.view(group.shape).to(group.device), shape, layout)
            for part, (shape, group), layout in zip(kept, made, layouts, strict=True)
        ]

    def hold_together(self, weights: Sequence[WeightView], density: float) -> bool:
        """Whether no more groups live in all weights together than the density allows."""
        alive = [self.alive(weight) for weight in weights]
        return sum(int(groups.sum()) for groups in alive) <= kept_groups(density, sum(g.numel() for g in alive))

    # ---- checking ---------------------------------------------------------------------------------------------------

    def density(self, asked: float | None = None) -> float:
        """The density meant: the one asked for, or N/M, which may be left out.

        Raises:
            PatternError: outside (0, 1], left out where it is needed, or another one than N/M.
        """
        if isinstance(self.scope, NOfM):
            own = self.scope.n / self.scope.m
            if asked is not None and abs(asked - own) > 1e-6:
                raise PatternError(
                    f"{self.name} keeps exactly {own:g} of its groups, but density {asked:g} was asked for; "
                    f"leave the density out or choose another N:M"
                )
            return own
        # `slots=True` makes the class anew, so that a bare super() is of the one before.
        return Pattern.density(self, asked)

    def partway(self, density: float, way: float) -> float:
        """As for all patterns; N:M know one density, and have it from the start."""
        return density if isinstance(self.scope, NOfM) else Pattern.partway(self, density, way)

    def _misfit(self, density: float, extents: tuple[int, int, int, int]) -> str:
        out, in_, positions = self._extents(extents)
        where = f"slices of {extents[1]} x {extents[2]} x {extents[3]} (out x in x positions)"
        if self.positions != ALL and self.positions > extents[3]:
            return f"a block spans {self.positions} kernel positions, but the weight has {where}"
        if out * in_ * positions == 1 and {self.out, self.in_, self.positions} - {1, ALL}:
            return f"{self.name} shrinks to single weights in {where}; skip the weight or ask for 'unstructured'"
        if isinstance(self.scope, NOfM) and -(-extents[2] // in_) < self.scope.m:
            return f"{self.name} needs {self.scope.m} neighbours along in, but the weight has {where}"
        if self.scope == "layer" and density < 1 and _product(self._counts(extents)) == 1:
            return f"{self.name} makes one single group of {where}, which always survives; use scope 'network'"
        return ""

    def holds(self, weight: Tensor | WeightView, density: float | None = None, layout: Layout = PLAIN) -> bool:
        """Whether no more groups live than the density allows, and no more than N of M neighbours.

        Without a density only the N:M rule is checked. Single zeros inside living groups are no violation.
        """
        alive = self.alive(weight, layout)
        if isinstance(self.scope, NOfM):
            self.density(density)
            return most_of_m(alive, self.scope.m) <= self.scope.n
        return density is None or int(alive.sum()) <= kept_groups(density, alive.numel())

    # ---- sizes ------------------------------------------------------------------------------------------------------

    def _extents(self, canonical: Shape) -> tuple[int, int, int]:
        """The block's true sizes in a weight of canonical shape: "all" and what is larger become the whole side."""
        _, *sides = canonical
        asked = (self.out, self.in_, self.positions)
        out, in_, positions = (side if a == ALL else min(a, side) for a, side in zip(asked, sides, strict=True))
        return out, in_, positions

    def _counts(self, canonical: Shape) -> tuple[int, int, int, int]:
        slices, *sides = canonical
        out, in_, positions = (-(-s // b) for s, b in zip(sides, self._extents(canonical), strict=True))
        return slices, out, in_, positions

    def _grid(self, shape: Shape, layout: Layout) -> tuple[int, int, int, int]:
        return self._counts(layout.extents(shape))


NAMED = {
    "unstructured": Block(),
    "filter": Block(1, ALL, ALL),
    "channel": Block(ALL, 1, ALL),
    "column": Block(ALL, 1, 1),
    "kernel": Block(1, 1, ALL),
    # A whole layer can only compete with other layers.
    "layer": Block(ALL, ALL, ALL, "network"),
}


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
