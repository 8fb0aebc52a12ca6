"""The ablation, on a network that takes microseconds."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monstera.measure import held_to, read_study

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "ablation.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_every_stage_is_a_point_of_every_subject(tmp_path: Path, script: dict[str, Any]):
    quick = ["--rounds", "3", "--seconds", "0.01", "--tune", "none", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "digits_cnn", *quick], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    study = read_study(*tmp_path.glob("ablation-digits_cnn-*.json"))
    for sweep in ("digits_cnn, 4x1/16x1 at density 0.1", "linear 3072x1024, 16x1 at density 0.1"):
        lines = study.sweep(sweep)
        assert list(lines) == ["as pruned", "filters shuffled"]
        for points in lines.values():
            assert [point.at for point in points] == list(script["STAGES"])
            assert all(point.timing is not None for point in points)
    kernels = [point.facts["kernel"] for point in study.sweep(sweep)["filters shuffled"]]
    # Shuffled rows share nothing with their neighbours until they are brought together.
    assert kernels[0] == "f32_spmv_columns_1x1"
    assert kernels[1] != kernels[2] == "f32_spmv_columns_16x1"


def test_each_stage_holds_layers_to_less_than_the_one_before_it(script: dict[str, Any]):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, 3, padding=1).eval()
    with torch.no_grad():
        conv.weight.mul_((torch.rand(8, 16, 3, 3) < 0.2).repeat_interleave(4, 0))
        script["shuffle_"](conv.weight)
    example = torch.randn(1, 16, 20, 20)
    held = {
        stage: next(iter(held_to(choose, conv, example, target="avx2").choices.values()))
        for stage, choose in script["STAGES"].items()
        if choose is not None
    }
    assert list(held) == ["CSR", "blocks", "reorder", "load elimination"]
    assert (held["CSR"].order, held["CSR"].sizes, held["CSR"].tile) == ("natural", (1,), 1)
    assert (held["blocks"].order, held["blocks"].tile) == ("natural", 1)
    assert (held["reorder"].order, held["reorder"].sizes, held["reorder"].tile) == ("clustered", (4,), 1)
    assert (held["load elimination"].sizes, held["load elimination"].tile) == ((4,), 0)


def test_shuffled_filters_keep_their_weights_and_lose_their_neighbours(script: dict[str, Any]):
    torch.manual_seed(0)
    weight = torch.arange(64.0).reshape(16, 4)
    before = weight.clone()
    script["shuffle_"](weight)
    assert not torch.equal(weight, before)
    assert torch.equal(weight[weight[:, 0].argsort()], before)
