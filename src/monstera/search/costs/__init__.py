"""What layers and networks cost on a machine: measured in the network itself, kept in tables, predicted for plans."""

from monstera.search.costs.costing import costs_of
from monstera.search.costs.display import costs_shown, table_shown
from monstera.search.costs.network import NetworkCosts, costs_from_json
from monstera.search.costs.prediction import LayerPrediction, Prediction, predict
from monstera.search.costs.table import CostTable, CostTableError, cached_costs, read_costs, write_costs

__all__ = [
    "CostTable",
    "CostTableError",
    "LayerPrediction",
    "NetworkCosts",
    "Prediction",
    "cached_costs",
    "costs_from_json",
    "costs_of",
    "costs_shown",
    "predict",
    "read_costs",
    "table_shown",
    "write_costs",
]
