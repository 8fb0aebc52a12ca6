"""Holds the compiler to other choices than its own, so that it can be measured what each of them is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from monstera.compiler.frontends import Imported, from_torch
from monstera.compiler.lowering import lower_with
from monstera.compiler.lowering.choice import Case as Layer
from monstera.compiler.lowering.choice import Choice
from monstera.compiler.passes import optimize
from monstera.compiler.targets import Target, target_named
from monstera.compiler.tuning import Table
from monstera.compiler.tuning.trial import time_choices
from monstera.measure.answers import Inputs, arguments


def held_to(
    choose: Callable[[Layer], Choice], model: nn.Module, example: Inputs, *, target: str = "native", threads: int = 1
) -> Table:
    """Return what `monstera.compile(..., tuning=...)` needs so that every layer runs as `choose` says.

    Raises:
        ValueError, UnsupportedError: as for `monstera.compile`, or as `choose` raises them.
    """
    _, layers = _layers(model, example, target_named(target), threads)
    return Table({key: choose(layer) for key, layer in layers.items()})


def fastest_of(
    choices: Callable[[Layer], Sequence[Choice]],
    model: nn.Module,
    example: Inputs,
    *,
    target: str = "native",
    threads: int = 1,
) -> Table:
    """Return, as `held_to` does, the fastest of several choices for each layer, timed as the tuner times them.

    Raises:
        ValueError, UnsupportedError, BuildError: as for `monstera.compile`.
    """
    chosen = target_named(target)
    imported, layers = _layers(model, example, chosen, threads)
    offered = {key: list(choices(layer)) for key, layer in layers.items()}
    times = {key: ms for key, ms in time_choices(imported, chosen, threads, offered).items() if key in layers}
    best = {key: min(ms, key=lambda choice, ms=ms: ms[choice]) for key, ms in times.items()}
    return Table(best, {key: times[key][choice] for key, choice in best.items()})


def in_blocks(layer: Layer, rows: int, tile: int = 0) -> Choice:
    """Return the choice of blocks of `rows` rows as they stand, and tiles of `tile` vectors (0: the widest).

    Raises:
        ValueError: the rows of the layer cannot be cut like that.
    """
    cuts = [candidate.sizes for candidate in layer.candidates if candidate.order == "natural"]
    if (rows,) not in cuts:
        raise ValueError(f"no blocks of {rows} rows here; the layer can be cut into {sorted(set(cuts))}")
    return Choice("natural", (rows,), tile)


def _layers(model: nn.Module, example: Inputs, target: Target, threads: int) -> tuple[Imported, Mapping[str, Layer]]:
    """The optimised network, and what may be chosen for each of its layers, by their keys in a table."""
    args, kwargs = arguments(example)
    imported = from_torch(model, args, kwargs)
    imported = replace(imported, graph=optimize(imported.graph))
    return imported, lower_with(imported.graph, target, threads, {}).cases
