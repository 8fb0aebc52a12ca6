"""Training of one seed: its parts by hand, and an interrupted run that ends like one that was not."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from monstera.recipe import CheckpointError, read_recipe, run
from monstera.recipe.ingredients import lr_factor, make_network, make_optimizer
from monstera.recipe.schema import Distillation, LearningRate
from monstera.recipe.training import distillation_loss, stream
from monstera.sparsity import pattern

RECIPE: dict[str, Any] = {
    "name": "digits",
    "network": {"name": "digits_cnn", "options": {"width": 8}},
    "data": {"name": "digits"},
    "plan": {"pattern": "4x1", "density": 0.25},
    "method": {"name": "admm", "rho": [0.01, 0.1], "update_every": 3},
    "epochs": 8,
    "batch_size": 64,
    "checkpoint_every": 5,
    "optimizer": {"name": "sgd", "lr": 0.2},
    "lr_schedule": {"warmup": 0.1},
    "augmentation": {"crop_padding": 1},
    "label_smoothing": 0.05,
}


def _recipe(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "output": str(folder / "result.json"), **changes}))
    return path


def _run(path: Path, **options: Any) -> dict[str, Any]:
    return run(path, runs=path.parent / "runs", latency=False, **options)


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, killed = _recipe(tmp_path / "whole"), _recipe(tmp_path / "killed")
    expected = _run(whole)
    checkpoint = killed.parent / "runs" / "digits" / "seed-0.pt"
    code = f"from monstera.recipe import run; run({str(killed)!r}, runs={str(killed.parent / 'runs')!r}, latency=False)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < step < 8 * (1437 // 64), "the run was over before it could be killed"
    assert not (killed.parent / "result.json").exists()

    result = _run(killed)
    assert result["weights"]["sha256"] == expected["weights"]["sha256"]
    assert [epoch["loss"] for epoch in result["seeds"][0]["epochs"]] == [
        e["loss"] for e in expected["seeds"][0]["epochs"]
    ]


def test_a_finished_run_is_not_trained_again_but_tested_again(tmp_path: Path) -> None:
    path = _recipe(tmp_path / "a", epochs=2)
    first = _run(path)
    checkpoint = path.parent / "runs" / "digits" / "seed-0.pt"
    before = checkpoint.stat().st_mtime_ns
    assert _run(path)["weights"] == first["weights"]
    assert checkpoint.stat().st_mtime_ns == before
    _run(path, fresh=True)
    assert checkpoint.stat().st_mtime_ns > before


def test_a_checkpoint_of_a_changed_recipe_is_refused(tmp_path: Path) -> None:
    path = _recipe(tmp_path / "a", epochs=1)
    _run(path)
    with pytest.raises(CheckpointError, match=r"seed-0\.pt: the checkpoint of another recipe"):
        _run(path, overrides={"optimizer.lr": 0.3})


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = _recipe(tmp_path / "a", epochs=1)
    _run(path)
    checkpoint = path.parent / "runs" / "digits" / "seed-0.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"seed-0\.pt: not a readable checkpoint"):
        _run(path)


def test_seeds_differ_and_one_seed_is_the_same_alone_or_among_others(tmp_path: Path) -> None:
    both = _run(_recipe(tmp_path / "both", epochs=2, seeds=[5, 6]))
    alone = _run(_recipe(tmp_path / "alone", epochs=2, seeds=[6]))
    first, second = both["seeds"]
    assert first["epochs"][0]["loss"] != second["epochs"][0]["loss"]
    assert second["epochs"] == alone["seeds"][0]["epochs"]


def test_streams_of_neighbouring_seeds_purposes_and_steps_are_all_different() -> None:
    draws = [
        tuple(torch.randint(1000, (8,), generator=stream(seed, purpose, index)).tolist())
        for seed in range(4)
        for purpose in ("order", "augmentation")
        for index in range(4)
    ]
    assert len(set(draws)) == len(draws)
    again = torch.randint(1000, (8,), generator=stream(0, "order", 0))
    assert tuple(again.tolist()) == draws[0]


def test_the_learning_rate_warms_up_and_decays() -> None:
    cosine = LearningRate(decay="cosine", warmup=0.1)
    factors = [lr_factor(cosine, step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[9] == pytest.approx(10 / 11)
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert all(a < b for a, b in pairwise(factors[:11]))
    assert all(a > b > 0 for a, b in pairwise(factors[10:]))
    assert lr_factor(LearningRate(decay="linear"), 25, 100) == 0.75
    assert lr_factor(LearningRate(decay="constant"), 99, 100) == 1


def test_the_distillation_loss_is_the_kl_divergence_of_softened_outputs() -> None:
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p = [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))]
    q = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))]
    expected = 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(distillation_loss(student, teacher, Distillation(temperature=2.0))) == pytest.approx(
        expected, rel=1e-5
    )
    assert float(distillation_loss(teacher, teacher, Distillation())) == pytest.approx(0, abs=1e-6)


def test_weight_decay_spares_biases_and_norms(tmp_path: Path) -> None:
    recipe = read_recipe(_recipe(tmp_path / "a"))
    model = make_network(recipe, None, seed=0)
    decayed, spared = make_optimizer(recipe, model).param_groups
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert {p.dim() for p in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-4, 0)


def test_building_a_network_keeps_the_global_generator(tmp_path: Path) -> None:
    recipe = read_recipe(_recipe(tmp_path / "a"))
    before = torch.get_rng_state()
    first, second = make_network(recipe, None, seed=1), make_network(recipe, None, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.conv1.weight, second.conv1.weight)
    assert not torch.equal(make_network(recipe, None, seed=2).conv1.weight, first.conv1.weight)


def test_a_recipe_trains_a_constraint_on_values_in_rounds_with_rho_by_layer(tmp_path: Path) -> None:
    method = {"name": "admm", "rho": {"*": [0.3, 1.0], "conv3": [0.1, 0.3]}, "rounds": 2, "tolerance": 1e-3}
    path = _recipe(tmp_path / "values", epochs=2, plan={"pattern": "4x1&int4", "density": 0.25}, method=method)
    result = _run(path)
    assert result["density"]["planned_weights"] <= 0.25
    weights = safetensors.torch.load_file(path.parent / "result.safetensors")
    for name in ("conv2.weight", "conv3.weight"):
        assert pattern("4x1&int4").holds(weights[name], 0.25), name
