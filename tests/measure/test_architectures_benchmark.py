"""The benchmark of architectures, on the smallest of them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from architecture_list import ARCHITECTURES, build, example
from monstera.measure import count_macs, read_study

pytest.importorskip("transformers")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "architectures.py"


def architectures(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_architecture_has_three_points_and_one_that_fails_has_its_reason(tmp_path: Path):
    done = architectures("gpt-2", "FNet", "--seconds", "0.01", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    study = read_study(tmp_path / "architectures.json")
    assert (study.name, study.subject) == ("architectures", "small")
    eager, dense, sparse = (point for point in study.points if point.at == "GPT-2")
    assert [point.line for point in (eager, dense, sparse)] == ["torch eager", "dense", "4x1 at density 0.25"]
    assert all(point.timing is not None and 0 < point.error < 1e-5 for point in (eager, dense, sparse))
    assert 0.25 < sparse.macs.surviving / sparse.macs.dense < 0.35
    torch_alone, *refused = (point for point in study.points if point.at == "FNet")
    assert torch_alone.timing is not None
    assert [point.note for point in refused] == ["fft_fftn: unknown to the compiler; real: unknown to the compiler"] * 2


def test_an_unknown_architecture_is_answered_with_the_known_ones(tmp_path: Path):
    done = architectures("colour", "--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown architectures: colour; there are bert, roberta")


def test_names_are_unique_and_there_are_enough_of_every_kind():
    names = [architecture.name.lower() for architecture in ARCHITECTURES]
    assert len(set(names)) == len(names) >= 35
    assert {a.kind for a in ARCHITECTURES} == {"encoder", "decoder", "vision", "speech"}


def test_the_linear_layers_and_the_attention_of_gpt2_are_counted():
    (gpt2,) = (architecture for architecture in ARCHITECTURES if architecture.name == "GPT-2")
    torch.manual_seed(0)
    tokens, width, words, layers = 32, 64, 101, 2
    # Queries, keys and values, their projection, and a hidden layer four times as wide; then the head.
    linear = tokens * (layers * (3 + 1 + 4 + 4) * width * width + words * width)
    expected = linear + layers * 2 * tokens * tokens * width
    assert count_macs(build(gpt2, "small"), example(gpt2, "small")).dense == expected
