"""NPAS from a file: the committed ones are sound and differ in what they say, and wrong ones are refused at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from monstera.cli import app
from monstera.recipe import Npas, RecipeError, run_npas
from monstera.recipe import npas as module
from monstera.recipe.npas import make_npas_result
from monstera.recipe.reading import checked, read_fields
from monstera.search import Candidate, GoalError, Objective, read_pareto
from monstera.search.npas import (
    Base,
    Evaluated,
    Found,
    LayerChoice,
    NpasSettings,
    Outcome,
    Scheme,
    SchemeSearchResult,
    SchemeSpace,
    Stage,
)
from monstera.sparsity import Plan
from monstera.zoo import network
from monstera.zoo.data import Pictures, PictureSet

FOLDER = Path(__file__).parents[2] / "recipes" / "npas"
ABLATIONS = {
    "no_screening": {"search": {"screening": (True, False)}},
    "macs": {"search": {"cost": ("ms", "macs")}},
    "one_pattern": {"patterns": (("filter", "patterns4of8", "4x1"), ("4x1",))},
}


def _config(name: str) -> Npas:
    path = FOLDER / f"{name}.yaml"
    return checked(Npas, read_fields(path), str(path))


def test_the_committed_run_builds_what_it_names() -> None:
    config = _config("fashion_mnist")
    settings = config.settings()
    assert settings.search.evaluations >= 40
    assert len(settings.seeds) >= 3
    assert sum(holes is not None for holes in settings.baselines.values()) == 2
    assert settings.baselines["dense"] is None
    model = network(config.network.name, **config.network.options)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_differs_from_the_run_in_one_thing(name: str) -> None:
    whole, other = (_config(one).settings() for one in ("fashion_mnist", name))
    changed: dict[str, Any] = {}
    for field in NpasSettings.__slots__:
        one, two = getattr(whole, field), getattr(other, field)
        if field == "search":
            inner = {f: (getattr(one, f), getattr(two, f)) for f in type(one).__slots__}
            changed |= (
                {"search": diff} if (diff := {f: pair for f, pair in inner.items() if pair[0] != pair[1]}) else {}
            )
        elif one != two and field not in ("baselines", "base_from"):
            changed[field] = (one, two)
    assert changed == ABLATIONS[name]
    config = _config(name)
    # It begins with what the whole run has trained.
    assert config.base_from == _config("fashion_mnist").output
    assert config.network.checkpoint == f"{_config('fashion_mnist').output}/pretrained.safetensors"
    assert config.output != _config("fashion_mnist").output


def test_everything_that_is_wrong_is_named_before_anything_is_read(tmp_path: Path) -> None:
    fields = read_fields(FOLDER / "fashion_mnist.yaml") | {"methods": ["asp", "gradul"], "data": {"name": "digits"}}
    fields |= {"network": {"name": "fused_mobilenet", "checkpoint": "net.safetensors"}}
    path = tmp_path / "npas.yaml"
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(RecipeError) as raised:
        run_npas(path)
    found = raised.value.problems
    assert [problem.partition(":")[0] for problem in found] == [
        "methods",
        "pretraining",
        "network.checkpoint",
        "data.held_out",
    ]
    assert "did you mean 'gradual'" in found[0]
    with pytest.raises(RecipeError, match=r"fast\.epochs: Input should be less than or equal to 2, got 5"):
        run_npas(path, overrides={"fast.epochs": 5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baselines.thin": {"of": "narow"}, "rivals.narrow.name": "lenet5"}, r"baselines\.thin\.of: 'narow'; did you"),
        ({"baselines.thin": {"density": 0.5}}, "expected a pattern with its density, or neither"),
        ({"baselines.thin": {}}, "expected holes, a rival or both"),
    ],
)
def test_a_baseline_of_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run_npas(FOLDER / "fashion_mnist.yaml", overrides=changes)


def _found() -> Found:
    scheme = Scheme((LayerChoice("1x1", "4x1", 0.5), LayerChoice("skip")))
    outcome = Outcome(0.8, 0.1, 1000)
    searched = SchemeSearchResult(Objective(0.2), "ms", (Evaluated(scheme, outcome, 0.8, 0),))
    times = {"original": [3.0, 4.0, 5.0], "npas": [2.0, 1.0, 3.0], "dense": [4.0, 3.0, 5.0], "thin": [1.0, 2.5, 1.5]}
    result = {
        "latency": {"rows": [{"weights": name, "timing": {"rounds_ms": ms}} for name, ms in times.items()]},
        "phase3": {name: {"accuracy_mean": value} for name, value in (("npas", 0.9), ("thin", 0.8), ("dense", 0.88))},
    }
    model = torch.nn.Linear(2, 2)
    plan = Plan({"layer.weight": ("4x1", 0.5)})
    space = SchemeSpace([Stage(name, 2, 2, "1x1", patterns=["4x1"], densities=[0.5]) for name in ("layer", "last")])
    return Found(model, plan, scheme, Base(model.eval(), space, {}), {}, searched, result)


def test_the_result_says_against_whom_the_network_is_better_in_both() -> None:
    written = make_npas_result(_found(), _config("fashion_mnist"), "monstera npas net.yaml")
    against = written["against"]
    assert list(against) == ["dense", "thin"]
    assert against["dense"] == {"accuracy_points": pytest.approx(2.0), "times_faster": 2.0, "dominated": True}
    assert against["thin"] == {"accuracy_points": pytest.approx(10.0), "times_faster": 0.75, "dominated": False}
    assert written["command"] == "monstera npas net.yaml"
    assert written["scheme"] == [["1x1", "4x1", 0.5], ["skip", None, 1.0]]
    assert written["plan"] == {"layer.weight": "4x1 at density 0.5"}
    assert written["evaluated"] == [
        {"scheme": written["scheme"], "accuracy": 0.8, "ms": 0.1, "macs": 1000, "reward": 0.8}
    ]
    assert json.loads(json.dumps(written))["config"]["subset"] == 6000


def test_the_network_is_trained_once_and_pictures_are_kept_apart(tmp_path: Path, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)

    def pictures(count: int) -> Pictures:
        images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
        return Pictures(images, torch.arange(count) % 2)

    data = PictureSet("lights", pictures(40), pictures(10), (0.5,), (0.25,), ("dark", "light"))
    given: list[Any] = []
    monkeypatch.setattr(module, "data_set", lambda *_: data)
    rivals: list[Any] = []

    def found(*arguments: Any, **options: Any) -> Found:
        given.append(arguments)
        rivals.append(options["rivals"])
        return _found()

    monkeypatch.setattr(module, "npas", found)
    fields = read_fields(FOLDER / "fashion_mnist.yaml")
    fields |= {"output": str(tmp_path / "run"), "result": str(tmp_path / "result.json")}
    options = {"classes": 2, "width": 4, "blocks": [1]}
    fields |= {"network": {"name": "fused_mobilenet", "options": options}, "data": {"name": "lights", "held_out": 8}}
    fields |= {"pretraining": {"epochs": 1, "lr": 0.1, "batch_size": 8}}
    fields |= {"subset": 16, "fast": {"lr": 0.03, "batch_size": 8}}
    fields |= {name: fields[name] | {"batch_size": 8} for name in ("tune", "short", "full")}
    fields |= {"rivals": {"narrow": {"name": "fused_mobilenet", "options": options | {"width": 2}}}}
    half = {"pattern": "filter", "density": 0.5}
    fields |= {"baselines": {"dense": None, "half": half, "narrow": {"of": "narrow"}, "less": {"of": "narrow"} | half}}
    path = tmp_path / "npas.yaml"
    path.write_text(yaml.safe_dump(fields))

    def out_of_reach(*_: Any) -> None:
        raise GoalError("budget: ask for 0.7 or more", 0.7)

    monkeypatch.setattr(module, "check_reach", out_of_reach)
    with pytest.raises(GoalError):
        run_npas(path)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(module, "check_reach", lambda *_: None)
    for _ in range(2):
        run_npas(path)
        monkeypatch.setattr(module, "train", None)
    with pytest.raises(ValueError, match=r"trained otherwise \(pretraining\.epochs was 1, now 2\)"):
        run_npas(path, overrides={"pretraining.epochs": 2})
    wrong = {"full.batch_size": 33, "subset": 60, "baselines": {"few": {"pattern": "2:4", "density": 0.3}}}
    with pytest.raises(RecipeError) as raised:
        run_npas(path, overrides=wrong)
    told = str(raised.value)
    assert all(field in told for field in ("full.batch_size: expected at most the 32", "subset: ", "baselines.few: "))
    with pytest.raises(RecipeError, match=r"filters: '5x5'; known: 3x3, "):
        run_npas(path, overrides={"filters": ["3x3", "5x5"]})
    with pytest.raises(RecipeError, match=r"result: .* is a folder"):
        run_npas(path, overrides={"result": str(tmp_path)})
    (model, split, settings, folder), (again, *_) = given
    assert (len(split.train), len(split.held_out), len(split.test)) == (32, 8, 10)
    assert folder == str(tmp_path / "run")
    assert settings == checked(Npas, fields, str(path)).settings()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert settings.baselines == {"dense": None, "half": ("filter", 0.5)}
    assert {name: rival.holes for name, rival in rivals[0].items()} == {"narrow": None, "less": ("filter", 0.5)}
    first, other = (one["narrow"].model.state_dict() for one in rivals)
    assert any(name.endswith("num_batches_tracked") and value > 0 for name, value in first.items())
    assert all(torch.equal(value, other[name]) for name, value in first.items())
    assert json.loads((tmp_path / "result.json").read_text())["against"]["dense"]["dominated"]
    front = read_pareto(tmp_path / "result.pareto.json")
    assert front.network == "fused_mobilenet"
    assert front.candidates == (Candidate("search by npas", Plan({"layer.weight": ("4x1", 0.5)}), 0.8, 0.1),)
    assert torch.equal(split.test.images, (data.test.images.float() / 255 - 0.5) / 0.25)


def test_the_command_passes_on_what_it_is_told(monkeypatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("monstera.recipe.run_npas", lambda *arguments, **options: given.append((arguments, options)))
    told = [
        "npas",
        "net.yaml",
        "--set",
        "search.seed=1",
        "--set",
        "patterns=[4x1]",
        "--workers",
        "2",
        "--measure-again",
    ]
    assert CliRunner().invoke(app, told).exit_code == 0
    options = {"overrides": {"search.seed": 1, "patterns": ["4x1"]}, "data": None, "workers": 2, "measure_again": True}
    assert given == [((Path("net.yaml"),), options)]
