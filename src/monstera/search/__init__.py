"""Chooses which holes go where, and which network: by what layers cost on a machine and holes cost in accuracy."""

from monstera.search.allocation import InfeasibleError, allocate
from monstera.search.blocks import choose_block, weights_per_group
from monstera.search.budget import plan_for
from monstera.search.calibration import fisher, gauss_newton
from monstera.search.controller import Reinforce
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
from monstera.search.evaluation import FastAccuracy
from monstera.search.goal import Goal, GoalError
from monstera.search.kept import KeptWeights
from monstera.search.mapping import search_plan
from monstera.search.masked import Measured, measure_of
from monstera.search.objective import Objective
from monstera.search.pareto import Candidate, Pareto, non_dominated, read_pareto, write_pareto
from monstera.search.planned import Decision, Planned
from monstera.search.planning import choose, curvature_of, plan
from monstera.search.proxy import loss_after_projection
from monstera.search.rules import Rules
from monstera.search.searched import SearchResult, Tried, read_search, write_search
from monstera.search.sensitivity import Curvature, by_magnitude, losses_of
from monstera.search.space import Space
from monstera.search.study_at import Signs, StudyAt

__all__ = [
    "Candidate",
    "CostTable",
    "CostTableError",
    "Costs",
    "Curvature",
    "Decision",
    "FastAccuracy",
    "Goal",
    "GoalError",
    "InfeasibleError",
    "KeptWeights",
    "Measured",
    "NetworkCosts",
    "Objective",
    "Pareto",
    "Planned",
    "Prediction",
    "Reinforce",
    "Rules",
    "SearchResult",
    "Signs",
    "Space",
    "StudyAt",
    "Tried",
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
    "non_dominated",
    "plan",
    "plan_for",
    "predict",
    "read_costs",
    "read_pareto",
    "read_search",
    "search_plan",
    "weights_per_group",
    "write_costs",
    "write_pareto",
    "write_search",
]
