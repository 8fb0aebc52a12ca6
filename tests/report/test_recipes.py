import json
from pathlib import Path
from typing import Any

import pytest

from monstera.measure import to_json
from monstera.report.recipes import recipe_table
from report.example import COMPARISON


def result(**changes: Any) -> dict[str, Any]:
    return {
        "format": "monstera.recipe.1",
        "name": "cifar10_resnet20",
        "accuracy": {"dense": 0.9173, "sparse_mean": 0.901, "sparse_std": 0.001},
        "density": {"planned_weights": 0.25, "all_parameters": 0.2714},
        "seeds": [{}, {}, {}],
        "recipe": {"plan": {"pattern": "4x1", "density": 0.25}},
        "latency": to_json(COMPARISON),
        **changes,
    }


def test_a_recipe_is_one_line_of_accuracy_and_time(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(result()))
    (line,) = recipe_table([path]).lines
    assert line[:7] == ("cifar10_resnet20", "4x1", "0.250", "0.271", "3", "91.73%", "90.10% ± 0.10%")
    assert line[7:] == ("2.00 (openvino)", "1.60", "0.250", "8.00x")


def test_a_recipe_that_was_not_timed_or_ran_once_from_scratch_says_so(tmp_path: Path):
    path = tmp_path / "a.json"
    accuracy = {"dense": None, "sparse_mean": 0.9, "sparse_std": None}
    path.write_text(json.dumps(result(latency=None, accuracy=accuracy, seeds=[{}])))
    (line,) = recipe_table([path]).lines
    assert line[4:] == ("1", "", "90.00%", "not measured", "", "", "")


def test_a_plan_of_several_rules_is_named_by_its_patterns(tmp_path: Path):
    path = tmp_path / "a.json"
    plan = {"a": "4x1 at density 0.25", "b": "4x1 at density 0.5", "c": "2:4 at density 0.5"}
    path.write_text(json.dumps(result(recipe={"plan": {"rules": []}}, plan=plan)))
    (line,) = recipe_table([path]).lines
    assert line[1] == "4x1/2:4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json: not JSON \(Expecting"),
        ('{"format": "other"}', r"a\.json: expected a result of format"),
        (
            '{"format": "monstera.recipe.1"}',
            r"a\.json: a result of format 'monstera\.recipe\.1' is incomplete .* 'accuracy'",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        recipe_table([path])
