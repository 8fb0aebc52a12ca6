"""Every method with settings that let each of its phases come to pass within a few steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from monstera.pruning import ADMM, ASP, SPP, SRSTE, Gradual, GroupLasso, Pruner, Reweighted
from monstera.sparsity import Plan

STEPS = 14


def _spp(model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan) -> Pruner:
    """Without the entries N:M, which SPP refuses."""
    taken = Plan({name: entry for name, entry in plan.items() if entry.pattern.scope in ("layer", "network")})
    return SPP(model, optimizer, taken, steps=STEPS, increment=0.3, harden_at=0.7, update_every=2)


METHODS: dict[str, Callable[..., Pruner]] = {
    "ADMM": lambda *given: ADMM(*given, steps=STEPS, rho=[1e-2, 1e-1], update_every=2, harden_at=0.5),
    "ASP": lambda *given: ASP(*given, steps=STEPS),
    "Gradual": lambda *given: Gradual(*given, steps=STEPS, update_every=3),
    "GroupLasso": lambda *given: GroupLasso(*given, steps=STEPS, l1=1e-4, strength=1e-2),
    "GroupLasso, proximal": lambda *given: GroupLasso(
        *given, steps=STEPS, groups=["filter", "column"], proximal=True, strength=1e-2
    ),
    "Reweighted": lambda *given: Reweighted(*given, steps=STEPS, strength=1e-2, prune_below=0.3),
    "SPP": _spp,
    "SRSTE": lambda *given: SRSTE(*given, steps=STEPS, decay=1e-2, harden_at=0.75),
}
