"""Sparse architecture divergence: by its definition, for every method, through a file and in a recipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from monstera.pruning import ASP, Divergence, Residuals, sad
from monstera.pruning.report import Progress
from monstera.recipe import run
from pruning.test_attachment import METHOD, STEPS, _attached, _network, _sgd, _step, _stored


@METHOD
def test_every_method_notes_how_masks_differ_between_steps(method: str) -> None:
    every = 5
    model, plan = _network()
    optimizer = _sgd(model)
    pruner = _attached(method, model, optimizer, plan)
    pruner.track_divergence(every)
    masks = [{name: mask.clone() for name, mask in pruner.masks.items()}]
    for step in range(STEPS):
        _step(model, optimizer, step)
        masks.append({name: mask.clone() for name, mask in pruner.masks.items()})
    steps = list(range(every, STEPS + 1, every))
    assert [(entry.since, entry.step) for entry in pruner.divergences] == [(step - every, step) for step in steps]
    for entry in pruner.divergences:
        before, after = masks[entry.since], masks[entry.step]
        assert entry.layers == {name: int((before[name] != after[name]).sum()) for name in plan}
        assert entry.flips == sum(entry.layers.values())
    assert pruner.progress().divergence == pruner.divergences[-1]
    if not isinstance(pruner, ASP):  # whose masks never change
        assert any(entry.flips for entry in pruner.divergences)


@METHOD
def test_what_was_noted_goes_on_from_a_saved_state(method: str) -> None:
    model, plan = _network()
    optimizer = _sgd(model)
    pruner = _attached(method, model, optimizer, plan)
    pruner.track_divergence(4)
    saved = None
    for step in range(STEPS):
        if step == 10:  # between two notes
            saved = _stored([model.state_dict(), optimizer.state_dict(), pruner.state_dict()])
        _step(model, optimizer, step)
    later_model, _ = _network()
    again = _sgd(later_model)
    later = _attached(method, later_model, again, plan)  # nothing is asked of it
    later_model.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    later.load_state_dict(saved[2])
    for step in range(10, STEPS):
        _step(later_model, again, step)
    assert later.divergences == pruner.divergences
    assert len(later.divergences) == STEPS // 4


def test_a_pruner_that_notes_takes_an_untracked_state_and_keeps_its_own_interval() -> None:
    model, plan = _network()
    one, other = (ASP(model, _sgd(model), plan, steps=STEPS) for _ in range(2))
    assert one.state_dict()["divergence"] is None
    other.track_divergence(3)
    other.load_state_dict(one.state_dict())
    assert other.divergences == []
    assert other.state_dict()["divergence"]["every"] == 3
    one.track_divergence(2)
    other.load_state_dict(one.state_dict())
    assert other.state_dict()["divergence"]["every"] == 3


def test_states_from_before_there_were_notes_are_loaded() -> None:
    model, plan = _network()
    pruner = ASP(model, _sgd(model), plan, steps=STEPS)
    state = {key: value for key, value in pruner.state_dict().items() if key not in ("divergence", "ties")}
    pruner.track_divergence(3)
    pruner.load_state_dict(state)
    assert pruner.divergences == []
    assert pruner.state_dict()["divergence"]["every"] == 3


def test_nothing_is_noted_unasked() -> None:
    model, plan = _network()
    optimizer = _sgd(model)
    pruner = ASP(model, optimizer, plan, steps=STEPS)
    _step(model, optimizer, 0)
    assert pruner.divergences == []
    assert pruner.progress().divergence is None


def test_no_interval_is_refused() -> None:
    model, plan = _network()
    with pytest.raises(ValueError, match="every: expected at least 1 step, got 0"):
        ASP(model, _sgd(model), plan, steps=STEPS).track_divergence(0)


def test_masks_of_other_weights_are_refused() -> None:
    mask = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"same weights, got \['b'\]"):
        sad({"a": mask}, {"a": mask, "b": mask})


def test_progress_shows_residuals_and_divergence_side_by_side() -> None:
    told = Progress(3, 9, "regularise", 1.0, Residuals(3, 0.1, 0.5, 0.25), Divergence(1, 3, {"a": 2, "b": 5}))
    assert str(told).endswith("rho 0.1, residuals 5.00e-01 primal, 2.50e-01 dual, 7 weights changed sides in 2 steps")


def test_a_recipe_shows_the_divergence_and_notes_it_at_the_end_of_epochs(tmp_path: Path) -> None:
    recipe = {
        "name": "digits",
        "network": {"name": "digits_cnn", "options": {"width": 8}},
        "data": {"name": "digits"},
        "plan": {"pattern": "2:4"},
        "method": {"name": "srste"},
        "epochs": 1,
        "batch_size": 64,
        "optimizer": {"name": "sgd", "lr": 0.1},
        "divergence_every": 11,
        "output": str(tmp_path / "result.json"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = io.StringIO()
    console = Console(file=text, force_terminal=False, width=200)
    result = run(tmp_path / "recipe.yaml", runs=tmp_path / "runs", latency=False, console=console)
    noted = result["seeds"][0]["epochs"][0]["divergence"]
    assert (noted["since"], noted["step"]) == (11, 22)
    assert sum(noted["layers"].values()) > 0
    assert f"{sum(noted['layers'].values())} weights changed sides in 11 steps" in text.getvalue()
