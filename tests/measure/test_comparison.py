from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from monstera.measure import (
    EAGER,
    INDUCTOR,
    NCNN,
    ONNX_RUNTIME,
    OPENVINO,
    OPENVINO_DEFAULT,
    Entry,
    Peer,
    WrongAnswerError,
    compare,
    peer,
)
from monstera.measure.answers import Inputs, arguments


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    return nn.Sequential(*layers).eval()


EXAMPLE = torch.linspace(-1, 1, 3 * 36).reshape(1, 3, 6, 6)


ENGINES = EAGER, ONNX_RUNTIME, OPENVINO, OPENVINO_DEFAULT, NCNN


def halved(model: nn.Module, example: Inputs, threads: int) -> Callable[[], Any]:  # noqa: ARG001
    args, kwargs = arguments(example)
    return lambda: model(*args, **kwargs) / 2


def broken(model: nn.Module, example: Inputs, threads: int) -> Callable[[], Any]:
    raise NotImplementedError("no such operator\nand many more lines")


def test_the_engines_that_are_installed_agree_and_are_timed(model: nn.Module):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    entries = [Entry(engine, model) for engine in (EAGER, ONNX_RUNTIME, OPENVINO, NCNN)]
    found = compare("tiny", entries, EXAMPLE, rounds=3, round_s=0.001)
    assert [row.note for row in found.rows] == ["", "", "", ""]
    assert all(row.error is not None and row.error < 1e-5 for row in found.rows)
    assert {row.precision for row in found.rows} == {"fp32"}
    assert found.inputs == ((1, 3, 6, 6),)
    assert found.rows[0].macs.dense == 8 * 27 * 36 + 8 * 36 * 5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_named_inputs_reach_the_right_input_of_every_engine():
    class Difference(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return left - 2 * right

    example = {"right": torch.ones(1, 4), "left": torch.full((1, 4), 7.0)}
    model = Difference().eval()
    found = compare("difference", [Entry(p, model) for p in ENGINES], example, rounds=3)
    assert [row.error for row in found.rows] == [0.0] * len(ENGINES)


def test_torch_compile_runs_or_says_what_it_lacks(model: nn.Module, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = compare("tiny", [Entry(EAGER, model), Entry(INDUCTOR, model)], EXAMPLE, rounds=3, round_s=0.001)
    assert found.row("torch.compile").note == "needs a C++ compiler"
    assert found.row("torch eager").timing is not None


def test_a_wrong_answer_is_never_timed(model: nn.Module):
    row = compare("tiny", [Entry(Peer("halved", halved), model)], EXAMPLE, rounds=3).rows[0]
    assert row.timing is None
    assert "off by 5.0e-01" in row.note
    assert row.precision == ""


def test_an_engine_is_held_to_its_own_tolerance_and_its_row_says_what_it_computes_in(model: nn.Module):
    rough = Peer("rough", halved, tolerance=0.6, precision=lambda: "bf16")
    row = compare("tiny", [Entry(rough, model)], EXAMPLE, rounds=3, round_s=0.001).rows[0]
    assert row.timing is not None
    assert row.precision == "bf16"
    assert row.error == pytest.approx(0.5)


def test_a_tolerance_that_lets_everything_pass_is_refused():
    with pytest.raises(ValueError, match="rough: a tolerance is relative, between 0 and 1; got 1"):
        Peer("rough", halved, tolerance=1)


def test_a_guest_that_fails_keeps_its_row_with_the_first_line_of_the_reason(model: nn.Module):
    row = compare("tiny", [Entry(Peer("broken", broken), model)], EXAMPLE, rounds=3).rows[0]
    assert row.note == "NotImplementedError: no such operator"


def test_our_own_failures_are_raised(model: nn.Module):
    with pytest.raises(NotImplementedError):
        compare("tiny", [Entry(Peer("ours", broken, guest=False), model)], EXAMPLE, rounds=3)
    with pytest.raises(WrongAnswerError):
        compare("tiny", [Entry(Peer("ours", halved, guest=False), model)], EXAMPLE, rounds=3)


def test_a_model_in_training_mode_is_refused(model: nn.Module):
    with pytest.raises(ValueError, match=r"in training mode: \['torch eager, dense'\]"):
        compare("tiny", [Entry(EAGER, model.train())], EXAMPLE)


def test_two_rows_with_one_name_are_refused(model: nn.Module):
    with pytest.raises(ValueError, match="appear twice"):
        compare("tiny", [Entry(EAGER, model), Entry(EAGER, model)], EXAMPLE)


def test_torch_uses_the_threads_asked_for_and_afterwards_what_it_used_before(model: nn.Module):
    before = torch.get_num_threads()
    seen: set[int] = set()

    def watched(model: nn.Module, example: Inputs, _: int) -> Callable[[], Any]:
        args = arguments(example)[0]
        return lambda: (seen.add(torch.get_num_threads()), model(*args))[1]

    compare("tiny", [Entry(Peer("watched", watched), model)], EXAMPLE, threads=before + 1, rounds=3, round_s=0.001)
    assert seen == {before + 1}
    assert torch.get_num_threads() == before


def test_an_unknown_engine_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="no engine is called 'tvm'; there are monstera, torch eager"):
        peer("tvm")
