"""What would end a run of NPAS hours after it began, told before it begins."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from monstera.search.npas.settings import NpasSettings, Split
from monstera.sparsity import Plan


def check(model: nn.Module, split: Split, settings: NpasSettings) -> None:
    """Refuse batches that there are no examples for, and baselines that the network cannot have.

    Raises:
        ValueError: with everything that is wrong.
    """
    if problems := [*_batches(split, settings), *_baselines(model, settings)]:
        raise ValueError("this run would fail on its way:\n  - " + "\n  - ".join(problems))


def _batches(split: Split, settings: NpasSettings) -> Iterator[str]:
    counts = {"tune": len(split.train), "full": len(split.train)}
    try:
        subset = len(split.train.balanced(settings.subset))
        counts |= {"fast": subset, "short": subset}
    except ValueError as error:
        yield f"subset: {error}"
    for name, count in counts.items():
        if (size := getattr(settings, name).batch_size) > count:
            yield f"{name}.batch_size: expected at most the {count} examples that there are, got {size}"


def _baselines(model: nn.Module, settings: NpasSettings) -> Iterator[str]:
    for name, holes in settings.baselines.items():
        if holes is None:
            continue
        try:
            Plan.uniform(model, *holes)
        except ValueError as error:
            yield f"baselines.{name}: {error}"
