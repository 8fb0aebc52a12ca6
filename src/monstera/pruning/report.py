"""What a pruner says while it works, and when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monstera.sparsity import PlanReport


@dataclass(frozen=True, slots=True)
class Residuals:
    """How far ADMM is from agreement, after an update of Z and U at optimizer step `step`.

    `primal` is `||W - Z|| / ||W||`, `dual` is `||Z - Z before|| / ||W||`, Frobenius norms over all planned weights.
    Both fall towards 0 when the regularisation works; a primal residual that stays says that rho (the largest of all
    weights is given) is too small.
    """

    step: int
    rho: float
    primal: float
    dual: float


@dataclass(frozen=True, slots=True)
class Divergence:
    """Sparse architecture divergence of the masks of steps `since` and `step`; see `sad`.

    `layers` has for each planned weight how many of its elements came into the mask or left it.
    """

    since: int
    step: int
    layers: Mapping[str, int]

    @property
    def flips(self) -> int:
        """The divergence of the whole network."""
        return sum(self.layers.values())

    def __str__(self) -> str:
        steps = self.step - self.since
        return f"{self.flips} weights changed sides in {steps} step{'s' * (steps != 1)}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How far SPP is after an update at optimizer step `step`: `dead` groups are pruned for good, `to_go` are not yet.

    `decided` of the dead had no probability of 1 when the masks were fixed.
    """

    step: int
    dead: int
    to_go: int
    decided: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a pruner stands: `density` is the fraction of planned weights that its masks keep now."""

    step: int
    steps: int
    phase: str
    density: float
    residuals: Residuals | None = None
    divergence: Divergence | None = None
    sampling: Sampling | None = None

    def __str__(self) -> str:
        text = f"{self.phase}, step {self.step} of {self.steps}, density {self.density:.3f}"
        if self.residuals is not None:
            r = self.residuals
            text += f", rho {r.rho:g}, residuals {r.primal:.2e} primal, {r.dual:.2e} dual"
        if self.sampling is not None:
            text += f", {self.sampling.dead} groups dead, {self.sampling.to_go} to go"
        return text if self.divergence is None else f"{text}, {self.divergence}"


@dataclass(frozen=True, slots=True)
class PruneReport:
    """The result of a finished method; `plan` says for every weight whether its pattern holds.

    `steps` of `planned_steps` were taken; `batch_norm_batches` were used to estimate batch-norm statistics anew.
    """

    method: str
    plan: PlanReport
    steps: int
    planned_steps: int
    batch_norm_batches: int

    def __str__(self) -> str:
        short = "" if self.steps >= self.planned_steps else f" (stopped early: {self.planned_steps} were planned)"
        return f"{self.method} finished after {self.steps} steps{short}; {self.plan.summary()}"
