"""Recipes: a whole experiment in one YAML file, from the network to a result file with accuracy and latency.

A study is many of them in one file: variants of a recipe, to compare methods."""

from monstera.recipe.checkpoint import CheckpointError
from monstera.recipe.errors import RecipeError
from monstera.recipe.judging import Judging
from monstera.recipe.npas import run_npas
from monstera.recipe.npas_schema import Npas
from monstera.recipe.reading import read_recipe
from monstera.recipe.running import run
from monstera.recipe.schema import Recipe
from monstera.recipe.search_options import Searching
from monstera.recipe.searching import run_search
from monstera.recipe.stages import run_study
from monstera.recipe.study import Study, Variant, read_study

__all__ = [
    "CheckpointError",
    "Judging",
    "Npas",
    "Recipe",
    "RecipeError",
    "Searching",
    "Study",
    "Variant",
    "read_recipe",
    "read_study",
    "run",
    "run_npas",
    "run_search",
    "run_study",
]
