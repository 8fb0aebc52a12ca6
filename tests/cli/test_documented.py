"""Commands that pages show are there, with every option that they are shown with."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from monstera.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "recipes").rglob("*.yaml"))]
SHOWN = re.compile(r"(?<![\w/.])monstera ([a-z][a-z-]+)((?:[^`\n\\]|\\\n)*)")


def shown() -> list[tuple[Path, str, str]]:
    """Page, command, and all that follows in its line or span of code."""
    found = [(page, *match) for page in PAGES for match in SHOWN.findall(page.read_text(encoding="utf-8"))]
    return [(page, command, rest) for page, command, rest in found if "--" in rest]


def test_every_option_that_a_page_shows_is_one_of_its_command() -> None:
    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    known = {
        name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)} for name, command in commands.items()
    }
    wrong = [
        f"{page.relative_to(ROOT)}: monstera {command} {option}"
        for page, command, rest in shown()
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest.split("#")[0])
        if option not in known.get(command, set())
    ]
    assert {command for _, command, _ in shown()} >= {"plan", "costs", "search", "prune"}
    assert not wrong
