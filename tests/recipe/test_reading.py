"""Recipes are refused before anything is trained, with the name of every field that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from monstera.recipe import RecipeError, read_recipe, run
from monstera.recipe.reading import fingerprint

GOOD: dict[str, Any] = {
    "name": "digits",
    "network": {"name": "digits_cnn", "options": {"width": 8}},
    "data": {"name": "digits"},
    "plan": {"pattern": "4x1", "density": 0.5},
    "method": {"name": "gradual"},
    "epochs": 1,
    "batch_size": 64,
    "optimizer": {"lr": 0.1, "name": "sgd"},
    "output": "result.json",
}


def _write(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return path


def test_a_good_recipe_is_read_with_its_defaults(tmp_path: Path) -> None:
    recipe = read_recipe(_write(tmp_path))
    assert recipe.seeds == (0,)
    assert recipe.method.name == "gradual"
    assert recipe.plan.skip == ("first_conv", "depthwise", "last_linear")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 0}, "epochs: .*greater than 0, got 0"),
        ({"epochs": "many"}, "epochs: .*got 'many'"),
        ({"epoch": 3}, "epoch: is not a field of a recipe"),
        ({"name": "../up"}, "name: "),
        ({"plan": {"density": 0.5}}, r"plan\.pattern: is missing"),
        ({"plan": {"pattern": "4x1", "density": 1.5}}, r"plan\.density: .*got 1\.5"),
        ({"method": {"name": "magic"}}, "method: .*'gradual', 'admm', 'srste', 'group_lasso', 'reweighted', 'spp'"),
        ({"method": {"name": "admm", "harden_at": 1.0}}, r"method\.admm\.harden_at"),
        ({"method": {"name": "admm", "rho": []}}, r"method\.admm\.rho"),
        ({"optimizer": {"name": "sgd", "lr": -1}}, r"optimizer\.sgd\.lr: .*got -1"),
        ({"optimizer": {"name": "sgd", "lr": float("inf")}}, r"optimizer\.sgd\.lr"),
        ({"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0}}, "nesterov needs a momentum"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [1, 1]}, "seeds: each may be there once"),
        ({"distillation": {"weight": 0.5}}, r"distillation: .*network\.checkpoint"),
        ({"precision": "int8"}, "precision: .*got 'int8'"),
        ({"augmentation": {"crop_padding": -1}}, r"augmentation\.crop_padding"),
    ],
)
def test_a_bad_field_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        read_recipe(_write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"network": {"name": "resnet21"}}, r"network: .*'resnet21'.*known:.*resnet20"),
        ({"network": {"name": "digits_cnn", "options": {"depth": 3}}}, r"network: .*'depth'"),
        ({"network": {"name": "digits_cnn", "checkpoint": "/nowhere.th"}}, r"network\.checkpoint: .*/nowhere\.th"),
        ({"data": {"name": "mnist"}}, r"data\.name: .*'mnist'.*cifar10, digits"),
        ({"data": {"name": "digits", "mean": [0.5, 0.5, 0.5]}}, r"data\.mean: expected 1 values"),
        ({"data": {"name": "digits", "held_out": 1400}}, r"batch_size: 64 and data\.held_out 1400"),
        ({"batch_size": 5000}, "batch_size: 5000"),
        ({"plan": {"pattern": "4by1", "density": 0.5}}, r"plan\.pattern: .*'4by1'"),
        ({"plan": {"pattern": "4x1", "density": 0.5, "skip": ["conv9*"]}}, r"plan: .*conv9"),
        ({"method": {"name": "gradual", "schedule": "quartic"}}, r"method: .*'quartic'"),
        ({"method": {"name": "admm", "rho": [0.1] * 40}}, r"method: 40 stages of rho"),
        ({"method": {"name": "spp"}}, r"method: steps: 11 updates fit before masks are fixed at step 11"),
        ({"method": {"name": "spp"}, "plan": {"pattern": "2:4"}, "epochs": 9}, r"method: conv2\.weight: SPP ranks"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        run(_write(tmp_path, **changes), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_layer_to_learn_from_that_is_not_there_is_refused_before_training(tmp_path: Path) -> None:
    import torch

    from monstera.zoo import network

    torch.save({"state_dict": network("digits_cnn", width=8).state_dict()}, tmp_path / "dense.th")
    path = _write(
        tmp_path,
        network={"name": "digits_cnn", "options": {"width": 8}, "checkpoint": str(tmp_path / "dense.th")},
        distillation={"features": {"conv9": 1.0}},
    )
    with pytest.raises(RecipeError, match=r"distillation: features: the student has no layer 'conv9'.*'conv"):
        run(path, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_fields_younger_than_results_are_not_written_while_they_say_nothing(tmp_path: Path) -> None:
    network = {"name": "digits_cnn", "checkpoint": "dense.th"}
    plain, deep = (
        read_recipe(_write(tmp_path, network=network, distillation={"weight": 0.5, **more}))
        for more in ({}, {"features": {"conv2": 0.5}})
    )
    assert plain.model_dump()["distillation"] == {"temperature": 4.0, "weight": 0.5}
    assert deep.model_dump()["distillation"]["features"] == {"conv2": 0.5}
    assert fingerprint(plain) != fingerprint(deep)
    silent, loud = (
        read_recipe(_write(tmp_path, method={"name": "reweighted", **more})) for more in ({}, {"prune_below": 0.1})
    )
    assert "prune_below" not in silent.model_dump(mode="json")["method"]
    assert loud.model_dump(mode="json")["method"]["prune_below"] == 0.1


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = _write(tmp_path, epochs=0, batch_size=1, colour="red")
    with pytest.raises(RecipeError) as found:
        read_recipe(path)
    assert {problem.split(":")[0] for problem in found.value.problems} == {"epochs", "batch_size", "colour"}
    assert str(found.value).startswith(f"{path}: 3 problems, nothing was trained")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "other.th")
    network = {"name": "digits_cnn", "checkpoint": str(tmp_path / "other.th")}
    with pytest.raises(RecipeError, match=r"network\.checkpoint: .*(?s:.)*conv1\.weight"):
        run(_write(tmp_path, network=network), runs=tmp_path / "runs")


@pytest.mark.parametrize(
    ("text", "named"), [("a: [", "not readable as YAML"), ("- a\n- b", "expected fields.*got list")]
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=named):
        read_recipe(tmp_path / "recipe.yaml")


def test_overrides_replace_fields_also_nested_ones(tmp_path: Path) -> None:
    path = _write(tmp_path)
    recipe = read_recipe(path, {"epochs": 7, "data.held_out": 100, "augmentation.flip": True})
    assert (recipe.epochs, recipe.data.held_out, recipe.augmentation.flip) == (7, 100, True)
    assert recipe.data.name == "digits"


def test_an_override_that_is_no_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.colour: is not a field"):
        read_recipe(_write(tmp_path), {"data.colour": "red"})


def test_only_what_decides_the_weights_changes_the_fingerprint(tmp_path: Path) -> None:
    path = _write(tmp_path)
    same = read_recipe(path, {"output": "other.json", "seeds": [4], "latency.threads": 2, "threads": 2})
    assert fingerprint(read_recipe(path)) == fingerprint(same)
    for name, value in (("epochs", 2), ("optimizer.lr", 0.2), ("plan.density", 0.25), ("augmentation.flip", True)):
        assert fingerprint(read_recipe(path, {name: value})) != fingerprint(same)
