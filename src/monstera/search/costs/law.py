"""A law for layers, patterns and densities that were not measured, fitted to all that a table holds of some threads.

Ridge regression of the logarithm of the time. Its features are what a layer would take if it were bound by arithmetic
alone (the price by the compiler's model), by its weights, or by its planes, and the shape of its matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monstera.search.costs.price import expected_price
from monstera.search.costs.signature import Signature, threads_of
from monstera.search.costs.table import CostTable, CostTableError
from monstera.sparsity import Entry

# Fewer layers or points say nothing about others.
LEAST_LAYERS, LEAST_POINTS = 4, 24
_FOLDS = 5
_RIDGE = 1e-2
# What a core does in a nanosecond: only where the three bounds cross depends on it, and the fit has the last word.
_FLOP_A_NS, _BYTES_A_NS = 100.0, 20.0

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a law tells times of layers that it was not fitted to: the mean error relative to the measured time,
    and how well it orders them (Spearman's rank correlation)."""

    mape: float
    rank_correlation: float
    layers: int
    points: int

    def __str__(self) -> str:
        return (
            f"held-out error {self.mape:.1%}, rank correlation {self.rank_correlation:.3f} "
            f"({self.points} times of {self.layers} layers)"
        )


@dataclass(frozen=True, slots=True)
class Law:
    """Predicts milliseconds of a layer. What is no layer takes `rest_factor` times what bytes and arithmetic bound."""

    target: str
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    offset: float
    rest_factor: float
    quality: Quality

    def ms(self, signature: Signature, entry: Entry | None = None) -> float:
        """A call's time in a layer with the holes of an entry, or dense."""
        pattern, density = (None, 1.0) if entry is None else (entry.pattern, entry.density)
        price, stored = expected_price(signature, pattern, density, self.target)
        x = (features(signature, price, stored) - np.array(self.means)) / np.array(self.scales)
        return float(np.exp(self.offset + x @ np.array(self.weights)))


def features(signature: Signature, price: float, stored: int) -> Array:
    """What the logarithm of a time is linear in; `stored` are bytes of weights and indices."""
    uses = signature.uses
    compute_ns, weights_ns = price / _FLOP_A_NS, stored / _BYTES_A_NS
    planes_ns = signature.plane_bytes / _BYTES_A_NS
    bound = max(compute_ns, weights_ns) + planes_ns + 300.0
    pixels = max((use.pixels for use in uses), default=0)
    return np.log(
        [
            bound,
            1 + compute_ns,
            1 + weights_ns,
            1 + planes_ns,
            1 + pixels,
            1 + uses[0].rows,
            1 + uses[0].columns,
            2.0 if signature.groups > 1 else 1.0,
            1 + len(uses),
        ]
    )


def fit_law(table: CostTable, threads: int) -> Law:
    """Fit a law to what a table holds of calls on so many threads.

    Raises:
        CostTableError: it holds too few such times to say anything about others.
    """
    keys, x, y = _data(table, threads)
    layers = len(set(keys))
    if layers < LEAST_LAYERS or len(y) < LEAST_POINTS:
        raise CostTableError(
            f"the cost table holds {len(y)} times of {layers} layers with threads={threads}; at least {LEAST_POINTS} "
            f"of {LEAST_LAYERS} are needed to predict what it lacks: measure on its machine, with threads={threads}, "
            "more patterns, densities or networks"
        )
    guesses = np.empty_like(y)
    folds = np.array([sorted(set(keys)).index(key) % _FOLDS for key in keys])
    for fold in range(_FOLDS):
        kept = folds != fold
        if not kept.all():
            guesses[~kept] = _at(x[~kept], *_fit(x[kept], y[kept]))
    means, scales, weights, offset = _fit(x, y)
    mape = float(np.mean(np.abs(np.expm1(guesses - y))))
    quality = Quality(mape, rank_correlation(guesses, y), layers, len(y))
    numbers = tuple(means.tolist()), tuple(scales.tolist()), tuple(weights.tolist())
    return Law(table.machine.target, *numbers, offset, _rest_factor(table, threads), quality)


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's: the correlation of ranks, ties sharing their mean; 1 where one side has no order."""
    first, second = _ranks(np.asarray(a, float)), _ranks(np.asarray(b, float))
    if min(first.std(), second.std()) == 0:
        return 1.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Array) -> Array:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[which]


def _rows(table: CostTable, threads: int) -> Iterator[tuple[str, Array, float]]:
    for key, record in sorted(table.layers.items()):
        for point in record.points if record.signature.threads == threads else ():
            if point.price > 0:
                yield key, features(record.signature, point.price, point.bytes), point.ms


def _data(table: CostTable, threads: int) -> tuple[list[str], Array, Array]:
    rows = [*_rows(table, threads)]
    x = np.array([row[1] for row in rows]) if rows else np.empty((0, 0))
    return [row[0] for row in rows], x, np.log([row[2] for row in rows])


def _fit(x: Array, y: Array) -> tuple[Array, Array, Array, float]:
    means, scales = x.mean(0), x.std(0)
    scales = np.where(scales > 1e-9, scales, 1.0)
    z = (x - means) / scales
    gram = z.T @ z + _RIDGE * len(y) * np.eye(z.shape[1])
    return means, scales, np.linalg.solve(gram, z.T @ (y - y.mean())), float(y.mean())


def _at(x: Array, means: Array, scales: Array, weights: Array, offset: float) -> Array:
    return offset + (x - means) / scales @ weights


def _rest_factor(table: CostTable, threads: int) -> float:
    """Times of the rests of all networks on so many threads, relative to their bound; 0 if none is known."""
    rests = [rest for name, rest in table.rests.items() if threads_of(name) == threads]
    bound = sum(rest_bound_ms(rest.bytes, rest.macs) for rest in rests)
    return sum(rest.ms for rest in rests) / bound if bound else 0.0


def rest_bound_ms(bytes_: int, macs: int) -> float:
    """What so many bytes and multiply-accumulates would take one after the other."""
    return 1e-6 * (bytes_ / _BYTES_A_NS + 2 * macs / _FLOP_A_NS)
