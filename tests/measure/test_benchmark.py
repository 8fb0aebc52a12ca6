"""The benchmark script, run on a network that takes microseconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from monstera.measure import read, this_machine

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "networks.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_benchmark_writes_a_row_for_every_peer_and_for_every_pattern_and_density(tmp_path: Path):
    holes = ["--pattern", "4x1/16x1", "--pattern", "2:4", "--density", "0.25", "--density", "0.1", "--uneven", "0.1"]
    where = [
        "--input",
        "1x12x10",
        "--batch",
        "2",
        "--rounds",
        "3",
        "--seconds",
        "0.01",
        "--tune",
        "none",
        "--out",
        str(tmp_path),
    ]
    done = benchmark("digits_cnn", *holes, "--peer", "torch eager", "--peer", "ncnn", *where)
    assert done.returncode == 0, done.stderr
    result = read(tmp_path / f"digits_cnn-1x12x10-b2-t1-{this_machine().instructions}.json")
    assert [(row.engine, row.weights) for row in result.rows] == [
        ("torch eager", "dense"),
        ("ncnn", "dense"),
        ("monstera", "dense"),
        ("monstera", "4x1/16x1 at density 0.25"),
        ("monstera", "4x1/16x1 at density 0.1"),
        ("monstera", "2:4 at density 0.5"),
        ("monstera", "4x1/16x1 uneven at density 0.1"),
    ]
    assert result.inputs == ((2, 1, 12, 10),)
    assert result.tune == "none"
    assert all(row.timing is not None for row in result.rows)
    dense, quarter = result.row("monstera").macs, result.row("monstera", "4x1/16x1 at density 0.25").macs
    assert 0.25 < quarter.surviving / dense.dense < 0.3
    assert "against" in done.stdout


def test_trained_weights_are_one_row_more(tmp_path: Path):
    trained = ROOT / "recipes" / "results" / "cifar10_resnet20.safetensors"
    nothing_else = ["--pattern", "4x1=0.25", "--uneven", "1", "--peer", "torch eager"]
    where = ["--trained", str(trained), "--rounds", "3", "--seconds", "0.01", "--out", str(tmp_path)]
    done = benchmark("resnet20", *nothing_else, *where)
    assert done.returncode == 0, done.stderr
    result = read(tmp_path / f"resnet20-3x32x32-b1-t1-{this_machine().instructions}.json")
    assert result.tune == "fast"
    rows = result.rows
    assert [row.weights for row in rows] == ["dense", "dense", "4x1 at density 0.25", "trained, cifar10_resnet20"]
    assert rows[3].macs == rows[2].macs
    assert rows[3].macs.surviving < 0.27 * rows[3].macs.dense


def test_a_step_of_gpt2_is_measured_as_other_networks_are(tmp_path: Path):
    options = ["--pattern", "4x1/16x1=0.25", "--uneven", "1", "--input", "5", "--tune", "none", "--rounds", "3"]
    peers = ["--peer", "torch eager", "--peer", "onnxruntime"]
    done = benchmark("gpt2_step_small", *options, *peers, "--seconds", "0.01", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = read(tmp_path / f"gpt2_step_small-5-b1-t1-{this_machine().instructions}.json")
    assert result.inputs == ((1, 1), (1,), (2, 1, 3, 5, 16), (2, 1, 3, 5, 16))
    assert [row.weights for row in result.rows] == ["dense", "dense", "dense", "4x1/16x1 at density 0.25"]
    assert all(row.timing is not None for row in result.rows)


def test_an_unknown_network_is_answered_with_the_known_ones_and_nothing_is_written(tmp_path: Path):
    done = benchmark("resnet51", "--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: no network is called 'resnet51'; known: bert_base, bert_tiny, c3d")
    assert not list(tmp_path.iterdir())


SCRIPTS = [
    path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_benchmark_prints_its_help(script: Path):
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
