"""Training of one seed: its parts by hand, and an interrupted run that ends like one that was not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from devices import ON_GPU
from monstera.pruning import SPP
from monstera.pruning.streams import stream
from monstera.recipe import CheckpointError, read_recipe, run
from monstera.recipe.ingredients import Ingredients, gather, make_network, make_optimizer, make_pruner
from monstera.recipe.report import Report
from monstera.recipe.schema import Recipe
from monstera.recipe.training import _Run, train_seed
from monstera.sparsity import Plan, pattern
from monstera.training import DivergedError
from monstera.zoo import network

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


METHODS = {
    1: {"name": "srste", "harden_at": 0.75},
    7: {"name": "admm", "rho": [0.01, 0.1], "update_every": 3},
}


def _recipe(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "output": str(folder / "result.json"), **changes}))
    return path


def _run(path: Path, **options: Any) -> dict[str, Any]:
    return run(path, runs=path.parent / "runs", latency=False, **options)


def _kill_after(path: Path, lines: int) -> int:
    """Run until so many lines are logged, kill, and say at which step the checkpoint was made."""
    runs = path.parent / "runs"
    code = f"from monstera.recipe import run; run({str(path)!r}, runs={str(runs)!r}, latency=False, log_every=1)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    log, checkpoint = runs / "digits" / "seed-0.jsonl", runs / "digits" / "seed-0.pt"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= lines):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return torch.load(checkpoint, weights_only=True)["step"] if checkpoint.exists() else 0


@pytest.mark.parametrize("every", [1, 7])
def test_a_run_killed_at_random_steps_goes_on_and_ends_with_the_same_weights_and_log(
    tmp_path: Path, every: int
) -> None:
    changes = {"checkpoint_every": every, "method": METHODS[every]}
    whole, killed = _recipe(tmp_path / "whole", **changes), _recipe(tmp_path / "killed", **changes)
    expected = _run(whole, log_every=1)
    draw = random.Random()
    first, second = sorted(draw.sample(range(1, 8 * (1437 // 64) - 30), 2))
    reached = [_kill_after(killed, lines) for lines in (first, second)]
    print(f"killed when {first} and {second} lines were logged, checkpoints of steps {reached}")
    assert reached[1] < 8 * (1437 // 64), "the run was over before it could be killed"
    assert not (killed.parent / "result.json").exists()

    result = _run(killed, log_every=1)
    assert result["weights"]["sha256"] == expected["weights"]["sha256"]
    assert _without_time(result["seeds"]) == _without_time(expected["seeds"])
    logs = [path.parent / "runs" / "digits" / "seed-0.jsonl" for path in (whole, killed)]
    assert logs[0].read_bytes() == logs[1].read_bytes()


def _without_time(seeds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**seed, "training_seconds": None} for seed in seeds]


def test_a_checkpoint_of_another_plan_file_is_refused(tmp_path: Path) -> None:
    path = _recipe(tmp_path / "a", epochs=1, plan={"file": "plan.yaml"})
    Plan({"conv2.weight": ("4x1", 0.25)}).save(path.parent / "plan.yaml")
    _run(path)
    Plan({"conv2.weight": ("4x1", 0.5)}).save(path.parent / "plan.yaml")
    with pytest.raises(CheckpointError, match=r"seed-0\.pt: pruner state: expected the settings"):
        _run(path)


def test_a_run_that_learns_features_by_chance_masks_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    torch.save({"state_dict": network("digits_cnn", width=8).state_dict()}, tmp_path / "dense.th")
    changes: dict[str, Any] = {
        "network": {"name": "digits_cnn", "options": {"width": 8}, "checkpoint": str(tmp_path / "dense.th")},
        "method": {"name": "spp", "update_every": 1},
        "distillation": {"features": {"conv2": 0.1}},
        "epochs": 2,
    }
    whole = train_seed_of(_recipe(tmp_path / "whole", **changes))
    stopped = _recipe(tmp_path / "stopped", **changes)
    with pytest.raises(KeyboardInterrupt):
        train_seed_of(stopped, stop_at=13)
    again = train_seed_of(stopped)
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), again.values(), strict=True))


@ON_GPU
@pytest.mark.parametrize("name", ["gradual", "admm", "asp", "srste", "group_lasso", "reweighted", "spp"])
def test_a_run_on_the_gpu_is_tested_goes_on_and_ends_like_one_on_the_cpu(tmp_path: Path, name: str) -> None:
    torch.save({"state_dict": network("digits_cnn", width=8).state_dict()}, tmp_path / "dense.th")
    changes: dict[str, Any] = {
        "network": {"name": "digits_cnn", "options": {"width": 8}, "checkpoint": str(tmp_path / "dense.th")},
        "method": {"name": name},
        "distillation": {"weight": 0.1},
        "augmentation": {"crop_padding": 1, "flip": True},
        "channels_last": True,
    }
    here = _run(_recipe(tmp_path / "here", **changes))
    stopped = _recipe(tmp_path / "there", **changes, device="cuda")
    with pytest.raises(KeyboardInterrupt):
        train_seed_of(stopped, stop_at=13)
    weights = train_seed_of(stopped)
    assert {str(value.device) for value in weights.values()} == {"cpu"}
    there = _run(stopped)
    (begun_on_gpu,) = there["seeds"]
    assert begun_on_gpu["training_gpu"] == torch.cuda.get_device_name()
    assert _run(_recipe(tmp_path / "there", **changes))["seeds"][0]["training_gpu"] == begun_on_gpu["training_gpu"]
    assert there["recipe"]["device"] == "cuda"
    assert there["density"] == here["density"]
    accuracies = [result["accuracy"]["sparse_mean"] for result in (here, there)]
    print(f"{name}: {accuracies}")
    assert min(accuracies) > 0.5
    assert abs(accuracies[0] - accuracies[1]) < 0.1


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_compiled_passes_have_the_gradients_of_plain_ones_and_leave_the_network_as_it_is(
    tmp_path: Path, device: str
) -> None:
    torch.save({"state_dict": network("digits_cnn", width=8).state_dict()}, tmp_path / "dense.th")
    changes: dict[str, Any] = {
        "network": {"name": "digits_cnn", "options": {"width": 8}, "checkpoint": str(tmp_path / "dense.th")},
        "distillation": {"weight": 0.5},
        "device": device,
    }
    recipes = [read_recipe(_recipe(tmp_path / str(on), **changes, compile=on)) for on in (False, True)]
    plain, compiled = (_Run(recipe, 0, gather(recipe, "recipe")) for recipe in recipes)
    plain.advance()
    torch._dynamo.utils.counters.clear()
    compiled.advance()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, "the network's and the teacher's"
    assert compiled.loss_sum == pytest.approx(plain.loss_sum, rel=1e-4)
    pairs = zip(plain.model.named_parameters(), compiled.model.named_parameters(), strict=True)
    for (name, one), (same, other) in pairs:
        assert name == same
        assert one.grad is not None
        assert float((one.grad - other.grad).norm()) <= 1e-3 * float(one.grad.norm()) + 1e-7


@ON_GPU
def test_a_recorded_step_has_the_loss_gradients_and_statistics_of_the_step_itself(tmp_path: Path) -> None:
    path = _recipe(tmp_path / "a", device="cuda", accumulate=2, channels_last=True)
    things = gather(read_recipe(path), str(path))
    recorded, plain = (_Run(read_recipe(path), 0, things) for _ in range(2))
    for _ in range(3):
        recorded.model.load_state_dict(plain.model.state_dict())
        batch = plain._batch()
        plain.optimizer.zero_grad()
        losses = float(recorded._passes(*batch)), float(plain._backward(*batch))
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        parameters = zip(recorded.model.parameters(), plain.model.parameters(), strict=True)
        for one, other in parameters:
            assert one.grad is not None
            assert float((one.grad - other.grad).norm()) <= 1e-2 * float(other.grad.norm())
        for one, other in zip(recorded.model.buffers(), plain.model.buffers(), strict=True):
            assert torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-4)
        assert plain.things.train.images.is_cuda
        plain.optimizer.step()
        recorded.step = plain.step = plain.step + 1


def test_masks_by_chance_are_drawn_by_the_seed_of_the_run(tmp_path: Path) -> None:
    recipe = read_recipe(_recipe(tmp_path / "a", method={"name": "spp", "increment": 0.1}))
    model = make_network(recipe, None, seed=0)
    plan = gather(recipe, "recipe").plan
    pruner = make_pruner(recipe, model, make_optimizer(recipe, model), plan, steps=500, seed=7)
    assert isinstance(pruner, SPP)
    assert (pruner.seed, pruner.increment, pruner.update_every) == (7, 0.1, 1)


def train_seed_of(path: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    def stop(report: Report) -> None:
        if report.pruning.step == stop_at:
            raise KeyboardInterrupt

    recipe = read_recipe(path)
    trained = train_seed(recipe, 3, gather(recipe, str(path)), path.parent / "seed-3.pt", stop)
    assert not any(module._forward_hooks for module in trained.model.modules())
    return trained.model.state_dict()


def test_a_finished_run_is_not_trained_again_but_tested_again(tmp_path: Path) -> None:
    path = _recipe(tmp_path / "a", epochs=2)
    first = _run(path)
    checkpoint = path.parent / "runs" / "digits" / "seed-0.pt"
    before = checkpoint.stat().st_mtime_ns
    assert _run(path)["weights"] == first["weights"]
    assert checkpoint.stat().st_mtime_ns == before
    _run(path, fresh=True)
    assert checkpoint.stat().st_mtime_ns > before


def test_asp_in_a_recipe_keeps_the_holes_that_it_chose_at_the_start(tmp_path: Path) -> None:
    path = _recipe(tmp_path / "a", epochs=1, method={"name": "asp"}, plan={"pattern": "2:4"})
    start = make_network(read_recipe(path), None, seed=0)
    result = _run(path)
    trained = safetensors.torch.load_file(path.parent / "result.safetensors")
    assert [epoch["phase"] for epoch in result["seeds"][0]["epochs"]] == ["tune"]
    for name, mask in Plan.uniform(start, "2:4").masks(start).items():
        assert torch.equal(trained[name] != 0, mask)
        assert not torch.equal(trained[name][mask], dict(start.named_parameters())[name].detach()[mask])


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


def _one_step(recipe: Recipe, things: Ingredients) -> _Run:
    run = _Run(recipe, 0, things)
    # Batch norm would take the statistics of a part.
    run.model.eval()
    run.advance()
    return run


def test_a_batch_in_parts_takes_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    path = _recipe(tmp_path / "a", method={"name": "gradual"})
    things = gather(read_recipe(path), str(path))
    whole, parts = (_one_step(read_recipe(path, {"accumulate": count}), things) for count in (1, 4))
    assert parts.report().loss == pytest.approx(whole.report().loss)
    for name, value in whole.model.named_parameters():
        torch.testing.assert_close(dict(parts.model.named_parameters())[name], value)
    assert not torch.equal(parts.model.conv1.weight, make_network(read_recipe(path), None, 0).conv1.weight)


def test_a_step_under_clipping_moves_no_further_than_the_norm_times_the_rate(tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "lr": 0.5, "momentum": 0, "nesterov": False, "weight_decay": 0}
    path = _recipe(tmp_path / "a", optimizer=optimizer, lr_schedule={"decay": "constant"}, method={"name": "gradual"})
    things = gather(read_recipe(path), str(path))
    start = dict(make_network(read_recipe(path), None, 0).named_parameters())

    def moved(clip_norm: float | None) -> float:
        model = _one_step(read_recipe(path, {"clip_norm": clip_norm}), things).model
        return float(torch.cat([(p - start[name]).detach().flatten() for name, p in model.named_parameters()]).norm())

    assert moved(0.01) == pytest.approx(0.5 * 0.01, rel=1e-3)
    assert moved(None) > 0.5 * 0.01 * 2
    assert moved(1e6) == moved(None)


def test_a_pivoted_run_starts_from_channels_of_which_the_plan_keeps_more_and_goes_on_with_the_same_weights(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    dense = network("digits_cnn", width=8)
    torch.save({"state_dict": dense.state_dict()}, tmp_path / "dense.th")
    changes: dict[str, Any] = {
        "network": {"name": "digits_cnn", "options": {"width": 8}, "checkpoint": str(tmp_path / "dense.th")},
        # The student's channels are those of its teacher.
        "distillation": {"features": {"conv2": 0.1}},
        "pivot": True,
        "epochs": 1,
    }
    path = _recipe(tmp_path / "whole", **changes)
    things = gather(read_recipe(path), str(path))
    assert things.start is not None
    pivoted = make_network(read_recipe(path), things.start, seed=0)
    pictures = things.normalised(things.test.images[:8])
    torch.testing.assert_close(pivoted.eval()(pictures), dense.eval()(pictures))
    run = _Run(read_recipe(path), 0, things)
    assert torch.equal(run.model.conv2.weight, pivoted.conv2.weight)
    assert not torch.equal(pivoted.conv2.weight, dense.conv2.weight)

    result = _run(path)
    masks = things.plan.masks(dense), things.plan.masks(pivoted)
    kept = [
        sum(float((model.get_parameter(name).detach()[mask] ** 2).sum()) for name, mask in chosen.items())
        / sum(float((model.get_parameter(name).detach() ** 2).sum()) for name in chosen)
        for model, chosen in zip((dense, pivoted), masks, strict=True)
    ]
    assert result["pivoting"] == {"kept_before": pytest.approx(kept[0]), "kept_after": pytest.approx(kept[1])}
    assert kept[0] < kept[1]

    stopped = _recipe(tmp_path / "stopped", **changes)
    with pytest.raises(KeyboardInterrupt):
        train_seed_of(stopped, stop_at=13)
    again = train_seed_of(stopped)
    whole = train_seed_of(_recipe(tmp_path / "again", **changes))
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), again.values(), strict=True))


def test_a_gradient_of_nan_ends_the_run_before_the_method_meets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _recipe(tmp_path / "a", method={"name": "gradual", "update_every": 1})
    run = _Run(read_recipe(path), 0, gather(read_recipe(path), str(path)))
    # Finite, but with a slope of 0 times infinity.
    monkeypatch.setattr(run, "_loss", lambda *_: (run.model.conv2.weight * 0).square().sum().sqrt())
    with pytest.raises(DivergedError, match="digits, seed 0: the norm of the gradient is nan at step 1 of "):
        run.advance()
