"""SSL by hand: the gradient of every structure the paper names, on one weight with whole norms (3, 4, 5, 12, 13).

Source: W. Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016, equation 2, and the released
code: norms are roots of sums of squares without a factor for size, 0 / 0 is 0, and single weights below 1e-4 become 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import monstera as ms
from monstera.pruning import GroupLasso
from monstera.sparsity import Plan, layers_with_shortcut
from monstera.zoo import cifar_resnet, network, randomize_

# Two filters of two channels and 1x2 positions. As the matrix of the product: rows (3, 4, 12, 0) and (0, 0, 5, 0).
W = torch.tensor([[[[3.0, 4.0]], [[12.0, 0.0]]], [[[0.0, 0.0]], [[5.0, 0.0]]]])

# Rows of the matrix of the product again.
PULLS = {
    "filter": [[3 / 13, 4 / 13, 12 / 13, 0], [0, 0, 1, 0]],
    "channel": [[3 / 5, 4 / 5, 12 / 13, 0], [0, 0, 5 / 13, 0]],
    "column": [[1, 1, 12 / 13, 0], [0, 0, 5 / 13, 0]],
    "kernel": [[3 / 5, 4 / 5, 1, 0], [0, 0, 1, 0]],
    "layer": [[3 / 194**0.5, 4 / 194**0.5, 12 / 194**0.5, 0], [0, 0, 5 / 194**0.5, 0]],
    # A tile of two rows and one channel.
    "2x1xall": [[3 / 5, 4 / 5, 12 / 13, 0], [0, 0, 5 / 13, 0]],
}


def stepped(groups: Sequence[str], strength: float = 1.0, lr: float = 1.0, **options) -> Tensor:
    """What one step of SGD without any loss leaves of W."""
    conv = nn.Conv2d(2, 2, (1, 2), bias=False)
    conv.weight.data.copy_(W)
    plan = Plan({"weight": ("unstructured", 1.0)})
    optimizer = torch.optim.SGD(conv.parameters(), lr)
    GroupLasso(conv, optimizer, plan, steps=10, strength=strength, groups=groups, **options)
    conv.weight.grad = torch.zeros_like(conv.weight)
    optimizer.step()
    return conv.weight.detach()


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows).view(W.shape)


@pytest.mark.parametrize("name", PULLS)
def test_each_structure_is_pulled_along_its_own_norm(name: str) -> None:
    torch.testing.assert_close(stepped([name], strength=0.5, lr=0.1), W - 0.05 * matrix(PULLS[name]))


@pytest.mark.parametrize("names", [("filter", "channel"), ("filter", "column"), ("filter", "channel", "kernel")])
def test_families_add_up_as_filters_with_channels_and_rows_with_columns_of_the_product(names: tuple[str, ...]) -> None:
    pulls = sum((matrix(PULLS[name]) for name in names), torch.zeros_like(W))
    torch.testing.assert_close(stepped(names, strength=0.5, lr=0.1), W - 0.05 * pulls)


@pytest.mark.parametrize("names", [("filter",), ("filter", "column"), ("layer",)])
def test_the_pull_is_what_autograd_says_of_the_papers_formula(names: tuple[str, ...]) -> None:
    w = (W + 0.5).requires_grad_()
    dims = {"filter": (1, 2, 3), "channel": (0, 2, 3), "column": 0, "kernel": (2, 3), "layer": (0, 1, 2, 3)}
    sum((w.square().sum(dims[name]).sqrt().sum() for name in names), torch.zeros(())).backward()
    conv = nn.Conv2d(2, 2, (1, 2), bias=False)
    conv.weight.data.copy_(w.detach())
    pruner = GroupLasso(
        conv, torch.optim.SGD(conv.parameters(), 1.0), Plan({"weight": ("unstructured", 1.0)}), steps=2, groups=names
    )
    torch.testing.assert_close(pruner.pull("weight", pruner.norms("weight")), w.grad, check_dtype=False)


def test_sparse_group_lasso_pulls_single_weights_as_well() -> None:
    expected = W - 0.1 * (0.5 * matrix(PULLS["filter"]) + 0.2 * W.sign())
    torch.testing.assert_close(stepped(["filter"], strength=0.5, lr=0.1, l1=0.2), expected)


def test_the_proximal_form_scales_each_group_by_what_its_norm_loses() -> None:
    factors = matrix([[1 - 2 / 13] * 4, [1 - 2 / 5] * 4])
    torch.testing.assert_close(stepped(["filter"], strength=2.0, proximal=True), W * factors)
    # The second filter is shorter than the step: exactly zero, while the first goes on.
    gone = stepped(["filter"], strength=6.0, proximal=True)
    assert torch.equal(gone[1], torch.zeros_like(gone[1]))
    torch.testing.assert_close(gone[0], W[0] * (1 - 6 / 13))


def test_single_weights_below_the_threshold_of_the_released_code_become_zero() -> None:
    # 3 of a norm of 3 is pulled by 2.99995, which leaves half of the threshold; 4 keeps its rest.
    assert stepped(["column"], strength=2.99995)[0, 0].tolist() == [[0.0, pytest.approx(1.00005)]]
    assert stepped(["column"], strength=2.99995, threshold=0.0)[0, 0, 0, 0] > 0


def test_convolution_groups_have_columns_of_their_own() -> None:
    conv = nn.Conv2d(2, 2, 1, groups=2, bias=False)
    conv.weight.data.copy_(torch.tensor([3.0, 4.0]).view(2, 1, 1, 1))
    plan = Plan({"weight": ("unstructured", 1.0)})
    pruner = GroupLasso(conv, torch.optim.SGD(conv.parameters(), 1.0), plan, steps=2, groups=["column"])
    assert pruner.pull("weight", pruner.norms("weight")).flatten().tolist() == [1.0, 1.0]


def test_without_a_loss_a_layer_shrinks_by_the_strength_each_step_until_it_is_gone() -> None:
    conv = nn.Conv2d(2, 2, (1, 2), bias=False)
    conv.weight.data.copy_(W)
    optimizer = torch.optim.SGD(conv.parameters(), 1.0)
    plan = Plan({"weight": ("unstructured", 1.0)})
    GroupLasso(conv, optimizer, plan, steps=40, strength=1.0, groups=["layer"], proximal=True, harden_at=0.9)
    norms = []
    for _ in range(15):
        conv.weight.grad = torch.zeros_like(conv.weight)
        optimizer.step()
        norms.append(float(conv.weight.detach().norm()))
    expected = [max(0.0, 194**0.5 - step) for step in range(1, 16)]
    assert norms == pytest.approx(expected, abs=1e-4)
    assert norms[13] == 0.0


# ---- depth -------------------------------------------------------------------------------------------------------


def test_layers_beside_a_shortcut_may_vanish_and_no_others() -> None:
    names = layers_with_shortcut(network("resnet20"), torch.zeros(1, 3, 16, 16))
    blocks = [f"layer{i}.{j}.conv{k}.weight" for i in (1, 2, 3) for j in (0, 1, 2) for k in (1, 2)]
    assert list(names) == blocks
    assert not layers_with_shortcut(network("digits_cnn"), torch.zeros(1, 1, 8, 8))


def test_where_the_shortcut_is_a_layer_it_has_to_stay() -> None:
    names = layers_with_shortcut(network("resnet18"), torch.zeros(1, 3, 32, 32))
    assert len(names) == 16
    assert not [name for name in names if "downsample" in name]


def test_a_factor_stays_although_the_other_passes_fewer_layers() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.inner = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return x * self.gate(x + self.inner(x)).relu()

    assert layers_with_shortcut(Gated(), torch.randn(2, 4)) == ("inner.weight",)


def test_in_an_encoder_all_but_nothing_may_vanish_as_every_layer_is_beside_a_shortcut() -> None:
    names = layers_with_shortcut(network("bert_tiny"), torch.zeros(1, 3, 48))
    assert len(names) == 12


def test_depth_by_group_lasso_takes_whole_layers_out_of_the_compiled_program() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)
    model = randomize_(cifar_resnet(14), x)
    names = layers_with_shortcut(model, x)
    plan = Plan(dict.fromkeys(names, ("layer", 0.5)))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    pruner = GroupLasso(model, optimizer, plan, steps=4, strength=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    pruner.finish()
    gone = {name for name in names if not model.get_parameter(name).any()}
    assert len(gone) == len(names) // 2
    engine = ms.compile(model.eval(), x[:1], tune="none")
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(engine(x[:1])), model(x[:1]), rtol=1e-4, atol=1e-4)
    left = {f"{layer.layer}.weight" for layer in engine.plan().layers}
    assert not gone & left
    assert len(left) <= 14 - len(gone)
