import pytest
import torch
from torch import nn

from monstera.measure import Case, Macs, WrongAnswerError, cases, profile_cases, race_cases


@pytest.fixture
def conv() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, padding=1).eval()
    with torch.no_grad():
        conv.weight[:, 4:] = 0
    return conv


EXAMPLE = torch.linspace(-1, 1, 8 * 81).reshape(1, 8, 9, 9)


def test_a_layer_is_one_point_with_its_kernel_and_the_bytes_that_it_cannot_do_without(conv: nn.Module):
    (point,) = profile_cases([Case("spmm", "16 rows", 36, conv, EXAMPLE, facts={"rows": 16})], rounds=3)
    assert (point.sweep, point.line, point.at, point.threads) == ("spmm", "16 rows", 36, 1)
    assert point.macs == Macs(16 * 72 * 81, 16 * 36 * 81)
    assert point.facts["rows"] == 16
    assert "spmm" in str(point.facts["kernel"])
    assert point.facts["bytes"] == 4 * (16 * 36 + 16 + 8 * 81 + 16 * 81)
    assert point.error is not None
    assert point.error < 1e-5
    assert point.timing is not None
    assert len(point.timing.rounds_ms) == 3


def test_whole_runs_are_raced_and_the_profile_of_a_layer_is_a_part_of_them(conv: nn.Module):
    case = Case("batch", "dense", 1, conv, EXAMPLE)
    whole, step = race_cases([case], rounds=3, round_s=0.01)[0].timing, profile_cases([case], rounds=3)[0].timing
    assert whole is not None
    assert step is not None
    assert step.min_ms < whole.min_ms


def test_options_go_to_the_compiler_as_they_are(conv: nn.Module):
    with pytest.raises(ValueError, match="unknown target 'mmx'"):
        race_cases([Case("batch", "dense", 1, conv, EXAMPLE, options={"target": "mmx"})], rounds=3)


def test_an_engine_that_answers_wrongly_is_not_timed(conv: nn.Module, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cases, "max_error", lambda *_: 0.5)
    with pytest.raises(WrongAnswerError, match=r"batch: dense at 1: off by 5\.0e-01"):
        race_cases([Case("batch", "dense", 1, conv, EXAMPLE)], rounds=3)


def test_fewer_than_three_rounds_of_profiles_are_refused(conv: nn.Module):
    with pytest.raises(ValueError, match="at least 3 rounds, got 2"):
        profile_cases([Case("spmm", "16 rows", 36, conv, EXAMPLE)], rounds=2)
