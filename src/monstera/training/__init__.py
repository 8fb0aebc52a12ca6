"""Trains networks that get holes: one simple loop, and the parts that recipes' own loop shares with it."""

from monstera.training.accuracy import accuracy, count_correct
from monstera.training.errors import DivergedError
from monstera.training.examples import Examples
from monstera.training.loop import Training, train
from monstera.training.methods import METHODS
from monstera.training.optimizers import decay_groups
from monstera.training.rates import lr_factor

__all__ = [
    "METHODS",
    "DivergedError",
    "Examples",
    "Training",
    "accuracy",
    "count_correct",
    "decay_groups",
    "lr_factor",
    "train",
]
