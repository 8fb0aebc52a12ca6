"""`monstera verify` and `monstera inspect`: a program's file checked and shown, none of it run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import monstera as ms
from monstera.cli import app
from monstera.runtime.artifact import PARTS, Opened
from runtime.forging import forged, joined, parts_of


@pytest.fixture(scope="module")
def engine() -> ms.Engine:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    return ms.compile(model, torch.zeros(1, 3, 8, 8))


@pytest.fixture
def program(engine, tmp_path) -> Path:
    engine.save(tmp_path / "net.monstera")
    return tmp_path / "net.monstera"


def run(*arguments: str | Path):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_sound_program_passes_every_check(program, engine):
    shown = run("verify", program, "--sha256", engine.digest)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0] == f"ok  digest {engine.digest}, as expected"
    assert all(line.startswith("ok  ") for line in lines)
    for words in ("net.so: made for this manifest", "net.c: made for", "graph.json: 3 nodes"):
        assert any(words in line for line in lines)


def test_verifying_reads_every_part_once(program, monkeypatch):
    read, names = Opened.read, []

    def counted(opened: Opened, name: str) -> object:
        names.append(name)
        return read(opened, name)

    monkeypatch.setattr(Opened, "read", counted)
    assert run("verify", program).exit_code == 0
    assert names == [name for name in PARTS if name != "manifest.json"]


def test_another_digest_fails(program):
    shown = run("verify", program, "--sha256", "0" * 64)
    assert shown.exit_code == 1
    assert "another file than the one you trust" in shown.stderr


@pytest.mark.parametrize("name", ["weights.safetensors", "net.c", "net.so", "graph.json", "graph.safetensors"])
def test_damage_in_any_part_fails_by_its_name(program, name):
    parts = parts_of(program.read_bytes())
    data = bytearray(parts[name])
    data[len(data) // 3] ^= 4
    program.write_bytes(joined(parts | {name: bytes(data)}))
    shown = run("verify", program)
    assert shown.exit_code == 1
    assert f"{name} is damaged" in shown.stderr


def test_parts_of_two_programs_fail_though_their_checksums_are_right(program, tmp_path):
    torch.manual_seed(1)
    other = ms.compile(nn.Conv2d(3, 8, 3).eval(), torch.zeros(1, 3, 8, 8))
    other.save(tmp_path / "other.monstera")
    mine, theirs = program.read_bytes(), parts_of((tmp_path / "other.monstera").read_bytes())
    for name, words in {
        "net.so": "net.so was made for another manifest",
        "net.c": "net.c was made for another manifest",
        "weights.safetensors": "bytes, the manifest says",
        "graph.json": "graph is damaged",
        "graph.safetensors": "graph is damaged",
    }.items():
        program.write_bytes(forged(mine, **{name.replace(".", "_"): theirs[name]}))
        shown = run("verify", program)
        assert shown.exit_code == 1
        assert words in shown.stderr


def test_verifying_runs_nothing_of_the_file(program):
    """The library is garbage that no loader takes, and yet only its seal is missed."""
    program.write_bytes(forged(program.read_bytes(), net_so=b"garbage"))
    assert "net.so was made for another manifest" in run("verify", program).stderr


def test_inspect_shows_signature_parts_and_layers(program, engine):
    shown = run("inspect", program)
    assert shown.exit_code == 0, shown.output
    for words in (engine.digest, "float32 [1, 3, 8, 8]", "weights.safetensors", engine.manifest.target, "conv 3x3"):
        assert words in shown.stdout


def test_inspect_gives_all_of_it_as_json(program, engine):
    known = json.loads(run("inspect", program, "--json").stdout)
    assert known["digest"] == engine.digest
    assert known["parts"].keys() == parts_of(program.read_bytes()).keys()
    assert known["parts"]["net.c"]["bytes"] == len(engine.c_source)
    assert known["manifest"]["programs"][0]["outputs"] == [[1, 10]]
    assert known["lacks"] == ""


def test_every_shape_of_a_program_is_shown_checked_and_timed(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU()).eval()
    ms.prune(model, ms.Plan({"0.weight": ("4x1", 0.5)}))
    engine = ms.compile(model, torch.zeros(1, 11, 24), also=[torch.zeros(1, 37, 24)])
    engine.save(tmp_path / "net.monstera")
    shown = run("inspect", tmp_path / "net.monstera")
    assert shown.exit_code == 0, shown.output
    for words in ("shape 0", "float32 [1, 11, 24]", "shape 1", "float32 [1, 37, 24]", "float32 [1, 37, 32]"):
        assert words in shown.stdout
    checked = run("verify", tmp_path / "net.monstera")
    assert checked.exit_code == 0, checked.output
    assert checked.stdout.count("nodes whose shapes follow from each other") == 2
    assert run("profile", tmp_path / "net.monstera", "--rounds", "1", "--plan", "--shape", "1").exit_code == 0
    refused = run("profile", tmp_path / "net.monstera", "--shape", "2")
    assert "this engine has the shapes 0 to 1" in refused.stderr


def test_names_from_a_file_give_the_terminal_no_orders(program):
    layers = json.loads(parts_of(program.read_bytes())["manifest.json"])["programs"][0]["layers"]
    layers[0]["title"] = "\x1b[31m[bold]evil"
    program.write_bytes(forged(program.read_bytes(), {"layers": layers}))
    shown = run("inspect", program)
    assert shown.exit_code == 0
    assert "\x1b" not in shown.stdout
    assert "[bold]" in shown.stdout


def test_graphs_of_other_shapes_than_the_manifest_says_fail(program, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    ms.compile(model, torch.zeros(2, 3, 8, 8)).save(tmp_path / "other.monstera")
    theirs = parts_of((tmp_path / "other.monstera").read_bytes())
    parts = {name.replace(".", "_"): theirs[name] for name in ("graph.json", "graph.safetensors")}
    program.write_bytes(forged(program.read_bytes(), **parts))
    shown = run("verify", program)
    assert shown.exit_code == 1
    assert "holds graphs of other inputs" in shown.stderr
