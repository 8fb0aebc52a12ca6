"""Get to a sparse model: methods that attach to an optimizer, one-shot pruning, and a hold on existing zeros."""

from monstera.pruning.admm import ADMM
from monstera.pruning.asp import ASP
from monstera.pruning.base import Pruner
from monstera.pruning.batch_norm import reestimate_batch_norm
from monstera.pruning.distill import Distill, distillation_loss
from monstera.pruning.divergence import sad
from monstera.pruning.gradual import Gradual
from monstera.pruning.group_lasso import GroupLasso
from monstera.pruning.hold import Hold, hold
from monstera.pruning.one_shot import prune
from monstera.pruning.report import Divergence, Progress, PruneReport, Residuals, Sampling
from monstera.pruning.reweighted import Reweighted
from monstera.pruning.spp import SPP
from monstera.pruning.srste import SRSTE

__all__ = [
    "ADMM",
    "ASP",
    "SPP",
    "SRSTE",
    "Distill",
    "Divergence",
    "Gradual",
    "GroupLasso",
    "Hold",
    "Progress",
    "PruneReport",
    "Pruner",
    "Residuals",
    "Reweighted",
    "Sampling",
    "distillation_loss",
    "hold",
    "prune",
    "reestimate_batch_norm",
    "sad",
]
