"""Chooses the order of a matrix's rows and how many of them share a block, by the price of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeAlias, get_args

import numpy as np

from monstera.compiler.price import Price, spmm_price, spmv_price
from monstera.compiler.reorder import Forest, clustered, cut, natural
from monstera.compiler.targets import Target

Order: TypeAlias = Literal["natural", "clustered"]
ORDERS: tuple[Order, ...] = get_args(Order)

# Prices are rough: leaving the plainest candidate (rows as they stand, few kernel calls) has to save this much.
_WORTHWHILE = 0.98


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that one kernel call takes in blocks of `size`.

    `rows` is int `[blocks, size]`; `flop` is the predicted cost, as the floating-point operations that the core does at
    its peak in the same time. With `unified`, columns that have one magnitude are stored as that and signs.
    """

    order: Order
    size: int
    rows: np.ndarray
    flop: float
    unified: bool = False

    @property
    def stretch(self) -> bool:
        """Whether the blocks cover neighbouring rows in order."""
        first = int(self.rows[0, 0])
        return np.array_equal(self.rows.reshape(-1), np.arange(first, first + self.rows.size))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to cut a matrix into blocks: a kernel call for each part."""

    order: Order
    parts: tuple[Part, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The block sizes of its parts."""
        return tuple(part.size for part in self.parts)

    @property
    def flop(self) -> float:
        """The predicted cost of all parts."""
        return sum(part.flop for part in self.parts)


@dataclass(frozen=True, slots=True)
class Choice:
    """How a layer runs: which candidate (its order and block sizes), and how the SpMM kernel walks through it.

    `tile` vectors at most are summed up at once and `chunk` vectors are done for all blocks before the next ones (0: as
    the model of the cost has it); the loop over columns is unrolled `unroll` times (0: as the target has it); columns
    are taken in so many `groups`, so that the inputs of one stay in the first-level cache (0: as the model has it).
    """

    order: Order
    sizes: tuple[int, ...]
    tile: int = 0
    chunk: int = 0
    unroll: int = 0
    groups: int = 0

    def among(self, candidates: Sequence[Candidate]) -> Candidate:
        """The candidate that is meant; the best one if a table names another."""
        return next((c for c in candidates if (c.order, c.sizes) == (self.order, self.sizes)), candidates[0])


@dataclass(frozen=True, slots=True)
class Case:
    """What a tuner may choose from for one layer: candidates, best first, and the vectors of its plane (0 for SpMV)."""

    candidates: tuple[Candidate, ...]
    vectors: int

    @property
    def default(self) -> Choice:
        """What the model of the cost chooses."""
        return Choice(self.candidates[0].order, self.candidates[0].sizes)


@dataclass(frozen=True, slots=True)
class Cut:
    """How an earlier program of the same library cuts the rows of a layer, so that both read the same weights."""

    order: Order
    rows: tuple[np.ndarray, ...]

    def priced(self, holes: np.ndarray, price: Price) -> Candidate:
        """The cut as a candidate, at the prices of other shapes."""
        blocks = [(part.shape[1], part, np.count_nonzero(~holes[part].all(1), axis=1)) for part in self.rows]
        return _priced(self.order, blocks, price)


def cut_of(candidate: Candidate) -> Cut:
    """The cut that a candidate is."""
    return Cut(candidate.order, tuple(part.rows for part in candidate.parts))


def spmm_candidates(
    holes: np.ndarray, groups: int, vectors: int, target: Target, given: Cut | None = None
) -> tuple[Candidate, ...]:
    """Ways to cut a matrix for the offset-SpMM kernel, best first.

    Args:
        holes: bool `[rows, columns]`, True where the weight is zero.
        groups: convolution groups, which share no block.
        vectors: vectors of a plane.
        target: the instruction set; its tiles say which block sizes have a kernel.
        given: the only way, if there is one already.
    """
    price = spmm_price(vectors, target)
    return (given.priced(holes, price),) if given else _candidates(holes, groups, tuple(target.tiles), price)


def spmv_candidates(
    holes: np.ndarray, groups: int, images: int, target: Target, given: Cut | None = None
) -> tuple[Candidate, ...]:
    """Ways to cut a matrix for the SpMV kernel, best first; arguments as for `spmm_candidates`."""
    weights = holes.size - int(np.count_nonzero(holes))
    price = spmv_price(images, weights, target)
    return (given.priced(holes, price),) if given else _candidates(holes, groups, (16, 8, 4, 1), price)


def _candidates(holes: np.ndarray, groups: int, sizes: Sequence[int], price: Price) -> tuple[Candidate, ...]:
    """The ways to cut a matrix, best first; no two are the same."""
    fitting = [size for size in sizes if size <= max(1, len(holes) // groups)]
    found = _cuts(natural(holes, groups, max(fitting)), "natural", fitting, price)
    weights = holes.size - int(np.count_nonzero(holes))
    bound = price.flop * price.bound(len(holes), weights, fitting)
    if _WORTHWHILE * min(c.flop for c in found) > bound:
        found += _cuts(clustered(holes, groups, max(fitting), price), "clustered", fitting, price)
    return best_first(found)


def best_first(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The best first: the plainest of those that are nearly the cheapest; the rest by price."""
    found = sorted(candidates, key=lambda candidate: candidate.flop)
    near = [candidate for candidate in found if _WORTHWHILE * candidate.flop <= found[0].flop]
    best = min(near, key=lambda candidate: (candidate.order == "clustered", len(candidate.parts)))
    return best, *(candidate for candidate in found if candidate is not best)


def _cuts(forest: Forest, order: Order, sizes: Sequence[int], price: Price) -> list[Candidate]:
    """The cheapest cut for every set of sizes that includes 1, which is always there for what is left over.

    A cut that does without one of its sizes is the cut of the set without it, and left out. Neighbours in blocks of one
    size at any price are offered as well: a tuner may know better.
    """
    larger = sorted((size for size in sizes if size > 1), reverse=True)
    # Single rows are the same in every order.
    fewest = 0 if order == "natural" else 1
    sets = [subset for count in range(fewest, len(larger) + 1) for subset in combinations(larger, count)]
    found = [_priced(order, cut(forest, price, (*subset, 1)), price) for subset in sets]
    found = [c for c, subset in zip(found, sets, strict=True) if set(c.sizes).issuperset(subset)]
    for size in larger if order == "natural" else ():
        plain = _priced(order, cut(forest, price, (size, 1), at_any_price=True), price)
        if plain.sizes not in (c.sizes for c in found):
            found.append(plain)
    return found


def _priced(order: Order, blocks: Sequence[tuple[int, np.ndarray, np.ndarray]], price: Price) -> Candidate:
    flop = [price.flop * (price.call + float(price.of(size, lengths).sum())) for size, _, lengths in blocks]
    return Candidate(
        order, tuple(Part(order, size, rows, cost) for (size, rows, _), cost in zip(blocks, flop, strict=True))
    )
