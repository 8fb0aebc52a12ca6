"""The CIFAR-10 recipe fits its data, and what is committed of it is true."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import torch

from monstera.recipe.ingredients import Ingredients, gather
from monstera.recipe.reading import fingerprint, read_recipe
from monstera.recipe.result import read_result
from monstera.recipe.schema import Recipe
from monstera.training import count_correct
from monstera.zoo import network
from monstera.zoo.data import DataMissingError, data_root

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
RECIPE = RECIPES / "cifar10_resnet20.yaml"
RESULT = RECIPES / "results" / "cifar10_resnet20.json"
WEIGHTS = RESULT.with_suffix(".safetensors")
FEW = 2000


@pytest.fixture(scope="module")
def things() -> Ingredients:
    try:
        root = data_root()
    except DataMissingError as error:
        pytest.skip(str(error))
    # Where there is a data folder, a missing file is a failure and no reason to skip.
    return gather(read_recipe(RECIPE), str(RECIPE), root)


def test_the_recipe_fits_its_network_and_data(things: Ingredients) -> None:
    assert (len(things.train), len(things.test)) == (50_000, 10_000)
    assert len(things.plan) == 18


def test_the_committed_result_reaches_its_target() -> None:
    result = read_result(RESULT)
    recipe = read_recipe(RECIPE)
    # Fields that came later have their defaults in what was run.
    assert Recipe.model_validate(result["recipe"]) == recipe
    assert recipe.epochs <= 10
    assert (recipe.plan.pattern, recipe.plan.density) == ("4x1", 0.25)
    assert result["accuracy"]["tested_on"] == "10000 test pictures"
    assert result["accuracy"]["dense"] == pytest.approx(0.9173, abs=2e-4)
    assert [seed["seed"] for seed in result["seeds"]] == [0, 1, 2]
    assert result["accuracy"]["sparse_mean"] >= 0.895


def test_the_committed_weights_are_those_of_the_result() -> None:
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == read_result(RESULT)["weights"]["sha256"]
    with safetensors.safe_open(WEIGHTS, framework="pt") as file:
        assert file.metadata()["fingerprint"] == fingerprint(read_recipe(RECIPE))


def test_the_committed_weights_obey_the_plan_and_score_what_they_should(things: Ingredients) -> None:
    model = network("resnet20")
    model.load_state_dict(safetensors.torch.load_file(WEIGHTS))
    assert things.plan.verify(model).ok
    correct, _ = count_correct(model, things.batches(things.test.take(torch.arange(FEW))))
    assert correct / FEW == pytest.approx(read_result(RESULT)["seeds"][0]["accuracy"], abs=0.015)
