"""Channels of a group change places and nobody can tell: on real networks, on every operator, on random programs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from monstera.pruning import Gradual, hold
from monstera.sparsity import AttachedError, Plan, TraceError, channel_graph, permute_
from monstera.sparsity.channels import ChannelGraph, ChannelGroup
from monstera.zoo import network, randomize_


def exact(model: nn.Module) -> nn.Module:
    """The model in float64, with norms that differ from channel to channel, so that rounding hides nothing."""
    generator = torch.Generator().manual_seed(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1
            tensor.data *= torch.where(torch.rand(tensor.shape, generator=generator) < 0.5, -1.0, 1.0)
    for name, tensor in model.named_buffers():
        if name.endswith("running_var"):
            tensor.abs_()
    return model.double().eval()


def permuted(model: nn.Module, graph: ChannelGraph, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    twin = copy.deepcopy(model)
    for group in graph:
        permute_(twin, group, torch.randperm(len(group), generator=generator).tolist())
    return twin


def assert_nobody_can_tell(model: nn.Module, *example: Tensor, seed: int = 0, within: float = 1e-9) -> ChannelGraph:
    graph = channel_graph(model, example)
    with torch.no_grad():
        before, after = model(*example), permuted(model, graph, seed)(*example)
    scale = before.abs().max().clamp_min(1e-30)
    torch.testing.assert_close(after / scale, before / scale, rtol=0, atol=within)
    return graph


def groups(graph: ChannelGraph, name: str, dim: int) -> list[ChannelGroup]:
    return [g for g in graph if any(m.name == name and m.dims[-1] == dim for m in g.members)]


def sizes(graph: ChannelGraph, name: str, dim: int) -> list[int]:
    return [len(group) for group in groups(graph, name, dim) if len(group) > 1]


# ---- networks ----------------------------------------------------------------------------------------------------

NETWORKS = {
    "resnet20": torch.randn(2, 3, 16, 16),
    "mobilenet_v2": torch.randn(2, 3, 64, 64),
    "squeezenet1_0": torch.randn(1, 3, 48, 48),
    "bert_tiny": torch.randn(2, 5, 48),
    "digits_cnn": torch.randn(2, 1, 8, 8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_random_permutations_of_all_groups_keep_what_a_network_computes(name: str) -> None:
    example = NETWORKS[name]
    model = randomize_(network(name), example).double().eval()
    graph = assert_nobody_can_tell(model, example.double())
    assert all(not g.members[0].name.startswith("linear") for g in graph)


@pytest.mark.full
@pytest.mark.parametrize(("name", "size"), [("vgg16", 32), ("resnet50", 64), ("resnet18", 64)])
def test_random_permutations_of_all_groups_keep_what_a_large_network_computes(name: str, size: int) -> None:
    example = torch.randn(1, 3, size, size)
    assert_nobody_can_tell(randomize_(network(name), example).double().eval(), example.double())


def test_permuted_rows_are_the_very_rows_in_another_order() -> None:
    model = network("digits_cnn", width=8).eval()
    (group,) = groups(channel_graph(model, torch.randn(1, 1, 8, 8)), "conv1.weight", 0)
    before, order = copy.deepcopy(model.state_dict()), [3, 1, 0, 2, 7, 6, 4, 5]
    permute_(model, group, order)
    assert torch.equal(model.state_dict()["conv1.weight"], before["conv1.weight"][order])
    assert torch.equal(model.state_dict()["bn1.running_mean"], before["bn1.running_mean"][order])
    assert torch.equal(model.state_dict()["conv2.weight"], before["conv2.weight"][:, order])
    assert torch.equal(model.state_dict()["conv3.weight"], before["conv3.weight"])


def test_a_residual_stream_is_one_group_and_what_padding_adds_are_others() -> None:
    graph = channel_graph(network("resnet20"), torch.randn(1, 3, 16, 16))
    assert sizes(graph, "conv1.weight", 0) == [16]
    # Eight zero channels stand on each side of the sixteen of the first stage.
    assert sorted(sizes(graph, "layer2.0.conv2.weight", 0)) == [8, 8, 16]
    assert sizes(graph, "layer2.0.conv1.weight", 0) == [32]
    assert sorted(sizes(graph, "linear.weight", 1)) == [8, 8, 16, 16, 16]


def test_heads_have_groups_of_their_own_for_queries_with_keys_and_for_values_with_the_projection() -> None:
    graph = channel_graph(network("bert_tiny"), torch.randn(1, 3, 48))
    queries = groups(graph, "layer.0.attention.self.query.weight", 0)
    assert [len(g) for g in queries] == [12] * 4
    assert all({m.name.split(".")[-2] for m in g.members} == {"query", "key"} for g in queries)
    assert not any(g.removable for g in queries), "the scores are divided by the root of their number"
    values = groups(graph, "layer.0.attention.self.value.weight", 0)
    assert [len(g) for g in values] == [12] * 4
    assert {(m.name.split(".")[-2], m.dim) for m in values[0].members} == {("value", 0), ("dense", 1)}


def test_keys_that_heads_share_have_the_features_of_all_their_queries() -> None:
    class Shared(nn.Module):
        """Four heads of three features over two heads of keys and values, and a gated unit."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv, self.o = nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(12, 5)
            self.both, self.down = nn.Linear(5, 14), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            q = self.q(x).unflatten(2, (4, 3)).transpose(1, 2)
            k, v = (
                y.unflatten(2, (2, 3)).transpose(1, 2)[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2)
                for y in self.kv(x).chunk(2, 2)
            )
            y = (q @ k.mT / 3**0.5).softmax(3) @ v
            y = self.o(y.transpose(1, 2).flatten(2))
            gate, up = self.both(y).chunk(2, 2)
            return self.down(gate.tanh() * up)

    graph = assert_nobody_can_tell(exact(Shared()), torch.randn(2, 3, 5, dtype=torch.float64))
    assert sizes(graph, "q.weight", 0) == [3, 3]
    assert sizes(graph, "kv.weight", 0) == [3, 3, 3, 3]
    assert sizes(graph, "both.weight", 0) == [7]


def test_torchs_own_encoder_layer_is_followed_into_its_heads() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(5, 12), nn.Linear(12, 2)
            self.layer = nn.TransformerEncoderLayer(12, 3, 7, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.layer(self.enter(x)))

    graph = assert_nobody_can_tell(exact(Encoder()), torch.randn(2, 6, 5, dtype=torch.float64))
    assert sizes(graph, "layer.self_attn.in_proj_weight", 0) == [4] * 6
    assert sizes(graph, "layer.linear1.weight", 0) == [7]
    assert sizes(graph, "enter.weight", 0) == [12]


def test_a_recurrent_layer_fixes_what_it_reads_and_makes() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.inner = nn.Linear(3, 4), nn.Linear(4, 4)
            self.gru, self.leave = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.gru(self.inner(self.enter(x)))[0])

    model, x = exact(Reads()), torch.randn(2, 5, 3, dtype=torch.float64)
    graph = assert_nobody_can_tell(model, x)
    assert [group.name for group in graph] == ["enter.weight[0]"]
    assert "gru (gru) is an operator that is not known here" in str(graph)


def test_pixels_that_were_channels_for_a_while_are_pixels_again() -> None:
    graph = assert_nobody_can_tell(
        exact(Between(lambda x: x.flatten(1).view(2, 8, 4, 4))), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    )
    assert sizes(graph, "first.weight", 0) == [8]


def test_what_stays_is_listed_with_the_operator_that_is_why() -> None:
    graph = channel_graph(network("digits_cnn"), torch.randn(1, 1, 8, 8))
    assert [str(one) for one in graph.fixed] == [
        "linear.weight[0]: output of the model is what callers see",
        "linear.bias[0]: output of the model is what callers see",
    ]


# ---- operators ---------------------------------------------------------------------------------------------------


class Between(nn.Module):
    """A 1x1 convolution to eight channels, something, and a 1x1 convolution of `left` channels."""

    def __init__(self, something, left: int = 8) -> None:
        super().__init__()
        self.first, self.last, self.something = nn.Conv2d(3, 8, 1), nn.Conv2d(left, 4, 1), something

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.something(self.first(x)))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate


class Cumulated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


def shuffled(x: Tensor) -> Tensor:
    return x.view(2, 2, 4, 4, 4).transpose(1, 2).reshape(2, 8, 4, 4)


OPERATORS = {
    "gate": (Gated(), 8, [8]),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), 8, [8]),
    "groups of two": (nn.Conv2d(8, 12, 1, groups=2), 12, [4, 4]),
    "two filters a channel": (nn.Conv2d(8, 16, 1, groups=8), 16, []),
    "group norm": (nn.GroupNorm(4, 8), 8, [2, 2, 2, 2]),
    "layer norm of pictures": (nn.GroupNorm(1, 8), 8, [8]),
    "softmax over channels": (nn.Softmax(1), 8, [8]),
    "softmax over columns": (nn.Softmax(3), 8, [8]),
    "prelu": (nn.PReLU(8), 8, [8]),
    "transposed convolution": (nn.ConvTranspose2d(8, 6, 2, 2), 6, [8]),
    "concatenation with itself turned": (lambda x: torch.cat([x, x.flip(1)], 1), 16, []),
    "half of the channels": (lambda x: x[:, :4], 4, [4, 4]),
    "two halves added": (lambda x: x[:, :4] + x[:, 4:], 4, [4]),
    "two halves multiplied the other way round": (lambda x: x[:, :4] * x[:, 4:].flip(1), 4, [4]),
    "channels beside themselves in a ring": (lambda x: x + x.roll(2, 1), 8, [2]),
    # Channels 1, 2, 4 and 3, 6, 5 follow each other in rings that do not turn alike.
    "channels beside themselves shuffled": (lambda x: x + shuffled(x), 8, []),
    "channels beside themselves turned": (lambda x: x + x.flip(1), 8, [4]),
    "shuffle": (shuffled, 8, [8]),
    "roll": (lambda x: x.roll(3, 1), 8, [8]),
    "one channel gates all": (lambda x: x * x[:, 2:3], 8, [7]),
    "mean of channels": (lambda x: x - x.mean(1, True), 8, [8]),
    "padded channels": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)), 11, [8]),
    "reflected pixels": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 8, [8]),
    "pixels become channels": (lambda x: F.pixel_unshuffle(x, 2), 32, [8]),
    "channels become pixels": (lambda x: F.pixel_shuffle(x, 2), 2, []),
    "sum that runs on": (Cumulated(), 8, []),
    "products of channels": (lambda x: (x.flatten(2) @ x.flatten(2).mT @ x.flatten(2)).view_as(x), 8, [8]),
    "attention between channels": (
        lambda x: ((x.flatten(2).mT @ x.flatten(2)) @ x.flatten(2).mT).mT.view_as(x),
        8,
        [8],
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_lets_those_channels_change_places_that_it_does_not_tell_apart(name: str) -> None:
    something, left, expected = OPERATORS[name]
    graph = assert_nobody_can_tell(exact(Between(something, left)), torch.randn(2, 3, 4, 4, dtype=torch.float64))
    assert sizes(graph, "first.weight", 0) == expected


def test_a_flatten_makes_runs_that_move_as_one() -> None:
    model = exact(nn.Sequential(nn.Conv2d(1, 5, 1), nn.Flatten(), nn.Linear(5 * 6, 2)))
    graph = assert_nobody_can_tell(model, torch.randn(3, 1, 2, 3, dtype=torch.float64))
    (group,) = groups(graph, "2.weight", 1)
    assert len(group) == 5
    assert group.members[-1].positions.tolist() == np.arange(30).reshape(5, 6).tolist()


def test_a_shared_weight_that_reads_its_own_output_ties_both_sides() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.mix, self.leave = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            return self.leave(self.mix(self.mix(x).relu()).relu() + x)

    graph = assert_nobody_can_tell(exact(Twice()), torch.randn(4, 3, dtype=torch.float64))
    assert sizes(graph, "mix.weight", 0) == [6]
    assert sizes(graph, "mix.weight", 1) == [6]


def test_dense_blocks_keep_the_channels_of_each_layer_together() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(7, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(torch.cat([x, self.b(x).relu()], 1))

    graph = assert_nobody_can_tell(exact(Dense()), torch.randn(1, 2, 3, 3, dtype=torch.float64))
    assert sizes(graph, "c.weight", 1) == [3, 4]


def test_batch_norms_in_training_mode_are_left_in_it() -> None:
    model = network("digits_cnn")
    model.bn1.eval()
    before = copy.deepcopy(model.state_dict())
    channel_graph(model, torch.randn(2, 1, 8, 8))
    assert model.training
    assert not model.bn1.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TraceError, match="cannot trace Asks"):
        channel_graph(Asks(), torch.ones(1))


def test_an_order_that_is_no_permutation_is_refused() -> None:
    model = network("digits_cnn", width=4)
    group = channel_graph(model, torch.randn(1, 1, 8, 8)).groups[0]
    with pytest.raises(ValueError, match="each of 0 to 3 once"):
        permute_(model, group, [0, 1, 2, 2])


# ---- random programs ---------------------------------------------------------------------------------------------


class Program(nn.Module):
    """Operators on a stack of pictures `[2, C, 4, 4]`; each step takes the last, or the last two that fit."""

    def __init__(self, steps: list[tuple[str, int]]) -> None:
        super().__init__()
        self.steps, self.layers = steps, nn.ModuleDict()
        self.ready = False
        self(torch.zeros(2, 3, 4, 4))
        self.ready = True

    def layer(self, index: int, make) -> nn.Module:
        if not self.ready:
            self.layers[str(index)] = make()
        return self.layers[str(index)]

    def forward(self, x: Tensor) -> Tensor:
        stack = [x]
        for index, (kind, number) in enumerate(self.steps):
            stack.append(self.step(index, kind, number, stack))
        x = stack[-1]
        return self.layer(len(self.steps), lambda: nn.Linear(x.shape[1] * 16, 2))(x.flatten(1))

    def step(self, index: int, kind: str, number: int, stack: list[Tensor]) -> Tensor:
        x = stack[-1]
        c = x.shape[1]
        older = stack[max(0, len(stack) - 1 - number % 3)]
        match kind:
            case "conv":
                return self.layer(index, lambda: nn.Conv2d(c, 2 + number % 7, 3, padding=1))(x)
            case "grouped":
                g = next(g for g in (2, 3, c) if c % g == 0)
                return self.layer(index, lambda: nn.Conv2d(c, g * (1 + number % 3), 1, groups=g))(x)
            case "depthwise":
                return self.layer(index, lambda: nn.Conv2d(c, c, 3, padding=1, groups=c))(x)
            case "norm":
                return self.layer(index, lambda: nn.BatchNorm2d(c))(x)
            case "add":
                return x + older if older.shape == x.shape else x
            case "multiply":
                return x * older.sigmoid() if older.shape == x.shape else x
            case "cat":
                return torch.cat([x, older], 1) if c < 12 else x
            case "shuffle":
                return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2) if c % 2 == 0 else x
            case "pad":
                return F.pad(x, (0, 0, 0, 0, number % 2, 1)) if c < 12 else x
            case "slice":
                return x[:, number % 2 :] if c > 3 else x
            case "halves":
                return x[:, : c // 2] * x[:, c // 2 :].tanh() if c % 2 == 0 and c > 2 else x
            case "flip":
                return x.flip(1)
            case "squeeze":
                gate = self.layer(index, lambda: nn.Conv2d(c, c, 1))(x.mean((2, 3), keepdim=True))
                return x * gate.sigmoid()
            case "turn":
                return x.transpose(2, 3)
            case "softmax":
                return x.softmax(1 + number % 3)
            case "mean":
                return x - x.mean(1, keepdim=True)
        raise AssertionError(kind)


KINDS = """
    conv grouped depthwise norm add multiply cat shuffle pad slice halves flip squeeze turn softmax mean
""".split()  # noqa: SIM905


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 20)), min_size=1, max_size=9), st.integers(0, 99))
def test_random_programs_compute_the_same_with_all_groups_permuted(steps: list[tuple[str, int]], seed: int) -> None:
    model = exact(Program([("conv", 4), *steps]))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert_nobody_can_tell(model, x, seed=seed)


@pytest.mark.full
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 20)), min_size=1, max_size=14), st.integers(0, 99))
def test_many_random_programs_compute_the_same_with_all_groups_permuted(
    steps: list[tuple[str, int]], seed: int
) -> None:
    model = exact(Program([("conv", 4), *steps]))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert_nobody_can_tell(model, x, seed=seed)


# ---- rewrites wait -----------------------------------------------------------------------------------------------


def test_a_rewrite_is_refused_while_a_pruner_or_a_hold_is_attached() -> None:
    model = network("digits_cnn", width=4)
    graph = channel_graph(model, torch.randn(1, 1, 8, 8))
    plan = Plan({"conv2.weight": ("4x1", 0.5)})
    pruner = Gradual(model, torch.optim.SGD(model.parameters(), 0.1), plan, steps=4)
    (group,) = groups(graph, "conv2.weight", 0)
    conv2 = model.conv2.weight.detach().clone()
    with pytest.raises(AttachedError, match=r"conv2.weight cannot be reordered while Gradual"):
        permute_(model, group, [1, 0, 2, 3])
    with hold(model, torch.optim.SGD(model.parameters(), 0.1), {"conv2.weight": conv2 != 0}):
        pruner.remove()
        pruner.remove()
        with pytest.raises(AttachedError, match=r"while hold is attached"):
            permute_(model, group, [1, 0, 2, 3])
    permute_(model, group, [1, 0, 2, 3])
