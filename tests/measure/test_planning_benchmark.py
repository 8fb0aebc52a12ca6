"""The benchmark of plans by budget, on a network that takes microseconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from monstera.measure import read_study
from monstera.report import planning_table

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "planning.py"


@pytest.mark.full
def test_every_goal_is_asked_and_the_first_also_without_a_table(tmp_path: Path):
    goals = ["--speedup", "1.3", "--speedup", "1.6", "--by", "1.5", "--pattern", "4x1"]
    command = [sys.executable, str(SCRIPT), "digits_cnn", *goals, "--rounds", "3", "--seconds", "0.01"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    study = read_study(*tmp_path.glob("planning-digits_cnn-t1-*.json"))
    assert [point.line for point in study.points] == ["dense", "no table", "table", "table", "table"]
    _, fresh, *known = study.points
    assert fresh.facts["asked"] == known[0].facts["asked"] == 1.3
    assert [point.facts["kind"] for point in known] == ["speedup", "speedup", "latency_ms"]
    assert all(point.macs.surviving < point.macs.dense for point in known)
    assert len(planning_table(study).lines) == 4
