"""What `docs/training.md` shows works as it stands there."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monstera.cli import app

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
LOOP, PROCESSES, TRAINER = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(RECIPE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
(LINE,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def test_the_loop_trains_and_prunes(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(LOOP, "training.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "tune, step 60 of 60" in shown
    assert "'linear.weight': 0.5}" in shown
    assert "ADMM finished after 60 steps; the plan holds" in shown


@pytest.mark.parametrize("code", [PROCESSES, TRAINER])
def test_fragments_are_python(code: str) -> None:
    ast.parse(code)


def test_the_recipe_runs_and_its_log_has_the_fields_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    done = CliRunner().invoke(app, ["prune", "recipe.yaml", "--no-latency", "--layers", "--log-every", "50"])
    assert done.exit_code == 0, done.output
    assert "conv3.weight 0.250, linear.weight 0.500" in done.stdout
    lines = [json.loads(line) for line in Path("runs/digits/seed-0.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [44, 50, 88, 100, 132, 150, 176]
    assert lines[-1].keys() == json.loads(LINE).keys()
    assert lines[-1]["densities"].keys() == json.loads(LINE)["densities"].keys()
