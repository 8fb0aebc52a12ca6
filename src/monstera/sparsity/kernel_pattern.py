"""Kernels that keep few positions each, in one of few patterns found in the network itself, or nothing at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from monstera.sparsity.errors import PatternError
from monstera.sparsity.pattern import Pattern, opened
from monstera.sparsity.scores import widened
from monstera.sparsity.selection import kept_groups, kept_whole, top
from monstera.sparsity.view import PLAIN, Layout, WeightView

Scope: TypeAlias = Literal["layer", "network"]
# Patterns are counted as whole numbers of as many bits.
MOST_POSITIONS = 62


@dataclass(frozen=True, slots=True)
class KernelPattern(Pattern):
    """Each kernel keeps `entries` positions, in one of at most `library` patterns, or is pruned whole (connectivity).

    The library is mined from the scores: the strongest `entries` positions of every kernel are its natural pattern, and
    the most frequent of these are the library; then each kernel gets the pattern that keeps most of it, and the
    strongest kernels stay. Density is the kept fraction of weights: of kernels with p positions `density * p / entries`
    stay. Above `entries / p` all stay, with as many more positions each as that allows.

    Attributes:
        entries: positions that a kernel keeps.
        library: how many patterns there may be.
        centre: whether the kernel's middle position is in every pattern.
        scope: "layer" (each weight has a library of its own, and its kernels compete) or "network" (the weights with
            this entry in a plan share one library, and all their kernels compete).

    Raises:
        PatternError: entries or a library below 1, or an unknown scope.

    Source: W. Niu et al., "PatDNN", ASPLOS 2020, arXiv 2001.00138: four entries of 3x3, the middle among them, six to
    eight patterns; theirs are mined once from the pretrained network, ours of whatever scores masks are asked for.

    Example:
        >>> weight = torch.tensor([[[[1.0, 5.0, 2.0], [0.0, 9.0, 7.0], [0.0, 0.0, 1.0]]]])
        >>> KernelPattern(3).project(weight, 1 / 3)
        tensor([[[[0., 5., 0.],
                  [0., 9., 7.],
                  [0., 0., 0.]]]])
    """

    entries: int = 4
    library: int = 8
    centre: bool = True
    scope: Scope = "layer"

    def __post_init__(self) -> None:
        for name in ("entries", "library"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PatternError(f"KernelPattern.{name} is a whole number >= 1, got {value!r}")
        if self.scope not in ("layer", "network"):
            raise PatternError(f'KernelPattern.scope is "layer" or "network", got {self.scope!r}')

    @property
    def exact(self) -> bool:
        """Whether `project` is the Euclidean projection. False: which library keeps most is not searched."""
        return False

    @property
    def name(self) -> str:
        """The short name, which `pattern` turns back into an equal pattern."""
        anywhere = "" if self.centre else "anywhere"
        return f"patterns{self.entries}of{self.library}{anywhere}{'' if self.scope == 'layer' else '@network'}"

    def describe(self) -> str:
        """One line for people."""
        middle = ", the middle among them," if self.centre else ""
        return (
            f"{self.entries} positions of a kernel{middle} in one of {self.library} patterns, "
            f"the strongest kernels of the {self.scope} kept"
        )

    # ---- choosing ---------------------------------------------------------------------------------------------------

    def mask(self, score: Tensor, density: float | None = None, layout: Layout = PLAIN) -> Tensor:
        """The weights to keep: bool of the score's shape.

        Raises:
            PatternError: the density does not fit the pattern, or a score is NaN.
        """
        return self.masks_together([score], self.density(density), [layout])[0]

    def masks_together(self, scores: Iterable[Tensor], density: float, layouts: Sequence[Layout]) -> list[Tensor]:
        """The masks of weights that share a library and a budget; kernels must be of one size."""
        scores = [*scores]
        device = scores[0].device
        canonical = [layout.to_canonical(widened(s)).to(device) for s, layout in zip(scores, layouts, strict=True)]
        if len({c.shape[3] for c in canonical}) > 1:
            raise PatternError(f"{self}: kernels of different sizes share no patterns; give each size an entry")
        kernels = torch.cat([c.flatten(0, 2) for c in canonical])
        positions = kernels.shape[1]
        library = self._mined(kernels, self._kept_positions(density, positions))
        value, best = (kernels @ library.T.to(kernels.dtype)).max(1)
        kept = top(value, self._kept_kernels(density, *kernels.shape))
        masks = (library[best] & kept.unsqueeze(1)).split([c.flatten(0, 2).shape[0] for c in canonical])
        return [
            layout.from_canonical(mask.view(c.shape), s.shape).to(s.device)
            for mask, c, s, layout in zip(masks, canonical, scores, layouts, strict=True)
        ]

    def _mined(self, kernels: Tensor, entries: int) -> Tensor:
        """The most frequent natural patterns of `[kernels, positions]`: bool `[library, positions]`.

        Kernels of zeros have none; of patterns equally frequent the one with earlier positions comes first.
        """
        ranked = kernels.clone()
        if self.centre:
            ranked[:, kernels.shape[1] // 2] = math.inf
        strongest = ranked.argsort(dim=1, descending=True, stable=True)[:, :entries]
        natural = torch.zeros_like(kernels, dtype=torch.bool).scatter_(1, strongest, True)
        living = natural[(kernels != 0).any(1)]
        counted = living if len(living) else natural[:1]
        # As whole numbers, the first position the highest bit: rows would take many times as long to count.
        bits = 1 << torch.arange(kernels.shape[1] - 1, -1, -1, device=kernels.device)
        codes, counts = torch.unique((counted * bits).sum(1), return_counts=True)
        # From behind, patterns with earlier positions come first.
        order = counts.flip(0).argsort(descending=True, stable=True)[: self.library]
        return (codes.flip(0)[order].unsqueeze(1) & bits) != 0

    def _kept_positions(self, density: float, positions: int) -> int:
        return max(self.entries, kept_whole(density, positions))

    def _kept_kernels(self, density: float, kernels: int, positions: int) -> int:
        # All of them where rounding down leaves room for more.
        return min(kernels, -(-kept_groups(density, kernels * positions) // self._kept_positions(density, positions)))

    def alive(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:
        """Which weights are not zero: bool, of the weight's shape."""
        weight, _ = opened(weight, layout)
        return weight.detach() != 0

    def sums(self, score: Tensor, layout: Layout = PLAIN) -> list[Tensor]:
        """The sum of a score over the kernel that every weight is in: one tensor of the score's shape."""
        canonical = layout.to_canonical(score)
        return [layout.from_canonical(canonical.sum(3, keepdim=True).expand_as(canonical), score.shape)]

    # ---- checking ---------------------------------------------------------------------------------------------------

    def _misfit(self, density: float, extents: tuple[int, int, int, int]) -> str:  # noqa: ARG002
        positions = extents[3]
        if not self.entries < positions <= MOST_POSITIONS:
            return (
                f"{self.name} needs kernels of {self.entries + 1} to {MOST_POSITIONS} positions, and these have "
                f"{positions}; skip the weight or take another pattern"
            )
        if self.centre and positions % 2 == 0:
            return f"a kernel of {positions} positions has no middle one; take centre=False"
        return ""

    def holds(self, weight: Tensor | WeightView, density: float | None = None, layout: Layout = PLAIN) -> bool:
        """Whether kernels keep few enough positions, in few enough patterns, and few enough kernels live.

        A kernel whose pattern is zero in part fits any pattern that covers the rest. Without a density, kernels with
        more positions than `entries` are refused.
        """
        weight, layout = opened(weight, layout)
        return self._obeys(layout.to_canonical(weight.detach() != 0).flatten(0, 2), density)

    def hold_together(self, weights: Sequence[WeightView], density: float) -> bool:
        """Whether all weights together have few enough patterns and living kernels; see `holds`."""
        kernels = [w.layout.to_canonical(w.weight.detach() != 0).flatten(0, 2).cpu() for w in weights]
        return self._obeys(torch.cat(kernels), density)

    def _obeys(self, kernels: Tensor, density: float | None) -> bool:
        living = kernels[kernels.any(1)]
        positions = kernels.shape[1]
        most = self.entries if density is None else self._kept_positions(density, positions)
        if density is not None and len(living) > self._kept_kernels(density, *kernels.shape):
            return False
        middle = {positions // 2} if self.centre else set()
        supports = [frozenset(middle.union(i for i, on in enumerate(row) if on)) for row in _distinct(living)]
        return max(map(len, supports), default=0) <= most and len(_covering(supports, most)) <= self.library


def _distinct(living: Tensor) -> list[list[bool]]:
    return torch.unique(living, dim=0).tolist() if len(living) else []


def _covering(supports: Sequence[frozenset[int]], most: int) -> list[frozenset[int]]:
    """Patterns of at most so many positions that cover all supports; few, but not always the fewest."""
    patterns: list[frozenset[int]] = []
    for support in sorted(supports, key=lambda s: (-len(s), sorted(s))):
        for i, pattern in enumerate(patterns):
            if len(pattern | support) <= most:
                patterns[i] = pattern | support
                break
        else:
            patterns.append(support)
    return patterns
