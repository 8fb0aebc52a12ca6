"""Orders of input channels in which an N:M pattern keeps more; what shares the channels is searched together.

A permutation of the channels that a layer reads, applied to the layers that make them as well, leaves what the network
computes alone, and changes who is whose neighbour. Finding one looks at scores only; applying it is not done here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import torch
from torch import Tensor

from monstera.sparsity.block import Block, NOfM
from monstera.sparsity.errors import PatternError
from monstera.sparsity.pattern_names import PatternLike
from monstera.sparsity.pattern_names import pattern as pattern_of
from monstera.sparsity.scores import magnitude, widened
from monstera.sparsity.selection import top_n_of_m
from monstera.sparsity.view import PLAIN, Layout

ESCAPES = 100
# Two stripes are divided anew in every way if there are no more than so many, as for 2:4 (35) up to stripes of six
# (462); else one channel of the one is exchanged for one of the other.
_MOST_SPLITS = 500
# Sums of scores are trusted to so many digits; a gain below that may be rounding.
_ROUNDING = 1e-12
# Numbers that are looked at side by side: tens of megabytes.
_CHUNK = 1 << 21


@dataclass(frozen=True, slots=True, eq=False)
class ChannelPermutation:
    """`weight[:, order]` is the weight that keeps more: `order[i]` is the channel that comes to place i.

    Attributes:
        order: int64 `[channels]`, on the CPU.
        before, after: the sum of the scores that the pattern keeps, as channels lie and in this order.
    """

    order: Tensor
    before: float
    after: float


def find_permutation(
    weights: Sequence[Tensor],
    pattern: PatternLike,
    layouts: Sequence[Layout] | None = None,
    *,
    escapes: int = ESCAPES,
    seed: int = 0,
) -> ChannelPermutation:
    """Search one order of input channels for all weights that read the same channels; nothing is changed.

    Args:
        weights: 2-D to 5-D, each with the same number of input channels.
        pattern: N:M of single weights or of blocks one channel wide, such as "2:4" or "4x1@2:4".
        layouts: how each weight holds its parts, default plain; none may have convolution groups.
        escapes, seed: as for `search_permutation`.

    Raises:
        PatternError: the pattern is another, or weights do not share their channels.
    """
    block = pattern_of(pattern)
    if not isinstance(block, Block) or not isinstance(block.scope, NOfM) or block.in_ != 1:
        raise PatternError(f'an order of channels matters to N:M patterns one channel wide, such as "2:4"; got {block}')
    layouts = layouts or [PLAIN] * len(weights)
    scores = [_channel_scores(weight, block, layout) for weight, layout in zip(weights, layouts, strict=True)]
    widths = {score.shape[1] for score in scores}
    if len(widths) != 1:
        raise PatternError(f"expected weights that read the same channels, got {sorted(widths)} input channels")
    return search_permutation(torch.cat(scores), block.scope, escapes=escapes, seed=seed)


def search_permutation(scores: Tensor, scope: NOfM, *, escapes: int = ESCAPES, seed: int = 0) -> ChannelPermutation:
    """Search an order of columns in which the N largest of every M neighbours in each row add up to more.

    Columns lie in stripes of M. For every pair of stripes the best way to divide its columns anew is looked up; those
    that gain most are divided, until none gains. From this local optimum the search escapes by exchanging two random
    columns, although that loses, and goes on from there. The best order on this walk is the answer: never worse than
    the order as it is, and the optimum where there are two stripes of up to six columns.

    Args:
        scores: `[rows, channels]`, finite; computed in float64 on its device. A last, shorter stripe keeps N or all.
        escapes: how many are tried.
        seed: of the exchanges; the same scores and seed give the same order.

    Raises:
        PatternError: scores are no matrix, or not finite.

    Source: J. Pool and C. Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021, and its code, in which stripes
    are of 4, and where the walk ends is the answer. Ours takes any N:M, and a shorter stripe.
    """
    if scores.dim() != 2 or not scores.numel() or not scores.isfinite().all():
        raise PatternError(f"expected finite scores [rows, channels], got {list(scores.shape)}; check the weights")
    wide = widened(scores)
    before = _kept(wide, scope)
    best = _Stripes.settled(wide.T.contiguous(), scope, _ROUNDING * abs(before))
    found, generator = best, torch.Generator().manual_seed(seed)
    for _ in range(escapes if len(best.stripes) > 1 else 0):
        found = found.escaped(generator)
        if found.kept > best.kept + best.least:
            best = found
    order = torch.tensor([channel for stripe in best.stripes for channel in stripe])
    return ChannelPermutation(order, before, _kept(wide[:, order.to(wide.device)], scope))


def _channel_scores(weight: Tensor, block: Block, layout: Layout) -> Tensor:
    """The norm of every block, `[rows, channels]`: magnitudes for single weights, as published."""
    if layout.groups > 1:
        raise PatternError(
            f"each of {layout.groups} convolution groups has channels of its own; search them one by one"
        )
    norms = block.group_scores(magnitude(weight), layout).sqrt()
    return norms.permute(0, 1, 3, 2).flatten(0, 2)


def _kept(scores: Tensor, scope: NOfM) -> float:
    grid = scores[None, :, :, None]
    return float(grid[top_n_of_m(grid, scope.n, scope.m)].sum())


class _Stripes:
    """Columns in stripes, and for every pair of stripes the best way to divide its columns anew.

    `gains[i, j]` with i < j is what that is worth, `choices[i, j]` its number in `_splits`.
    """

    def __init__(self, columns: Tensor, n: int, least: float, stripes: list[list[int]]) -> None:
        self.columns, self.n, self.least, self.stripes = columns, n, least, stripes
        self.gains = torch.zeros(len(stripes), len(stripes), dtype=torch.float64)
        self.choices = torch.zeros(len(stripes), len(stripes), dtype=torch.int64)
        self.kept = 0.0

    @classmethod
    def settled(cls, columns: Tensor, scope: NOfM, least: float) -> _Stripes:
        """Columns as they lie, and all that is gained from there."""
        channels = range(len(columns))
        stripes = [list(channels[start : start + scope.m]) for start in channels[:: scope.m]]
        made = cls(columns, scope.n, least, stripes)
        made._settle(range(len(stripes)))
        return made

    def escaped(self, generator: torch.Generator) -> _Stripes:
        """Another local optimum, by way of two columns that change places."""
        made = _Stripes(self.columns, self.n, self.least, [list(stripe) for stripe in self.stripes])
        made.gains, made.choices, made.kept = self.gains.clone(), self.choices.clone(), self.kept
        i, j = sorted(torch.randperm(len(self.stripes), generator=generator)[:2].tolist())
        one, other = made.stripes[i], made.stripes[j]
        a, b = (int(torch.randint(len(stripe), (), generator=generator)) for stripe in (one, other))
        was = made._sum(i) + made._sum(j)
        one[a], other[b] = other[b], one[a]
        made.kept += made._sum(i) + made._sum(j) - was
        made._settle((i, j))
        return made

    def _settle(self, changed: Iterable[int]) -> None:
        """Divide pairs anew, those that gain most first, until none gains."""
        while changed := set(changed):
            self._look_up(changed)
            changed = self._divide_best()

    def _divide_best(self) -> set[int]:
        """Divide the pairs that gain, best first and each stripe once; which stripes changed."""
        changed: set[int] = set()
        pairs = (self.gains > self.least).nonzero()
        order = self.gains[pairs[:, 0], pairs[:, 1]].argsort(descending=True, stable=True)
        for i, j in pairs[order].tolist():
            if i in changed or j in changed:
                continue
            window = self.stripes[i] + self.stripes[j]
            split = _splits(len(self.stripes[i]), len(self.stripes[j]))[int(self.choices[i, j])]
            self.stripes[i] = sorted(window[k] for k in split)
            self.stripes[j] = sorted(set(window) - set(self.stripes[i]))
            self.kept += float(self.gains[i, j])
            changed |= {i, j}
        return changed

    def _look_up(self, changed: set[int]) -> None:
        count = len(self.stripes)
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count) if i in changed or j in changed]
        # The last stripe may be shorter, and its pairs are divided otherwise.
        for a, b in {(len(self.stripes[i]), len(self.stripes[j])) for i, j in pairs}:
            alike = [(i, j) for i, j in pairs if len(self.stripes[j]) == b]
            at_once = max(1, _CHUNK // (len(_splits(a, b)) * self.columns.shape[1]))
            for start in range(0, len(alike), at_once):
                self._look_up_alike(alike[start : start + at_once], a, b)

    def _look_up_alike(self, pairs: Sequence[tuple[int, int]], a: int, b: int) -> None:
        windows = torch.tensor([self.stripes[i] + self.stripes[j] for i, j in pairs])
        splits = torch.tensor(_splits(a, b))
        rest = torch.tensor([sorted(set(range(a + b)) - set(split)) for split in _splits(a, b)])
        held = self.columns[windows.to(self.columns.device)]  # [pairs, a + b, rows]
        sums = _largest(held, splits, self.n) + _largest(held, rest, self.n)
        gains, choices = (sums - sums[:, :1]).max(1)  # the first split is as it is
        index = tuple(torch.tensor(pairs).T)
        self.gains[index], self.choices[index] = gains.to(self.gains), choices.cpu()

    def _sum(self, stripe: int) -> float:
        held = self.columns[self.stripes[stripe]][None]
        return float(_largest(held, torch.arange(held.shape[1])[None], self.n))


def _largest(held: Tensor, chosen: Tensor, n: int) -> Tensor:
    """The n largest among chosen columns, added up over rows.

    Args:
        held: `[windows, columns, rows]`.
        chosen: int64 `[choices, columns of each]`.

    Returns:
        `[windows, choices]`.
    """
    largest: list[Tensor] = []
    for column in chosen.to(held.device).T:
        value = held[:, column]
        for place, other in enumerate(largest):
            largest[place], value = torch.maximum(other, value), torch.minimum(other, value)
        if len(largest) < n:
            largest.append(value)
    return torch.stack([value.sum(2) for value in largest]).sum(0)


@cache
def _splits(a: int, b: int) -> list[tuple[int, ...]]:
    """Which columns of two stripes, of a and b side by side, make up the first: every way, or all single exchanges.

    The first way is as they are. Of stripes as long as each other, it does not matter which is the first.
    """
    first = tuple(range(a))
    if math.comb(a + b, a) // (1 + (a == b)) > _MOST_SPLITS:
        return [first] + [(*first[:i], j, *first[i + 1 :]) for i in range(a) for j in range(a, a + b)]
    ways = list(combinations(range(a + b), a))  # in order, so that those with the first column are the first half
    return ways[: len(ways) // 2] if a == b else ways
