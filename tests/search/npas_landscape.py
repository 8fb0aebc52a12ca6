"""A made-up landscape of schemes whose best is known: losses of layers, of neighbours, and a cost by the layer."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from monstera.search import Objective
from monstera.search.npas import LayerChoice, Outcome, Scheme, SchemeSpace, SearchSettings, Stage, search

STAGES = [
    Stage("a", 16, 16, "3x3"),
    Stage("b", 16, 16, "3x3"),
    Stage("c", 16, 32, "3x3", 2),
    Stage("d", 32, 32, "3x3"),
    Stage("e", 32, 32, "1x1+3x3dw+1x1", hidden=64),
    Stage("f", 32, 64, "3x3", 2),
]
SPACE = SchemeSpace(STAGES, [(0, 1), (3, 4)])
# Every scheme is slower than that, so that the reward is a sum over layers and pairs, whose best can be found.
OBJECTIVE = Objective(budget=1.0, penalty=0.02)
SETTINGS = SearchSettings(evaluations=36, pool=60)

SENSITIVITY = (1.6, 0.5, 1.2, 0.4, 0.8, 1.5)
LOSS = {"3x3": 0.0, "1x1+3x3dw+1x1": 0.01, "3x3dw+1x1": 0.02, "1x1": 0.045, "skip": 0.07}
COST_MS = {"3x3": 4.0, "1x1+3x3dw+1x1": 2.4, "3x3dw+1x1": 1.4, "1x1": 1.0, "skip": 0.0}
HARSHNESS = {None: 0.0, "patterns4of8": 0.04, "8x4": 0.06, "filter": 0.11}


def layer_loss(layer: int, choice: LayerChoice) -> float:
    return SENSITIVITY[layer] * (LOSS[choice.filter] + HARSHNESS[choice.pattern] * (1 - choice.density) ** 2)


def pair_loss(layer: int, before: LayerChoice, choice: LayerChoice) -> float:
    """Two damaged layers in a row hurt more than their sum."""
    return 8 * layer_loss(layer - 1, before) * layer_loss(layer, choice)


def layer_ms(choice: LayerChoice) -> float:
    return COST_MS[choice.filter] * (0.1 + 0.9 * choice.density)


def evaluate(scheme: Scheme) -> Outcome:
    layers = list(enumerate(scheme.choices))
    loss = sum(layer_loss(*layer) for layer in layers)
    loss += sum(pair_loss(n, scheme.choices[n - 1], choice) for n, choice in layers[1:])
    return Outcome(max(0.0, 0.95 - loss), 1.0 + sum(map(layer_ms, scheme.choices)), macs=1000)


def reward(scheme: Scheme) -> float:
    outcome = evaluate(scheme)
    return OBJECTIVE.reward(outcome.accuracy, outcome.ms)


def best_reward() -> float:
    """Of all schemes, by going through the layers: what is best behind a choice depends on that choice alone."""

    def own(layer: int, choice: LayerChoice) -> float:
        return -layer_loss(layer, choice) - 0.02 * layer_ms(choice)

    best = {choice: own(0, choice) for choice in SPACE.actions[0]}
    for layer in range(1, len(STAGES)):
        best = {
            choice: own(layer, choice) + max(value - pair_loss(layer, c, choice) for c, value in best.items())
            for choice in SPACE.actions[layer]
        }
    return 0.95 + max(best.values())


@dataclass(frozen=True)
class Slowly:
    """Evaluates after a while, and leaves the number of its process in a folder."""

    folder: Path
    seconds: float

    def __call__(self, scheme: Scheme) -> Outcome:
        (self.folder / f"{os.getpid()}.pid").touch()
        time.sleep(self.seconds)
        return evaluate(scheme)


@dataclass(frozen=True)
class DyingOnce:
    """Ends its process at the first scheme after `alive` outcomes are in the journal, unless it did before."""

    journal: Path
    alive: int

    def __call__(self, scheme: Scheme) -> Outcome:
        flag = self.journal.with_suffix(".died")
        if not flag.exists() and self.journal.read_text().count('"accuracy"') >= self.alive:
            flag.touch()
            os._exit(9)
        return evaluate(scheme)


def search_slowly(folder: str, workers: int) -> None:
    """What a process does that is going to be killed."""
    search(SPACE, Slowly(Path(folder), 0.05), OBJECTIVE, SETTINGS, journal=Path(folder) / "journal", workers=workers)
