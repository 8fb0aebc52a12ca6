"""Weights that move as one: each is a fixed whole multiple of a scalar that its group shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from monstera.sparsity.errors import PatternError
from monstera.sparsity.scores import widened

Reduction: TypeAlias = Literal["sum", "max"]


@dataclass(frozen=True, slots=True, eq=False)
class Ties:
    """What a constraint on values has fixed of a weight: `weight = factor * scalar[group]`, exactly.

    A weight that is free is a group of its own, with the factor 1. To move such weights is to move the scalars. Sums
    over groups are added up in one order, so that equal input gives equal bits on every device.

    Attributes:
        group: int64 of the weight's shape: whose scalar a weight has, counted from 0.
        factor: int8 of the weight's shape: the multiple, with its sign. 0 holds a weight at zero.

    Raises:
        PatternError: the tensors are of other types, or of different shapes.

    Example:
        >>> ties = Ties(torch.tensor([[0, 0, 1]]), torch.tensor([[1, -1, 1]], dtype=torch.int8))
        >>> ties.nearest(torch.tensor([[2.0, -4.0, 5.0]]))
        tensor([[ 3., -3.,  5.]])
    """

    group: Tensor
    factor: Tensor
    # Scattering adds by atomics on CUDA, in any order: there groups are brought together, once.
    _runs: _Runs | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.group.dtype, self.factor.dtype) != (torch.int64, torch.int8) or self.group.shape != self.factor.shape:
            shapes = f"{list(self.group.shape)} and {list(self.factor.shape)}"
            raise PatternError(
                f"ties are groups (int64) and factors (int8) of one shape, got {self.group.dtype} and "
                f"{self.factor.dtype} of shapes {shapes}"
            )
        object.__setattr__(self, "_runs", runs_of(self.group) if self.group.is_cuda else None)

    def nearest(self, weight: Tensor) -> Tensor:
        """The nearest weight that is tied so: new, detached, of the weight's shape and dtype.

        Scalars are rounded so that all products are exact in the weight's dtype; equal input gives equal output.
        """
        factor = widened(self.factor)
        largest = self._reduced(factor.abs(), "max")
        scalars = snapped(self._fitted(weight, factor), largest, weight.dtype)
        return self._spread(scalars, factor, weight.dtype)

    def part(self, values: Tensor) -> Tensor:
        """The part of a gradient or a momentum that moves tied weights together: its projection, rounded freely.

        In a group of equal magnitudes that is the sign times the mean of sign times value.
        """
        factor = widened(self.factor)
        return self._spread(self._fitted(values, factor), factor, values.dtype)

    def part_of_squares(self, squares: Tensor) -> Tensor:
        """The same for second moments, which go with the square of the factor and know no sign."""
        factor = widened(self.factor).square()
        return self._spread(self._fitted(squares, factor), factor, squares.dtype)

    def to(self, device: torch.device) -> Ties:
        """A copy on another device."""
        return Ties(self.group.to(device, copy=True), self.factor.to(device, copy=True))

    def _fitted(self, values: Tensor, factor: Tensor) -> Tensor:
        """The scalars of least squares. What a first fit leaves is fitted again: tied values come back to the bit."""
        values = widened(values)
        norms = self._reduced(factor.square()).clamp_min(torch.finfo(factor.dtype).tiny)
        first = self._reduced(factor * values) / norms
        return first + self._reduced(factor * (values - factor * first[self.group])) / norms

    def _spread(self, scalars: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
        # Adding zero turns the minus zeros of dead weights into holes.
        return (factor * scalars[self.group] + 0.0).to(dtype)

    def _reduced(self, values: Tensor, how: Reduction = "sum") -> Tensor:
        values = values.flatten()
        if self._runs is not None:
            return segmented(values, self._runs, how)
        return scattered(values.cpu(), self.group.flatten().cpu(), how).to(values.device)


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Weights in the order of their groups, and how many each group has; int64, one-dimensional."""

    order: Tensor
    lengths: Tensor


def runs_of(group: Tensor) -> _Runs:
    """Bring the weights of each group together, those of one in the order in which they stand."""
    return _Runs(group.flatten().sort(stable=True).indices, group.flatten().bincount())


def segmented(values: Tensor, runs: _Runs, how: Reduction) -> Tensor:
    """The sum, or the largest and 0, of the values of each group, `[groups]`: on CUDA always by the same tree."""
    return torch.segment_reduce(values[runs.order], how, lengths=runs.lengths, initial=0, unsafe=True)


def scattered(values: Tensor, group: Tensor, how: Reduction) -> Tensor:
    """The same, on the CPU, where one value is added after the other."""
    empty = torch.zeros(int(group.max()) + 1, dtype=values.dtype)
    return empty.scatter_reduce(0, group, values, "sum" if how == "sum" else "amax")


def snapped(scalars: Tensor, largest: Tensor, dtype: torch.dtype) -> Tensor:
    """Round scalars so that their products with all whole numbers up to `largest` are exact in a dtype.

    Args:
        scalars: float64 (float32 where the device has no more).
        largest: whole numbers as floats, of the same shape.
        dtype: of the products; a scalar keeps what digits of it the whole numbers leave.
    """
    info = torch.finfo(dtype)
    # Twice, as the first rounding may lift the largest product over a power of two.
    for _ in range(2):
        product = scalars.abs() * largest
        mantissa, _ = torch.frexp(product)
        # A product is its mantissa times a power of two: the division is exact.
        power = torch.where(product > 0, product / mantissa, 1.0)
        step = (power * (info.eps / 2)).clamp_min(info.smallest_normal * info.eps)
        scalars = torch.where(largest > 0, (scalars / step).round() * step, 0.0)
    return scalars
