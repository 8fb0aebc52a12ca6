"""A recipe from its file to its result, on the real digits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from rich.console import Console

from monstera.measure import EAGER, MONSTERA, ONNX_RUNTIME
from monstera.pruning import hold
from monstera.recipe import run
from monstera.sparsity import Plan
from monstera.zoo import digits_cnn

RECIPE: dict[str, Any] = {
    "name": "digits",
    "network": {"name": "digits_cnn", "options": {"width": 16}},
    "data": {"name": "digits"},
    "plan": {"pattern": "4x1", "density": 0.25},
    "method": {"name": "gradual", "update_every": 5},
    "epochs": 12,
    "batch_size": 32,
    "optimizer": {"name": "adam", "lr": 0.01},
    "seeds": [0, 1],
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "digits.yaml").write_text(yaml.safe_dump({**RECIPE, "output": str(folder / "out" / "digits.json")}))
    text = io.StringIO()
    console = Console(file=text, force_terminal=False, width=200)
    result = run(
        folder / "digits.yaml", runs=folder / "runs", latency=False, command="monstera prune x", console=console
    )
    return folder, result, text.getvalue()


def test_the_result_file_says_what_was_returned(done: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, _ = done
    assert json.loads((folder / "out" / "digits.json").read_text()) == json.loads(json.dumps(result))
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["digits.json", "digits.safetensors"]


def test_the_result_sums_up_its_seeds(done: tuple[Path, dict[str, Any], str]) -> None:
    _, result, _ = done
    accuracies = [seed["accuracy"] for seed in result["seeds"]]
    assert [seed["seed"] for seed in result["seeds"]] == [0, 1]
    assert result["accuracy"]["sparse_mean"] == pytest.approx(sum(accuracies) / 2)
    assert result["accuracy"]["sparse_std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert result["accuracy"]["dense"] is None
    assert result["accuracy"]["tested_on"] == "360 test pictures"
    assert min(accuracies) > 0.9
    assert result["density"]["planned_weights"] == pytest.approx(0.25, abs=0.01)
    assert result["command"] == "monstera prune x"
    assert len(result["seeds"][0]["epochs"]) == 12
    assert result["machine"]["packages"]["torch"] == torch.__version__


def test_the_weights_beside_the_result_obey_the_plan_and_score_the_same(done: tuple[Path, dict[str, Any], str]) -> None:
    from monstera.zoo.data import digits

    folder, result, _ = done
    model = digits_cnn(width=16)
    model.load_state_dict(safetensors.torch.load_file(folder / "out" / "digits.safetensors"))
    assert Plan.uniform(model, "4x1", 0.25).verify(model).ok
    assert sorted(hold(model, torch.optim.SGD(model.parameters(), lr=0.1)).masks) == ["conv2.weight", "conv3.weight"]
    data = digits()
    images = (data.test.images.float() / 255 - data.mean[0]) / data.std[0]
    with torch.no_grad():
        correct = int((model.eval()(images).argmax(1) == data.test.labels).sum())
    assert correct == result["seeds"][0]["correct"]


def test_the_log_shows_loss_density_and_accuracy(done: tuple[Path, dict[str, Any], str]) -> None:
    _, result, text = done
    assert "digits, seed 1: step 528 of 528, epoch 12, tune, loss" in text
    assert "density 0.250" in text
    assert f"sparse {result['accuracy']['sparse_mean']:.2%}" in text


def test_held_out_pictures_take_the_place_of_the_test(done: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder, _, _ = done
    overrides = {"data.held_out": 200, "epochs": 1, "seeds": [0], "output": str(tmp_path / "held.json")}
    result = run(folder / "digits.yaml", overrides=overrides, runs=tmp_path / "runs", latency=False)
    assert result["accuracy"]["tested_on"] == "200 held-out training pictures"


@pytest.mark.parametrize(
    ("method", "plan"),
    [
        ({"name": "gradual", "schedule": "linear"}, {"pattern": "patterns4of8", "density": 0.25}),
        ({"name": "admm", "rho": [0.1]}, {"rules": [{"weights": "*", "pattern": "8x4", "density": 0.5}]}),
        ({"name": "srste"}, {"pattern": "2:4", "skip": ["conv1"]}),
        ({"name": "group_lasso", "groups": ["filter"], "proximal": True}, {"pattern": "bcr8x8", "density": 0.5}),
        ({"name": "reweighted", "alpha": "square"}, {"file": "plan.yaml"}),
    ],
)
def test_any_method_meets_any_pattern_and_any_form_of_plan(
    tmp_path: Path, method: dict[str, Any], plan: dict[str, Any]
) -> None:
    Plan({"conv2.weight": ("4x1@network", 0.5), "conv3.weight": ("4x1@network", 0.5)}).save(tmp_path / "plan.yaml")
    fields = {**RECIPE, "method": method, "plan": plan, "epochs": 1, "output": str(tmp_path / "out.json")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    result = run(tmp_path / "recipe.yaml", overrides={"seeds": [0]}, runs=tmp_path / "runs", latency=False)
    model = digits_cnn(width=16)
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "out.safetensors"))
    pairs = {name: entry.split(" at density ") for name, entry in result["plan"].items()}
    assert Plan({name: (pattern, float(density)) for name, (pattern, density) in pairs.items()}).verify(model).ok
    assert result["density"]["planned_weights"] < 0.6


def test_weights_that_were_exchanged_are_not_measured_under_this_result(
    done: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    folder, result, _ = done
    (tmp_path / "digits.json").write_text(json.dumps(result))
    model = digits_cnn(width=16)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "digits.safetensors")
    with pytest.raises(ValueError, match=r"not the weights that .* was made with"):
        run(folder / "digits.yaml", overrides={"output": str(tmp_path / "digits.json")}, measure_only=True)


def test_the_latency_of_one_recipe_is_not_added_to_the_result_of_another(
    done: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    folder, _, _ = done
    for name in ("digits.json", "digits.safetensors"):
        (tmp_path / name).write_bytes((folder / "out" / name).read_bytes())
    overrides = {"output": str(tmp_path / "digits.json"), "plan.density": 0.5}
    with pytest.raises(ValueError, match=r"digits\.json: the result of another recipe"):
        run(folder / "digits.yaml", overrides=overrides, measure_only=True)


def test_measuring_alone_without_a_result_is_refused(done: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder, _, _ = done
    with pytest.raises(FileNotFoundError):
        run(folder / "digits.yaml", overrides={"output": str(tmp_path / "none.json")}, measure_only=True)


def test_measuring_alone_adds_the_latency_and_leaves_the_rest(
    done: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    folder, result, _ = done
    for name in ("digits.json", "digits.safetensors"):
        (tmp_path / name).write_bytes((folder / "out" / name).read_bytes())
    overrides = {"output": str(tmp_path / "digits.json"), "seeds": [0, 1]}
    measured = run(folder / "digits.yaml", overrides=overrides, measure_only=True)
    assert {**measured, "latency": None} == {**json.loads(json.dumps(result)), "latency": None}
    assert json.loads((tmp_path / "digits.json").read_text()) == json.loads(json.dumps(measured))
    rows = [(row["engine"], row["weights"]) for row in measured["latency"]["rows"]]
    assert rows == [
        (EAGER.name, "dense"),
        (ONNX_RUNTIME.name, "dense"),
        (MONSTERA.name, "dense"),
        (MONSTERA.name, "4x1, density 0.25"),
    ]
    assert all(row["timing"] for row in measured["latency"]["rows"])
