"""Which weights of a network survive: each entry's groups compete by themselves, or with others in scope "network"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from monstera.sparsity.entry import Entry
from monstera.sparsity.errors import PatternError, PlanError, suggestion
from monstera.sparsity.scores import magnitude
from monstera.sparsity.view import PLAIN, Layout

Entries = Mapping[str, Entry]
Tensors = Mapping[str, Tensor]
Layouts = Mapping[str, Layout]


def pools(entries: Entries) -> list[list[str]]:
    """The names whose groups compete: each by itself; in scope "network" all that have an equal entry."""
    found: dict[Any, list[str]] = {}
    for name, entry in entries.items():
        found.setdefault(entry if entry.pattern.scope == "network" else name, []).append(name)
    return list(found.values())


def network_masks(entries: Entries, weights: Tensors, scores: Tensors | None, layouts: Layouts) -> dict[str, Tensor]:
    """The masks that `Plan.masks` returns, in the order of the entries.

    Raises:
        PlanError: with everything that is missing, misshapen or NaN.
    """
    _check(entries, weights, scores, layouts)
    scored = _Magnitudes(weights) if scores is None else scores
    found = [_masks_or_problem(entries, pool, scored, layouts) for pool in pools(entries)]
    if problems := [masks for masks in found if isinstance(masks, str)]:
        raise PlanError(problems)
    masks = {name: mask for pool in found if isinstance(pool, dict) for name, mask in pool.items()}
    return {name: masks[name].to(weights[name].device) for name in entries}


def _masks_or_problem(
    entries: Entries, pool: Sequence[str], scores: Tensors, layouts: Layouts
) -> dict[str, Tensor] | str:
    try:
        return _pool_masks(entries[pool[0]], pool, scores, layouts)
    except PatternError as error:
        return f"{', '.join(pool)}: {error}"


def _pool_masks(entry: Entry, pool: Sequence[str], scores: Tensors, layouts: Layouts) -> dict[str, Tensor]:
    if len(pool) == 1:
        (name,) = pool
        return {name: entry.pattern.mask(scores[name], entry.density, layouts.get(name, PLAIN))}
    found = entry.pattern.masks_together(
        (scores[name] for name in pool), entry.density, [layouts.get(name, PLAIN) for name in pool]
    )
    return dict(zip(pool, found, strict=True))


def _check(entries: Entries, weights: Tensors, scores: Tensors | None, layouts: Layouts) -> None:
    problems: list[str] = []
    for name, entry in entries.items():
        if name not in weights:
            problems.append(f"{name}: no such weight was given; {suggestion(name, weights)}")
            continue
        shape = weights[name].shape
        if reason := entry.pattern.refusal(entry.density, shape, layouts.get(name, PLAIN)):
            problems.append(f"{name} {list(shape)}: {reason}")
        if scores is not None and name not in scores:
            problems.append(f"{name}: no score was given")
        elif scores is not None and scores[name].shape != shape:
            problems.append(f"{name}: the score has shape {list(scores[name].shape)}, the weight {list(shape)}")
    if problems:
        raise PlanError(problems)


class _Magnitudes(Mapping[str, Tensor]):
    """Squared weights, computed when asked for, so that a whole network's float64 copies never exist at once."""

    __slots__ = ("_weights",)

    def __init__(self, weights: Tensors) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return magnitude(self._weights[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
