"""Every method with settings that let each of its phases come to pass within a few steps; `steps` may be others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from monstera.pruning import ADMM, ASP, SPP, SRSTE, Gradual, GroupLasso, Pruner, Reweighted
from monstera.sparsity import Plan

STEPS = 14


def _spp(model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, steps: int = STEPS) -> Pruner:
    """Without the entries N:M, which SPP refuses."""
    served = {name: entry for name, entry in plan.items() if entry.pattern.scope in ("layer", "network")}
    return SPP(model, optimizer, Plan(served), steps=steps, increment=0.3, harden_at=0.7, update_every=2)


METHODS: dict[str, Callable[..., Pruner]] = {
    "ADMM": partial(ADMM, steps=STEPS, rho=[1e-2, 1e-1], update_every=2, harden_at=0.5),
    "ADMM, rounds": partial(ADMM, steps=STEPS, rho=[1e-2, 1e-1], update_every=1, rounds=2, tolerance=0.3),
    "ASP": partial(ASP, steps=STEPS),
    "Gradual": partial(Gradual, steps=STEPS, update_every=3),
    "GroupLasso": partial(GroupLasso, steps=STEPS, l1=1e-4, strength=1e-2),
    "GroupLasso, proximal": partial(GroupLasso, steps=STEPS, groups=["filter", "column"], proximal=True, strength=1e-2),
    "Reweighted": partial(Reweighted, steps=STEPS, strength=1e-2),
    "Reweighted, rounds": partial(Reweighted, steps=STEPS, strength=1e-2, rounds=2),
    "Reweighted, below a norm": partial(Reweighted, steps=STEPS, strength=1e-2, prune_below=0.3),
    "SPP": _spp,
    "SRSTE": partial(SRSTE, steps=STEPS, decay=1e-2, harden_at=0.75),
}
# Those that leave as much as the plan says, and not less.
TO_THE_PLAN = [method for method in METHODS if method != "Reweighted, below a norm"]
