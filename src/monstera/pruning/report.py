"""What a pruner says while it works, and when it is done."""

from __future__ import annotations

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
    """Sparse architecture divergence of one optimizer step: how many planned weights it took into or out of the masks.

    Source: A. Zhou et al. 2021, arXiv 2102.04010, `||E_i - E_j||_0` of the masks of neighbouring steps.
    """

    step: int
    flips: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a pruner stands: `density` is the fraction of planned weights that its masks keep now."""

    step: int
    steps: int
    phase: str
    density: float
    residuals: Residuals | None = None
    divergence: Divergence | None = None

    def __str__(self) -> str:
        text = f"{self.phase}, step {self.step} of {self.steps}, density {self.density:.3f}"
        if self.divergence is not None:
            return f"{text}, {self.divergence.flips} weights changed sides"
        if self.residuals is None:
            return text
        r = self.residuals
        return f"{text}, rho {r.rho:g}, residuals {r.primal:.2e} primal, {r.dual:.2e} dual"


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
