"""What a recipe says of its method: every field of each, with its bounds and its default."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag

from monstera.recipe.section import Section, Unit

Stages: TypeAlias = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
# One value a stage for all weights, or globs of them.
Rho: TypeAlias = Annotated[
    Annotated[Stages, Tag("<stages>")] | Annotated[dict[str, Stages], Tag("<globs>")],
    Discriminator(lambda value: "<globs>" if isinstance(value, dict) else "<stages>"),
]


class GradualMethod(Section):
    """Gradual magnitude pruning: the density falls over the first `ramp` of all steps."""

    name: Literal["gradual"]
    schedule: str = "cubic"
    ramp: Unit = 0.7
    update_every: PositiveInt = 10


class AdmmMethod(Section):
    """ADMM; see `monstera.pruning.ADMM`."""

    name: Literal["admm"]
    rho: Rho = (1e-4, 1e-3, 1e-2, 1e-1)
    update_every: PositiveInt | None = None
    harden_at: float = Field(0.5, gt=0, lt=1)
    zero_only: bool = False
    tolerance: PositiveFloat | None = None
    rounds: PositiveInt = 1


class AspMethod(Section):
    """One shot at the start, then training under fixed masks; see `monstera.pruning.ASP`."""

    name: Literal["asp"]


class SrsteMethod(Section):
    """SR-STE, and STE with a decay of 0; see `monstera.pruning.SRSTE`."""

    name: Literal["srste"]
    decay: float = Field(2e-4, ge=0)
    harden_at: float = Field(1.0, gt=0, le=1)


class GroupLassoMethod(Section):
    """Group lasso over the plan's own groups, or over those of other patterns; see `monstera.pruning.GroupLasso`."""

    young = frozenset({"rounds"})

    name: Literal["group_lasso"]
    strength: float = Field(1e-3, ge=0)
    harden_at: float = Field(0.5, gt=0, lt=1)
    groups: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    l1: float = Field(0.0, ge=0)
    proximal: bool = False
    threshold: float = Field(1e-4, ge=0)
    rounds: PositiveInt = 1


class ReweightedMethod(Section):
    """Reweighted group regularisation; see `monstera.pruning.Reweighted`."""

    young = frozenset({"prune_below", "rounds"})

    name: Literal["reweighted"]
    strength: float = Field(1e-4, ge=0)
    alpha: Literal["norm", "square"] = "norm"
    penalty: Literal["norm", "square"] = "norm"
    eps: PositiveFloat = 1e-3
    reweight_at: tuple[Unit, ...] = (0.25, 0.5, 0.75)
    harden_at: float = Field(0.5, gt=0, lt=1)
    groups: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    prune_below: float = Field(0.0, ge=0)
    rounds: PositiveInt = 1


class SppMethod(Section):
    """Structured probabilistic pruning, its masks drawn by the seed of the run; see `monstera.pruning.SPP`."""

    name: Literal["spp"]
    increment: Unit = 0.05
    centre: float = Field(0.25, gt=0, lt=1)
    update_every: PositiveInt | None = None
    harden_at: float = Field(0.5, gt=0, lt=1)


Method: TypeAlias = Annotated[
    GradualMethod | AdmmMethod | AspMethod | SrsteMethod | GroupLassoMethod | ReweightedMethod | SppMethod,
    Field(discriminator="name"),
]
