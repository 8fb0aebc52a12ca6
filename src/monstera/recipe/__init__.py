"""Recipes: a whole experiment in one YAML file, from the network to a result file with accuracy and latency."""

from monstera.recipe.checkpoint import CheckpointError
from monstera.recipe.errors import RecipeError
from monstera.recipe.reading import read_recipe
from monstera.recipe.running import run
from monstera.recipe.schema import Recipe

__all__ = ["CheckpointError", "Recipe", "RecipeError", "read_recipe", "run"]
