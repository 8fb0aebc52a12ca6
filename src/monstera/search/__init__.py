"""Chooses which holes go where, and which network: by what layers cost on a machine and holes cost in accuracy."""

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
from monstera.search.evaluation import FastAccuracy, ShortTuning
from monstera.search.mapping import search_plan
from monstera.search.objective import Objective
from monstera.search.pareto import Candidate, Pareto, non_dominated, read_pareto, write_pareto
from monstera.search.searched import SearchResult, Tried, read_search, write_search
from monstera.search.space import Space

__all__ = [
    "Candidate",
    "CostTable",
    "CostTableError",
    "Costs",
    "FastAccuracy",
    "NetworkCosts",
    "Objective",
    "Pareto",
    "Prediction",
    "Reinforce",
    "SearchResult",
    "ShortTuning",
    "Space",
    "Tried",
    "costs_from_json",
    "costs_of",
    "non_dominated",
    "predict",
    "read_costs",
    "read_pareto",
    "read_search",
    "search_plan",
    "write_costs",
    "write_pareto",
    "write_search",
]
