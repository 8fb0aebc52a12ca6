"""Turns on a machine: who measures is alone, trainings go together, and no measurement waits for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import torch

from monstera.search.npas.base import base_network
from monstera.search.npas.evaluation import FastEvaluation, FastTraining
from monstera.search.npas.turns import turn
from monstera.training import Examples
from monstera.zoo import fused_mobilenet


def held(path: Path, alone: bool, entered: threading.Event, leave: threading.Event) -> threading.Thread:
    """Take a turn in a thread, say so, and hold it until told."""

    def hold() -> None:
        with turn(path, alone=alone):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    return thread


def test_trainings_go_together_and_a_measurement_waits_for_them_and_is_alone(tmp_path: Path) -> None:
    entered = {name: threading.Event() for name in ("one", "two", "measured", "late")}
    leave = {name: threading.Event() for name in entered}
    held(tmp_path / "turns", False, entered["one"], leave["one"])
    held(tmp_path / "turns", False, entered["two"], leave["two"])
    assert entered["one"].wait(5)
    assert entered["two"].wait(5)
    held(tmp_path / "turns", True, entered["measured"], leave["measured"])
    time.sleep(0.1)
    # Asked for after the measurement, so that it waits although only trainings are under way.
    held(tmp_path / "turns", False, entered["late"], leave["late"])
    leave["one"].set()
    assert not entered["measured"].wait(0.2)
    assert not entered["late"].is_set()
    leave["two"].set()
    assert entered["measured"].wait(5)
    assert not entered["late"].wait(0.2)
    leave["measured"].set()
    assert entered["late"].wait(5)
    leave["late"].set()


def test_nobody_waits_without_a_file() -> None:
    with turn(None, alone=True), turn(None, alone=True):
        pass


def test_an_evaluation_measures_alone_and_trains_on_as_many_threads_as_it_was_given(
    tmp_path: Path, monkeypatch
) -> None:
    torch.manual_seed(0)
    model, images = fused_mobilenet(classes=2, width=4, blocks=(1,)).eval(), torch.randn(16, 1, 8, 8)
    data = Examples(images, torch.arange(16) % 2)
    base = base_network(model, images[:1], patterns=["4x1"], densities=[0.5])
    path, seen = tmp_path / "turns", []

    def others_may_enter() -> bool:
        entered, leave = threading.Event(), threading.Event()
        leave.set()
        held(path, False, entered, leave)
        return entered.wait(0.3)

    def measured(*_: object, **__: object) -> float:
        seen.append((others_may_enter(), torch.get_num_threads()))
        return 1.0

    def judged(*_: object) -> float:
        seen.append((others_may_enter(), torch.get_num_threads()))
        return 0.5

    monkeypatch.setattr("monstera.search.npas.evaluation.measured_ms", measured)
    fast = FastTraining(1, 0.05, batch_size=8).accuracy(data, data)
    monkeypatch.setattr(type(fast), "__call__", judged)
    before = torch.get_num_threads()
    other = 2 if before == 1 else 1
    FastEvaluation(base, {}, fast, images[:1], other, path)(base.space.base)
    assert seen == [(False, other), (True, other)]
    assert torch.get_num_threads() == before
