"""Weights that are whole multiples of a scale, zero among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from monstera.sparsity.errors import PatternError
from monstera.sparsity.pattern import Pattern, opened
from monstera.sparsity.scores import widened
from monstera.sparsity.ties import Ties, snapped
from monstera.sparsity.view import PLAIN, Layout, WeightView

Scope: TypeAlias = Literal["channel", "layer"]
# Factors are kept in a byte.
MOST_BITS = 8
# Scales tried, as parts of the one that covers the largest weight (down to 1/16), and how often the best is refined.
_PARTS = tuple(2 ** (-step / 12) for step in range(49))
_REFINED = 8
# Weights of a row looked at first to see whether it is quantised already.
_SAMPLE = 64


@dataclass(frozen=True, slots=True)
class Quantize(Pattern):
    """Weights `scale * q` with whole numbers q from `-(2^(bits-1) - 1)` to `2^(bits-1) - 1`: symmetric and uniform.

    Zero is a level, so holes stay holes, but this pattern makes none by itself: its density is 1. Nest it in a pattern
    of holes for both (`Intersection`, `"4x1&int4"`). The scale is the best of several, refined by least squares, and
    rounded so that every product is exact in the weight's dtype: what is stored as whole numbers comes back to the bit.

    Attributes:
        bits: 2 to 8.
        scope: "channel" (each output channel has a scale of its own, in each part and convolution group) or "layer".

    Raises:
        PatternError: other bits or another scope.

    Source: levels and projection as for the quantised step of ADMM in G. Yuan et al., "FORMS", ISCA 2021 (zero stays
    zero); which scale is best is not said there.

    Example:
        >>> Quantize(2, "layer").project(torch.tensor([[4.0, -3.5, 0.25], [0.5, 4.5, -1.0]]))
        tensor([[ 4., -4.,  0.],
                [ 0.,  4.,  0.]])
    """

    bits: int
    scope: Scope = "channel"

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 2 <= self.bits <= MOST_BITS:
            raise PatternError(f"Quantize.bits is a whole number from 2 to {MOST_BITS}, got {self.bits!r}")
        if self.scope not in ("channel", "layer"):
            raise PatternError(f'Quantize.scope is "channel" or "layer", got {self.scope!r}')

    @property
    def most(self) -> int:
        """The largest whole number."""
        return 2 ** (self.bits - 1) - 1

    @property
    def constrains_values(self) -> bool:
        return True

    @property
    def exact(self) -> bool:
        """Whether `project` is the Euclidean projection. False: not every scale is tried."""
        return False

    @property
    def name(self) -> str:
        """The short name, which `pattern` turns back into an equal pattern."""
        return f"int{self.bits}{'' if self.scope == 'channel' else '@layer'}"

    def describe(self) -> str:
        """One line for people."""
        return f"whole multiples of one scale a {self.scope}, from -{self.most} to {self.most}"

    def density(self, asked: float | None = None) -> float:
        """1, which may be left out.

        Raises:
            PatternError: another one was asked for.
        """
        if asked is not None and asked != 1:
            raise PatternError(
                f"{self.name} makes no holes by itself, but density {asked:g} was asked for; nest it in a pattern that "
                f"does, as in '4x1&{self.name}'"
            )
        return 1.0

    def partway(self, density: float, way: float) -> float:  # noqa: ARG002
        """1 all the way."""
        return 1.0

    # ---- choosing ---------------------------------------------------------------------------------------------------

    def mask(self, score: Tensor, density: float | None = None, layout: Layout = PLAIN) -> Tensor:  # noqa: ARG002
        """True everywhere: which weights become zero is a matter of values."""
        self.density(density)
        return torch.ones_like(score, dtype=torch.bool)

    def saved(self, score: Tensor, layout: Layout = PLAIN) -> Tensor:
        """What each weight saves if none is pruned: `w^2 - (w - projection)^2` of the roots of a score; float64."""
        roots = widened(score).clamp_min(0).sqrt()
        nearest = self.ties(roots, torch.ones_like(score, dtype=torch.bool), layout).nearest(roots)
        return nearest * (2 * roots - nearest)

    def ties(self, weight: Tensor | WeightView, mask: Tensor, layout: Layout = PLAIN) -> Ties:
        """One scalar for each row: its scale. What is nearest to zero is held there."""
        weight, layout = opened(weight, layout)
        canonical = layout.to_canonical(widened(weight) * mask)
        rows = canonical.flatten(0, 1).flatten(1) if self.scope == "channel" else canonical.reshape(1, -1)
        factor = self._levels(rows, self._scales(rows.abs(), weight.dtype))
        number = torch.arange(len(rows), device=rows.device).unsqueeze(1).expand_as(rows)
        group, factor = (layout.from_canonical(t.reshape(canonical.shape), weight.shape) for t in (number, factor))
        return Ties(group, factor.to(torch.int8))

    def _levels(self, rows: Tensor, scales: Tensor) -> Tensor:
        """The nearest whole numbers; a scale of 0 is that of zeros."""
        return torch.where(scales > 0, rows / scales, 0.0).round().clamp(-self.most, self.most)

    def _scales(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """A scale for each of `[rows, n]` absolute values, `[rows, 1]`: the one that is there, or the best found."""
        if not (finite := rows.isfinite()).all():
            raise PatternError(
                f"{int((~finite).sum())} of {rows.numel()} weights are NaN or infinite; check the weights"
            )
        widest = rows.amax(1, keepdim=True) / self.most
        best, least = self._snapped(widest, dtype), torch.full_like(widest, torch.inf)
        for part in _PARTS:
            best, least = self._better(rows, self._snapped(widest * part, dtype), best, least)
        for _ in range(_REFINED):
            levels = self._levels(rows, best)
            fitted = (levels * rows).sum(1, keepdim=True) / levels.square().sum(1, keepdim=True).clamp_min(1)
            best, least = self._better(rows, self._snapped(fitted, dtype), best, least)
        there = _divisors(rows, self.most, dtype)
        return torch.where(there > 0, rows.amax(1, keepdim=True) / there.clamp_min(1), best)

    def _better(self, rows: Tensor, scales: Tensor, best: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        errors = (rows - self._levels(rows, scales) * scales).square().sum(1, keepdim=True)
        return torch.where(errors < least, scales, best), torch.minimum(errors, least)

    def _snapped(self, scales: Tensor, dtype: torch.dtype) -> Tensor:
        return snapped(scales, torch.full_like(scales, self.most), dtype)

    def sums(self, score: Tensor, layout: Layout = PLAIN) -> list[Tensor]:  # noqa: ARG002
        """The score itself: each weight is a group."""
        return [score]

    def alive(self, weight: Tensor | WeightView, layout: Layout = PLAIN) -> Tensor:
        """Which weights are not zero: bool, of the weight's shape."""
        weight, _ = opened(weight, layout)
        return weight.detach() != 0

    # ---- checking ---------------------------------------------------------------------------------------------------

    def holds(self, weight: Tensor | WeightView, density: float | None = None, layout: Layout = PLAIN) -> bool:
        """Whether the weights of each channel, or of all, are whole multiples of one scale, to the bit.

        As what `project` gives, this scale has few enough digits that all multiples up to the largest are exact.
        """
        self.density(density)
        weight, layout = opened(weight, layout)
        canonical = layout.to_canonical(widened(weight).abs())
        rows = canonical.flatten(0, 1).flatten(1) if self.scope == "channel" else canonical.reshape(1, -1)
        return bool((_divisors(rows, self.most, weight.dtype) > 0).all())

    def nests_in(self, holes: Pattern) -> str:  # noqa: ARG002
        """The empty string: zero is a level, so any holes will do."""
        return ""


def _divisors(rows: Tensor, most: int, dtype: torch.dtype) -> Tensor:
    """Which part of the largest divides each row of `[rows, n]` absolute values: the least whole number up to `most`.

    `[rows, 1]`; 0 where there is none, or none of which `Ties` could have all multiples in the dtype of the weight.
    """
    found = _divisors_of_all(rows[:, :_SAMPLE], rows.amax(1, keepdim=True), most, dtype)
    promising = (found > 0).squeeze(1)
    found[promising] = _divisors_of_all(rows[promising], rows[promising].amax(1, keepdim=True), most, dtype)
    return found


def _divisors_of_all(rows: Tensor, largest: Tensor, most: int, dtype: torch.dtype) -> Tensor:
    found = torch.zeros_like(largest)
    for count in range(1, most + 1):
        if (found > 0).all():
            break
        step = largest / count
        fits = ((torch.where(step > 0, rows / step, 0.0).round() * step) == rows).all(1, keepdim=True)
        if fits.any():
            fits &= snapped(step, torch.full_like(step, count), dtype) == step
        found = torch.where((found == 0) & fits, float(count), found)
    return found
