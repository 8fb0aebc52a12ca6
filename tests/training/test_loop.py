"""The simple loop and what it is made of: rates, accuracy, examples."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from monstera.sparsity import Plan
from monstera.training import METHODS, DivergedError, Examples, Training, accuracy, lr_factor, train
from monstera.zoo import digits_cnn, fused_mobilenet

WEIGHT = "features.2.conv.0.weight"


def pictures(count: int, seed: int = 0) -> Examples:
    """Pictures whose class is where the light is."""
    labels = torch.arange(count) % 2
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    images[:, :, :4] += labels[:, None, None, None]
    return Examples(images, labels)


def network() -> nn.Module:
    torch.manual_seed(0)
    return fused_mobilenet(classes=2, width=4, blocks=(1, 1)).eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_training_depends_on_the_seed_alone_and_keeps_the_holes() -> None:
    data, model = pictures(48), network()
    plan = Plan({WEIGHT: ("4x1", 0.25)})
    how = Training(2, 0.05, batch_size=8, flip=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, two, other = (
        train(model, plan, data, how, method=method, teacher=network(), seed=seed)
        for method, seed in (("asp", 1), ("asp", 1), ("asp", 2))
    )
    assert torch.equal(one.state_dict()[WEIGHT], two.state_dict()[WEIGHT])
    assert not torch.equal(one.state_dict()[WEIGHT], other.state_dict()[WEIGHT])
    assert plan.verify(one).ok
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    trained = train(model, plan, data, Training(8, 0.1, batch_size=8))
    assert accuracy(trained, pictures(20, seed=1).batches()) >= 0.75


def test_dropout_is_drawn_by_the_seed_and_the_callers_random_numbers_stay() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
    data, how = pictures(32), Training(2, 0.05, batch_size=8)
    state = torch.get_rng_state()
    one = train(model, Plan(), data, how)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    assert same(one, train(model, Plan(), data, how))


def test_batch_norm_is_fitted_to_the_examples_unless_other_batches_are_given() -> None:
    data, how, model = pictures(16), Training(1, 0.05, batch_size=8), network()
    own = train(model, Plan(), data, how)
    assert same(own, train(model, Plan(), data, how, statistics=[data.images]))
    other = train(model, Plan(), data, how, statistics=[data.images + 1])
    assert not same(own, other)
    assert torch.equal(own.get_parameter(WEIGHT), other.get_parameter(WEIGHT))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_trained_by_its_name_alone(method: str) -> None:
    plan = Plan({"conv2.weight": ("4x1", 0.5)})
    trained = train(digits_cnn(width=8, classes=2), plan, pictures(64), Training(6, 0.01, batch_size=8), method=method)
    assert plan.verify(trained).ok


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step"):
        train(network(), Plan(), pictures(48), Training(3, 1e30, batch_size=8))


def test_less_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at most the 4 examples there are, got 8"):
        train(network(), Plan(), pictures(4), Training(1, 0.1, batch_size=8))


def test_a_subset_has_as_many_of_each_class_and_is_the_same_each_time() -> None:
    data = pictures(48)
    some = data.balanced(10)
    assert some.labels.bincount().tolist() == [5, 5]
    assert torch.equal(some.images, data.balanced(10).images)
    with pytest.raises(ValueError, match="there are too few"):
        data.balanced(96)


def test_the_learning_rate_warms_up_and_decays() -> None:
    factors = [lr_factor(step, 100, warmup=0.1, decay="cosine") for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[9] == pytest.approx(10 / 11)
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert all(a < b for a, b in pairwise(factors[:11]))
    assert all(a > b > 0 for a, b in pairwise(factors[10:]))
    assert lr_factor(25, 100, decay="linear") == 0.75
    assert lr_factor(99, 100, decay="constant") == 1


def test_accuracy_counts_what_one_by_one_counts() -> None:
    model, data = network(), pictures(21)
    right = [int(model(x[None]).argmax()) == int(y) for x, y in zip(data.images, data.labels, strict=True)]
    assert accuracy(model, data.batches(8)) == sum(right) / len(right)


def test_accuracy_is_of_classes_and_of_some_examples() -> None:
    with pytest.raises(ValueError, match=r"expected the model to give \[16, classes\], got \[16, 1, 8, 8\]"):
        accuracy(nn.Identity(), pictures(16).batches())
    with pytest.raises(ValueError, match="no examples"):
        accuracy(network(), [])
