"""NPAS: search over filter type, pattern and density of every layer, by Q-learning with Bayesian screening."""

from monstera.search.npas.journal import JournalError
from monstera.search.npas.outcome import Objective, Outcome
from monstera.search.npas.result import Drift, Evaluated, SearchResult
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
from monstera.search.npas.search import SearchError, SearchSettings, search

__all__ = [
    "DENSITIES",
    "FILTERS",
    "PATTERNS",
    "Drift",
    "Evaluated",
    "JournalError",
    "LayerChoice",
    "Objective",
    "Outcome",
    "Scheme",
    "SchemeError",
    "SchemeSpace",
    "SearchError",
    "SearchResult",
    "SearchSettings",
    "Stage",
    "replacements",
    "search",
]
