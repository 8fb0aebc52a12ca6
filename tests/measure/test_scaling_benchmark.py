"""The benchmark of axes, on a network that takes microseconds."""

import subprocess
import sys
from pathlib import Path

from monstera.measure import read_study

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "scaling.py"


def scaling(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_network_is_measured_along_each_axis(tmp_path: Path):
    places = ["--at-density", "1", "--at-density", "0.1", "--at-batch", "1", "--at-batch", "3", "--at-threads", "1"]
    done = scaling(
        "digits_cnn", *places, "--rounds", "3", "--seconds", "0.01", "--tune", "none", "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    study = read_study(*tmp_path.glob("scaling-digits_cnn-*.json"))
    assert study.peak_gflops.keys() == {1}
    density, batch, threads = (study.sweep(axis) for axis in ("density", "batch", "threads"))
    assert [point.at for point in density["4x1/16x1"]] == [1.0, 0.1]
    full, tenth = (point.macs for point in density["4x1/16x1"])
    assert full.surviving == full.dense == tenth.dense
    assert 0.1 < tenth.surviving / tenth.dense < 0.15
    assert batch.keys() == threads.keys() == {"dense", "4x1/16x1 at density 0.1"}
    one, three = batch["dense"]
    assert (one.at, three.at) == (1, 3)
    assert three.macs.dense == 3 * one.macs.dense
    assert all(point.timing is not None for point in study.points)


def test_an_unknown_axis_is_answered_with_the_known_ones(tmp_path: Path):
    done = scaling("digits_cnn", "--axis", "colour", "--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "error: unknown axes: colour; there are threads, density, batch\n"
    assert not list(tmp_path.iterdir())
