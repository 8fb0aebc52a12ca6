"""`monstera costs`: a table of another machine is shown, and predicts a network that it never met."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monstera.cli import app
from monstera.search import write_costs
from search.costs.made import MACHINE, lawful_table, subject


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_costs(lawful_table([subject(width) for width in (8, 16, 24, 32)]), tmp_path / "phone.json")
    return tmp_path / "phone.json"


def test_a_table_is_shown(table: Path):
    shown = CliRunner().invoke(app, ["costs", str(table)])
    assert shown.exit_code == 0
    assert MACHINE.cpu in shown.stdout
    assert "4x1, unstructured" in shown.stdout
    assert "rank correlation" in shown.stdout


def test_a_network_is_predicted_from_a_table_of_another_machine(table: Path):
    shown = CliRunner().invoke(app, ["costs", "lenet5", "--table", str(table)], env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    assert "conv1.weight" in shown.stdout
    assert "about" in shown.stdout
    assert "whole network" in shown.stdout


def test_the_table_of_another_machine_is_not_exported_as_that_of_this_one(table: Path, tmp_path: Path):
    shown = CliRunner().invoke(app, ["costs", "lenet5", "--table", str(table), "--export", str(tmp_path / "mine.json")])
    assert shown.exit_code == 1
    assert "give one of them" in " ".join(shown.output.split())
    assert not (tmp_path / "mine.json").exists()


def test_no_such_network_is_said_without_a_traceback():
    shown = CliRunner().invoke(app, ["costs", "lenet6"])
    assert shown.exit_code == 1
    assert "lenet5" in shown.output


def test_a_target_is_asked_for_by_name(table: Path):
    foreign = "avx2" if platform.machine() == "aarch64" else "neon"
    for target, told in ((foreign, f"this machine cannot run {foreign}"), ("sse", "avx512")):
        shown = CliRunner().invoke(app, ["costs", "lenet5", "--target", target])
        assert shown.exit_code == 1
        assert told in " ".join(shown.output.split())
    shown = CliRunner().invoke(app, ["costs", "lenet5", "--table", str(table), "--target", "neon"])
    assert shown.exit_code == 1
    assert "but the table holds times of" in " ".join(shown.output.split())
