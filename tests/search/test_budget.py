"""Plans for a budget by a cost model whose numbers are known, on machines that are not quite as it says."""

from __future__ import annotations

import copy
import re
import warnings
from itertools import product

import pytest
import torch
from rich.console import Console
from torch import nn

from monstera.search import Goal, GoalError, Measured, Planned, Rules, curvature_of, plan_for
from monstera.search.budget import TRIES
from monstera.search.options import options_of
from monstera.sparsity import Plan, find_view
from monstera.zoo import resnet20
from search.affine import Affine, machine

RULES = Rules()


def weighted(model: nn.Module):
    return curvature_of(model, list(Plan.uniform(model, "4x1", 0.5)))


def planned(model: nn.Module, goal: Goal, costs: Affine, rules: Rules = RULES, **how) -> Planned:
    return plan_for(model, goal, costs, rules=rules, curvature=weighted(model), **how)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return resnet20().eval()


@pytest.mark.parametrize("goal", [Goal(speedup=3), Goal(latency_ms=0.11)])
def test_the_plan_meets_its_budget_closely_and_reports_what_it_predicts(model: nn.Module, goal: Goal) -> None:
    costs = Affine.of(model, rest_ms=0.01)
    before = copy.deepcopy(model.state_dict())
    found = planned(model, goal, costs)
    assert found.cost == pytest.approx(costs.network_ms(found.plan))
    assert 0.97 * goal.budget(costs.dense_ms) <= found.cost <= goal.budget(costs.dense_ms) * (1 + 1e-6)
    assert -0.03 < found.off <= 1e-6
    assert found.predicted == found.reached
    assert found.tries == 0
    found.plan.check(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_decisions_say_of_every_weight_what_and_why_and_add_up(model: nn.Module) -> None:
    costs = Affine.of(model, rest_ms=0.01)
    found = planned(model, Goal(speedup=3), costs)
    assert [d.weight for d in found.decisions] == list(costs.weights)
    assert {d.weight: d.entry for d in found.decisions if d.entry} == dict(found.plan)
    assert all(d.why for d in found.decisions)
    assert sum(d.cost for d in found.decisions) + 0.01 == pytest.approx(found.cost)
    assert sum(d.dense_cost for d in found.decisions) + 0.01 == pytest.approx(found.dense_cost)
    assert found.loss == sum(d.loss for d in found.decisions) > 0
    assert re.search(r"the rest\W+0\.010\W+0\.010\W", str(found))
    assert re.search(rf"whole network\W+{found.dense_cost:.3f}\W+{found.cost:.3f}\W", str(found))


def test_no_other_choice_of_densities_is_better() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 16), nn.Linear(16, 48), nn.Linear(48, 10))
    with torch.no_grad():
        model.get_parameter("1.weight")[:8] *= 30
    costs, rules = Affine.of(model), Rules(densities=(0.5, 0.25, 0.1))
    goal = Goal(speedup=2.5)
    found = planned(model, goal, costs, rules)
    options = options_of(model, costs, rules, weighted(model))
    rest = costs.dense_ms - sum(layer[0].cost for layer in options.values())
    choices = [*product(*options.values())]
    best = min(sum(o.loss for o in c) for c in choices if sum(o.cost for o in c) + rest <= goal.budget(costs.dense_ms))
    assert found.loss == pytest.approx(best)


def test_a_layer_that_matters_more_keeps_more() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)), nn.Linear(64, 4))
    alike = weighted(model)
    steep = {**alike, "1.weight": alike["1.weight"] * 30}
    costs, goal = Affine.of(model), Goal(speedup=3)
    before, after = (plan_for(model, goal, costs, rules=RULES, curvature=c).plan for c in (alike, steep))
    assert after["1.weight"].density > 1.5 * before["1.weight"].density
    assert after["0.weight"].density < before["0.weight"].density


def test_the_table_stands_on_80_columns_without_cutting_a_word(model: nn.Module) -> None:
    found = planned(model, Goal(speedup=3), Affine.of(model))
    with (console := Console(width=80)).capture() as shown:
        console.print(found)
    words = {word for decision in found.decisions for word in (decision.weight, *decision.why.split())}
    assert words <= set(shown.get().split())
    assert len(shown.get().splitlines()) < 3 * len(found.decisions)


# ---- measuring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("goal", [Goal(speedup=3), Goal(latency_ms=0.11)])
def test_the_budget_is_corrected_until_what_is_measured_is_what_was_asked(
    model: nn.Module, goal: Goal, factor: float
) -> None:
    costs = Affine.of(model, rest_ms=0.01)
    found = planned(model, goal, costs, measure=machine(costs, factor=factor))
    assert found.measured is not None
    assert abs(found.off) <= 0.05
    assert found.tries == (1 if factor == 1.0 else 2)
    assert found.reached == pytest.approx(goal.reached(costs.dense_ms, factor * costs.network_ms(found.plan)))


@pytest.mark.parametrize(("edge", "depth"), [(2.15, 2), (1.8, 3)])
def test_a_plan_is_found_beside_a_cliff(model: nn.Module, edge: float, depth: float) -> None:
    """Channels that die around a sparse layer: below a budget the network is far faster than predicted."""
    costs, seen = Affine.of(model, rest_ms=0.01), []
    cliff = costs.dense_ms / edge

    def measure(plan: Plan) -> Measured:
        predicted = costs.network_ms(plan)
        seen.append(predicted)
        return Measured(
            costs.dense_ms, predicted / depth if predicted < cliff else 1.1 * predicted * min(1, edge / 2.15)
        )

    goal = Goal(speedup=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = planned(model, goal, costs, measure=measure)
    assert abs(found.off) <= 0.05
    assert min(seen) < cliff < found.cost
    assert found.tries == len(seen) > 2


@pytest.mark.parametrize("loss", [0.22, 0.4])
def test_where_channels_die_the_time_that_it_saves_goes_to_other_layers(model: nn.Module, loss: float) -> None:
    """A layer's step to a lower density takes much of the network's time with it, so that no budget hits the goal."""
    costs, seen = Affine.of(model, rest_ms=0.01), []
    steep = "layer3.0.conv1.weight"
    goal = Goal(latency_ms=0.11)
    edge = planned(model, goal, costs).plan[steep].density

    def measure(plan: Plan) -> Measured:
        seen.append(costs.network_ms(plan))
        dead = steep in plan and plan[steep].density < edge
        return Measured(costs.dense_ms, seen[-1] * (1.02 - loss if dead else 1.2))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = planned(model, goal, costs, measure=measure)
    assert abs(found.off) <= 0.05
    assert found.plan[steep].density < edge
    assert found.tries == len(seen)


def test_a_speedup_is_against_the_dense_network_as_measured(model: nn.Module) -> None:
    costs = Affine.of(model)
    found = planned(model, Goal(speedup=3), costs, measure=machine(costs, dense_factor=1.4, factor=1.4))
    assert found.tries == 1
    assert found.reached == pytest.approx(3, rel=0.05)


def test_what_cannot_be_met_on_this_machine_is_told_with_the_nearest(model: nn.Module) -> None:
    costs = Affine.of(model, rest_ms=0.02)
    with pytest.warns(UserWarning, match=r"asked for 0\.06 ms, measured .* ms with the nearest of 2 plans: ") as told:
        found = planned(model, Goal(latency_ms=0.06), costs, measure=machine(costs, factor=2))
    assert 0.05 < found.off < 0.5
    assert found.tries == 2
    call = planned.__code__.co_firstlineno + 1
    assert [(warning.filename, warning.lineno) for warning in told] == [(__file__, call)]


@pytest.mark.parametrize(("goal", "factor"), [(Goal(latency_ms=0.06), 2.8), (Goal(speedup=6), 3.0)])
def test_a_plan_that_is_slower_than_the_goal_by_more_than_half_is_no_answer(
    model: nn.Module, goal: Goal, factor: float
) -> None:
    costs, seen = Affine.of(model, rest_ms=0.02), []

    def slow(plan: Plan) -> Measured:
        seen.append(machine(costs, factor=factor)(plan))
        return seen[-1]

    with pytest.raises(GoalError, match=rf"asked for {goal}, measured .* ms dense, .* Ask for less") as caught:
        planned(model, goal, costs, measure=slow)
    least = min(measured.ms for measured in seen)
    assert 1.5 * goal.budget(costs.dense_ms) < least < costs.dense_ms
    assert caught.value.best == goal.reached(costs.dense_ms, least)


@pytest.mark.parametrize("speedup", [1.2, 1.04])
def test_a_plan_that_is_no_faster_than_dense_is_no_answer_however_near_it_is(model: nn.Module, speedup: float) -> None:
    costs = Affine.of(model)
    told = r"measured 1 times faster than dense with the .* \(0\.2683 ms dense, 0\.2683 ms with the holes\)"
    with pytest.raises(GoalError, match=told):
        planned(
            model,
            Goal(speedup=speedup),
            costs,
            Rules(densities=(0.7,)),
            measure=lambda _: Measured(costs.dense_ms, costs.dense_ms),
        )


def test_who_tolerates_more_than_half_gets_it(model: nn.Module) -> None:
    costs = Affine.of(model, rest_ms=0.02)
    found = planned(model, Goal(latency_ms=0.06), costs, measure=machine(costs, factor=2.8), tolerance=2)
    assert found.off > 0.5


def test_the_only_plan_that_there_was_is_called_so() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 4))
    costs = Affine.of(model)
    with pytest.warns(UserWarning, match=r"measured 2\.89 times faster than dense with the only plan: "):
        planned(model, Goal(speedup=2), costs, Rules(densities=(0.25,)), measure=machine(costs))


def test_a_plan_that_is_far_too_fast_is_an_answer_where_the_nearest_is_none(model: nn.Module) -> None:
    costs, times = Affine.of(model), iter([1.0, 0.3])

    def jumping(_: Plan) -> Measured:
        return Measured(costs.dense_ms, costs.dense_ms * next(times, 1.0))

    with pytest.warns(UserWarning, match=r"asked for 1\.5 times faster than dense, measured 3\.33 times"):
        assert planned(model, Goal(speedup=1.5), costs, measure=jumping).reached == pytest.approx(1 / 0.3)


def test_plans_are_not_measured_twice(model: nn.Module) -> None:
    costs = Affine.of(model)
    seen = []

    def stubborn(plan: Plan) -> Measured:
        seen.append(plan)
        return Measured(costs.dense_ms, costs.dense_ms / 2.5)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planned(model, Goal(speedup=3), costs, measure=stubborn)
    assert 1 < len(seen) <= TRIES
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


def test_a_latency_that_the_dense_network_has_by_itself_needs_no_holes(model: nn.Module) -> None:
    costs = Affine.of(model)
    with pytest.raises(GoalError, match=r"the dense network takes 0\.2683 ms, so 1 ms needs no holes"):
        planned(model, Goal(latency_ms=1), costs)
    with pytest.raises(GoalError, match="needs no holes"):
        planned(model, Goal(latency_ms=0.2), costs, measure=machine(costs, 0.5, 0.5))


# ---- out of reach ---------------------------------------------------------------------------------------------------


def test_asked_for_the_impossible_the_best_is_told_and_can_be_asked_for(model: nn.Module) -> None:
    costs = Affine.of(model, rest_ms=0.01)
    with pytest.raises(
        GoalError, match=r"1e\+03 times faster than dense is out of reach; .*sparser than 0\.03"
    ) as caught:
        planned(model, Goal(speedup=1000), costs)
    best = caught.value.best
    assert f"{best:.3g} times faster" in str(caught.value)
    assert re.search(r"0\.0\d+ ms of 0\.2\d* stay whatever the plan", str(caught.value))
    found = planned(model, Goal(speedup=best), costs)
    assert best <= found.predicted * (1 + 1e-6) < 1.01 * best
    assert min(entry.density for entry in found.plan.values()) == 0.03


@pytest.mark.parametrize(("goal", "name"), [(Goal(speedup=1000), "speedup"), (Goal(latency_ms=1e-6), "latency_ms")])
@pytest.mark.parametrize("rest_ms", [0.0, 0.0107, 0.0333, 0.0501])
def test_the_best_can_be_asked_for_as_it_is_printed(model: nn.Module, goal: Goal, name: str, rest_ms: float) -> None:
    costs = Affine.of(model, rest_ms=rest_ms)
    with pytest.raises(GoalError) as caught:
        planned(model, goal, costs)
    printed = re.search(r"would be at ([0-9.e-]+) ", str(caught.value))
    assert printed
    assert float(printed[1]) == pytest.approx(caught.value.best, rel=1e-9)
    assert planned(model, Goal(**{name: float(printed[1])}), costs).plan


def test_kernel_patterns_in_the_way_are_named(model: nn.Module) -> None:
    costs = Affine.of(model)
    with pytest.raises(GoalError, match=r"without kernel patterns \(hard=False\) it would be at .* times faster"):
        planned(model, Goal(speedup=6), costs, Rules(hard=True))
    planned(model, Goal(speedup=6), costs)


def test_the_holes_of_a_plan_are_what_compile_finds(model: nn.Module) -> None:
    found = planned(model, Goal(speedup=3), Affine.of(model))
    for name, entry in found.plan.items():
        projected = entry.pattern.project(find_view(model, name), entry.density)
        assert int(projected.count_nonzero()) == pytest.approx(entry.density * projected.numel(), rel=0.05)
