"""Every method with settings that let each of its phases come to pass within a few steps."""

from __future__ import annotations

from collections.abc import Callable

from monstera.pruning import ADMM, SRSTE, Gradual, GroupLasso, Pruner, Reweighted

STEPS = 14

METHODS: dict[str, Callable[..., Pruner]] = {
    "ADMM": lambda *given: ADMM(*given, steps=STEPS, rho=[1e-2, 1e-1], update_every=2, harden_at=0.5),
    "Gradual": lambda *given: Gradual(*given, steps=STEPS, update_every=3),
    "GroupLasso": lambda *given: GroupLasso(*given, steps=STEPS, l1=1e-4, strength=1e-2),
    "GroupLasso, proximal": lambda *given: GroupLasso(
        *given, steps=STEPS, groups=["filter", "column"], proximal=True, strength=1e-2
    ),
    "Reweighted": lambda *given: Reweighted(*given, steps=STEPS, strength=1e-2),
    "SRSTE": lambda *given: SRSTE(*given, steps=STEPS, decay=1e-2, harden_at=0.75),
}
