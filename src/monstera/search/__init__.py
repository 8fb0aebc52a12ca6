"""Chooses which holes go where, and which network: by what layers cost on a machine and holes cost in accuracy."""

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

__all__ = [
    "CostTable",
    "CostTableError",
    "Costs",
    "NetworkCosts",
    "Prediction",
    "costs_from_json",
    "costs_of",
    "predict",
    "read_costs",
    "write_costs",
]
