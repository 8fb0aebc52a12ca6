"""What a search is asked for: the studies, one for each sampler and seed, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from monstera.search.mapping import need_optuna
from monstera.search.rules import DENSITIES
from monstera.search.space import PATTERNS
from monstera.sparsity.errors import suggestion
from monstera.sparsity.pattern_names import PatternLike


@dataclass(frozen=True, slots=True)
class Searching:
    """The studies of a search. It is refused at once what would fail after costs were measured, or after some studies.

    Attributes:
        samplers, seeds: a study for each pair.
        trials: of each study, in all.
        patterns, densities: what layers may be; none are those of `Space`.
        first: plan files that every study tries first.
        storage, workers, threads: see `StudyAt` and `search_plan`.
        table: a cost table of another machine; by default costs are measured here, and kept in `folder` for when the
            search goes on.
        folder: where results and plans go.

    Raises:
        ImportError: optuna is not installed.
        ValueError: an unknown sampler, nothing to search, or a number below 1.
    """

    samplers: tuple[str, ...] = ("rl",)
    seeds: tuple[int, ...] = (0,)
    trials: int = 60
    patterns: tuple[PatternLike, ...] = ()
    densities: tuple[float, ...] = ()
    first: tuple[Path, ...] = ()
    storage: str = "runs/studies.db"
    workers: int | Literal["ray"] = 1
    threads: int = 1
    table: Path | None = None
    folder: Path = Path("runs/search")

    def __post_init__(self) -> None:
        need_optuna()
        from monstera.search.samplers import SAMPLERS

        if wrong := [name for name in self.samplers if name not in SAMPLERS]:
            raise ValueError(f"no sampler is called {wrong[0]!r}; {suggestion(wrong[0], SAMPLERS)}")
        if not self.samplers or not self.seeds:
            raise ValueError("a search needs a sampler and a seed at least")
        if min(self.trials, self.threads, 1 if self.workers == "ray" else self.workers) < 1:
            asked = f"trials {self.trials}, workers {self.workers}, threads {self.threads}"
            raise ValueError(f"expected 1 or more, got {asked}")
        object.__setattr__(self, "patterns", self.patterns or PATTERNS)
        object.__setattr__(self, "densities", self.densities or DENSITIES)

    @property
    def pairs(self) -> tuple[tuple[str, int], ...]:
        """The sampler and the seed of each study, in the order in which they are run."""
        return tuple((sampler, seed) for seed in self.seeds for sampler in self.samplers)
