"""What a run of NPAS is given besides a network: how its phases are run, and the examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from monstera.search.npas.base import EXPANSION
from monstera.search.npas.evaluation import FastTraining
from monstera.search.npas.proposing import SearchSettings
from monstera.search.npas.scheme import DENSITIES, FILTERS, PATTERNS
from monstera.search.npas.unfriendly import LEAST_SAVING
from monstera.sparsity.errors import suggestion
from monstera.training import Examples, Training


@dataclass(frozen=True, slots=True)
class NpasSettings:
    """How the phases are run.

    Attributes:
        tune: training after functions were replaced in phase 1.
        fast: the short training of phase 2's evaluation, on `subset` examples, as many of each class.
        short: training of each method in phase 3, of as many examples; `full`: that of all finalists, with `seeds`.
        budget: of what a call of the base network costs after phase 1 (`search.cost` says which cost), the part that a
            candidate may.
        filters, patterns, densities, expansion: what layers may have; see `base_network`.
        inherited_from: how many pictures inherited weights are fitted to.
        least_saving: see `replace_unfriendly`.
        base_from: the folder of another run of the same network, data and phase 1, such as that which this one is an
            ablation of: its base network and what that costs are taken, not made and measured anew.
        methods: that compete in phase 3.
        baselines: name -> (pattern, density) of the base network pruned alike everywhere, or None for the base network
            as it is; all are trained as the finalist is.

    Raises:
        ValueError: a budget that is not positive, an unknown filter type, or a baseline called as one of the others.
    """

    tune: Training
    fast: FastTraining
    short: Training
    full: Training
    search: SearchSettings = field(default_factory=SearchSettings)
    subset: int = 5000
    budget: float = 0.5
    filters: tuple[str, ...] = FILTERS
    patterns: tuple[str, ...] = PATTERNS
    densities: tuple[float, ...] = DENSITIES
    expansion: int = EXPANSION
    inherited_from: int = 64
    least_saving: float = LEAST_SAVING
    methods: tuple[str, ...] = ("asp", "gradual", "admm", "reweighted")
    seeds: tuple[int, ...] = (0, 1, 2)
    baselines: Mapping[str, tuple[str, float] | None] = field(default_factory=dict)
    threads: int = 1
    base_from: str | None = None

    @property
    def space(self) -> dict[str, Any]:
        """What layers may have, as `base_network` takes it."""
        return {name: getattr(self, name) for name in ("filters", "patterns", "densities", "expansion")}

    def __post_init__(self) -> None:
        if wrong := [f"filters: {name!r}; {suggestion(name, FILTERS)}" for name in self.filters if name not in FILTERS]:
            raise ValueError(wrong[0])
        if not self.budget > 0:
            raise ValueError(f"budget: expected a positive part of the base network's cost, got {self.budget}")
        if taken := {"npas", "original"} & self.baselines.keys():
            raise ValueError(f"baselines: {', '.join(sorted(taken))} is the name of another network of the run")


@dataclass(frozen=True, slots=True, eq=False)
class Rival:
    """A baseline that is another network, trained like the one that is searched: with holes alike everywhere, or none.

    In the finals it is trained as the finalist is, with that one's teacher; functions that phase 1 has replaced are
    replaced in it, too.
    """

    model: nn.Module
    holes: tuple[str, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Examples to train on, to judge candidates by, and to test finalists on, once. None is in two of them."""

    train: Examples
    held_out: Examples
    test: Examples
