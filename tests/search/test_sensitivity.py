from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.search import by_magnitude, fisher, gauss_newton, loss_after_projection, losses_of
from monstera.search.sensitivity import strained
from monstera.sparsity import Layout, Plan, WeightView, find_view, pattern
from monstera.zoo import digits_cnn
from monstera.zoo.data import digits


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, wanted = batch
    return (model(inputs) - wanted).square().mean()


# ---- curvature ------------------------------------------------------------------------------------------------------


def test_probes_find_the_diagonal_of_a_linear_model() -> None:
    # Outputs are W x: the derivative of row i by W[i, j] is x[j], so J'J has the mean of x[j]^2 in every row.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3))
    batches = [torch.randn(8, 5), torch.randn(8, 5)]
    exact = torch.cat(batches).square().mean(0).expand(3, 5)
    found = gauss_newton(model, ["0.weight"], batches, probes=2000)["0.weight"]
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0)


def test_with_one_example_and_one_output_a_probe_is_exact() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    x = torch.randn(1, 4)
    names = ["0.weight", "2.weight"]
    found = gauss_newton(model, names, [x], probes=1)
    model(x).sum().backward()
    for name in names:
        gradient = find_view(model, name).weight.grad
        assert gradient is not None
        torch.testing.assert_close(found[name], gradient.square())


def test_the_diagonal_is_that_of_the_squared_error_in_many_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(6, 3)
    jacobian = torch.autograd.functional.jacobian(
        lambda w: torch.func.functional_call(model, {"0.weight": w}, x), model[0].weight.detach()
    )
    exact = jacobian.square().sum((0, 1)) / len(x)
    found = gauss_newton(model, ["0.weight"], [x], probes=4000)["0.weight"]
    torch.testing.assert_close(found, exact, rtol=0.2, atol=0.01)


def test_fisher_of_single_examples_is_the_mean_of_squared_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2))
    batches = [(torch.randn(1, 3), torch.randn(1, 2)) for _ in range(5)]
    squares = torch.zeros(2, 3)
    for batch in batches:
        (gradient,) = torch.autograd.grad(squared_error(model, batch), [model[0].weight])
        squares += gradient.square() / 5
    found = fisher(model, ["0.weight"], batches, squared_error)
    torch.testing.assert_close(found["0.weight"], squares)


def test_fisher_of_batches_is_about_that_of_their_examples_near_an_optimum() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    inputs = torch.randn(4096, 3)
    wanted = model(inputs).detach() + torch.randn(4096, 1)
    whole = [*zip(inputs.split(16), wanted.split(16), strict=True)]
    single = [*zip(inputs[:1000].split(1), wanted[:1000].split(1), strict=True)]
    by_batch, by_one = (fisher(model, ["0.weight"], b, squared_error)["0.weight"] for b in (whole, single))
    torch.testing.assert_close(by_batch, by_one, rtol=0.3, atol=0)


class Watched(nn.Module):
    """Batch norm, dropout, a frozen weight, and a weight that the answer does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.idle = nn.Linear(3, 3)
        self.head = nn.Linear(4, 2)
        self.head.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.drop(self.norm(self.conv(x))).mean((2, 3)))}


@pytest.mark.parametrize("with_loss", [False, True])
def test_the_model_is_as_before_and_idle_weights_have_no_curvature(with_loss: bool) -> None:
    torch.manual_seed(0)
    model = Watched().train()
    model.drop.eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    names, batch = ["conv.weight", "idle.weight", "head.weight"], torch.randn(3, 2, 6, 6)
    before, chance = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.no_grad():
        if with_loss:
            found = fisher(model, names, [batch], lambda m, b: m(b)["logits"].square().mean())
        else:
            found = gauss_newton(model, names, [{"x": batch}])
    assert all(bool((found[name] > 0).any()) for name in ("conv.weight", "head.weight"))
    assert not found["idle.weight"].any()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert model.head.bias.grad is None
    assert not model.head.weight.requires_grad
    assert model.training
    assert not model.drop.training
    assert torch.equal(torch.get_rng_state(), chance)


def test_the_same_seed_gives_the_same_curvature() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3)
    one, two, other = (gauss_newton(model, ["0.weight"], [batch], seed=seed)["0.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


MODEL = nn.Sequential(nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        (torch.zeros(4, 3), TypeError, r"a collection of batches, got a Tensor; write \[batch\]"),
        ({"input": torch.zeros(4, 3)}, TypeError, "got a dict"),
        (7, TypeError, "got a int"),
        ([], ValueError, "holds no batch"),
        ([torch.zeros(4, 5)], TypeError, "batch 0: Sequential does not take it"),
        ([torch.zeros(4, 3), (torch.zeros(4, 3), torch.zeros(4))], TypeError, "batch 1: .* and no labels"),
        ([torch.full((1, 3), float("nan"))], ValueError, "an output is NaN or infinite"),
    ],
)
def test_batches_of_the_wrong_kind_are_named(batches, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gauss_newton(MODEL, ["0.weight"], batches)


@pytest.mark.parametrize(
    ("batch", "loss", "error", "message"),
    [
        ("text", lambda m, _: m(torch.zeros(1, 3)).sum(), TypeError, "batch 0 is a str that holds no tensor"),
        (torch.zeros(1, 3), lambda m, x: m(x), TypeError, r"is one number as a tensor, got \[1, 2\]"),
        (torch.zeros(1, 3), lambda *_: 1.0, TypeError, "got float"),
        (torch.zeros(1, 3), lambda m, x: m(x).sum() * float("inf"), ValueError, "the loss is"),
        (torch.zeros(1, 3), lambda m, x: m(x).sum().detach(), ValueError, "does not depend on the weights"),
    ],
)
def test_a_loss_of_the_wrong_kind_is_named(batch, loss, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fisher(MODEL, ["0.weight"], [batch], loss)


# ---- estimates ------------------------------------------------------------------------------------------------------

CASES = [
    ("4x1", (11, 7)),
    ("2x2", (5, 6, 3, 3)),
    ("filter", (7, 3, 3, 3)),
    ("unstructured", (3, 5)),
    ("patterns4of8", (5, 4, 3, 3)),
    ("bcr4x4", (9, 10)),
    ("4x1&int4", (8, 6)),
]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_all_densities_at_once_are_what_projecting_at_each_costs(name: str, shape) -> None:
    torch.manual_seed(0)
    module = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], 3)
    view, densities = WeightView(module), [0.9, 0.5, 0.3, 0.1]
    bend = torch.rand(shape)
    found = losses_of(view, pattern(name), densities, bend)
    weight = view.weight.detach()
    for density, loss in zip(densities, found, strict=True):
        move = pattern(name).project(view, density) - weight
        second = 0.5 * (bend * move.square()).sum()
        total = 0.5 * (bend * weight.square()).sum()
        assert loss == pytest.approx(float(-total * torch.log(1 - second / total)), rel=1e-4, abs=1e-6)


def test_groups_of_parts_are_ranked_together() -> None:
    torch.manual_seed(0)
    gru = nn.GRU(6, 4)
    view = find_view(gru, "weight_ih_l0")
    assert view.layout == Layout(parts=3)
    bend = torch.rand_like(view.weight)
    (found,) = losses_of(view, pattern("4x1"), [0.5], bend)
    gone = pattern("4x1").project(view, 0.5) == 0
    second, total = (0.5 * (bend * view.weight.detach().square())[which].sum() for which in (gone, slice(None)))
    assert found == pytest.approx(float(-total * torch.log(1 - second / total)), rel=1e-5)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6))
def test_fewer_weights_never_cost_less(densities: list[float]) -> None:
    torch.manual_seed(0)
    view = WeightView(nn.Linear(16, 16))
    bend = torch.rand(16, 16)
    losses = losses_of(view, pattern("4x1"), sorted(densities), bend)
    assert losses == sorted(losses, reverse=True)
    assert min(losses) >= 0


def test_little_costs_what_it_is_and_all_of_a_layer_more_than_its_parts() -> None:
    assert strained(1e-6, 1.0) == pytest.approx(1e-6)
    assert strained(0.9, 1.0) == pytest.approx(2.302585)
    assert 10 < strained(1.0, 1.0) < float("inf")
    assert strained(0.0, 0.0) == 0


def test_a_weight_of_zeros_costs_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    nn.init.zeros_(model[0].weight)
    bend = by_magnitude(model, ["0.weight"])["0.weight"]
    assert losses_of(find_view(model, "0.weight"), pattern("4x1"), [0.5], bend) == [0.0]


def test_without_data_layers_are_alike_whatever_their_scale() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight.data = model[0].weight.detach() * 100
    bend = by_magnitude(model, ["0.weight", "1.weight"])
    one, two = (losses_of(find_view(model, name), pattern("4x1"), [0.3], bend[name]) for name in bend)
    assert one == pytest.approx(two)


def test_cross_entropy_is_a_loss_like_any_other() -> None:
    torch.manual_seed(0)
    batch = (torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    found = fisher(MODEL, ["0.weight"], [batch], lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    assert bool((found["0.weight"] > 0).all())


# ---- against what really happens ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that has learned the digits, and its pictures and labels."""
    torch.manual_seed(0)
    train = digits().train
    images, labels = train.images.float() / 255, train.labels
    model = digits_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(60):
        batch = torch.randint(len(images), (64,))
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), images, labels


@pytest.mark.parametrize("kind", ["outputs", "loss", "weights"])
def test_estimates_rank_layers_and_densities_as_the_loss_really_rises(learned, kind: str) -> None:
    model, images, labels = learned

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(net(batch[0]), batch[1])

    def evaluate(net: nn.Module) -> float:
        with torch.no_grad():
            return float(loss(net, (images[512:], labels[512:])))

    names = ["conv1.weight", "conv2.weight", "conv3.weight", "linear.weight"]
    densities = [0.7, 0.5, 0.35, 0.25, 0.18]
    batches = [*zip(images[:512].split(64), labels[:512].split(64), strict=True)]
    if kind == "weights":
        found = by_magnitude(model, names)
    elif kind == "loss":
        found = fisher(model, names, batches, loss)
    else:
        found = gauss_newton(model, names, [pictures for pictures, _ in batches])
    estimated = [losses_of(find_view(model, n), pattern("2x1"), densities, found[n]) for n in names]
    before = evaluate(model)
    real = [
        [
            after - before
            for after in loss_after_projection(model, Plan(dict.fromkeys(names, ("2x1", d))), evaluate).values()
        ]
        for d in densities
    ]
    assert correlation(torch.tensor(estimated).T, torch.tensor(real)) > (0.6 if kind == "weights" else 0.75)


def correlation(one: Tensor, other: Tensor) -> float:
    """Of ranks (Spearman)."""
    ranks = torch.stack([values.flatten().argsort().argsort().float() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])
