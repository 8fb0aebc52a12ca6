"""`plan` as users call it: arguments, errors, densities; and small networks that are really compiled and measured."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import monstera as ms
from monstera.search import Goal, GoalError, Rules, choose, planning
from monstera.search.budget import TRIES
from monstera.search.costs.table import Machine
from monstera.sparsity import PatternError, Plan, PlanError
from monstera.zoo import digits_cnn, mobilenet_v2, resnet20
from search.affine import Affine

X = torch.zeros(1, 1, 8, 8)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return digits_cnn().eval()


def kept_share(model: nn.Module, plan: Plan) -> float:
    """Of the weights that may get holes."""
    sizes = {name: model.get_parameter(name).numel() for name in Plan.uniform(model, "4x1", 0.5)}
    return sum(n * (plan[name].density if name in plan else 1) for name, n in sizes.items()) / sum(sizes.values())


@pytest.mark.parametrize("density", [0.1, 0.3, 0.6])
def test_a_density_is_kept_closely_and_needs_no_example(density: float) -> None:
    torch.manual_seed(0)
    model = mobilenet_v2().eval()
    plan = ms.plan(model, density=density, quiet=True)
    assert 0.97 * density < kept_share(model, plan) <= density * (1 + 1e-6)
    assert {str(entry.pattern) for entry in plan.values()} == {"4x1"}


def test_a_density_counts_whole_groups_where_a_layer_has_few_of_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with pytest.raises(GoalError, match=r"would be at density 0\.0625\.") as caught:
        ms.plan(model, density=0.04, quiet=True)
    for density in (caught.value.best, 0.1, 0.3):
        masks = ms.plan(model, density=density, quiet=True).masks(model)
        assert 128 - sum(int((~mask).sum()) for mask in masks.values()) <= density * 128


def test_of_several_patterns_a_density_takes_the_smallest_blocks(model: nn.Module) -> None:
    plan = ms.plan(model, density=0.3, patterns=["8x1", "2x1", "4x1"], quiet=True)
    assert {str(entry.pattern) for entry in plan.values()} == {"2x1"}


def test_the_plan_is_a_plan_that_methods_take_and_files_keep(model: nn.Module, tmp_path) -> None:
    plan = ms.plan(model, density=0.3, quiet=True)
    plan.save(tmp_path / "plan.yaml")
    assert Plan.load(tmp_path / "plan.yaml") == plan
    pruner = ms.ADMM(model, torch.optim.SGD(model.parameters(), lr=0.1), plan, steps=40)
    assert pruner.plan == plan


def test_why_is_printed_for_every_layer_unless_quiet(model: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    ms.plan(model, density=0.3, quiet=True)
    assert capsys.readouterr().out == ""
    ms.plan(model, density=0.3)
    shown = capsys.readouterr().out
    assert "Plan for density 0.3" in shown
    assert all(word in shown for word in ("conv1.weight", "conv2.weight", "linear.weight", "4x1", "dense"))
    assert "asked for: density 0.3; predicted: density 0." in shown


def test_calibration_decides_between_layers() -> None:
    torch.manual_seed(0)
    model = resnet20().eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
    before = copy.deepcopy(model.state_dict())

    def loss(net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(net(batch[0]), batch[1])

    plans = [
        ms.plan(model, density=0.3, quiet=True),
        ms.plan(model, density=0.3, calibration=[images], quiet=True),
        ms.plan(model, density=0.3, calibration=[(images, labels)], loss=loss, quiet=True),
    ]
    assert all(kept_share(model, plan) <= 0.3 + 1e-6 for plan in plans)
    assert plans[0] != plans[1] != plans[2] != plans[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.full
def test_a_speedup_is_compiled_measured_and_reported() -> None:
    torch.manual_seed(0)
    wide = digits_cnn(width=64).eval()
    rules = Rules(blocks=(ms.pattern("4x1"), ms.pattern("8x1")))
    with warnings.catch_warnings():
        # How near it comes is a matter of the machine, and of five rounds of microseconds.
        warnings.simplefilter("ignore", UserWarning)
        found = choose(wide, torch.randn(1, 1, 8, 8), Goal(speedup=1.5), rules=rules, quiet=True)
    assert found.measured is not None
    assert 1 <= found.tries <= TRIES
    assert found.reached > 1.1
    assert found.plan
    assert "measured here: " in str(found)


PHONE = Machine("a phone", "neon", "cc", "kernels", "digest")


@dataclass(frozen=True, slots=True)
class Elsewhere(Affine):
    machine: Machine = PHONE


def test_a_plan_for_another_machine_is_predicted_and_not_measured(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {}

    def costs_of(*_: Any, **how: Any) -> Elsewhere:
        asked.update(how)
        return Elsewhere(Affine.of(model).dense)

    monkeypatch.setattr(planning, "costs_of", costs_of)
    plan = ms.plan(model, X, speedup=1.5, threads=2, table="phone.json")
    assert plan
    assert "not measured: these are times of another machine" in " ".join(capsys.readouterr().out.split())
    assert (asked["threads"], asked["table"], asked["target"]) == (2, "phone.json", "native")


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({}, ValueError, "got none of them"),
        ({"speedup": 2, "latency_ms": 3}, ValueError, "got speedup=2 and latency_ms=3"),
        ({"density": 1.5}, ValueError, "below 1, got 1.5"),
        ({"density": 0.3, "patterns": ["4y1"]}, PatternError, "unknown pattern '4y1'; patterns: "),
        ({"density": 0.3, "patterns": "4x1"}, ValueError, r"got the text '4x1'; write \['4x1'\]"),
        ({"density": 0.3, "patterns": []}, ValueError, "at least one block"),
        ({"density": 0.3, "calibration": X}, TypeError, "a collection of batches, got a Tensor"),
        ({"density": 0.3, "calibration": [torch.zeros(1, 3, 8, 8)]}, TypeError, "batch 0: DigitsCNN does not take it"),
        ({"density": 0.3, "loss": F.mse_loss}, ValueError, "loss needs calibration="),
        ({"density": 0.001}, GoalError, "density 0.001 is out of reach"),
    ],
)
def test_what_makes_no_sense_is_refused(model: nn.Module, how: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ms.plan(model, X, quiet=True, **how)


def test_a_tolerance_of_nothing_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="tolerance is a share above 0, got 0"):
        choose(model, X, Goal(speedup=2), rules=Rules(), tolerance=0)


def test_time_without_an_example_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="2 times faster than dense: time needs an example"):
        ms.plan(model, speedup=2, quiet=True)


def test_weights_that_are_no_numbers_are_named(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("conv2.weight")[0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    with pytest.raises(PlanError, match=r"conv2\.weight: 2 weights are NaN or infinite"):
        ms.plan(model, X, density=0.3, quiet=True)


def test_a_model_with_nothing_to_prune_is_refused() -> None:
    with pytest.raises(PlanError, match="no weight is left to prune"):
        ms.plan(nn.Sequential(nn.Linear(8, 8)), density=0.3, quiet=True)


def test_a_model_in_training_mode_is_refused_where_it_is_timed(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="training mode"):
        ms.plan(model.train(), X, speedup=2, quiet=True)
