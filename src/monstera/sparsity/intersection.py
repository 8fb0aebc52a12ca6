"""Holes of one pattern, and what is left of another: values constrained inside groups that live or die together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from monstera.sparsity.errors import PatternError
from monstera.sparsity.pattern import Pattern
from monstera.sparsity.quantize import Quantize
from monstera.sparsity.ties import Ties
from monstera.sparsity.unify import Unify
from monstera.sparsity.view import PLAIN, Layout, WeightView


@dataclass(frozen=True, slots=True)
class Intersection(Pattern):
    """A pattern of holes whose survivors obey a constraint on values; density, scope and groups are those of the holes.

    A group is worth what it saves: the sum over it of `w^2 - (w - v)^2`, where v is the weight with constrained values.
    Those worth most are kept, and what is kept is projected onto the constraint.

    Attributes:
        holes: any pattern of holes only.
        values: `Unify` (whose blocks must fit whole into the groups of a `Block`) or `Quantize`.

    Raises:
        PatternError: one of both is of another kind, or the holes would cut what the values tie.

    Example:
        >>> import torch
        >>> from monstera.sparsity import Block
        >>> weight = torch.tensor([[6.0, 3.5, 1.0], [0.0, -4.5, 1.0]])
        >>> Intersection(Block(2, 1), Unify(2, 1)).project(weight, 1 / 3)
        tensor([[ 0.,  4.,  0.],
                [ 0., -4.,  0.]])
    """

    holes: Pattern
    values: Unify | Quantize

    def __post_init__(self) -> None:
        if not isinstance(self.values, Unify | Quantize):
            raise PatternError(f"Intersection.values constrains values (Unify, Quantize), got {self.values!r}")
        if not isinstance(self.holes, Pattern) or isinstance(self.holes, Unify | Quantize | Intersection):
            raise PatternError(f"Intersection.holes is a pattern of holes only, got {self.holes!r}")
        if reason := self.values.nests_in(self.holes):
            raise PatternError(reason)

    @property
    def scope(self) -> Any:
        """That of the holes."""
        return self.holes.scope

    @property
    def constrains_values(self) -> bool:
        return True

    @property
    def exact(self) -> bool:
        """Whether `project` is the Euclidean projection: if both are, and values are budgeted in each group alone."""
        return self.holes.exact and isinstance(self.values, Unify) and self.values.unified == 1

    @property
    def name(self) -> str:
        """The short name, which `pattern` turns back into an equal pattern."""
        return f"{self.holes}&{self.values}"

    def describe(self) -> str:
        """One line for people."""
        return f"{self.holes.describe()}; of what is left, {self.values.describe()}"

    def density(self, asked: float | None = None) -> float:
        """The density meant, as the holes see it.

        Raises:
            PatternError: as for the holes.
        """
        return self.holes.density(asked)

    def partway(self, density: float, way: float) -> float:
        """As for the holes."""
        return self.holes.partway(density, way)

    # ---- choosing ---------------------------------------------------------------------------------------------------

    def mask(self, score: Tensor, density: float | None = None, layout: Layout = PLAIN) -> Tensor:
        """The weights to keep: bool of the score's shape. A score stands for a squared weight; below 0 it counts as 0.

        Raises:
            PatternError: the density does not fit the holes, or a score is NaN.
        """
        return self.holes.mask(self.values.saved(score, layout), density, layout)

    def masks_together(self, scores: Iterable[Tensor], density: float, layouts: Sequence[Layout]) -> list[Tensor]:
        """The masks of several weights with one entry, which compete as far as the holes let them.

        Raises:
            PatternError: as for `mask`.
        """
        saved = (self.values.saved(score, layout) for score, layout in zip(scores, layouts, strict=True))
        return self.holes.masks_together(saved, density, layouts)

    def ties(self, weight: Tensor | WeightView, mask: Tensor, layout: Layout = PLAIN) -> Ties:
        """Those of the values, among what the mask keeps."""
        return self.values.ties(weight, mask, layout)

    def groups(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:
        """Those of the holes.

        Raises:
            PatternError: as for the holes.
        """
        return self.holes.groups(weight, layout)

    def sums(self, score: Tensor, layout: Layout = PLAIN) -> list[Tensor]:
        """Those of the holes."""
        return self.holes.sums(score, layout)

    def alive(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:
        """As the holes count it."""
        return self.holes.alive(weight, layout)

    # ---- checking ---------------------------------------------------------------------------------------------------

    def holds(self, weight: Tensor | WeightView, density: float | None = None, layout: Layout = PLAIN) -> bool:
        """Whether the weight has the holes at this density, and its values are constrained."""
        return self.holes.holds(weight, density, layout) and self.values.holds(weight, None, layout)

    def hold_together(self, weights: Sequence[WeightView], density: float) -> bool:
        """The same of several weights with one entry."""
        return self.holes.hold_together(weights, density) and all(self.values.holds(weight) for weight in weights)

    def _misfit(self, density: float, extents: tuple[int, int, int, int]) -> str:
        return self.holes._misfit(density, extents) or self.values._misfit(density, extents)
