"""Recipes are refused before anything is trained, with the name of every field that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from devices import WITHOUT_GPU
from monstera.recipe import RecipeError, read_recipe, run
from monstera.recipe.ingredients import gather
from monstera.recipe.reading import fingerprint
from monstera.sparsity import Entry, Plan

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
        ({"plan": {"pattern": "4x1", "density": 0}}, r"plan\.density: .*greater than 0, got 0"),
        ({"plan": {"pattern": "4x1", "density": 0.5, "scope": "layer"}}, r"plan\.scope: is not a field"),
        (
            {"plan": {"pattern": 124}},
            r"plan\.pattern: is a number and no text; write N:M patterns in quotes, .*got 124",
        ),
        ({"plan": "4x1"}, r"plan: .*dictionary.*got '4x1'"),
        ({"plan": {"rules": []}}, r"plan\.rules: "),
        ({"plan": {"rules": [{"weights": "conv2"}]}}, r"plan\.rules\.0\.pattern: is missing"),
        ({"plan": {"rules": [{"weights": "*", "pattern": "4x1", "density": 0}]}}, r"plan\.rules\.0\.density: .*got 0"),
        ({"plan": {"file": 3}}, r"plan\.file: .*got 3"),
        ({"plan": {"file": "plan.yaml", "density": 0.5}}, r"plan\.density: is not a field"),
        ({"name": None}, "name: .*got None"),
        ({"network": "digits_cnn"}, "network: .*got 'digits_cnn'"),
        ({"network": {"name": "digits_cnn", "width": 8}}, r"network\.width: is not a field"),
        ({"data": {"name": "digits", "std": [0.0]}}, r"data\.std\.0: .*got 0\.0"),
        ({"data": {"name": "digits", "held_out": -1}}, r"data\.held_out: .*got -1"),
        ({"method": {"update_every": 3}}, r"method\.name: is missing"),
        ({"method": {"name": "gradual", "ramp": 0}}, r"method\.ramp: .*got 0"),
        ({"method": {"name": "gradual", "rho": [0.1]}}, r"method\.rho: is not a field"),
        ({"method": {"name": "srste", "decay": -1}}, r"method\.decay: .*got -1"),
        ({"method": {"name": "group_lasso", "strength": "strong"}}, r"method\.strength: .*got 'strong'"),
        ({"method": {"name": "reweighted", "eps": 0}}, r"method\.eps: .*got 0"),
        ({"method": {"name": "reweighted", "alpha": "cube"}}, r"method\.alpha: .*got 'cube'"),
        ({"optimizer": {"lr": 0.1}}, r"optimizer\.name: is missing"),
        ({"optimizer": {"name": "adam", "lr": 0.1, "momentum": 0.9}}, r"optimizer\.momentum: is not a field"),
        ({"lr_schedule": {"decay": "step"}}, r"lr_schedule\.decay: .*got 'step'"),
        ({"lr_schedule": {"warmup": 1}}, r"lr_schedule\.warmup: .*got 1"),
        ({"label_smoothing": 1}, "label_smoothing: .*got 1"),
        ({"latency": {"batch": 0}}, r"latency\.batch: .*got 0"),
        ({"threads": 0}, "threads: .*got 0"),
        ({"threads": 100_000}, "threads: .*got 100000"),
        ({"checkpoint_every": 0}, "checkpoint_every: .*got 0"),
        ({"seeds": [2**70]}, r"seeds\.0: .*got 1180591620717411303424"),
        ({"method": {"name": "group_lasso", "groups": []}}, r"method\.groups: .*at least 1 item"),
        ({"clip_norm": 0}, "clip_norm: .*got 0"),
        ({"accumulate": 0}, "accumulate: .*got 0"),
        ({"accumulate": 3}, "accumulate: expected to cut batch_size 64 into equal parts .*, got 3"),
        ({"accumulate": 64}, "accumulate: .* parts of 2 or more pictures, got 64"),
        ({"pivot": True}, r"pivot: .*name a network\.checkpoint"),
        ({"seeds": ["first"]}, r"seeds\.0: .*got 'first'"),
        (
            {"method": {"name": "magic"}},
            "method: .*'gradual', 'admm', 'asp', 'srste', 'group_lasso', 'reweighted', 'spp'",
        ),
        ({"method": {"name": "admm", "harden_at": 1.0}}, r"method\.harden_at"),
        ({"method": {"name": "admm", "rho": []}}, r"method\.rho"),
        ({"method": {"name": "asp", "decay": 0.1}}, r"method\.decay: is not a field"),
        ({"method": {"name": "admm", "rho": {"*": [0.1], "fc": [0.0]}}}, r"method\.rho\.fc.*got 0"),
        ({"method": {"name": "admm", "tolerance": 0}}, r"method\.tolerance: .*got 0"),
        ({"method": {"name": "admm", "rounds": 0}}, r"method\.rounds: .*got 0"),
        ({"optimizer": {"name": "sgd", "lr": -1}}, r"optimizer\.lr: .*got -1"),
        ({"optimizer": {"name": "sgd", "lr": float("inf")}}, r"optimizer\.lr"),
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
        ({"network": {"name": "digits_cnn", "options": {"width": -1}}}, "network: "),
        ({"network": {"name": "digits_cnn", "checkpoint": __file__}}, r"network\.checkpoint: .*not a checkpoint"),
        ({"network": {"name": "resnet20"}}, r"network: it does not take the pictures of data\.name, \[1, 8, 8\]: "),
        ({"network": {"name": "bert_tiny"}}, r"network: it does not take the pictures"),
        ({"data": {"name": "cifar10"}}, r"data\.name: the data folder .*nowhere"),
        ({"output": "/"}, "output: / is a folder"),
        ({"output": f"{__file__}/result.json"}, "output: .* cannot be written, as .* is no folder"),
        ({"optimizer": {"name": "adam", "lr": 0.1, "betas": [1.0, 1.0]}}, "optimizer: Invalid beta"),
        ({"method": {"name": "group_lasso", "groups": ["4by1"]}}, "method: unknown pattern '4by1'"),
        ({"method": {"name": "reweighted", "reweight_at": [1.0]}}, "method: reweight_at: .*got \\(1\\.0,\\)"),
        ({"method": {"name": "admm", "harden_at": 1e-9}}, "method: each stage needs at least one step"),
        ({"data": {"name": "mnist"}}, r"data\.name: .*'mnist'.*cifar10, digits"),
        ({"data": {"name": "digits", "mean": [0.5, 0.5, 0.5]}}, r"data\.mean: expected 1 values"),
        ({"data": {"name": "digits", "held_out": 1400}}, r"batch_size: 64 and data\.held_out 1400"),
        ({"batch_size": 5000}, "batch_size: 5000"),
        ({"plan": {"pattern": "4by1", "density": 0.5}}, r"plan\.pattern: .*'4by1'"),
        ({"plan": {"pattern": "4x1", "density": 0.5, "skip": ["conv9*"]}}, r"plan: .*conv9"),
        ({"plan": {"pattern": "4x1"}}, r"plan\.density: pattern 4x1 needs a density"),
        ({"plan": {"pattern": "2:4", "density": 0.3}}, r"plan\.density: .*2:4"),
        (
            {"plan": {"pattern": "patterns4of8", "density": 0.3, "skip": []}},
            r"plan: linear\.weight \[10, 16\]: patterns4of8 needs kernels",
        ),
        ({"plan": {"rules": [{"weights": "conv9", "pattern": "4x1", "density": 0.5}]}}, r"plan\.rules\.0: .*'conv9'"),
        ({"plan": {"rules": [{"weights": "conv2", "pattern": "4by1"}]}}, r"plan\.rules\.0: .*'4by1'"),
        ({"plan": {"rules": [{"weights": "conv2", "pattern": None}]}}, r"plan\.rules: they leave every weight dense"),
        ({"plan": {"rules": [{"weights": "linear", "pattern": "1:99"}]}}, r"plan\.rules: linear\.weight .*99 neigh"),
        ({"plan": {"file": "none.yaml"}}, r"plan\.file: .*none\.yaml"),
        ({"method": {"name": "gradual", "schedule": "quartic"}}, r"method: .*'quartic'"),
        ({"method": {"name": "admm", "rho": [0.1] * 40}}, "method: each stage needs"),
        ({"method": {"name": "spp"}}, r"method: steps: 11 updates fit before masks are fixed at step 11"),
        ({"method": {"name": "spp"}, "plan": {"pattern": "2:4"}, "epochs": 9}, r"method: conv2\.weight: SPP ranks"),
        ({"method": {"name": "admm", "rho": {"conv9*": [0.1]}}}, r"method: rho\['conv9\*'\]: the glob meets no"),
        ({"plan": {"pattern": "int4", "density": 0.5}}, r"plan\.density: .*'4x1&int4'"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        run(_write(tmp_path, **changes), runs=tmp_path / "runs", data=tmp_path / "nowhere")
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


@pytest.mark.parametrize("content", [3, {"state_dict": [1]}, {"state_dict": {1: 2}}])
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    import torch

    torch.save(content, tmp_path / "other.th")
    network = {"name": "digits_cnn", "checkpoint": str(tmp_path / "other.th")}
    with pytest.raises(RecipeError, match=r"network\.checkpoint: .*not a checkpoint"):
        gather(read_recipe(_write(tmp_path, network=network)), "recipe.yaml")


def test_a_network_that_cannot_be_traced_is_not_pivoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from monstera.zoo.digits_cnn import DigitsCNN

    class Branching(DigitsCNN):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if float(x.sum()) > 0 else super().forward(-x)

    monkeypatch.setattr("monstera.recipe.ingredients.network", lambda _: Branching(8, 10))
    torch.save({"state_dict": Branching(8, 10).state_dict()}, tmp_path / "dense.th")
    network = {"name": "branching", "checkpoint": str(tmp_path / "dense.th")}
    with pytest.raises(RecipeError, match="pivot: "):
        run(_write(tmp_path, network=network, pivot=True), runs=tmp_path / "runs")
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
    silent, loud = (read_recipe(_write(tmp_path, **more)) for more in ({}, {"clip_norm": 1.0, "accumulate": 2}))
    assert not {"clip_norm", "accumulate"} & silent.model_dump().keys()
    assert fingerprint(silent) != fingerprint(loud)


def test_the_device_is_no_part_of_what_a_result_or_checkpoint_is_of(tmp_path: Path) -> None:
    here, there = (read_recipe(_write(tmp_path, **more)) for more in ({}, {"device": "cuda"}))
    assert fingerprint(here) == fingerprint(there)
    assert "device" not in here.model_dump(mode="json")
    assert there.model_dump(mode="json")["device"] == "cuda"


@WITHOUT_GPU
def test_a_gpu_that_is_not_there_is_refused_by_the_field(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="device: torch sees no CUDA GPU here"):
        run(_write(tmp_path, device="cuda"), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


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
    same = read_recipe(
        path, {"output": "other.json", "seeds": [4], "latency.threads": 2, "threads": 2, "divergence_every": 5}
    )
    assert fingerprint(read_recipe(path)) == fingerprint(same)
    for name, value in (("epochs", 2), ("optimizer.lr", 0.2), ("plan.density", 0.25), ("augmentation.flip", True)):
        assert fingerprint(read_recipe(path, {name: value})) != fingerprint(same)


RULES = [
    {"weights": "conv*", "pattern": "4x1", "density": 0.5},
    {"weights": "conv1", "pattern": None},
    {"weights": "linear", "pattern": "2:4"},
]


def _plan_of(tmp_path: Path, plan: dict[str, Any]) -> Plan:
    return gather(read_recipe(_write(tmp_path, plan=plan)), str(tmp_path / "recipe.yaml")).plan


def test_rules_by_glob_make_a_plan_and_later_ones_win(tmp_path: Path) -> None:
    plan = _plan_of(tmp_path, {"rules": RULES})
    four, two = Entry("4x1", 0.5), Entry("2:4")
    assert dict(plan) == {"conv2.weight": four, "conv3.weight": four, "linear.weight": two}
    again = _plan_of(tmp_path, {"rules": [*RULES, {"weights": "conv*", "pattern": "8x1", "density": 0.25}]})
    assert dict(again) == {
        **dict.fromkeys(["conv2.weight", "conv3.weight", "conv1.weight"], Entry("8x1", 0.25)),
        "linear.weight": two,
    }


def test_a_plan_file_is_found_beside_the_recipe(tmp_path: Path) -> None:
    saved = Plan({"conv2.weight": ("4x1", 0.25), "linear.weight": ("2:4",)})
    saved.save(tmp_path / "plan.yaml")
    assert _plan_of(tmp_path, {"file": "plan.yaml"}) == saved
    assert _plan_of(tmp_path, {"file": str(tmp_path / "plan.yaml")}) == saved


def test_a_plan_file_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    Plan({"conv9.weight": ("4x1", 0.25)}).save(tmp_path / "plan.yaml")
    with pytest.raises(RecipeError, match=r"plan\.file: conv9\.weight"):
        _plan_of(tmp_path, {"file": "plan.yaml"})


def test_the_order_of_rules_changes_the_fingerprint(tmp_path: Path) -> None:
    one, other = (fingerprint(read_recipe(_write(tmp_path, plan={"rules": rules}))) for rules in (RULES, RULES[::-1]))
    assert one != other
