"""The fast accuracy of a plan: of a copy, with batch norm that fits, the same for the same seed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import monstera as ms
from monstera.pruning import reestimate_batch_norm
from monstera.search.evaluation import FastAccuracy
from monstera.sparsity import Plan
from monstera.training import Examples, Training, accuracy


def batches(count: int, seed: int, size: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Vectors of three classes, each around a corner of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.randint(3, (size,), generator=generator) for _ in range(count)]
    corners = torch.eye(8)[:3] * 3
    return [(corners[some] + torch.randn(size, 8, generator=generator), some) for some in labels]


def examples(count: int, seed: int) -> Examples:
    """As many batches, as one."""
    inputs, labels = zip(*batches(count, seed), strict=True)
    return Examples(torch.cat(inputs), torch.cat(labels))


def tuned(steps: int, lr: float, **more: int) -> FastAccuracy:
    tuning = Training(1, lr, batch_size=16)
    return FastAccuracy(batches(20, seed=1), batches(5, seed=2), tuning, examples(steps, seed=3), **more)


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(16, 3))


PLAN = Plan({"0.weight": ("4x1", 0.5), "4.weight": ("unstructured", 0.3)})


def same_state(one: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_it_is_that_of_the_network_pruned_by_hand_with_batch_norm_estimated_anew():
    model, held_out, statistics = network().train(), batches(4, seed=1), batches(5, seed=2)
    by_hand = copy.deepcopy(model)
    ms.prune(by_hand, PLAN)
    reestimate_batch_norm(by_hand, statistics)
    assert FastAccuracy(held_out, statistics)(model, PLAN) == accuracy(by_hand, held_out)


def test_old_statistics_of_batch_norm_do_not_matter():
    fast, model = FastAccuracy(batches(4, seed=1), batches(5, seed=2)), network()
    spoilt = copy.deepcopy(model)
    assert isinstance(spoilt[1], nn.BatchNorm1d)
    spoilt[1].running_mean.fill_(100.0)
    assert fast(spoilt, PLAN) == fast(model, PLAN)


@pytest.mark.parametrize("plan", [PLAN, Plan()], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    "fast", [FastAccuracy(batches(4, seed=1), batches(5, seed=2)), tuned(8, 0.01)], ids=["one shot", "tuned"]
)
def test_the_model_and_the_callers_random_numbers_stay_as_they_are(plan, fast):
    model = network().train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fast(model, plan)
    assert same_state(model, before)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_whatever_was_drawn_before():
    fast, model = tuned(11, 0.1, seed=4), network()
    first = fast(model, PLAN)
    torch.rand(100)
    assert fast(model, PLAN) == first


def test_a_few_steps_make_it_better():
    at_once = FastAccuracy(batches(20, seed=1), batches(5, seed=2))
    assert tuned(60, 0.05)(network(), PLAN) > at_once(network(), PLAN) + 0.1


def test_tuning_holds_the_holes_and_what_is_tied(monkeypatch):
    seen: list[nn.Module] = []

    monkeypatch.setattr("monstera.search.evaluation.accuracy", lambda model, _: seen.append(model) or 0.5)
    plan = Plan({"0.weight": ("4x1", 0.5), "4.weight": ("unify4x1", 0.5)})
    tuned(9, 0.1)(network(), plan)
    assert plan.verify(seen[0]).ok
    assert not torch.equal(seen[0][0].weight, network()[0].weight)


def test_what_is_missing_is_told():
    with pytest.raises(ValueError, match="held_out"):
        FastAccuracy([])
    with pytest.raises(ValueError, match="batch norm: no batches"):
        FastAccuracy(batches(1, seed=0))(network(), PLAN)
    with pytest.raises(ValueError, match="tuning needs examples"):
        FastAccuracy(batches(1, seed=0), tuning=Training(1, 0.1))
