"""What every pattern of holes, or of values, answers, whatever it cuts a weight into."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from monstera.sparsity.errors import PatternError, ViewError
from monstera.sparsity.scores import magnitude
from monstera.sparsity.ties import Ties
from monstera.sparsity.view import PLAIN, Layout, WeightView

ALL: Literal["all"] = "all"
Extent: TypeAlias = int | Literal["all"]
Shape: TypeAlias = tuple[int, ...] | torch.Size


class Pattern(ABC):
    """Which weights live or die together, and how the survivors are chosen. Immutable and hashable.

    Some patterns constrain the values of the survivors too: `ties` says how, once it is known which survive.

    Methods take a tensor (2-D to 5-D, `[out, in, *kernel]`, any dtype and device) or a `WeightView`; the layout of a
    tensor that holds parts or convolution groups is given by `layout`.
    """

    __slots__ = ()
    # What competes: pools of entries are made by it.
    scope: Any

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether `project` is the Euclidean projection."""

    @property
    def constrains_values(self) -> bool:
        """Whether the values of what is kept are bound too, so that there are `ties`."""
        return False

    @property
    @abstractmethod
    def name(self) -> str:
        """The short name, which `pattern` turns back into an equal pattern."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people."""

    @abstractmethod
    def mask(self, score: Tensor, density: float | None = None, layout: Layout = PLAIN) -> Tensor:
        """The weights to keep: bool of the score's shape.

        Raises:
            PatternError: the density does not fit the pattern, or a score is NaN.
        """

    def masks_together(self, scores: Iterable[Tensor], density: float, layouts: Sequence[Layout]) -> list[Tensor]:
        """The masks of several weights with one entry: each by itself, unless the pattern lets them compete.

        Raises:
            PatternError: as for `mask`.
        """
        return [self.mask(score, density, layout) for score, layout in zip(scores, layouts, strict=True)]

    def hold_together(self, weights: Sequence[WeightView], density: float) -> bool:
        """Whether several weights with one entry have the holes that the pattern asks for; see `holds`."""
        return all(self.holds(weight, density) for weight in weights)

    @abstractmethod
    def alive(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:
        """What the pattern counts as kept: bool, one element for each group that can be."""

    def groups(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:  # noqa: ARG002
        """The group of every weight, int64 of the weight's shape, counting from 0.

        Raises:
            PatternError: the pattern has no disjoint groups that live or die each by itself.
        """
        raise PatternError(f"{self} has no disjoint groups that live or die each by itself; Block and Unify have")

    @abstractmethod
    def sums(self, score: Tensor, layout: Layout = PLAIN) -> list[Tensor]:
        """For each family of groups, the sum of a score over the group that every weight is in: the score's shape.

        Groups of one family are disjoint; patterns whose groups overlap have several families.
        """

    @abstractmethod
    def holds(self, weight: Tensor | WeightView, density: float | None = None, layout: Layout = PLAIN) -> bool:
        """Whether the weight has the holes and values that the pattern asks for. Further zeros are no violation."""

    def ties(self, weight: Tensor | WeightView, mask: Tensor, layout: Layout = PLAIN) -> Ties | None:  # noqa: ARG002
        """How the weights that a mask keeps are bound in the projection; None if their values are free.

        The nearest weight so tied (`Ties.nearest`) is the projection; ties hold while training moves their scalars.
        """
        return None

    def __str__(self) -> str:
        return self.name

    def density(self, asked: float | None = None) -> float:
        """The density meant by what was asked for.

        Raises:
            PatternError: outside (0, 1], left out where it is needed, or one the pattern cannot have.
        """
        if asked is None:
            raise PatternError(f"pattern {self} needs a density in (0, 1]")
        if not 0 < asked <= 1:
            raise PatternError(f"density is the kept fraction, in (0, 1]; got {asked}")
        return asked

    def partway(self, density: float, way: float) -> float:
        """The density when `way`, from 0 to 1, of the way from dense to `density` is gone."""
        return 1 - (1 - density) * way

    def refusal(self, density: float | None, shape: Shape | None = None, layout: Layout = PLAIN) -> str:
        """Why this density (of a weight of this shape) makes no sense, or the empty string."""
        try:
            density = self.density(density)
            return "" if shape is None else self._misfit(density, layout.extents(shape))
        except (PatternError, ViewError) as error:
            return str(error)

    def _misfit(self, density: float, extents: tuple[int, int, int, int]) -> str:  # noqa: ARG002
        """Why the pattern does not fit slices of these extents, `(slices, out, in, positions)`, or the empty string."""
        return ""

    def project(self, weight: Tensor | WeightView, density: float | None = None, layout: Layout = PLAIN) -> Tensor:
        """The weight with exact zeros where the mask of its squares has holes, and tied where the pattern says so.

        The nearest tensor that obeys, if `exact`. Returns a new, detached tensor of the weight's shape and dtype; the
        weight is not changed.
        """
        weight, layout = opened(weight, layout)
        mask = self.mask(magnitude(weight), density, layout)
        ties = self.ties(weight, mask, layout)
        return weight.detach().masked_fill(~mask, 0) if ties is None else ties.nearest(weight)

    def hold(self, weight: Tensor, grad: Tensor | None, mask: Tensor) -> None:
        """Keep the holes: set the weight, and the gradient if there is one, to zero outside the mask, in place."""
        with torch.no_grad():
            weight.masked_fill_(~mask, 0)
            if grad is not None:
                grad.masked_fill_(~mask, 0)

    def feasible(self, density: float | None, shape: Shape | None = None, layout: Layout = PLAIN) -> bool:
        """Whether the density, and the pattern on a weight of this shape, make sense; `refusal` says why not."""
        return not self.refusal(density, shape, layout)


def check_extents(kind: str, extents: dict[str, Any]) -> None:
    """Refuse sizes of blocks that are none.

    Raises:
        PatternError: neither a whole number from 1 on nor "all".
    """
    for name, size in extents.items():
        if size != ALL and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise PatternError(f'{kind}.{name} is a whole number >= 1 or "all", got {size!r}')


def opened(weight: Tensor | WeightView, layout: Layout) -> tuple[Tensor, Layout]:
    """The tensor and layout of a weight given in either form."""
    if isinstance(weight, WeightView):
        return weight.weight, weight.layout
    return weight, layout
