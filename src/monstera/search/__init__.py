"""Chooses which holes go where, and which network: by what layers cost on a machine and holes cost in accuracy."""

from monstera.search.allocation import InfeasibleError, allocate
from monstera.search.blocks import choose_block, weights_per_group
from monstera.search.budget import plan_for
from monstera.search.calibration import fisher, gauss_newton
from monstera.search.cost import Costs
from monstera.search.costs import (
    CostTable,
    CostTableError,
    NetworkCosts,
    Prediction,
    costs_from_json,
    costs_of,
    predict,
    read_costs,
    write_costs,
)
from monstera.search.goal import Goal, GoalError
from monstera.search.kept import KeptWeights
from monstera.search.masked import Measured, measure_of
from monstera.search.planned import Decision, Planned
from monstera.search.planning import choose, curvature_of, plan
from monstera.search.proxy import loss_after_projection
from monstera.search.rules import Rules
from monstera.search.sensitivity import Curvature, by_magnitude, losses_of

__all__ = [
    "CostTable",
    "CostTableError",
    "Costs",
    "Curvature",
    "Decision",
    "Goal",
    "GoalError",
    "InfeasibleError",
    "KeptWeights",
    "Measured",
    "NetworkCosts",
    "Planned",
    "Prediction",
    "Rules",
    "allocate",
    "by_magnitude",
    "choose",
    "choose_block",
    "costs_from_json",
    "costs_of",
    "curvature_of",
    "fisher",
    "gauss_newton",
    "loss_after_projection",
    "losses_of",
    "measure_of",
    "plan",
    "plan_for",
    "predict",
    "read_costs",
    "weights_per_group",
    "write_costs",
]
