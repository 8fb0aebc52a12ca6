"""The studies that are committed can be run, and their results are theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monstera.recipe import read_study
from monstera.recipe.choosing import read_chosen
from monstera.recipe.plans import make_plan
from monstera.recipe.reading import replaced
from monstera.recipe.result import done
from monstera.recipe.study import finals, trials
from monstera.sparsity import Plan, layers_with_shortcut
from monstera.zoo import network, resnet20

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted(path.relative_to(ROOT) for path in ROOT.glob("recipes/*/study.yaml"))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", STUDIES, ids=str)
def test_every_committed_result_is_that_of_a_recipe_of_its_study(path: Path) -> None:
    study = read_study(path)
    chosen = read_chosen(path)
    ready = [name for name, v, d in study.cells() if not v.tries or study.tried_at(name, d) in chosen]
    wanted = finals(study, path, chosen, ready) if ready else []
    cells = {Path(cell.recipe.output): cell for cell in [*trials(study, path), *wanted]}
    committed = [*path.parent.glob("results/*.json"), *path.parent.glob("trials/*.json")]
    assert all(done(cells[result].recipe) for result in committed)


def test_the_core_of_cifar10_has_three_seeds_and_equal_trials() -> None:
    path = Path("recipes/cifar10/study.yaml")
    study = read_study(path)
    core = ("gradual", "admm", "reweighted")
    assert tuple(name for name, variant in study.variants.items() if variant.tries) == core
    firsts = {f"{name}-0.25": values[0] for name in core for values in study.variants[name].tries.values()}
    cells = {cell.recipe.name: cell.recipe for cell in finals(study, path, firsts)}
    three = {name for name, recipe in cells.items() if recipe.seeds == (0, 1, 2)}
    assert three == {f"cifar10-{name}-0.25" for name in (*core, "gradual_long", "resnet56")}
    assert {recipe.seeds for name, recipe in cells.items() if name not in three} == {(0,)}
    # Narrower networks start from nothing.
    scratch = {name for name, recipe in cells.items() if not recipe.network.checkpoint}
    assert scratch == {f"cifar10-narrow_{width}-1" for width in (12, 8, 6)}
    epochs = {name: recipe.epochs for name, recipe in cells.items() if name not in scratch}
    assert epochs.pop("cifar10-gradual_long-0.25") == 60
    assert set(epochs.values()) == {10}
    assert {cells[name].epochs for name in scratch} == {30}


def test_lenet_compares_methods_at_two_densities_with_five_seeds_and_equal_trials() -> None:
    path = Path("recipes/lenet/study.yaml")
    study = read_study(path)
    assert study.densities == (0.25, 0.0625)
    assert all(variant.tries and variant.densities is None for variant in study.variants.values())
    assert {cell.recipe.data.held_out for cell in trials(study, path)} == {5000}
    assert study.recipe["seeds"] == [0, 1, 2, 3, 4]
    assert not any("seeds" in variant.set for variant in study.variants.values())


def test_the_depth_of_resnet20_is_that_of_all_layers_beside_a_shortcut() -> None:
    study = read_study(Path("recipes/cifar10/study.yaml"))
    plan = replaced(study.recipe, study.variants["ssl_depth"].set)["plan"]
    model = resnet20()
    planned = Plan.uniform(model, plan["pattern"], 0.5)
    assert sorted(planned) == sorted(layers_with_shortcut(model, torch.zeros(1, 3, 32, 32)))


@pytest.mark.parametrize("path", STUDIES, ids=str)
def test_every_plan_of_a_study_fits_its_network(path: Path) -> None:
    study = read_study(path)
    firsts = {study.tried_at(n, d): values[0] for n, v, d in study.cells() for values in v.tries.values()}
    for cell in finals(study, path, firsts):
        make_plan(cell.recipe.plan, network(cell.recipe.network.name, **cell.recipe.network.options), path.parent)
