"""The benchmark of single kernels, on its smallest planes."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monstera.measure import read_study
from monstera.sparsity import pattern

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kernels.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def kernels(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_number_of_rows_and_columns_is_one_point_measured_beside_the_limits(tmp_path: Path):
    smallest = ["--sweep", "spmm", "--plane", "7", "--columns", "8", "--columns", "16", "--target", "avx2"]
    done = kernels(*smallest, "--rounds", "3", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    study = read_study(tmp_path / "kernels-avx2.json")
    lines = study.sweep("spmm 7x7")
    assert {"1 rows", "4 rows", "8 rows"} <= lines.keys()
    for line, points in lines.items():
        assert [point.at for point in points] == [8, 16], line
        # Every filter keeps as many of its weights as its block has columns.
        assert [point.macs.surviving for point in points] == [512 * 8 * 49, 512 * 16 * 49]
        assert all("avx2" in str(point.facts["kernel"]) for point in points)
    assert study.peak_gflops[1] > 0
    assert len(study.bandwidths) >= 2
    assert "avx2, spmm 7x7" in done.stdout


def test_an_unknown_sweep_is_answered_with_the_known_ones(tmp_path: Path):
    done = kernels("--sweep", "spqr", "--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown: spqr; there are spmm, spmv, patterns, 56")


def test_rows_of_a_block_share_their_columns_and_blocks_do_not(script: dict[str, Any]):
    weight = nn.Parameter(torch.ones(8, 4, 3, 3))
    script["share_columns_"](weight, 4, 9)
    rows = (weight != 0).flatten(1)
    assert rows.sum(1).tolist() == [9] * 8
    assert all(torch.equal(rows[0], row) for row in rows[1:4])
    assert not torch.equal(rows[0], rows[4])


@pytest.mark.parametrize("density", [0.5, 0.25])
def test_all_patterns_of_one_table_have_the_same_density(script: dict[str, Any], density: float):
    weight = torch.randn(64, 64, 3, 3)
    for name in (*script["PATTERNS"], *script["N_OF_M"][density]):
        mask = script["pattern_mask"](name, weight, density)
        assert mask.float().mean() == pytest.approx(density, abs=0.01), name
        assert pattern(name).holds(weight * mask, density), name
