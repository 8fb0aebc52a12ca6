"""What a YAML file of NPAS says: a network of the zoo, a data set, and how the three phases are run."""

from __future__ import annotations

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, model_validator

from monstera.recipe.schema import Data, Network, PatternName, Recipe
from monstera.recipe.section import Fraction, Seed, Threads, Unit
from monstera.search.npas.evaluation import FastTraining
from monstera.search.npas.outcome import Cost
from monstera.search.npas.proposing import SearchSettings
from monstera.search.npas.scheme import DENSITIES, FILTERS, PATTERNS
from monstera.search.npas.settings import NpasSettings
from monstera.sparsity.errors import suggestion
from monstera.training import Training


class _Section(BaseModel):
    model_config = Recipe.model_config


class TrainingSection(_Section):
    """See `monstera.training.Training`."""

    epochs: PositiveInt
    lr: PositiveFloat
    batch_size: int = Field(128, ge=2)
    weight_decay: float = Field(5e-4, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    flip: bool = False
    temperature: PositiveFloat = 4.0
    distillation: Fraction = 0.9


class FastSection(_Section):
    """See `monstera.search.npas.evaluation.FastTraining`."""

    epochs: int = Field(1, ge=1, le=2)
    lr: PositiveFloat
    batch_size: int = Field(128, ge=2)


class SearchSection(_Section):
    """See `monstera.search.npas.SearchSettings`."""

    evaluations: PositiveInt = 60
    cost: Cost = "ms"
    batch: PositiveInt = 4
    pool: PositiveInt = 200
    neighbours: int = Field(default=0, ge=0)
    warm_start: int = Field(default=12, ge=0)
    screening: bool = True
    anchors: PositiveInt = 2
    anchors_every: int = Field(default=5, ge=0)
    initial: Fraction = 0.5
    seed: Seed = 0


class Baseline(_Section):
    """The same holes everywhere in the base network, or in the rival `of` that name, which may also stay without.

    null instead is the base network as it is.
    """

    of: str | None = None
    pattern: PatternName | None = None
    density: Unit | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Baseline:
        if (self.pattern is None) != (self.density is None):
            raise ValueError("expected a pattern with its density, or neither")
        if self.of is None and self.pattern is None:
            raise ValueError("expected holes, a rival or both; the base network as it is, is null")
        return self

    @property
    def holes(self) -> tuple[str, float] | None:
        """The pattern and the density, if there are any."""
        return None if self.pattern is None or self.density is None else (self.pattern, self.density)


class Npas(_Section):
    """A whole run; `output` is its folder, `result` a file with what it found. See `monstera.search.npas.NpasSettings`.

    Without a `network.checkpoint` the network is first trained as `pretraining` says, and kept in the folder.
    `data.held_out` training pictures judge candidates; finalists are tested on the test pictures. `rivals` are other
    networks, trained as `pretraining` says, that baselines may be made of.
    """

    network: Network
    data: Data
    pretraining: TrainingSection | None = None
    tune: TrainingSection
    fast: FastSection
    short: TrainingSection
    full: TrainingSection
    search: SearchSection = SearchSection()
    subset: PositiveInt = 5000
    budget: PositiveFloat
    filters: tuple[str, ...] = FILTERS
    patterns: tuple[PatternName, ...] = PATTERNS
    densities: tuple[Unit, ...] = DENSITIES
    expansion: PositiveInt = 2
    inherited_from: PositiveInt = 64
    least_saving: float = 0.02
    methods: tuple[str, ...] = Field(("asp", "gradual", "admm", "reweighted"), min_length=1)
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1)
    rivals: dict[str, Network] = {}
    baselines: dict[str, Baseline | None] = {}
    threads: Threads = 1
    base_from: str | None = None
    output: str
    result: str

    @model_validator(mode="after")
    def _knows_its_rivals(self) -> Npas:
        for name, one in self.baselines.items():
            if one is not None and one.of is not None and one.of not in self.rivals:
                raise ValueError(f"baselines.{name}.of: {one.of!r}; {suggestion(one.of, self.rivals)}")
        return self

    def settings(self) -> NpasSettings:
        """The same as the search room takes it.

        Raises:
            ValueError: numbers that do not go together.
        """
        training = {name: Training(**getattr(self, name).model_dump()) for name in ("tune", "short", "full")}
        same = ("subset", "budget", "filters", "patterns", "densities", "expansion", "inherited_from")
        return NpasSettings(
            **training,
            fast=FastTraining(**self.fast.model_dump()),
            search=SearchSettings(**self.search.model_dump()),
            **{
                name: getattr(self, name)
                for name in (*same, "least_saving", "methods", "seeds", "threads", "base_from")
            },
            baselines={
                name: one and one.holes for name, one in self.baselines.items() if one is None or one.of is None
            },
        )
