"""Distillation: its terms by hand, in loops of all kinds, and what it refuses."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.pruning import ADMM, SPP, SRSTE, Distill, Gradual, GroupLasso, Reweighted, distillation_loss, prune
from monstera.sparsity import Plan


def _network(width: int = 12) -> nn.Module:
    parts = {"first": nn.Linear(16, width), "relu": nn.ReLU(), "drop": nn.Dropout(0.5), "last": nn.Linear(width, 4)}
    return nn.Sequential(OrderedDict(parts))


def _pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    student = _network()
    return student, _network().eval()


def _batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 16, generator=generator), torch.randint(4, (8,), generator=generator)


def test_the_logits_term_is_the_kl_divergence_of_softened_outputs() -> None:
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p = [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))]
    q = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))]
    expected = 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(distillation_loss(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(distillation_loss(teacher, teacher)) == pytest.approx(0, abs=1e-6)


def test_tokens_of_a_sequence_count_like_examples_of_a_batch() -> None:
    student, teacher = torch.randn(2, 3, 5, 7).unbind(0)
    flat = distillation_loss(student.reshape(15, 7), teacher.reshape(15, 7), 3.0)
    torch.testing.assert_close(distillation_loss(student, teacher, 3.0), flat)


def test_the_loss_is_the_weighted_sum_of_task_logits_and_features() -> None:
    student, teacher = _pair()
    x, labels = _batch()
    with Distill(student, teacher, temperature=2.0, weight=0.25, features={"first": 0.5, "relu": 2.0}) as distill:
        torch.manual_seed(1)
        logits = student(x)
        task = F.cross_entropy(logits, labels)
        loss = distill(task, logits, x)
    own, dense = student.first(x), teacher.first(x)
    expected = 0.75 * task + 0.25 * distillation_loss(logits, teacher(x), 2.0)
    expected = expected + 0.5 * (own - dense).square().mean() + 2 * (own.relu() - dense.relu()).square().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(weight.grad is not None for weight in student.parameters())
    assert all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.parametrize("method", [ADMM, SPP, SRSTE, Gradual, GroupLasso, Reweighted])
def test_beside_every_method_the_student_ends_nearer_to_its_teacher_than_pruned_at_once(method: type) -> None:
    torch.manual_seed(0)
    teacher = _network().eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student, at_once = copy.deepcopy(teacher), copy.deepcopy(teacher)
    plan = Plan({"first.weight": ("4x1", 0.5)})
    prune(at_once, plan)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    pruner = method(student, optimizer, plan, steps=80)
    with Distill(student, teacher, weight=1.0, features={"first": 1.0}) as distill:
        for step in range(100):
            x, labels = _batch(step % 5)
            logits = student(x)
            optimizer.zero_grad()
            distill(F.cross_entropy(logits, labels), logits, x).backward()
            optimizer.step()
    assert pruner.finish().plan.ok
    x = torch.cat([_batch(seed)[0] for seed in range(5)])
    apart = [distillation_loss(network(x), teacher(x)) for network in (student, at_once)]
    assert apart[0] < apart[1]
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_each_forward_pass_of_an_accumulated_gradient_has_its_own_loss() -> None:
    student, teacher = _pair()
    student.eval()
    distill = Distill(student, teacher, features={"relu": 1.0})
    parts = []
    for seed in (0, 1):
        x, labels = _batch(seed)
        logits = student(x)
        parts.append(distill(F.cross_entropy(logits, labels), logits, x))
    x, labels = _batch(0)
    logits = student(x)
    assert torch.equal(parts[0], distill(F.cross_entropy(logits, labels), logits, x))


def test_only_the_last_forward_pass_counts() -> None:
    student, teacher = _pair()
    student.eval()
    distill = Distill(student, teacher, weight=0.0, features={"first": 1.0})
    with torch.no_grad():
        student(_batch(3)[0])
        teacher(_batch(4)[0])
    x, _ = _batch()
    loss = distill(torch.zeros(()), student(x), x)
    torch.testing.assert_close(loss, (student.first(x) - teacher.first(x)).square().mean())


def test_a_layer_that_runs_twice_is_compared_both_times() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    student, teacher = Twice(), Twice().eval()
    x = torch.randn(3, 4)
    distill = Distill(student, teacher, weight=0.0, features={"layer": 1.0})
    once = (student.layer(x) - teacher.layer(x)).square().mean()
    both = once + (student(x) - teacher(x)).square().mean()
    torch.testing.assert_close(distill(torch.zeros(()), student(x), x), both)


def test_at_the_end_no_hook_is_left_on_either_network() -> None:
    student, teacher = _pair()
    with Distill(student, teacher, features={"first": 1.0, "last": 1.0}):
        assert student.first._forward_hooks
        assert student._forward_pre_hooks
    for module in [*student.modules(), *teacher.modules()]:
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_half_precision_is_compared_in_single() -> None:
    student, teacher = (network.bfloat16() for network in _pair())
    x = _batch()[0].bfloat16()
    distill = Distill(student.eval(), teacher, features={"first": 1.0})
    loss = distill(torch.zeros(()), student(x), x)
    own, dense = student.first(x).float(), teacher.first(x).float()
    assert loss == 0.9 * distillation_loss(student(x).float(), teacher(x).float()) + (own - dense).square().mean()
    loss.backward()
    assert student.first.weight.grad.dtype == torch.bfloat16


def test_a_model_of_transformers_is_taught_as_it_is() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    torch.manual_seed(0)
    teacher = transformers.BertForSequenceClassification(config).eval()
    student = copy.deepcopy(teacher)
    torch.nn.init.normal_(student.bert.encoder.layer[0].output.dense.weight)
    batch = {"input_ids": torch.randint(50, (2, 6)), "labels": torch.tensor([0, 2])}
    with Distill(student, teacher, features={"bert.encoder": 1.0}) as distill:
        output = student(**batch)
        with pytest.raises(ValueError, match=r"'bert\.encoder' gives BaseModelOutput\w*, and a float tensor"):
            distill(output.loss, output, **batch)
    with Distill(student, teacher, features={"bert.encoder.layer.0": 1.0}) as distill:
        output = student(**batch, output_hidden_states=True)
        loss = distill(output.loss, output, **batch)
    dense = teacher(**batch, output_hidden_states=True)
    term = (output.hidden_states[1] - dense.hidden_states[1]).square().mean()
    expected = 0.1 * output.loss + 0.9 * distillation_loss(output.logits, dense.logits) + term
    torch.testing.assert_close(loss, expected)
    assert term > 0.01


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"temperature": 0.0}, "temperature: expected a positive number, got 0.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"weight": 1.5}, "weight: expected a number from 0 to 1, got 1.5"),
        ({"weight": 0.0}, "weight: 0 and no features leave nothing to learn"),
        ({"features": {"first": 0.0}}, "features: expected a positive weight for layer 'first', got 0.0"),
        ({"features": {"frist": 1.0}}, "features: the student has no layer 'frist'; did you mean 'first'"),
        ({"features": {"": 1.0}}, "features: the student has no layer ''; known: first, relu, drop, last"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Distill(*_pair(), **wrong)


def test_a_layer_that_only_the_student_has_is_refused() -> None:
    student, teacher = _pair()
    student.add_module("more", nn.ReLU())
    with pytest.raises(ValueError, match="the teacher has no layer 'more'"):
        Distill(student, teacher, features={"more": 1.0})
    assert not student._forward_pre_hooks


def test_a_teacher_in_training_mode_is_refused_at_the_start_and_later() -> None:
    student, teacher = _pair()
    with pytest.raises(ValueError, match=r"training mode \(the network itself\).*teacher\.eval\(\)"):
        Distill(student, teacher.train())
    distill = Distill(student, teacher.eval())
    teacher.drop.train()
    x, _ = _batch()
    with pytest.raises(ValueError, match=r"training mode \(drop\)"):
        distill(torch.zeros(()), student(x), x)


def test_a_teacher_that_shares_weights_with_the_student_is_refused() -> None:
    student, _ = _pair()
    teacher = _network()
    teacher.first = student.first
    with pytest.raises(ValueError, match=r"shares 2 weights with the student, among them first\.weight.*deepcopy"):
        Distill(student, teacher.eval())


def test_shapes_that_differ_are_refused_with_both() -> None:
    student, teacher = _network(width=8), _network().eval()
    x, _ = _batch()
    distill = Distill(student, teacher, features={"relu": 1.0})
    with pytest.raises(ValueError, match=r"layer 'relu' gives \[8, 8\] in the student and \[8, 12\] in the teacher"):
        distill(torch.zeros(()), student(x), x)
    student.last = nn.Linear(8, 5)
    with pytest.raises(ValueError, match=r"the network gives \[8, 5\] in the student and \[8, 4\]"):
        Distill(student, teacher)(torch.zeros(()), student(x), x)


def test_a_loss_without_a_forward_pass_before_it_is_refused() -> None:
    student, teacher = _pair()
    x, _ = _batch()
    distill = Distill(student, teacher, features={"first": 1.0})
    logits = student(x)
    distill(torch.zeros(()), logits, x)
    with pytest.raises(ValueError, match="layer 'first' of the student has not run since the last loss"):
        distill(torch.zeros(()), logits, x)
