"""Blocks that lose whole columns and whole rows, each block its own (BCR); what stays of a block is a dense matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from monstera.sparsity.errors import PatternError
from monstera.sparsity.pattern import ALL, Extent, Pattern, Shape, check_extents, opened
from monstera.sparsity.scores import widened
from monstera.sparsity.selection import affordable, kept_groups, top_of_each
from monstera.sparsity.view import PLAIN, Layout, WeightView

Scope: TypeAlias = Literal["layer", "block"]
SCOPES: tuple[Scope, ...] = ("layer", "block")


@dataclass(frozen=True, slots=True)
class BlockColumnRow(Pattern):
    """Blocks of `out` filters x `in_` channels in which columns and rows are pruned independently.

    A row is one filter's weights in a block, a column one channel and kernel position of it. Density is the kept
    fraction of weights: columns keep `density ** (1 - row_share)` of them, rows `density ** row_share` of what columns
    leave. Columns go first, then rows by what is left of them, so that the projection is near, not exact.

    Attributes:
        out: filters (rows) in a block, or "all".
        in_: input channels in a block, all kernel positions of each, or "all".
        row_share: the share of the density's exponent that falls to rows, in [0, 1]: with 0 whole columns go, as in
            `Block(out, 1, 1)`, with 1 whole rows, as in `Block(1, in_, ALL)`. Rows that differ in their blocks share
            fewer columns, which is what speed comes from, so columns make most of the holes by default.
        scope: "layer" (columns, then rows, compete in all of a weight, by energy for each weight they keep) or "block"
            (each block keeps as many as every other: even work, less choice).

    Raises:
        PatternError: an extent below 1, a share outside [0, 1] or an unknown scope.

    Source: Niu et al. 2021, "GRIM", arXiv 2108.11033 (the pattern); the order of both steps and ranking by energy for
    each kept weight, as rows of a block cost what its columns leave of them, are choices of this library.

    Example:
        >>> weight = torch.tensor([[4.0, 1.0, 3.0, 0.0], [2.0, 0.0, 1.0, 0.0], [0.0, 5.0, 1.0, 2.0]])
        >>> BlockColumnRow(3, 2, row_share=0.5).project(weight, 1 / 3)
        tensor([[4., 1., 0., 0.],
                [0., 0., 0., 0.],
                [0., 5., 0., 0.]])
    """

    out: Extent
    in_: Extent
    row_share: float = 0.25
    scope: Scope = "layer"

    def __post_init__(self) -> None:
        check_extents("BlockColumnRow", {"out": self.out, "in_": self.in_})
        if not 0 <= self.row_share <= 1:
            raise PatternError(f"BlockColumnRow.row_share is in [0, 1], got {self.row_share!r}")
        if self.scope not in SCOPES:
            raise PatternError(f'BlockColumnRow.scope is "layer" or "block", got {self.scope!r}')

    @property
    def exact(self) -> bool:
        """Whether `project` is the Euclidean projection. False: a row's worth depends on which columns stay."""
        return False

    @property
    def name(self) -> str:
        """The short name, which `pattern` turns back into an equal pattern."""
        share = "" if self.row_share == 0.25 else f"r{self.row_share!r}"
        return f"bcr{self.out}x{self.in_}{share}{'' if self.scope == 'layer' else '@block'}"

    def describe(self) -> str:
        """One line for people."""
        return (
            f"columns and rows of blocks of {self.out} x {self.in_} (out x in), "
            f"the strongest of each {self.scope} kept, rows keep density ** {self.row_share:g}"
        )

    # ---- choosing ---------------------------------------------------------------------------------------------------

    def mask(self, score: Tensor, density: float | None = None, layout: Layout = PLAIN) -> Tensor:
        """The weights to keep: bool of the score's shape. Columns and rows whose scores are all zero are not kept.

        Raises:
            PatternError: the density does not fit the pattern, or a score is NaN.
        """
        density = self.density(density)
        canonical = layout.to_canonical(widened(score))
        blocks, real = self._blocks(canonical), self._blocks(torch.ones_like(canonical, dtype=torch.bool))
        kept = real & self._lines(blocks, real, 1, density ** (1 - self.row_share), canonical.numel())
        if self.row_share:
            # Of whole layers the budget is what both steps may leave together.
            share = density if self.scope == "layer" else density**self.row_share
            kept = kept & self._lines(blocks * kept, kept, 2, share, canonical.numel())
        return layout.from_canonical(self._joined(kept, canonical.shape), score.shape)

    def _lines(self, blocks: Tensor, left: Tensor, along: int, density: float, weights: int) -> Tensor:
        """Which lines along a dimension of `[blocks, rows, columns]` stay, of the weights that are `left`."""
        value, cost, able = blocks.sum(along), left.sum(along), (blocks != 0).any(along)
        if self.scope == "block":
            # How many lines of a block there are to choose from: smaller blocks lie at the far edges.
            kept = top_of_each(value, able, [kept_groups(density, n) for n in _longest(left, along)])
        else:
            kept = affordable(value, cost, able, kept_groups(density, weights))
        return kept.unsqueeze(along)

    def sums(self, score: Tensor, layout: Layout = PLAIN) -> list[Tensor]:
        """The sums of a score over every weight's column of its block, and over its row: the score's shape."""
        canonical = layout.to_canonical(score)
        blocks = self._blocks(canonical)
        lines = [blocks.sum(along, keepdim=True).expand_as(blocks) for along in (1, 2)]
        return [layout.from_canonical(self._joined(line, canonical.shape), score.shape) for line in lines]

    def alive(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:
        """Which weights lie in a living row and a living column of their block: bool, of the weight's shape."""
        weight, layout = opened(weight, layout)
        canonical = layout.to_canonical(weight != 0)
        blocks = self._blocks(canonical)
        crossing = blocks.any(1, keepdim=True) & blocks.any(2, keepdim=True)
        return layout.from_canonical(self._joined(crossing, canonical.shape), weight.shape)

    # ---- checking ---------------------------------------------------------------------------------------------------

    def holds(self, weight: Tensor | WeightView, density: float | None = None, layout: Layout = PLAIN) -> bool:
        """Whether living rows and columns meet in no more weights than the density allows.

        With scope "block": whether no block has more living columns, and rows, than its density allows. Without a
        density every weight obeys.
        """
        if density is None:
            return True
        weight, layout = opened(weight, layout)
        canonical = layout.to_canonical(weight != 0)
        if self.scope == "layer":
            living = self._blocks(canonical)
            # One line is kept whatever it costs.
            lines = min(int(living.any(along).sum()) for along in (1, 2))
            return lines <= 1 or int(self.alive(weight, layout).sum()) <= kept_groups(density, weight.numel())
        blocks, real = self._blocks(canonical), self._blocks(torch.ones_like(canonical))
        return all(
            int(living) <= kept_groups(share, n)
            for along, share in ((1, density ** (1 - self.row_share)), (2, density**self.row_share))
            for living, n in zip(blocks.any(along).sum(1), _longest(real, along), strict=True)
        )

    # ---- blocks -----------------------------------------------------------------------------------------------------

    def _blocks(self, canonical: Tensor) -> Tensor:
        """`[slices, out, in, positions]` -> `[blocks, rows, columns]`, zeros behind the far edges."""
        out, in_ = self._extents(canonical.shape)
        padded = F.pad(canonical, (0, 0, 0, -canonical.shape[2] % in_, 0, -canonical.shape[1] % out))
        cut = padded.unflatten(2, (-1, in_)).unflatten(1, (-1, out))
        return cut.transpose(2, 3).flatten(4, 5).flatten(0, 2)

    def _joined(self, blocks: Tensor, canonical: Shape) -> Tensor:
        """The inverse of `_blocks`."""
        out, in_ = self._extents(canonical)
        slices, rows, columns, positions = canonical
        cut = blocks.view(slices, -(-rows // out), -(-columns // in_), out, in_, positions)
        return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :rows, :columns]

    def _extents(self, canonical: Shape) -> tuple[int, int]:
        """A block's true sizes: "all" and what is larger become the whole side."""
        _, rows, columns, _ = canonical
        return rows if self.out == ALL else min(self.out, rows), columns if self.in_ == ALL else min(self.in_, columns)


def _longest(left: Tensor, along: int) -> list[int]:
    """How many lines along a dimension each of `[blocks, rows, columns]` has."""
    return left.any(along).sum(1).tolist()
