"""Pages on compiler, search and decisions: what was printed into them is up to date, and what they name is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

import monstera as ms
from monstera import zoo
from monstera.compiler import grids, memory
from monstera.compiler.frontends import from_torch
from monstera.compiler.layout import Grid, Planes
from monstera.compiler.lowering import lower
from monstera.compiler.memory import place
from monstera.compiler.passes import optimize
from monstera.compiler.program import Program, Turn
from monstera.compiler.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
COMPILER = ROOT / "src" / "monstera" / "compiler"
PAGE = ROOT / "docs" / "compiler.md"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
PAGES = [PAGE, *DECISIONS, *sorted((ROOT / "docs" / "search").glob("*.md"))]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """`docs/compiler_example.py`, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("compiler_example", ROOT / "docs" / "compiler_example.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_compiler_prints(script):
    try:
        parts = script.parts()
    except ms.compiler.BuildError as error:
        pytest.skip(f"no compiler for avx512 here: {error}")
    page = PAGE.read_text(encoding="utf-8")
    assert page == script.page_with(page, parts), f"{PAGE} is out of date: run `python docs/compiler_example.py`"


def test_the_layer_on_the_page_answers_as_torch_does(script):
    model = script.example()
    x = torch.randn(script.SHAPE, generator=torch.Generator().manual_seed(0))
    assert 4 * int(model[0].weight.count_nonzero()) == model[0].weight.numel()
    with torch.no_grad():
        torch.testing.assert_close(ms.compile(model, x)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "page",
    ["no marks", "<!-- a:begin -->\n", "<!-- a:begin -->\n<!-- b:end -->\n", "<!-- a:begin -->\n<!-- a:end -->\n" * 2],
)
def test_a_page_with_wrong_marks_is_refused(script, page):
    with pytest.raises(ValueError, match="mark"):
        script.page_with(page, {"a": "text"})


def test_only_what_stands_between_the_marks_is_replaced(script):
    page = "before\n<!-- a:begin -->\nold\n<!-- a:end -->\nafter\n"
    assert script.page_with(page, {"a": "new"}) == "before\n<!-- a:begin -->\nnew\n<!-- a:end -->\nafter\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_files_and_folders_that_the_page_names_are_there():
    named = re.findall(r"`([\w./]+(?:\.(?:py|h|c)|/))`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 40
    folders = (ROOT, PAGE.parent, COMPILER, COMPILER / "kernels")
    missing = {name for name in named if not any((folder / name).exists() for folder in folders)}
    assert not missing


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every word in the code, and the names of its files."""
    folders = [ROOT / "src", ROOT / "tests", ROOT / "benchmarks", ROOT / "docs"]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".h", ".c")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return set(re.findall(r"\w+", text)) | {path.stem for path in files}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_functions_and_constants_on_a_page_are_in_the_code(page, words):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = {word for code in re.findall(r"`([^`]+)`", prose) for word in re.findall(r"\b[A-Za-z]\w*_\w+\b", code)}
    assert not named - words


def test_every_decision_is_listed_once_in_order():
    listed = re.findall(r"^\| \[(\d+)\]\((\d+-[\w-]+\.md)\)", (DECISIONS[0].parent / "README.md").read_text(), re.M)
    assert listed == [(path.name[:4], path.name) for path in DECISIONS]


def _program(name: str) -> Program:
    model = zoo.network(name).eval()
    return lower(optimize(from_torch(model, (torch.zeros(1, 3, 224, 224),)).graph), TARGETS["avx512"])


def test_laying_sums_over_their_operand_saves_a_fifth_of_the_arena_of_resnet50(monkeypatch):
    """Decision 0008; and as 0007 says, it is done layer by layer."""
    program = _program("resnet50")
    assert program.turns == tuple(Turn(i) for i in range(len(program.steps)))
    with_overlays = place(program).size
    monkeypatch.setattr(memory, "overlays", lambda _program: {})
    assert with_overlays == pytest.approx(0.8 * place(program).size, rel=0.02)


def test_reading_planes_directly_saves_more_than_a_quarter_of_the_arena_of_mobilenet(monkeypatch):
    """Decision 0010."""
    direct = place(_program("mobilenet_v2")).size
    monkeypatch.setattr(grids, "is_direct", lambda *_: False)
    assert direct < 0.75 * place(_program("mobilenet_v2")).size


@pytest.mark.parametrize(("side", "whole", "half"), [(7, 23.4, 12.5), (14, 12.5, 9.3)])
def test_half_vectors_lose_less_of_small_planes(side, whole, half):
    """Decision 0009: lanes without a pixel, in per cent, of a plane that 3x3 convolutions share."""
    run, lanes = Planes(1, 1, side, side, Grid(side + 1, side + 1, 0, 0)).run(), TARGETS["avx512"].lanes
    for part, lost in ((1, whole), (2, half)):
        computed = -(-run * part // lanes) * lanes / part
        assert round(100 * (1 - side * side / computed), 1) == lost
