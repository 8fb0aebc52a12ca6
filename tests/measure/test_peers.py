"""Guests that need more than a call: OpenVINO as it chooses, and ncnn, which is tried out in another process."""

import subprocess
import time
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from monstera.measure import NCNN, OPENVINO_DEFAULT, Entry, compare, max_error
from monstera.measure.peers import ncnn_engine, ncnn_net
from monstera.measure.peers.peer import without


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    # Wide enough for ncnn to choose Winograd.
    layers = nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(32 * 13 * 11, 5)).eval()


def running() -> set[str]:
    """The processes of this machine that answer for ncnn."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return {line for line in found.splitlines() if ncnn_net.__file__ in line}


@pytest.mark.parametrize("batch", [1, 3])
def test_ncnn_answers_as_torch_does_in_fp32_on_any_batch_and_leaves_nothing_behind(
    model: nn.Module, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    example = torch.randn(batch, 3, 13, 11)
    call = NCNN.prepare(model, example, 1)
    assert not list(tmp_path.iterdir())
    with torch.no_grad():
        # Half precision anywhere would be off by more than 1e-4.
        assert max_error(call(), model(example)) < 1e-5
    assert max_error(call(), call()) == 0


def test_ncnn_uses_the_threads_asked_for_and_no_half_precision(model: nn.Module, monkeypatch: pytest.MonkeyPatch):
    nets = []
    load = ncnn_net.load

    def remembered(folder: Path, threads: int) -> object:
        nets.append(load(folder, threads))
        return nets[0]

    monkeypatch.setattr(ncnn_net, "load", remembered)
    NCNN.prepare(model, torch.zeros(1, 3, 13, 11), 2)
    options = nets[0].opt
    assert options.num_threads == 2
    assert options.use_winograd_convolution
    halves = [name for name in dir(options) if "fp16" in name or "bf16" in name]
    assert len(halves) >= 4
    assert not any(getattr(options, name) for name in halves)


def test_a_guest_without_an_answer_in_time_is_killed_and_excused(model: nn.Module, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ncnn_engine, "FIRST_ANSWER_S", 0.05)
    start = time.monotonic()
    row = compare("tiny", [Entry(NCNN, model)], torch.zeros(1, 3, 13, 11), rounds=3).rows[0]
    assert row.note == "TimeoutError: ncnn gave no answer within 0.05 s"
    assert row.timing is None
    assert time.monotonic() - start < 60
    assert not running()


def test_a_guest_that_dies_takes_nobody_along(tmp_path: Path):
    with pytest.raises(RuntimeError, match="ncnn died of SIGSEGV"):
        ncnn_engine.run(["sh", "-c", "kill -SEGV $$"], tmp_path, 10, "ncnn")


def test_a_network_that_ncnn_cannot_read_is_a_note_of_one_line(tmp_path: Path):
    (tmp_path / ncnn_net.PARAM).write_text("not a network\n")
    np.savez(tmp_path / ncnn_net.INPUTS, np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(RuntimeError, match=r"^ncnn failed: ncnn does not read the network that pnnx wrote$"):
        ncnn_engine.try_out(tmp_path, 1)


def test_operators_that_ncnn_lacks_are_named():
    class Thinned(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x[:, :, ::2, ::2])

    with pytest.raises(NotImplementedError, match=r"^ncnn has no Tensor\.slice$"):
        NCNN.prepare(Thinned().eval(), torch.zeros(1, 3, 8, 8), 1)


def test_openvino_says_which_type_it_computes_in_when_it_may_choose(model: nn.Module):
    row = compare("tiny", [Entry(OPENVINO_DEFAULT, model)], torch.randn(1, 3, 13, 11), rounds=3, round_s=0.001).rows[0]
    can_halve = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert row.precision == ("bf16" if can_halve else "fp32")
    assert row.error is not None
    assert (row.error > 1e-4) == can_halve


def test_an_engine_that_is_not_installed_says_what_to_install():
    assert without("numpy", "no_such_engine")() == "needs no_such_engine (pip install 'monstera[bench]')"
    assert without("numpy")() == ""
