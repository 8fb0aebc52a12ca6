"""Evaluations and a network that other processes can be given: functions at the top of a module."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from monstera.search.objective import Objective
from monstera.search.space import Space
from monstera.sparsity import Plan
from search.affine import Affine


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


MODEL = network()
COSTS = Affine.of(MODEL, rest_ms=1e-4)
SPACE = Space.of(MODEL, COSTS, ("4x1", "unstructured"), (0.5, 0.25))
ASKED = Objective(0.6 * COSTS.dense_ms)


def quick(model: nn.Module, plan: Plan) -> float:  # noqa: ARG001
    """An accuracy that only the plan decides."""
    return 0.9 - 0.1 * sum((1 - entry.density) ** 2 for entry in plan.values())


class Slow:
    """`quick`, after some seconds; each evaluation leaves a line with its process in a file."""

    def __init__(self, seconds: float, log: Path) -> None:
        self.seconds, self.log = seconds, log

    def __call__(self, model: nn.Module, plan: Plan) -> float:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(self.seconds)
        return quick(model, plan)


class DiesOnce(Slow):
    """The second evaluation kills its process, as running out of memory would."""

    def __call__(self, model: nn.Module, plan: Plan) -> float:
        found = super().__call__(model, plan)
        marker = self.log.with_suffix(".died")
        if len(self.log.read_text().split()) >= 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return found


class Dies(Slow):
    """Every evaluation kills its process."""

    def __call__(self, model: nn.Module, plan: Plan) -> float:
        super().__call__(model, plan)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Raises:
    """An evaluation with a mistake, until a file is there."""

    def __init__(self, mended: Path) -> None:
        self.mended = mended

    def __call__(self, model: nn.Module, plan: Plan) -> float:
        if self.mended.exists():
            return quick(model, plan)
        raise ZeroDivisionError("a mistake")
