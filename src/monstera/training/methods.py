"""The methods of pruning that a training can be asked for by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from monstera.pruning import ADMM, ASP, SPP, SRSTE, Gradual, GroupLasso, Pruner, Reweighted

# Each is called with a model, its optimizer, a plan and `steps`; what else it takes has defaults.
METHODS: Mapping[str, Callable[..., Pruner]] = {
    "asp": ASP,
    "gradual": Gradual,
    "admm": ADMM,
    "group_lasso": GroupLasso,
    "reweighted": Reweighted,
    "srste": SRSTE,
    "spp": SPP,
}
