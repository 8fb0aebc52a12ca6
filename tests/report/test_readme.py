import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import monstera as ms
from monstera.measure import write, write_study
from monstera.report import documents, read_results, results_block, rewrite, with_results
from report.example import COMPARISON, STUDY

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A README with one result of each kind."""
    shutil.copy(README, tmp_path)
    write(COMPARISON, tmp_path / "benchmarks" / "results" / "resnet50.json")
    write_study(STUDY, tmp_path / "benchmarks" / "results" / "scaling-resnet50.json")
    return tmp_path


def drawn_by(svg: bytes) -> bytes:
    """The version of matplotlib that an SVG file names, and the digest of what it was made from."""
    return b"".join(re.findall(rb"Matplotlib v[\d.]+|sha256:[0-9a-f]{64}", svg))


def test_the_docs_are_up_to_date_with_the_committed_results():
    for path, wanted in documents(README).items():
        found = path.read_bytes()
        same = found == wanted
        if path.suffix == ".svg" and drawn_by(found).split(b"sha")[0] != drawn_by(wanted).split(b"sha")[0]:
            # Another matplotlib draws the same figure in other words.
            same = drawn_by(found).split(b"sha")[1] == drawn_by(wanted).split(b"sha")[1]
        assert same, f"{path}: run `make results`"
    figures = {path for path in documents(README) if path.suffix == ".svg"}
    assert set((ROOT / "docs" / "figures").glob("*.svg")) == figures, "run `make results`"


def test_the_example_in_the_readme_runs_as_it_stands(tmp_path: Path):
    example, *more = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 22
    # What stands further down speaks of the model of the example, and of an input x.
    program = "\n".join([example, "x = images[:1]", *more])
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
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


def test_without_results_the_readme_says_so(tmp_path: Path):
    assert results_block(read_results(tmp_path)) == "No results are committed yet.\n"


def test_the_command_writes_summary_page_and_figures_once(project: Path):
    command = [sys.executable, "-m", "monstera.report", str(project / "README.md")]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "README.md: written\n" in first.stdout
    summary = (project / "README.md").read_text(encoding="utf-8")
    assert "| resnet50 1x3x8x8 | openvino | 2.00 | 1.25x (62%) | 8.00x (40%) |" in summary
    page = (project / "docs" / "results.md").read_text(encoding="utf-8")
    assert "**resnet50, input 1x3x8x8, 1 thread**" in page
    assert "[`benchmarks/results/resnet50.json`](../benchmarks/results/resnet50.json)" in page
    assert "| 0.1 | 0.300 (33%) |" in page
    linked = re.findall(r"\(figures/(.*?)\)", page)
    assert linked == ["networks-t1.svg", "scaling-resnet50-density.svg", "scaling-resnet50-batch.svg"]
    assert sorted(linked) == sorted(path.name for path in (project / "docs" / "figures").iterdir())
    assert rewrite(project / "README.md") == []


def test_a_figure_that_no_result_stands_behind_is_deleted(project: Path):
    rewrite(project / "README.md")
    (project / "benchmarks" / "results" / "scaling-resnet50.json").unlink()
    rewrite(project / "README.md")
    assert [path.name for path in (project / "docs" / "figures").iterdir()] == ["networks-t1.svg"]


def test_a_file_of_another_format_is_named(project: Path):
    (project / "benchmarks" / "results" / "other.json").write_text('{"format": "something"}')
    with pytest.raises(ValueError, match=r"other\.json: expected a result of format .* got 'something'"):
        read_results(project)


def test_the_command_says_what_is_wrong_and_fails(tmp_path: Path):
    (tmp_path / "README.md").write_text("no marks")
    command = [sys.executable, "-m", "monstera.report", str(tmp_path / "README.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the results go between" in done.stderr
    assert "Traceback" not in done.stderr
