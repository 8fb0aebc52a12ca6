"""The benchmark script, run on a network that takes microseconds."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from monstera.measure import read

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "networks.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_benchmark_writes_a_row_for_every_peer_and_for_every_pattern_and_density(tmp_path: Path):
    holes = ["--pattern", "4x1", "--pattern", "2:4", "--density", "0.25", "--density", "0.1"]
    where = ["--input", "1x12x10", "--batch", "2", "--rounds", "3", "--out", str(tmp_path)]
    done = benchmark("digits_cnn", *holes, "--peer", "torch eager", "--peer", "onnxruntime", *where)
    assert done.returncode == 0, done.stderr
    result = read(tmp_path / "digits_cnn-1x12x10-b2-t1.json")
    assert [(row.engine, row.weights) for row in result.rows] == [
        ("torch eager", "dense"),
        ("onnxruntime", "dense"),
        ("monstera", "dense"),
        ("monstera", "2:4 at density 0.5"),
        ("monstera", "4x1 at density 0.25"),
        ("monstera", "4x1 at density 0.1"),
    ]
    assert result.inputs == ((2, 1, 12, 10),)
    assert all(row.timing is not None for row in result.rows)
    dense, quarter = result.row("monstera").macs, result.row("monstera", "4x1 at density 0.25").macs
    assert 0.25 < quarter.surviving / dense.dense < 0.3
    assert "against" in done.stdout


def test_an_unknown_network_is_answered_with_the_known_ones_and_nothing_is_written(tmp_path: Path):
    done = benchmark("resnet51", "--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: no network is called 'resnet51'; known: c3d, digits_cnn")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["8by8", "3x224", "3x0x224", "3x-1x2"])
def test_an_input_that_is_not_channels_height_width_is_refused(text: str):
    input_size = runpy.run_path(str(SCRIPT))["input_size"]
    with pytest.raises(typer.BadParameter, match=f"expected CxHxW such as 3x224x224, got '{text}'"):
        input_size("resnet50", text)
