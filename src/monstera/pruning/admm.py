"""ADMM: pull the weights towards their own projection, project them for good, tune what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import Any, final

import torch
from torch import Tensor, nn

from monstera.pruning.base import Pruner
from monstera.pruning.distributed import whole
from monstera.pruning.report import Progress, Residuals
from monstera.pruning.timeline import timeline
from monstera.sparsity import Plan
from monstera.sparsity.errors import suggestion

RHO = (1e-4, 1e-3, 1e-2, 1e-1)


@final
class ADMM(Pruner):
    """Prune, and constrain values, by the alternating direction method of multipliers, in scaled form.

    Regularise: every step adds `rho (W - Z + U)` to the gradient, that is the penalty `rho/2 ||W - Z + U||^2`; every
    `update_every` steps `Z = projection(W + U)` and `U += W - Z`. At each new rho, U is 0 and Z the projection of W.
    Harden: W becomes its projection. Tune: masks stay, and so do the ties of constrained values; weights are brought
    back to both after every step. Any pattern will do, as a projection is all that is asked of it.

    Several rounds do all this one after the other, on the way to the plan's densities: in round r of n an entry of
    density d keeps `d ** (r / n)`, so that each takes the same part of what is left. What is dead stays dead; ties are
    loosed when a round begins.

    Set the learning rate back at the start of each stage if it decays; the pruner leaves it alone.

    Args:
        steps: optimizer steps of all phases and rounds together.
        rho: one value a stage, usually growing tenfold; or globs of parameter or module names, each with as many
            values. Later globs win, and all planned weights must be met.
        update_every: steps between two updates of Z and U; default a fifth of a stage.
        harden_at: the fraction of a round after which the weights are projected for good.
        zero_only: pull only weights where Z is zero (towards -U), so that survivors move freely.
        tolerance: harden as soon as an update finds both residuals at most this large (see `Residuals`); tuning begins
            so much earlier. Default: never.
        rounds: how often to regularise, harden and tune.

    Raises:
        ValueError: steps, rho, update_every, harden_at, tolerance or rounds make no sense, a glob of `rho` meets no
            planned weight, or no glob meets one; see also `Pruner`.

    Source: T. Zhang et al., "A Systematic DNN Weight Pruning Framework using Alternating Direction Method of
    Multipliers" (ECCV 2018); stages of rho and `zero_only` as in the code released with RT3D (2021). Where that code
    finds the holes by a percentile threshold, ours takes an exact top k with explicit masks. Rounds as in S. Ye et al.,
    "Progressive DNN Compression", 2019, arXiv 1903.09769; the densities between are ours.
    """

    name = "ADMM"
    works_on_parts = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        *,
        steps: int,
        rho: Sequence[float] | Mapping[str, Sequence[float]] = RHO,
        update_every: int | None = None,
        harden_at: float = 0.5,
        zero_only: bool = False,
        tolerance: float | None = None,
        rounds: int = 1,
    ) -> None:
        if tolerance is not None and not tolerance > 0:
            raise ValueError(f"tolerance: expected a positive number or None, got {tolerance}")
        self.rhos = rho_by_weight(plan, rho)
        stages = len(next(iter(rho.values()), ())) if isinstance(rho, Mapping) else len(rho)
        self.timeline = timeline(steps, rounds, stages, update_every, harden_at)
        self.zero_only, self.tolerance = zero_only, tolerance
        self.history: list[Residuals] = []
        self.regularises = True
        super().__init__(model, optimizer, plan, steps)

    def start(self) -> None:
        self._start_stage()

    @property
    def phase(self) -> str:
        return "regularise" if self.regularises else "tune"

    @property
    def rho(self) -> float:
        """The penalty that the next step applies, the largest of all weights: 0 after hardening."""
        return max(map(self._rho, self.weights), default=0.0) if self.regularises else 0.0

    def before_step(self, grads: Mapping[str, Tensor], scale: Tensor | float) -> None:
        if not self.regularises:
            return
        for name, grad in grads.items():
            pull = self.weights[name] - self.z[name] + self.u[name]
            if self.zero_only:
                pull = pull.masked_fill(self.z[name] != 0, 0)
            grad.add_(pull.to(grad.dtype) * (self._rho(name) * scale))

    def after_step(self) -> None:
        line = self.timeline
        if self.step < self.steps and self.step in line.starts:
            self.regularises, self.ties = True, {}
            self._start_stage()
        elif not self.regularises:
            return
        elif self.step == line.harden_step(self.step):
            self._harden()
        elif self.step in line.rounds[line.round(self.step)]:
            self._start_stage()
        elif line.updates(self.step):
            self._update()

    def progress(self) -> Progress:
        return replace(super().progress(), residuals=self.history[-1] if self.history else None)

    def settings(self) -> dict[str, Any]:
        line = self.timeline
        return {
            "rho": {name: list(values) for name, values in self.rhos.items()},
            "rounds": [list(bounds) for bounds in line.rounds],
            "update_every": line.update_every,
            "zero_only": self.zero_only,
            "tolerance": self.tolerance,
        }

    def own_state(self) -> dict[str, Any]:
        return {
            "regularises": self.regularises,
            "z": {name: value.clone() for name, value in self.z.items()},
            "u": {name: value.clone() for name, value in self.u.items()},
            "history": [asdict(residuals) for residuals in self.history],
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self.regularises = state["regularises"]
        self.z, self.u = ({name: self.placed(name, value) for name, value in state[key].items()} for key in ("z", "u"))
        self.history = [Residuals(**residuals) for residuals in state["history"]]

    def _rho(self, name: str) -> float:
        return self.rhos[name][self.timeline.stage(self.step)]

    def _target(self) -> Plan:
        return self.timeline.target(self.plan, self.step)

    def _start_stage(self) -> None:
        wide = _wide(self.weights)
        self.u: dict[str, Tensor] = {name: torch.zeros_like(weight) for name, weight in wide.items()}
        self.z: dict[str, Tensor] = self.nearest(wide, self._target())

    def _update(self) -> None:
        wide, before = _wide(self.weights), self.z
        self.z = self.nearest({name: weight + self.u[name] for name, weight in wide.items()}, self._target())
        self.u = {name: self.u[name] + weight - self.z[name] for name, weight in wide.items()}
        size = max(_norm(wide), torch.finfo(torch.float32).tiny)
        gaps = {name: weight - self.z[name] for name, weight in wide.items()}
        moves = {name: z - before[name] for name, z in self.z.items()}
        residuals = Residuals(self.step, self.rho, _norm(gaps) / size, _norm(moves) / size)
        self.history.append(residuals)
        if self.tolerance is not None and max(residuals.primal, residuals.dual) <= self.tolerance:
            self._harden()

    def _harden(self) -> None:
        self.harden_to(self._target())
        self.regularises, self.z, self.u = False, {}, {}


def rho_by_weight(plan: Plan, rho: Sequence[float] | Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """The value of every stage for each planned weight.

    Raises:
        ValueError: a value is not positive, globs have different numbers of stages, or a glob or a weight is not met.
    """
    values = rho if isinstance(rho, Mapping) else {"*": rho}
    if len({len(stages) for stages in values.values()}) > 1:
        counts = {glob: len(stages) for glob, stages in values.items()}
        raise ValueError(f"rho: expected as many stages for every glob, got {counts}")
    found: dict[str, tuple[float, ...]] = {}
    for glob, stages in values.items():
        where = f"rho[{glob!r}]" if isinstance(rho, Mapping) else "rho"
        if not stages or min(stages) <= 0:
            raise ValueError(f"{where}: expected one or more positive values, got {tuple(stages)}")
        met = [name for name in plan if fnmatchcase(name, glob) or fnmatchcase(name.rpartition(".")[0], glob)]
        if plan and not met:
            raise ValueError(f"{where}: the glob meets no planned weight; {suggestion(glob, plan)}")
        found |= dict.fromkeys(met, tuple(stages))
    if missing := [name for name in plan if name not in found]:
        raise ValueError(f"rho: no value for {', '.join(missing)}; add a glob that meets them, or '*' as the first")
    return found


def _wide(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Detached copies: Z and U are constants of a training step. At least float32, so that small updates add up.
    return {
        name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
        for name, weight in weights.items()
    }


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([whole(t.double().square().sum()).cpu() for t in tensors.values()]).sum().sqrt())
