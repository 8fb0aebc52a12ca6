"""What a run logs: JSON lines and curves, each step once, however often the run was interrupted."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from monstera.pruning import Divergence, Progress, Residuals
from monstera.recipe import run
from monstera.recipe.display import shown
from monstera.recipe.logs import Logging, logged
from monstera.recipe.report import Report

RECIPE: dict[str, Any] = {
    "name": "digits",
    "network": {"name": "digits_cnn", "options": {"width": 8}},
    "data": {"name": "digits"},
    "plan": {"pattern": "4x1", "density": 0.25},
    "method": {"name": "admm", "rho": [0.1], "update_every": 2},
    "epochs": 2,
    "batch_size": 64,
    "optimizer": {"name": "sgd", "lr": 0.1},
}


def _report(step: int) -> Report:
    progress = Progress(step, 40, "regularise", 0.5, Residuals(step, 0.1, 0.3, 0.2))
    return Report(0, 1, 1 / step, 0.1, progress, {"conv2.weight": 0.25, "conv3.weight": 1.0})


def _steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@given(ends=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60)), max_size=4))
def test_each_step_is_there_once_however_often_a_run_was_killed(
    tmp_path_factory: pytest.TempPathFactory, ends: list[tuple[int, int, int]]
) -> None:
    """Killed after so many steps since a checkpoint that lies back, in the middle of a line."""
    path = tmp_path_factory.mktemp("log") / "seed-0.pt"
    step = 0
    for further, back, torn in ends:
        last = min(40, step + further)
        with logged(path, step, Logging()) as write:
            for number in range(step + 1, last + 1):
                write(_report(number))
        with path.with_suffix(".jsonl").open("a") as file:
            file.write(json.dumps(_report(last + 1).fields())[:torn])
        step = max(step, last - back)
    with logged(path, step, Logging()) as write:
        for number in range(step + 1, 41):
            write(_report(number))
    assert _steps(path.with_suffix(".jsonl")) == list(range(1, 41))


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "seed-0.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with (
        pytest.raises(ValueError, match=r"seed-0\.jsonl: line 2 is not JSON"),
        logged(tmp_path / "seed-0.pt", 3, Logging()),
    ):
        pass


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("logs")
    path, text = folder / "digits.yaml", io.StringIO()
    path.write_text(yaml.safe_dump({**RECIPE, "output": str(folder / "digits.json")}))
    console = Console(file=text, force_terminal=False, width=200)
    run(path, runs=folder / "runs", latency=False, tensorboard=True, layers=True, console=console)
    return folder / "runs" / "digits", text.getvalue()


def test_the_log_of_a_run_has_loss_rate_residuals_and_the_density_of_each_layer(done: tuple[Path, str]) -> None:
    lines = [json.loads(line) for line in (done[0] / "seed-0.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 22, 30, 40, 44]
    assert lines[-1].keys() == {
        *("step", "epoch", "loss", "lr", "phase", "density", "primal", "dual", "rho", "densities"),
    }
    assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2]
    assert lines[0]["densities"] == {"conv2.weight": 1, "conv3.weight": 1}
    assert lines[-1]["densities"] == {"conv2.weight": pytest.approx(0.25, abs=0.01), "conv3.weight": 0.25}
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["lr"] > lines[-1]["lr"] > 0


def test_densities_of_layers_are_shown_on_request(done: tuple[Path, str]) -> None:
    assert "density 0.250 (conv2.weight 0.250, conv3.weight 0.250), residuals" in done[1]
    assert "s left" in done[1]


def test_a_terminal_shows_a_bar_with_loss_and_residuals() -> None:
    text = io.StringIO()
    with shown(Console(file=text, force_terminal=True, width=250), "digits, seed 0", layers=True) as show:
        for step in (10, 40):
            show(_report(step))
    assert "digits, seed 0" in text.getvalue()
    assert "40/40" in text.getvalue()
    assert "loss 0.0250, density 0.500 (conv2.weight 0.250" in text.getvalue()
    assert "residuals 3.0e-01 / 2.0e-01" in text.getvalue()


def test_tensorboard_has_every_curve_and_each_step_once(done: tuple[Path, str], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    curves = accumulator.EventAccumulator(str(done[0] / "seed-0.tensorboard")).Reload()
    expected = {
        "loss",
        "lr",
        "epoch",
        "density",
        "primal",
        "dual",
        "rho",
        "density/conv2.weight",
        "density/conv3.weight",
    }
    assert {*curves.Tags()["scalars"]} == expected
    assert [event.step for event in curves.Scalars("loss")] == [10, 20, 22, 30, 40, 44]

    path = tmp_path / "seed-0.pt"
    for start, end in ((0, 9), (4, 7), (6, 12)):
        with logged(path, start, Logging(tensorboard=True)) as write:
            for step in range(start + 1, end + 1):
                write(_report(step))
    curves = accumulator.EventAccumulator(str(tmp_path / "seed-0.tensorboard")).Reload()
    assert [event.step for event in curves.Scalars("loss")] == list(range(1, 13))


def test_changes_of_masks_are_curves_too(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    progress = Progress(1, 40, "tune", 0.5, divergence=Divergence(0, 1, {"conv2.weight": 3, "conv3.weight": 4}))
    with logged(tmp_path / "seed-0.pt", 0, Logging(tensorboard=True)) as write:
        write(Report(0, 1, 1.0, 0.1, progress, {}))
    curves = accumulator.EventAccumulator(str(tmp_path / "seed-0.tensorboard")).Reload()
    assert curves.Scalars("divergence")[0].value == 7
    assert curves.Scalars("divergence/conv3.weight")[0].value == 4


def test_without_tensorboard_asking_for_it_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'monstera\[tensorboard\]'"):
        run(tmp_path / "any.yaml", tensorboard=True)


def test_an_interval_of_no_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="log_every: expected at least 1 step, got 0"):
        run(tmp_path / "any.yaml", log_every=0)
