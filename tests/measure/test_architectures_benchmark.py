"""The benchmark of architectures, on the smallest of them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

import architectures as script
import monstera as ms
from architecture_list import ARCHITECTURES, Architecture, build, example
from monstera.measure import count_macs, read_study

pytest.importorskip("transformers")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "architectures.py"


def architectures(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def named(name: str) -> Architecture:
    (found,) = (architecture for architecture in ARCHITECTURES if architecture.name == name)
    return found


def test_an_architecture_has_three_points_and_one_that_fails_has_its_reason(tmp_path: Path):
    done = architectures("gpt-2", "FNet", "--seconds", "0.01", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    study = read_study(tmp_path / "architectures.json")
    # Times are judged by the pace that the machine had in the same run.
    assert study.peak_gflops[1] > 0
    assert (study.name, study.subject) == ("architectures", "small")
    eager, dense, sparse = (point for point in study.points if point.at == "GPT-2")
    assert [point.line for point in (eager, dense, sparse)] == ["torch eager", "dense", "4x1 at density 0.25"]
    assert all(point.timing is not None and 0 < point.error < 1e-5 for point in (eager, dense, sparse))
    assert 0.25 < sparse.macs.surviving / sparse.macs.dense < 0.35
    torch_alone, *refused = (point for point in study.points if point.at == "FNet")
    assert torch_alone.timing is not None
    assert [point.note for point in refused] == ["fft_fftn: unknown to the compiler; real: unknown to the compiler"] * 2


class Slow:
    """A machine that never keeps its pace."""

    peak_gflops = 1.0

    def undisturbed(self, turn):
        return turn(), False


def test_turns_that_the_machine_disturbed_are_told():
    points = script.survey(named("BERT generation"), "small", Slow(), 3, 0.001)
    assert [point.timing and point.timing.disturbed for point in points] == [3, 3, 3]


def test_without_times_answers_are_compared_all_the_same(tmp_path: Path):
    done = architectures("sigLIP text", "--no-times", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    study = read_study(tmp_path / "architectures.json")
    assert not study.peak_gflops
    assert not study.bandwidths
    assert [(point.timing, point.note) for point in study.points] == [(None, "")] * 3
    assert all(point.error is not None and 0 < point.error < 1e-5 for point in study.points)


@pytest.mark.full
@pytest.mark.parametrize("name", [a.name for a in ARCHITECTURES if a.name != "FNet"])
def test_every_architecture_agrees_with_torch_in_float64_dense_and_with_holes(name: str):
    points = script.survey(named(name), "small")
    assert [point.note for point in points] == ["", "", ""]
    assert points[2].macs.surviving < points[1].macs.surviving


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError(), "ValueError: no message"),
        (RuntimeError("one\nand more"), "RuntimeError: one"),
        (ValueError("it has 1 problem:\n  - a row is missing"), "ValueError: it has 1 problem: a row is missing"),
        (ms.UnsupportedError("not a model\nnor a graph"), "UnsupportedError: not a model"),
        (
            ms.UnsupportedError("none of these:\n  sort in a.b: no order in c: d\n  fft in e: why\n  fft in f: why"),
            "sort: no order in c: d; fft: why",
        ),
    ],
)
def test_a_reason_is_one_line_whatever_went_wrong(error: Exception, told: str):
    assert script.reason(error) == told


def test_nothing_is_trivial_in_what_is_built():
    torch.manual_seed(0)
    norms = [m for m in build(named("ResNet"), "small").modules() if isinstance(m, _BatchNorm)]
    assert norms
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert 0.1 < norm.running_mean.std() < 0.5 < 0.7 < norm.running_var.mean() < 1.3


def test_the_last_quarter_of_the_tokens_is_padding_that_nobody_sees():
    torch.manual_seed(0)
    model, inputs = build(named("BERT"), "small"), example(named("BERT"), "small")
    assert inputs["attention_mask"].sum() == 24
    with torch.no_grad():
        before = model(**inputs)[0]
        inputs["input_ids"][:, 24:] = 7
        torch.testing.assert_close(model(**inputs)[0][:, :24], before[:, :24])


def test_an_unknown_architecture_is_answered_with_the_known_ones(tmp_path: Path):
    done = architectures("colour", "--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown architectures: colour; there are bert, roberta")


def test_names_are_unique_and_there_are_enough_of_every_kind():
    names = [architecture.name.lower() for architecture in ARCHITECTURES]
    assert len(set(names)) == len(names) >= 35
    assert {a.kind for a in ARCHITECTURES} == {"encoder", "decoder", "vision", "speech"}


def test_the_linear_layers_and_the_attention_of_gpt2_are_counted():
    gpt2 = named("GPT-2")
    torch.manual_seed(0)
    tokens, width, words, layers = 32, 64, 101, 2
    # Queries, keys and values, their projection, and a hidden layer four times as wide; then the head.
    linear = tokens * (layers * (3 + 1 + 4 + 4) * width * width + words * width)
    expected = linear + layers * 2 * tokens * tokens * width
    assert count_macs(build(gpt2, "small"), example(gpt2, "small")).dense == expected
