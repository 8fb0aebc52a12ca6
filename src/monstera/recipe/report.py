"""What a running seed tells after every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from monstera.pruning import Progress


@dataclass(frozen=True, slots=True)
class Report:
    """`loss` is the mean since the last epoch began, `densities` the kept fraction of each planned weight."""

    seed: int
    epoch: int
    loss: float
    lr: float
    pruning: Progress
    densities: Mapping[str, float]

    def fields(self) -> dict[str, Any]:
        """All of it as plain values, but the seed."""
        told = {"step": self.pruning.step, "epoch": self.epoch, "loss": self.loss, "lr": self.lr}
        return {**told, **pruning_fields(self.pruning), "densities": dict(self.densities)}


def pruning_fields(progress: Progress) -> dict[str, Any]:
    """Where a pruner stands as plain values; residuals and changes of masks for methods that have them."""
    fields: dict[str, Any] = {"phase": progress.phase, "density": progress.density}
    if progress.residuals is not None:
        fields |= {"primal": progress.residuals.primal, "dual": progress.residuals.dual, "rho": progress.residuals.rho}
    if progress.sampling is not None:
        fields |= asdict(progress.sampling)
        del fields["step"]
    if progress.divergence is not None:
        fields["divergence"] = asdict(progress.divergence)
    return fields
