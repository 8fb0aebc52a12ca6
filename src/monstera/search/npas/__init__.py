"""NPAS: search over filter type, pattern and density of every layer, by Q-learning with Bayesian screening."""

from monstera.search.npas.outcome import Objective, Outcome
from monstera.search.npas.scheme import (
    DENSITIES,
    FILTERS,
    PATTERNS,
    LayerChoice,
    Scheme,
    SchemeError,
    SchemeSpace,
    Stage,
    replacements,
)

__all__ = [
    "DENSITIES",
    "FILTERS",
    "PATTERNS",
    "LayerChoice",
    "Objective",
    "Outcome",
    "Scheme",
    "SchemeError",
    "SchemeSpace",
    "Stage",
    "replacements",
]
