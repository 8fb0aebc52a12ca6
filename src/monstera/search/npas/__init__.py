"""NPAS: search over filter type, pattern and density of every layer, by Q-learning with Bayesian screening.

And what is around the search: candidate networks, weights that they inherit, fast evaluation, the choice of a method.
"""

from monstera.search.npas.base import Base, base_network
from monstera.search.npas.candidate import build
from monstera.search.npas.evaluation import FastEvaluation, FastTraining
from monstera.search.npas.inheritance import inherit
from monstera.search.npas.journal import JournalError
from monstera.search.npas.outcome import Outcome
from monstera.search.npas.proposing import SearchSettings
from monstera.search.npas.result import Drift, Evaluated, SchemeSearchResult
from monstera.search.npas.run import Found, npas
from monstera.search.npas.scheme import DENSITIES, FILTERS, PATTERNS, LayerChoice, Scheme, SchemeError
from monstera.search.npas.search import SearchError, search
from monstera.search.npas.settings import NpasSettings, Split
from monstera.search.npas.space import SchemeSpace
from monstera.search.npas.stage import Stage, replacements
from monstera.search.npas.unfriendly import Replacement, replace_unfriendly

__all__ = [
    "DENSITIES",
    "FILTERS",
    "PATTERNS",
    "Base",
    "Drift",
    "Evaluated",
    "FastEvaluation",
    "FastTraining",
    "Found",
    "JournalError",
    "LayerChoice",
    "NpasSettings",
    "Outcome",
    "Replacement",
    "Scheme",
    "SchemeError",
    "SchemeSearchResult",
    "SchemeSpace",
    "SearchError",
    "SearchSettings",
    "Split",
    "Stage",
    "base_network",
    "build",
    "inherit",
    "npas",
    "replace_unfriendly",
    "replacements",
    "search",
]
