"""Imports between rooms point down only, and the runtime needs numpy alone. See the design, section 2."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "monstera"

FLOORS = {
    "locks": 0,
    "modes": 0,
    "sparsity": 1,
    "runtime": 1,
    "zoo": 1,
    "pruning": 2,
    "compiler": 2,
    "measure": 3,
    "training": 3,
    "search": 4,
    "integrations": 5,
    "recipe": 5,
    "demo": 5,
    "program": 5,
    "loading": 5,
    "report": 5,
    "cli": 6,
}


def modules(room: str = "*") -> list[Path]:
    """The files of one room, or of all; the lazy front door itself belongs to no room."""
    files = [*PACKAGE.glob(f"{room}.py"), *PACKAGE.glob(f"{room}/**/*.py")]
    return sorted(file for file in files if file != PACKAGE / "__init__.py")


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def exports() -> dict[str, str]:
    """What the lazy front door hands out: name -> room that defines it."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_EXPORTS" for t in node.targets):
            return ast.literal_eval(node.value)
    raise AssertionError("monstera/__init__.py has no literal _EXPORTS")


def imports(source: str, package: str) -> Iterator[str]:
    """Every module that a source imports, anywhere in it, by absolute dotted name; names of `from` imports included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def imported_by(file: Path) -> set[str]:
    package = ".".join(["monstera", *file.relative_to(PACKAGE).parts[:-1]])
    return set(imports(file.read_text(encoding="utf-8"), package))


def rooms(names: set[str]) -> set[str]:
    """The rooms behind imported names; a name of the front door counts as the room that defines it."""
    doors = exports()
    parts = [name.split(".") for name in names if name.split(".")[0] == "monstera" and "." in name]
    return {doors[p[1]] if p[1] in doors else p[1] for p in parts} - {"__version__"}


def test_every_room_has_a_floor() -> None:
    assert {room_of(file) for file in modules()} <= FLOORS.keys()


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    upward = [
        f"{file.relative_to(PACKAGE)} imports {other}"
        for file in modules(room)
        for other in sorted(rooms(imported_by(file)) - {room})
        if FLOORS.get(other, 99) >= FLOORS[room]
    ]
    assert not upward


def test_the_runtime_imports_only_numpy_and_the_standard_library() -> None:
    assert modules("runtime")
    allowed = {"numpy", "monstera", *sys.stdlib_module_names}
    foreign = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in modules("runtime")
        for name in sorted(imported_by(file))
        for other in [*rooms({name}) - {"runtime"}, *({name.split(".")[0]} - allowed)]
    ]
    assert not foreign


def test_the_compiler_is_asked_for_only_when_an_engine_is_rebuilt() -> None:
    check = "import sys, monstera.loading; sys.exit('monstera.compiler' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("statement", ["import monstera", "from monstera import load", "import monstera.runtime"])
def test_running_an_artifact_never_imports_torch(statement: str) -> None:
    check = f"import sys; {statement}; sys.exit(', '.join({{'torch', 'onnx', 'yaml'}} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from monstera.compiler import ir", {"compiler"}),
        ("import monstera.zoo.resnet as r", {"zoo"}),
        ("from monstera import Plan", {"sparsity"}),
        ("from monstera import pruning", {"pruning"}),
        ("from . import load", {"runtime"}),
        ("from ..compiler.ir import Graph", {"compiler"}),
        ("def f():\n    from importlib import import_module\n    import_module('monstera.cli')", {"cli"}),
        ("from monstera import __version__\nimport numpy", set()),
    ],
)
def test_the_walk_sees_every_way_to_import(source: str, found: set[str]) -> None:
    assert rooms(set(imports(source, "monstera.runtime"))) == found
