"""The page that compares methods, from results made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monstera.measure import to_json
from monstera.report import comparison_page, documents, read_results
from report.example import COMPARISON


def result(variant: str, density: float, mean: float, **changes: Any) -> dict[str, Any]:
    return {
        "format": "monstera.recipe.1",
        "cell": {"study": "lenet", "variant": variant, "density": density, "values": {}},
        "accuracy": {
            "tested_on": "10000 test pictures",
            "dense": 0.91,
            "sparse_mean": mean,
            "sparse_std": 0.0012,
            "sparse_min": mean - 0.001,
            "sparse_max": mean + 0.001,
        },
        "density": {"planned_weights": density, "all_parameters": 0.27},
        "seeds": [{}, {}],
        "recipe": {
            "network": {"name": "lenet5"},
            "data": {"name": "fashion_mnist"},
            "plan": {"pattern": "4x1"},
            "epochs": 5,
        },
        "machine": {"cpu": "Some CPU", "packages": {"torch": "2.13.0"}},
        "storage": {
            "dense": 10240,
            "rest": 1024,
            "forms": {"dense": {"values": 9216, "index": 0}, "BSR": {"values": 2048, "index": 512}},
        },
        "latency": None,
        **changes,
    }


def write(root: Path, *results: dict[str, Any]) -> None:
    folder = root / "recipes" / "lenet" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "study.yaml").touch()
    for made in results:
        cell = made["cell"]
        (folder / f"lenet-{cell['variant']}-{cell['density']:g}.json").write_text(json.dumps(made))


def page(root: Path) -> str:
    return comparison_page(read_results(root)) or ""


def test_a_plan_by_rules_is_named_by_its_patterns(tmp_path: Path) -> None:
    made = result("mixed", 0.25, 0.9, plan={"a": "4x1 at density 0.25", "b": "2:4 at density 0.5"})
    made["recipe"]["plan"] = {"rules": []}
    write(tmp_path, made)
    assert "| mixed | 4x1/2:4 |" in page(tmp_path)


def test_plans_of_files_stand_under_no_density(tmp_path: Path) -> None:
    filed = result("rules", 0.25, 0.9, plan={"a": "4x1 at density 0.25"})
    filed["recipe"]["plan"] = {"file": "rules.yaml"}
    write(tmp_path, filed, result("admm", 0.25, 0.8))
    text = page(tmp_path)
    places = [text.index(part) for part in ("**Density 0.25**", "| admm |", "**Plans of files**", "| rules |")]
    assert places == sorted(places)


def test_what_was_trained_on_a_gpu_names_it_in_the_place_of_the_processor(tmp_path: Path) -> None:
    write(tmp_path, result("admm", 0.25, 0.9, seeds=[{"training_gpu": "Some GPU"}]))
    assert "pictures; Some GPU; torch" in page(tmp_path)
    write(tmp_path, result("gradual", 0.25, 0.9))
    assert "pictures; Some CPU or Some GPU; torch" in page(tmp_path)


def test_without_a_study_there_is_no_page(tmp_path: Path) -> None:
    assert comparison_page(read_results(tmp_path)) is None


def test_rows_are_in_the_order_of_accuracy_under_their_density(tmp_path: Path) -> None:
    write(tmp_path, result("admm", 0.25, 0.9), result("gradual", 0.25, 0.905), result("admm", 0.0625, 0.8))
    text = page(tmp_path)
    places = [text.index(part) for part in ("**Density 0.25**", "| gradual |", "| admm |", "**Density 0.0625**")]
    assert places == sorted(places)
    assert "| admm | 4x1 | 0.270 | 2 | 80.00% ± 0.12 | 79.90% to 80.10% | -11.00 | 3.5 (BSR) | 0.350 |  |" in text
    assert "lenet5 on fashion_mnist; 5 epochs; 10000 test pictures; Some CPU; torch 2.13.0." in text
    assert "Source: [`recipes/lenet`](../../recipes/lenet)" in text


def test_one_seed_has_no_spread_and_the_dense_network_no_difference_to_itself(tmp_path: Path) -> None:
    made = result("dense", 1.0, 0.91, seeds=[{}])
    made["accuracy"] |= {"dense": None, "sparse_std": None}
    write(tmp_path, made)
    assert "| dense |  | 0.270 | 1 | 91.00% |  |  | 3.5 (BSR) | 0.350 |  |" in page(tmp_path)


def test_what_was_timed_has_the_time_of_the_compiled_sparse_network(tmp_path: Path) -> None:
    write(tmp_path, result("admm", 0.25, 0.9, latency=to_json(COMPARISON)))
    text = page(tmp_path)
    assert "| 0.350 | 0.250 |" in text
    assert f"torch 2.13.0; ms on {COMPARISON.machine.cpu}. Source" in text


def test_what_was_tried_is_shown_with_what_was_chosen(tmp_path: Path) -> None:
    write(tmp_path, result("admm", 0.25, 0.9))
    tries = [{"value": 0.1, "accuracy": 0.88}, {"value": 0.3, "accuracy": 0.89}]
    chosen = {
        "format": "monstera.chosen.1",
        "trials": {"data.held_out": 5000},
        "values": {"admm-0.25": {"field": "method.rho", "value": 0.3, "tries": tries}},
    }
    (tmp_path / "recipes" / "lenet" / "chosen.json").write_text(json.dumps(chosen))
    text = page(tmp_path)
    assert "held out (data.held_out = 5000)" in text
    assert "| admm-0.25 | `method.rho` | 0.1: 88.00% | **0.3: 89.00%** |" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json: not JSON \(Expecting"),
        ('{"format": "x"}', r"a\.json: expected a result of format"),
        ('{"format": "monstera.recipe.1"}', r"a\.json: the result of a recipe that is no part of a study"),
    ],
)
def test_a_damaged_result_is_named(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path)
    (tmp_path / "recipes" / "lenet" / "results" / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        page(tmp_path)


def test_results_of_what_is_no_study_are_left_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "recipes" / "npas" / "results"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text('{"format": "monstera.npas.1"}')
    assert page(tmp_path) == ""


def test_the_page_is_among_the_documents_that_are_made(tmp_path: Path) -> None:
    write(tmp_path, result("admm", 0.25, 0.9))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:begin -->\n<!-- results:end -->")
    assert documents(readme)[tmp_path / "docs" / "methods" / "comparison.md"].startswith(b"# Methods compared")
