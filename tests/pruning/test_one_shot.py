"""One-shot pruning and batch-norm statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monstera.pruning import prune, reestimate_batch_norm
from monstera.sparsity import Plan, PlanError
from monstera.zoo import network


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 8, 1))


def test_pruning_edits_the_same_parameters_and_keeps_what_survives() -> None:
    model = network("resnet20")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    report = prune(model, Plan.uniform(model, "4x1", 0.25))
    assert report.plan.ok
    assert report.plan.density == pytest.approx(0.25, abs=1e-3)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    for name, value in model.state_dict().items():
        assert torch.equal(value[value != 0], before[name][value != 0])
        if name in ("conv1.weight", "linear.weight"):
            assert torch.equal(value, before[name])


def test_a_plan_that_does_not_fit_changes_nothing() -> None:
    model = _model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PlanError):
        prune(model, Plan({"0.weight": ("4x1", 0.5), "9.weight": ("4x1", 0.5)}))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_statistics_become_the_plain_average_over_the_batches() -> None:
    model = _model().eval()
    model[1].train()
    batches = [torch.randn(4, 3, 8, 8) for _ in range(3)]
    assert reestimate_batch_norm(model, batches) == 3
    with torch.no_grad():
        outputs = [model[0](batch).transpose(0, 1).flatten(1) for batch in batches]
    assert torch.allclose(model[1].running_mean, torch.stack([y.mean(1) for y in outputs]).mean(0), atol=1e-6)
    assert torch.allclose(model[1].running_var, torch.stack([y.var(1) for y in outputs]).mean(0), atol=1e-6)
    assert model[1].momentum == 0.1
    assert [module.training for module in model] == [False, True, False, False]


def test_batches_may_be_tensors_pairs_or_keyword_arguments() -> None:
    x = torch.randn(4, 3, 8, 8)
    means = []
    for batch in (x, (x, torch.zeros(4)), [x, 0], {"input": x}):
        model = _model()
        reestimate_batch_norm(model, [batch])
        means.append(model[1].running_mean)
    assert all(torch.equal(mean, means[0]) for mean in means)


def test_dropout_stays_off_while_statistics_are_estimated() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(4))
    x = torch.randn(64, 4)
    reestimate_batch_norm(model.train(), [x])
    assert torch.allclose(model[1].running_mean, x.mean(0), atol=1e-6)
    assert model[0].training


def test_no_batches_are_refused_and_leave_the_statistics_alone() -> None:
    model = _model()
    model[1].running_mean.fill_(3)
    with pytest.raises(ValueError, match="no batches"):
        reestimate_batch_norm(model, [])
    assert (model[1].running_mean == 3).all()
    assert model[1].momentum == 0.1


def test_a_model_without_batch_norm_is_not_run() -> None:
    assert reestimate_batch_norm(nn.Linear(2, 2), [torch.zeros(1, 99)]) == 0


def test_pruning_with_batches_refreshes_the_statistics() -> None:
    model = _model()
    report = prune(model, Plan({"0.weight": ("4x1", 0.5)}), [torch.randn(4, 3, 8, 8)])
    assert report.batch_norm_batches == 1
    assert model[1].num_batches_tracked == 1
