"""A search for the network of a recipe: judged by held-out pictures alone, its plans and fronts in files."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from rich.console import Console
from torch.nn import functional as F
from typer.testing import CliRunner

from monstera.cli import app
from monstera.recipe import Judging, RecipeError, Searching, read_recipe, run_search
from monstera.recipe import searching as searching_module
from monstera.recipe.ingredients import gather, make_network
from monstera.recipe.judging import judge
from monstera.search import Goal, read_pareto, read_search
from monstera.search.costs.costing import network_costs
from monstera.search.costs.subject import subject_of
from monstera.search.costs.table import Rest
from monstera.sparsity import Plan
from monstera.zoo import digits_cnn
from monstera.zoo.data import Pictures, PictureSet, digits
from search.affine import Affine
from search.costs.made import lawful_table

ROOT = Path(__file__).resolve().parents[2]
JUDGING = Judging(pictures=150, statistics=4, batch=50)


def write_recipe(folder: Path, **fields: Any) -> Path:
    recipe = {
        "name": "digits",
        "network": {"name": "digits_cnn", "options": {"width": 16}, "checkpoint": str(folder / "start.safetensors")},
        "data": {"name": "digits", "held_out": 200},
        "plan": {"pattern": "4x1", "density": 0.25},
        "method": {"name": "gradual"},
        "epochs": 1,
        "batch_size": 32,
        "optimizer": {"name": "adam", "lr": 0.01},
        "output": str(folder / "digits.json"),
        **fields,
    }
    (folder / "digits.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "digits.yaml"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has seen the digits for a second."""
    torch.manual_seed(0)
    model, data = digits_cnn(width=16), digits()
    images = (data.train.images.float() / 255 - data.mean[0]) / data.std[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(60):
        some = torch.arange(step * 32, step * 32 + 32) % len(images)
        optimizer.zero_grad()
        F.cross_entropy(model(images[some]), data.train.labels[some]).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("search")
    safetensors.torch.save_file(model.state_dict(), folder / "start.safetensors")
    return folder


@pytest.fixture
def costs_without_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching_module, "_costs", lambda _, model, *__: Affine.of(model))


@pytest.mark.usefixtures("costs_without_a_machine")
def test_every_study_leaves_its_trials_and_plan_and_all_of_them_one_front(start: Path) -> None:
    pytest.importorskip("optuna")
    path, text = write_recipe(start), io.StringIO()
    found = run_search(
        path,
        Goal(speedup=1.25),
        Searching(
            samplers=("random", "rl"),
            trials=4,
            patterns=("4x1", "unstructured"),
            densities=(0.5, 0.25),
            storage=str(start / "studies.db"),
            folder=start / "found",
        ),
        judging=JUDGING,
        console=Console(file=text, width=200),
    )
    assert read_pareto(start / "found" / "digits.pareto.json") == found
    assert found.candidates[0].source == "dense"
    assert found.candidates[0].accuracy > 0.8
    assert list(found.curves) == ["digits-random-0", "digits-rl-0"]
    assert all(len(curve) == 4 for curve in found.curves.values())
    for name in found.curves:
        result = read_search(start / "found" / f"{name}.json")
        assert len(result.trials) == 4
        assert result.objective.budget == pytest.approx(result.dense_ms / 1.25)
        assert result.objective.chance == 0.1
        assert Plan.load(start / "found" / f"{name}.yaml") == result.plan
    assert found.chosen is not None
    assert found.candidates[found.chosen].ms <= found.latency_ms
    assert "digits-rl-0: trial 4 of 4, best reward" in text.getvalue()


def pictures(first: int, count: int) -> Pictures:
    """Pictures that all differ: each says its number."""
    numbers = torch.arange(first, first + count)
    images = torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8).repeat(1, 32).reshape(count, 1, 8, 8)
    return Pictures(images, numbers % 10)


def test_judges_are_held_out_of_what_batch_norm_and_tuning_see_and_test_pictures_are_not_looked_at(start: Path) -> None:
    everything = PictureSet("digits", pictures(0, 1000), pictures(1000, 300), (0.0,), (1.0,), tuple("0123456789"))
    path = write_recipe(start)
    things = gather(read_recipe(path), str(path), read=lambda *_: everything)
    fast = judge(things, Judging(pictures=150, statistics=4, batch=50, tuning_steps=6))

    def numbers(images: torch.Tensor) -> set[int]:
        flat = (images.flatten(1) * 255).round().int()
        return set((flat[:, 0] * 256 + flat[:, 1]).tolist())

    judges = set().union(*(numbers(images) for images, _ in fast.held_out))
    assert fast.examples is not None
    seen = numbers(fast.examples.images).union(*map(numbers, fast.statistics))
    assert (len(judges), len(seen)) == (150, 300)
    assert judges.isdisjoint(seen)
    assert max(judges | seen) < 1000


def test_a_recipe_without_held_out_pictures_or_weights_is_refused_with_both(start: Path) -> None:
    pytest.importorskip("optuna")
    path = write_recipe(start, data={"name": "digits"}, network={"name": "digits_cnn"})
    with pytest.raises(RecipeError, match=r"(?s)data\.held_out: .*150.*got 0.*network\.checkpoint: "):
        run_search(path, Goal(speedup=2), Searching(), judging=JUDGING)


def test_what_no_study_could_be_run_with_is_refused_before_anything_is_read(start: Path, monkeypatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr(searching_module, "gather", None)
    with pytest.raises(ValueError, match="no sampler is called 'evolutoin'; did you mean 'evolution'"):
        Searching(samplers=("rl", "evolutoin"))
    with pytest.raises(ValueError, match="expected 1 or more, got trials 0"):
        Searching(trials=0)
    with pytest.raises(ValueError, match="a sampler and a seed at least"):
        Searching(seeds=())
    with pytest.raises(FileNotFoundError, match=r"no\.yaml"):
        run_search(write_recipe(start), Goal(speedup=2), Searching(first=(Path("no.yaml"),)))
    with pytest.raises(ValueError, match=r"a budget of time, speedup or latency_ms; got density 0\.3"):
        run_search(write_recipe(start), Goal(density=0.3), Searching())


def test_a_search_that_goes_on_has_the_costs_that_it_was_begun_with(tmp_path: Path, monkeypatch) -> None:
    recipe = read_recipe(write_recipe(tmp_path))
    model, example = make_network(recipe, None, 0).eval(), torch.zeros(1, 1, 8, 8)
    table = lawful_table([subject_of(model, example, 1)])
    asked: list[Any] = []

    def measured(*_: Any, **how: Any) -> Any:
        """This machine knows twice as much each time."""
        asked.append(how)
        rest = Rest(0.01 * 2 ** len(asked), 4000, 0)
        return network_costs(subject_of(model, example, 1), replace(table, rests=dict.fromkeys(table.rests, rest)))

    monkeypatch.setattr(searching_module, "costs_of", measured)

    def costs(patterns: tuple[str, ...] = ("4x1",), table: Path | None = None) -> Any:
        asked = Searching(patterns=patterns, table=table, folder=tmp_path / "found")
        return searching_module._costs(recipe, model, example, asked)

    first = costs()
    assert costs() == first
    assert len(asked) == 1
    # What was not measured for this search is not taken from there.
    assert costs(("8x1",)).rest_ms != first.rest_ms
    costs(table=Path("phone.json"))
    assert [how.get("table") for how in asked] == [None, None, Path("phone.json")]
    assert len([*(tmp_path / "found").iterdir()]) == 2


def test_the_command_passes_on_what_it_is_told(monkeypatch) -> None:
    pytest.importorskip("optuna")
    given: list[Any] = []
    monkeypatch.setattr("monstera.recipe.run_search", lambda *arguments, **options: given.append((arguments, options)))
    told = "search net.yaml --speedup 2.5 --sampler rl --sampler tpe --seed 1 --trials 9 --pattern 4x1 --density 0.25"
    told += " --first plan.yaml --workers ray --threads 2 --folder out --pictures 300 --set data.held_out=400"
    assert CliRunner().invoke(app, told.split()).exit_code == 0
    searching = Searching(
        samplers=("rl", "tpe"),
        seeds=(1,),
        trials=9,
        patterns=("4x1",),
        densities=(0.25,),
        first=(Path("plan.yaml"),),
        workers="ray",
        threads=2,
        folder=Path("out"),
    )
    options = {"judging": Judging(pictures=300), "overrides": {"data.held_out": 400}, "data": None}
    assert given == [((Path("net.yaml"), Goal(speedup=2.5), searching), options)]
    assert list(searching.pairs) == [("rl", 1), ("tpe", 1)]
    for goals in ([], ["--speedup", "2", "--latency-ms", "3"]):
        shown = CliRunner().invoke(app, ["search", "net.yaml", *goals])
        assert "one goal, speedup, latency_ms or density" in " ".join(shown.stderr.split())


def test_the_committed_recipe_is_one() -> None:
    recipe = read_recipe(ROOT / "recipes" / "search" / "cifar10_resnet20.yaml")
    assert recipe.data.held_out >= Judging().pictures
