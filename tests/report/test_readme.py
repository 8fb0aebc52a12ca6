import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import monstera as ms
from monstera.measure import write
from monstera.report import results_block, rewrite, with_results
from report.example import COMPARISON

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


def test_the_readme_is_up_to_date_with_the_committed_results():
    text = README.read_text(encoding="utf-8")
    assert with_results(text, results_block(ROOT)) == text, "run `make results`"


def test_the_example_in_the_readme_runs_as_it_stands(tmp_path: Path):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 22
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the plan holds" in done.stdout
    assert ms.load(tmp_path / "digits.monstera").manifest.inputs[0].shape == (1, 1, 8, 8)


def test_only_what_stands_between_the_marks_is_replaced():
    text = "before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n"
    new = with_results(text, "new\n")
    assert new == "before\n<!-- results:begin -->\nnew\n<!-- results:end -->\nafter\n"
    assert with_results(new, "new\n") == new


@pytest.mark.parametrize(
    "text",
    [
        "no marks",
        "<!-- results:begin --> no end",
        "<!-- results:end --><!-- results:begin -->",
        "<!-- results:begin --><!-- results:end --><!-- results:end -->",
    ],
)
def test_a_readme_without_both_marks_in_order_is_left_alone(text: str):
    with pytest.raises(ValueError, match="the results go between"):
        with_results(text, "new")


def test_the_command_writes_every_result_file_into_the_readme_once(tmp_path: Path):
    shutil.copy(README, tmp_path)
    write(COMPARISON, tmp_path / "benchmarks" / "results" / "resnet50.json")
    command = [sys.executable, "-m", "monstera.report", str(tmp_path / "README.md")]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert first.stdout.endswith("README.md: written\n")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "**resnet50, input 1x3x8x8, 1 thread**" in text
    assert "[`benchmarks/results/resnet50.json`](benchmarks/results/resnet50.json)" in text
    assert not rewrite(tmp_path / "README.md")


def test_the_command_says_what_is_wrong_and_fails(tmp_path: Path):
    (tmp_path / "README.md").write_text("no marks")
    command = [sys.executable, "-m", "monstera.report", str(tmp_path / "README.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the results go between" in done.stderr
    assert "Traceback" not in done.stderr
