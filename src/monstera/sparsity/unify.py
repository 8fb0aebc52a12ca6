"""Blocks whose weights share one magnitude, each keeping its sign; zero is the magnitude of a pruned block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from monstera.sparsity.assignment import kept_and_free
from monstera.sparsity.block import Block
from monstera.sparsity.errors import PatternError
from monstera.sparsity.pattern import ALL, Extent, Pattern, opened
from monstera.sparsity.scores import magnitude, widened
from monstera.sparsity.selection import kept_groups, top
from monstera.sparsity.ties import Ties
from monstera.sparsity.view import PLAIN, Layout, WeightView


@dataclass(frozen=True, slots=True)
class Unify(Pattern):
    """Blocks of `out` x `in_` x `positions` weights of one absolute value, under two budgets.

    Density is the kept fraction of blocks, `unified` the fraction of all blocks that have one magnitude, pruned ones
    among them, as theirs is zero. Of n blocks `ceil(density * n)` live, and `n - ceil(unified * n)` of these are left
    as they are. The nearest such weight has the mean of the absolute values in each unified block, with the signs that
    were there (that of zero is +), and both choices are made at once (see `kept_and_free`).

    Attributes:
        out, in_, positions: as for `Block`; blocks at the far edges are smaller and have the weights they have.
        unified: in (0, 1]; 1 leaves no block as it is.

    Raises:
        PatternError: an extent below 1, or a fraction outside (0, 1].

    Source: S. Lin et al., "Efficient Micro-Structured Weight Unification and Pruning for Neural Network Compression",
    2021, arXiv 2106.08301. Its ratios count unified blocks beside pruned ones; the joint choice is ours.

    Example:
        >>> weight = torch.tensor([[4.0, 1.0, 3.0, 0.0], [-2.0, 1.0, 1.0, 0.0]])
        >>> Unify(2, 1).project(weight, 0.5)
        tensor([[ 3.,  0.,  2.,  0.],
                [-3.,  0.,  2.,  0.]])
    """

    out: Extent
    in_: Extent
    positions: Extent = 1
    unified: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.unified <= 1:
            raise PatternError(
                f"Unify.unified is the fraction of blocks with one magnitude, in (0, 1]; got {self.unified}"
            )
        if self.block == Block():
            raise PatternError("Unify: a block of one weight has one magnitude anyway; ask for 'unstructured'")

    @property
    def block(self) -> Block:
        """The blocks as a pattern of holes: all that live or die are these."""
        return Block(self.out, self.in_, self.positions)

    @property
    def scope(self) -> Literal["layer"]:
        """All blocks of one weight compete."""
        return "layer"

    @property
    def constrains_values(self) -> bool:
        return True

    @property
    def exact(self) -> bool:
        """Whether `project` is the Euclidean projection. True: both budgets are met by the best choice."""
        return True

    @property
    def name(self) -> str:
        """The short name, which `pattern` turns back into an equal pattern."""
        extents = [self.out, self.in_] + ([] if self.positions == 1 else [self.positions])
        return f"unify{'x'.join(map(str, extents))}{'' if self.unified == 1 else f'u{self.unified!r}'}"

    def describe(self) -> str:
        """One line for people."""
        shape = f"{self.out} x {self.in_} x {self.positions}"
        return f"blocks of {shape} (out x in x positions), {self.unified:g} of them with one magnitude each or pruned"

    # ---- choosing ---------------------------------------------------------------------------------------------------

    def mask(self, score: Tensor, density: float | None = None, layout: Layout = PLAIN) -> Tensor:
        """The weights to keep: bool of the score's shape. A score stands for a squared weight; below 0 it counts as 0.

        Raises:
            PatternError: the density does not fit the pattern, or a score is NaN.
        """
        own, tied = self._savings(score, layout)
        kept = kept_groups(self.density(density), own.numel())
        return self.block.expand(kept_and_free(own, tied, kept, self._free(own.numel()))[0], score.shape, layout)

    def saved(self, score: Tensor, layout: Layout = PLAIN) -> Tensor:
        """What each weight saves if none is pruned: `w^2 - (w - projection)^2`, evenly over a block; float64."""
        own, tied = self._savings(score, layout)
        _, free = kept_and_free(own, tied, own.numel(), self._free(own.numel()))
        sizes = self.block.group_scores(torch.ones_like(score, dtype=own.dtype), layout)
        shares = self.block.expand(tied / sizes, score.shape, layout)
        return torch.where(self.block.expand(free, score.shape, layout), widened(score).clamp_min(0), shares)

    def ties(self, weight: Tensor | WeightView, mask: Tensor, layout: Layout = PLAIN) -> Ties:
        """One scalar for each unified block; the blocks that gain most by it are left as they are."""
        weight, layout = opened(weight, layout)
        weight = weight.detach()
        own, tied = self._savings(magnitude(weight) * mask, layout)
        alive = self.block.alive(mask, layout)
        budget = self._free(own.numel())
        # Of none `top` knows no threshold.
        free = alive & top(torch.where(alive, own - tied, -math.inf), budget) if budget else alive & False
        free = self.block.expand(free, weight.shape, layout)
        numbers = torch.arange(weight.numel(), device=weight.device).view(weight.shape) + own.numel()
        sign = torch.where((weight < 0) & ~free, -1, 1).masked_fill(~mask, 0)
        return Ties(torch.where(free, numbers, self.block.groups(weight, layout)), sign.to(torch.int8))

    def _savings(self, score: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """What each block saves as it is, and unified: the sum of squares, and the squared sum over the size."""
        squares = widened(score).clamp_min(0)
        own = self.block.group_scores(squares, layout)
        sizes = self.block.group_scores(torch.ones_like(squares), layout)
        return own, self.block.group_scores(squares.sqrt(), layout).square() / sizes

    def _free(self, blocks: int) -> int:
        return blocks - kept_groups(self.unified, blocks)

    def groups(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:
        """The block of every weight: int64 of the weight's shape, counting from 0 in canonical row-major order."""
        return self.block.groups(weight, layout)

    def sums(self, score: Tensor, layout: Layout = PLAIN) -> list[Tensor]:
        """The sum of a score over the block that every weight is in: one tensor of the score's shape."""
        return self.block.sums(score, layout)

    def alive(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:
        """Which blocks hold at least one non-zero weight: bool `[slices, out, in, positions]` counted in blocks."""
        return self.block.alive(weight, layout)

    # ---- checking ---------------------------------------------------------------------------------------------------

    def holds(self, weight: Tensor | WeightView, density: float | None = None, layout: Layout = PLAIN) -> bool:
        """Whether no more blocks live than the density allows, and no more have several magnitudes than `unified` does.

        Without a density only the second is checked.
        """
        return self.block.holds(weight, density, layout) and self.unifies(weight, layout)

    def unifies(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> bool:
        """Whether enough blocks have one magnitude, to the bit."""
        weight, layout = opened(weight, layout)
        magnitudes = weight.detach().abs()
        groups = self.block.groups(weight, layout).flatten()
        blocks = int(groups.max()) + 1
        start = torch.zeros(blocks, dtype=magnitudes.dtype, device=magnitudes.device)
        most, least = (
            start.scatter_reduce(0, groups, magnitudes.flatten(), how, include_self=False) for how in ("amax", "amin")
        )
        return int((most != least).sum()) <= self._free(blocks)

    def _misfit(self, density: float, extents: tuple[int, int, int, int]) -> str:
        if reason := self.block._misfit(density, extents):
            return reason
        blocks = math.prod(self.block._counts(extents))
        if self._free(blocks) >= kept_groups(density, blocks):
            return (
                f"{self.name} leaves {self._free(blocks)} of {blocks} blocks as they are and density {density:g} keeps "
                f"{kept_groups(density, blocks)}, so that none is unified; raise the fraction unified or the density"
            )
        return ""

    def nests_in(self, holes: Pattern) -> str:
        """Why its blocks are cut by the groups of another pattern, or the empty string."""
        if isinstance(holes, Block) and all(
            outer == ALL or (inner != ALL and outer % inner == 0)
            for outer, inner in zip(
                (holes.out, holes.in_, holes.positions), (self.out, self.in_, self.positions), strict=True
            )
        ):
            return ""
        return (
            f"the groups of {holes} are not made of whole blocks of {self.name}, so that holes would break their ties"
        )
