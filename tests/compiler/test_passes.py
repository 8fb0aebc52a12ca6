"""Every pass keeps what a graph computes, and does what it is for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compiler.functions import Operation as Function
from compiler.graphs import case, pools, random_inputs
from monstera.compiler.frontends import from_torch
from monstera.compiler.ir import (
    Activate,
    Activation,
    Add,
    Affine,
    Concat,
    Constant,
    Conv,
    DepthToSpace,
    Graph,
    Linear,
    Mul,
    Node,
    Pad,
    Permute,
    Reshape,
    Slice,
    error_bound,
    interpret,
)
from monstera.compiler.ir.check import check_graph
from monstera.compiler.passes import (
    PASSES,
    drop_dead_channels,
    drop_dead_code,
    fold_affine,
    fold_constants,
    fuse_activation,
    fuse_attention,
    fuse_padding,
    fuse_residual,
    hoist_elementwise,
    optimize,
)


def assert_same(graph: Graph, rewritten: Graph, seed: int = 0):
    """Both compute the same outputs, up to what fp32 may do to either."""
    assert rewritten.inputs == graph.inputs
    inputs = random_inputs(graph, seed)
    before, after = interpret(graph, inputs), interpret(rewritten, inputs)
    bounds = error_bound(graph, inputs)
    for old, new in zip(graph.outputs, rewritten.outputs, strict=True):
        assert (np.abs(before[old] - after[new]) <= bounds[old] + 1e-9).all()


def graph_of(model: nn.Module, *shape: int) -> Graph:
    return from_torch(model.eval(), (torch.zeros(shape),)).graph


def kinds(graph: Graph) -> list[str]:
    return [type(n.op).__name__ for n in graph.nodes]


def seeded(module: nn.Module) -> nn.Module:
    """Random weights, and batch norms with statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else 0.4 * noise)
    return module


def kill_filters(layer: nn.Conv2d | nn.Linear, dead: list[int], bias: float | None = None):
    """Zero whole filters, and say what they still emit."""
    layer.weight.data[dead] = 0
    if bias is not None:
        layer.bias.data[dead] = bias


def weights(graph: Graph) -> list[tuple[int, ...]]:
    """Shapes of all weights in order."""
    return [graph.params[n.op.weight].shape for n in graph.nodes if isinstance(n.op, Conv | Linear)]


@pytest.mark.parametrize(("seed", "spatial"), pools(100, 30))
def test_every_pass_and_all_together_keep_what_a_random_graph_computes(seed, spatial):
    graph = case(seed, spatial).graph
    for rewrite in {*PASSES}:
        assert_same(graph, rewrite(graph), seed)
    assert_same(graph, optimize(graph), seed)


@pytest.mark.parametrize(("seed", "spatial"), pools(100, 30))
def test_optimizing_twice_finds_nothing_that_optimizing_once_left(seed, spatial):
    once = optimize(case(seed, spatial).graph)
    assert_same(once, optimize(once), seed)
    assert kinds(optimize(once)) == kinds(once)
    assert optimize(once).shapes() == once.shapes()


def test_nothing_is_left_of_dead_code_but_the_inputs():
    nodes = (Node("a", Activate(Activation("relu")), ("x",), (1, 2)), Node("b", Affine("s", "s"), ("y",), (1, 2)))
    graph = drop_dead_code(Graph((("x", (1, 2)), ("y", (1, 2))), nodes, ("a",), {"s": np.ones(2, np.float32)}))
    assert [n.name for n in graph.nodes] == ["a"]
    assert graph.params == {}
    assert [name for name, _ in graph.inputs] == ["x", "y"]


class TestFoldAffine:
    def test_batch_norm_goes_into_scale_and_bias_and_leaves_the_weight_alone(self):
        graph = graph_of(seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), 1, 3, 6, 6)
        folded = fold_affine(graph)
        assert kinds(folded) == ["Conv"]
        assert folded.nodes[0].op.weight == "0.weight"
        assert folded.params["0.weight"] is graph.params["0.weight"]
        assert_same(graph, folded)

    def test_arithmetic_with_numbers_and_vectors_after_a_linear_layer_folds(self):
        class Model(nn.Sequential):
            def forward(self, x):
                return 1 - (self[0](x) * self[0].bias + 2)

        graph = graph_of(seeded(Model(nn.Linear(5, 4))), 3, 5)
        assert kinds(drop_dead_code(fold_affine(graph))) == ["Linear"]
        assert_same(graph, fold_affine(graph))

    def test_a_bias_alone_brings_no_scale(self):
        class Model(nn.Sequential):
            def forward(self, x):
                return self[0](x) + 2

        (node,) = drop_dead_code(fold_affine(graph_of(Model(nn.Conv2d(3, 4, 3, bias=False)), 1, 3, 6, 6))).nodes
        assert node.op.scale is None

    def test_a_convolution_that_somebody_else_reads_is_left_alone(self):
        class Model(nn.Sequential):
            def forward(self, x):
                y = self[0](x)
                return self[1](y), y

        graph = fold_affine(graph_of(seeded(Model(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), 1, 3, 6, 6))
        assert kinds(graph) == ["Conv", "Affine"]

    def test_what_follows_a_removed_identity_does_not_reach_into_a_shared_convolution(self):
        class Model(nn.Sequential):
            def forward(self, x):
                y = self[0](x)
                return (y * 1) * 3 + torch.relu(y)

        graph = graph_of(seeded(Model(nn.Conv2d(3, 4, 3))), 1, 3, 6, 6)
        assert_same(graph, fold_affine(graph))
        assert "Affine" in kinds(fold_affine(graph))

    def test_an_activation_in_between_stops_the_fold_and_affine_maps_merge(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
        graph = graph_of(seeded(model), 1, 3, 6, 6)
        assert kinds(fold_affine(graph)) == ["Conv", "Activate", "Affine"]
        assert_same(graph, fold_affine(graph))

    def test_a_constant_that_broadcasts_the_other_operand_is_no_affine_map(self):
        model = nn.Module()
        model.register_buffer("k", torch.randn(3, 4, 1, 1))
        model.forward = lambda x: x + model.k
        graph = graph_of(model, 1, 4, 2, 2)
        assert kinds(fold_affine(graph)) == ["Constant", "Add"]


class TestFuseActivation:
    def test_activations_move_into_what_computes_the_value(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, 5), nn.Hardtanh(-2, 1))
        graph = graph_of(model, 2, 3, 6, 6)
        fused = fuse_activation(graph)
        assert kinds(fused) == ["Conv", "Reshape", "Linear"]
        assert fused.nodes[2].op.activation == Activation("clamp", low=-2, high=1)
        assert_same(graph, fused)

    def test_a_second_activation_stays(self):
        assert kinds(
            fuse_activation(graph_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Tanh()), 1, 3, 6, 6))
        ) == [
            "Conv",
            "Activate",
        ]

    def test_an_output_is_not_overwritten(self):
        class Model(nn.Sequential):
            def forward(self, x):
                y = self[0](x)
                return y, torch.relu(y)

        assert kinds(fuse_activation(graph_of(Model(nn.Conv2d(3, 4, 3)), 1, 3, 6, 6))) == ["Conv", "Activate"]


class Residual(nn.Module):
    """relu(left(x) + right(x)), operands in the order given."""

    def __init__(self, left: nn.Module, right: nn.Module):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        return torch.relu(self.left(x) + self.right(x))


class TestFuseResidual:
    def test_the_addition_and_its_activation_move_into_the_convolution(self):
        graph = fuse_activation(graph_of(Residual(nn.Conv2d(3, 3, 1), nn.Identity()), 1, 3, 4, 4))
        (node,) = fuse_residual(graph).nodes
        assert node.inputs == ("x", "x")
        assert node.op.activation == Activation("relu")
        assert_same(graph, fuse_residual(graph))

    def test_of_two_convolutions_the_later_one_takes_the_earlier_ones_value(self):
        graph = fuse_activation(graph_of(seeded(Residual(nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1))), 1, 3, 4, 4))
        first, second = fuse_residual(graph).nodes
        assert (first.layer, second.layer, second.inputs) == ("left", "right", ("x", first.name))
        assert_same(graph, fuse_residual(graph))

    def test_a_value_that_is_computed_after_the_convolution_can_be_its_residual(self):
        graph = graph_of(Residual(nn.Conv2d(3, 3, 1), nn.Sequential(nn.Sigmoid(), nn.Tanh())), 1, 3, 4, 4)
        fused = fuse_residual(graph)
        assert kinds(fused) == ["Activate", "Activate", "Conv", "Activate"]
        assert_same(graph, fused)

    @pytest.mark.parametrize("other", [nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 1, 1)])
    def test_a_residual_that_broadcasts_stays_an_addition(self, other):
        model = Residual(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), other)
        assert "Add" in kinds(fuse_residual(graph_of(model, 1, 3, 4, 4)))

    def test_a_convolution_with_an_activation_or_another_reader_stays(self):
        class Twice(nn.Sequential):
            def forward(self, x):
                y = self[0](x)
                return y + y

        assert kinds(fuse_residual(graph_of(Twice(nn.Conv2d(3, 3, 1)), 1, 3, 4, 4))) == ["Conv", "Add"]
        active = fuse_activation(
            graph_of(Residual(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.Identity()), 1, 3, 4, 4)
        )
        assert kinds(fuse_residual(active)) == ["Conv", "Add"]


class TestFusePadding:
    def test_zero_padding_moves_into_the_convolution(self):
        model = nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 4, 3, padding=1))
        graph = graph_of(model, 1, 3, 6, 6)
        (node,) = drop_dead_code(fuse_padding(graph)).nodes
        assert node.op.padding == (3, 1, 4, 2)
        assert_same(graph, fuse_padding(graph))

    @pytest.mark.parametrize("pad", [nn.ConstantPad2d(1, 0.5), nn.ZeroPad2d((-1, 1, 0, 0))])
    def test_other_padding_stays(self, pad):
        graph = graph_of(nn.Sequential(pad, nn.Conv2d(3, 4, 3)), 1, 3, 6, 6)
        assert kinds(drop_dead_code(fuse_padding(graph))) == ["Pad", "Conv"]

    @pytest.mark.parametrize(
        ("pad", "conv", "padding"),
        [
            (nn.ConstantPad1d((1, 2), 0.0), nn.Conv1d(3, 4, 3, padding=1), (2, 3)),
            (nn.ConstantPad3d((0, 1, 2, 3, 4, 5), 0.0), nn.Conv3d(3, 4, 3, padding=1), (5, 3, 1, 6, 4, 2)),
        ],
    )
    def test_padding_moves_whatever_the_number_of_dimensions(self, pad, conv, padding):
        graph = graph_of(nn.Sequential(pad, conv), 1, 3, *[6] * (len(padding) // 2))
        (node,) = drop_dead_code(fuse_padding(graph)).nodes
        assert node.op.padding == padding
        assert_same(graph, fuse_padding(graph))


class TestHoistElementwise:
    @pytest.mark.parametrize("size", [1, 2])
    @pytest.mark.parametrize("groups", [1, 2, 4])
    def test_norm_and_activation_move_into_a_transposed_convolution(self, groups, size):
        # A kernel of 3 leaves a row and a column that is cut off.
        up = nn.ConvTranspose2d(4, 8, 1 + size, 2, groups=groups)
        graph = graph_of(seeded(nn.Sequential(up, nn.BatchNorm2d(8), nn.SiLU(), nn.BatchNorm2d(8))), 1, 4, 5, 6)
        small = optimize(graph)
        assert kinds(small) == ["Conv", "Affine", "DepthToSpace", *["Slice"] * (size == 2)]
        assert small.nodes[0].op.activation == Activation("silu")
        assert_same(graph, small)

    def test_a_value_that_somebody_else_reads_stays_where_it_is(self):
        class Model(nn.Sequential):
            def forward(self, x):
                y = self[0](x)
                return y, torch.relu(y)

        graph = graph_of(seeded(Model(nn.ConvTranspose1d(4, 3, 2, 2))), 1, 4, 5)
        assert hoist_elementwise(graph) == graph

    def test_a_cut_of_channels_stays_where_it_is(self):
        class Model(nn.Sequential):
            def forward(self, x):
                return torch.relu(self[0](x)[:, 1:])

        graph = graph_of(seeded(Model(nn.PixelShuffle(2))), 1, 16, 5, 5)
        assert kinds(hoist_elementwise(graph)) == kinds(graph)


class TestFoldConstants:
    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            (lambda x: x.view(2, -1).view(4, -1).unsqueeze(1), [Reshape]),
            (lambda x: x.view(2, 3, 6, 6).relu(), [Activate]),
            (lambda x: x[:, :, ::2, ::2][:, 1:], [Slice]),
            (lambda x: x.permute(1, 0, 3, 2).transpose(0, 1), [Permute]),
            (lambda x: x.permute(1, 3, 2, 0).permute(3, 0, 2, 1).relu(), [Activate]),
            (lambda x: x[:, :1].transpose(0, 1).flatten(1).flatten(), [Slice, Reshape]),
            (lambda x: x[:, 0:].relu(), [Activate]),
            (lambda x: F.pad(x, (0, 0, 0, 0)).relu(), [Activate]),
            (lambda x: torch.cat([x], 1).relu(), [Activate]),
            (lambda x: x[:, :1].expand(-1, 3, -1, -1) * x, [Slice, Mul]),
            (lambda x: x[:, :1].expand(-1, 3, -1, -1), [Slice, Constant, Mul]),
        ],
    )
    def test_what_moves_nothing_disappears(self, function, expected):
        graph = graph_of(Function(function), 2, 3, 6, 6)
        folded = drop_dead_code(fold_constants(graph))
        assert [type(n.op) for n in folded.nodes] == expected
        assert_same(graph, folded)

    def test_operators_on_constants_are_evaluated(self):
        params = {
            "w": np.float32(np.random.default_rng(0).standard_normal((2, 3, 3, 3))),
            "k": np.ones((1, 3, 4, 4), np.float32),
        }
        nodes = (
            Node("k", Constant("k"), (), (1, 3, 4, 4)),
            Node("conv", Conv("w", padding=(1, 1, 1, 1)), ("k",), (1, 2, 4, 4)),
            Node("sum", Add(), ("conv", "x"), (1, 2, 4, 4)),
        )
        graph = Graph((("x", (1, 2, 4, 4)),), nodes, ("sum",), params)
        assert kinds(drop_dead_code(fold_constants(graph))) == ["Constant", "Add"]
        assert_same(graph, fold_constants(graph))


class TestDropDeadChannels:
    def shrunk(self, model: nn.Module, *shape: int) -> Graph:
        graph = graph_of(model, *shape)
        small = optimize(graph)
        assert_same(graph, small)
        return small

    def test_a_dead_filters_bias_goes_through_an_unpadded_convolution(self):
        model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3)))
        kill_filters(model[0], [1, 4, 6], bias=0.7)
        assert weights(self.shrunk(model, 2, 3, 8, 8)) == [(5, 3, 3, 3), (5, 5, 3, 3)]

    def test_a_dead_filters_bias_stays_as_a_plane_where_padding_would_see_it(self):
        model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1)))
        kill_filters(model[0], [1, 4, 6], bias=0.7)
        assert weights(self.shrunk(model, 2, 3, 8, 8)) == [(8, 3, 3, 3), (5, 8, 3, 3)]

    def test_a_dead_filter_that_emits_zero_goes_whatever_the_padding(self):
        model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1)))
        kill_filters(model[0], [1, 4, 6], bias=-0.7)
        assert weights(self.shrunk(model, 2, 3, 8, 8)) == [(5, 3, 3, 3), (5, 5, 3, 3)]

    def test_a_channel_that_nobody_reads_goes_with_its_filter(self):
        model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 5, 3, padding=1)))
        model[2].weight.data[:, [0, 7]] = 0
        assert weights(self.shrunk(model, 2, 3, 8, 8)) == [(6, 3, 3, 3), (5, 6, 3, 3)]

    def test_a_batch_norm_whose_gamma_is_zero_kills_its_filter(self):
        model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1)))
        model[1].weight.data[[2, 3]] = 0
        assert weights(self.shrunk(model, 2, 3, 8, 8)) == [(6, 3, 3, 3), (5, 6, 1, 1)]

    def test_depthwise_convolutions_shrink_with_their_channels(self):
        model = seeded(
            nn.Sequential(
                *[nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6()],
                *[nn.Conv2d(8, 16, 3, groups=8, padding=1), nn.BatchNorm2d(16), nn.ReLU6()],
                nn.Conv2d(16, 5, 1),
            )
        )
        kill_filters(model[0], [0, 5])
        model[1].bias.data[[0, 5]], model[1].running_mean[[0, 5]] = -1, 0
        model[0].bias.data[[0, 5]] = 0
        small = self.shrunk(model, 2, 3, 8, 8)
        assert weights(small) == [(6, 3, 1, 1), (12, 1, 3, 3), (5, 12, 1, 1)]
        assert small.nodes[1].op.groups == 6

    def test_a_dead_depthwise_filter_takes_its_channel_along(self):
        model = seeded(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.Conv2d(8, 5, 1)))
        kill_filters(model[1], [3], bias=0.4)
        assert weights(self.shrunk(model, 1, 3, 6, 6)) == [(7, 3, 1, 1), (7, 1, 3, 3), (5, 7, 1, 1)]

    def test_constants_pass_pooling_flattening_and_the_linear_layers_after_it(self):
        layers = [nn.Conv2d(3, 8, 3), nn.GELU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten()]
        model = seeded(nn.Sequential(*layers, nn.Linear(32, 6), nn.Tanh(), nn.Linear(6, 4)))
        kill_filters(model[0], [1, 2, 3], bias=0.3)
        kill_filters(model[5], [5], bias=0.2)
        assert weights(self.shrunk(model, 2, 3, 10, 10)) == [(5, 3, 3, 3), (5, 20), (4, 5)]

    @pytest.mark.parametrize("groups", [1, 4])
    def test_a_dead_filter_of_a_transposed_convolution_goes_with_all_its_phases(self, groups):
        up = nn.ConvTranspose3d(4, 4, 2, 2, groups=groups)
        model = seeded(nn.Sequential(nn.Conv3d(3, 4, 1), up, nn.ReLU(), nn.Conv3d(4, 5, 3, padding=1)))
        up.weight.data[([1, 3], slice(None)) if groups == 4 else (slice(None), [1, 3])] = 0
        up.bias.data[[1, 3]] = -1
        small = self.shrunk(model, 1, 3, 3, 3, 3)
        (shuffle,) = [n.op for n in small.nodes if isinstance(n.op, DepthToSpace)]
        assert weights(small)[1][0] == 8 * 2
        assert weights(small)[2] == (5, 2, 3, 3, 3)
        assert shuffle.groups == (2 if groups == 4 else 1)

    def test_transposed_convolutions_in_groups_of_several_filters_keep_their_channels(self):
        up = nn.ConvTranspose2d(4, 4, 2, 2, groups=2)
        model = seeded(nn.Sequential(up, nn.Conv2d(4, 5, 1)))
        up.weight.data[0:2, 1] = 0
        assert weights(self.shrunk(model, 1, 4, 3, 3)) == [(16, 2, 1, 1), (5, 4, 1, 1)]

    @pytest.mark.parametrize("dims", [(0, 1, 3, 2), (1, 0, 2, 3)])
    def test_channels_go_through_a_permutation_that_leaves_them_in_place(self, dims):
        first, last = nn.Conv2d(4, 6, 1), nn.Conv2d(6 if dims[1] == 1 else 2, 5, 1)
        model = seeded(nn.Module())
        model.first, model.last = first, last
        model.forward = lambda x: model.last(model.first(x).relu().permute(dims).permute(0, 1, 3, 2))
        kill_filters(first, [0, 5], bias=-1)
        kept = 4 if dims[1] == 1 else 6
        assert weights(self.shrunk(model, 2, 4, 3, 3))[0] == (kept, 4, 1, 1)

    @pytest.mark.parametrize("dims", [(2, 3, 4), (3,), (1,)])
    def test_means_keep_channels_apart_unless_they_are_over_channels(self, dims):
        model = seeded(nn.Module())
        model.first, model.last = nn.Conv3d(3, 6, 1), nn.Conv3d(1 if 1 in dims else 6, 2, 1)
        model.forward = lambda x: model.last(model.first(x).relu().mean(dims, keepdim=True))
        kill_filters(model.first, [4], bias=-1)
        kept = 6 if 1 in dims else 5
        assert weights(self.shrunk(model, 1, 3, 2, 3, 2))[0] == (kept, 3, 1, 1, 1)

    def test_squeeze_and_excite_shrinks_with_its_channels(self):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.head, self.tail = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, padding=1)
                self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

            def forward(self, x):
                x = torch.relu(self.head(x))
                return self.tail(x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True))))))

        model = seeded(Block())
        kill_filters(model.head, [0, 1], bias=-1)
        assert sorted(weights(self.shrunk(model, 2, 3, 7, 7))) == [
            (2, 6, 1, 1),
            (4, 6, 3, 3),
            (6, 2, 1, 1),
            (6, 3, 3, 3),
        ]

    def test_channels_of_a_concatenation_go_one_by_one_and_empty_operands_leave(self):
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.c = (nn.Conv2d(3, 4, 1) for _ in range(3))
                self.end = nn.Conv2d(12, 5, 3)

            def forward(self, x):
                return self.end(torch.cat([self.a(x), self.b(x), self.c(x)], 1))

        model = seeded(Model())
        kill_filters(model.a, [1], bias=0.5)
        kill_filters(model.b, [0, 1, 2, 3], bias=0.5)
        model.end.weight.data[:, 11] = 0
        small = self.shrunk(model, 1, 3, 5, 5)
        assert weights(small) == [(3, 3, 1, 1), (3, 3, 1, 1), (5, 6, 3, 3)]
        assert [len(n.inputs) for n in small.nodes if isinstance(n.op, Concat)] == [2]

    def test_both_operands_of_an_addition_keep_a_channel_that_one_of_them_needs(self):
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.end = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 3)

            def forward(self, x):
                return self.end(torch.relu(self.a(x) + self.b(x)))

        model = seeded(Model())
        kill_filters(model.a, [0, 1, 2], bias=0.5)
        kill_filters(model.b, [2, 3], bias=0.5)
        assert weights(self.shrunk(model, 1, 3, 5, 5)) == [(5, 3, 1, 1), (5, 3, 1, 1), (5, 5, 3, 3)]

    def test_a_residual_network_pruned_by_filters_is_smaller_inside_its_blocks(self):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(
                    *[nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)],
                    *[nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)],
                    *[nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8)],
                )

            def forward(self, x):
                return torch.relu(x + self.body(x))

        model = seeded(
            nn.Sequential(nn.Conv2d(3, 8, 3), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
        )
        for block in (model[1].body, model[2].body):
            kill_filters(block[0], [0, 1])
            kill_filters(block[3], [4, 5])
            block[1].bias.data[[0, 1]] = -9
        small = self.shrunk(model, 2, 3, 9, 9)
        block = [(4, 8, 1, 1), (4, 4, 3, 3), (8, 4, 1, 1)]
        assert weights(small) == [(8, 3, 3, 3), *block, *block, (3, 8)]
        assert {"Affine", "Add", "Activate"}.isdisjoint(kinds(small))

    def test_a_layer_that_is_dead_altogether_becomes_its_bias(self):
        model = seeded(
            Residual(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)), nn.Identity())
        )
        kill_filters(model.left[2], [0, 1, 2])
        assert kinds(self.shrunk(model, 1, 3, 4, 4)) == ["Affine"]

    def test_inputs_outputs_and_grouped_convolutions_keep_their_channels(self):
        model = seeded(nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 1)))
        model[0].weight.data[:, 0] = 0
        kill_filters(model[0], [0], bias=0.5)
        kill_filters(model[1], [7], bias=0.5)
        kill_filters(model[2], [3], bias=0.5)
        small = self.shrunk(model, 1, 4, 5, 5)
        assert weights(small) == [(8, 4, 1, 1), (8, 4, 3, 3), (4, 8, 1, 1)]

    def test_a_dense_graph_is_returned_as_it_is(self):
        graph = graph_of(seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))), 1, 3, 7, 7)
        assert drop_dead_channels(graph).nodes == graph.nodes

    def test_weights_that_survive_are_cut_out_and_not_changed(self):
        model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3)))
        kill_filters(model[0], [1, 4])
        small = self.shrunk(model, 1, 3, 8, 8)
        kept = [0, 2, 3, 5, 6, 7]
        first, second = (small.params[n.op.weight] for n in small.nodes)
        np.testing.assert_array_equal(first, model[0].weight.detach().numpy()[kept])
        np.testing.assert_array_equal(second, model[3].weight.detach().numpy()[:, kept])


def test_a_shifted_crop_of_channels_ties_nothing():
    graph = Graph(
        (("x", (1, 3, 4, 4)),),
        (
            Node("conv", Conv("w", "b"), ("x",), (1, 3, 4, 4)),
            Node("pad", Pad((0, 1, 0, 0)), ("conv",), (1, 3, 4, 4)),
            Node("end", Conv("v"), ("pad",), (1, 1, 4, 4)),
        ),
        ("end",),
        {
            "w": np.float32(np.random.default_rng(0).standard_normal((3, 3, 1, 1)))
            * np.float32([[1], [0], [1]])[..., None, None],
            "b": np.float32([1, 2, 3]),
            "v": np.float32([5, 7, 11]).reshape(1, 3, 1, 1),
        },
    )
    assert_same(graph, optimize(graph))


def eager(q, k, v, mask: torch.Tensor | float = 0.0):
    """Attention as models spell it out, with keys that are turned already."""
    return (q @ k * 0.5 + mask).softmax(-1) @ v


def copies(x, repeats):
    return x[:, :, None].expand(-1, -1, repeats, -1, -1)


# What looks like attention, or like keys that heads share, at sizes where only a second look tells.
ALMOST_ATTENTION = {
    "more queries in the mask": (lambda q, k, v: eager(q, k, v, torch.eye(5, 7)), (1, 2, 1, 4), (1, 2, 4, 7)),
    "more keys in the mask": (lambda q, k, v: eager(q, k, v, torch.eye(5, 7)), (1, 2, 5, 4), (1, 2, 4, 1)),
    "copies in another shape": (
        lambda q, k, v: F.scaled_dot_product_attention(q, copies(k, 3).reshape(1, 6, 4, 6), copies(v, 3).flatten(1, 2)),
        (1, 6, 5, 6),
        (1, 2, 6, 4),
        (1, 2, 4, 3),
    ),
    "copies turned another way": (
        lambda q, k, v: eager(q, copies(k, 3).flatten(1, 2).permute(0, 2, 3, 1), copies(v, 3).flatten(1, 2)),
        (1, 6, 5, 4),
        (1, 2, 6, 4),
        (1, 2, 6, 3),
    ),
    "other groups of values than of keys": (
        lambda q, k, v: F.scaled_dot_product_attention(q, copies(k, 3).flatten(1, 2), copies(v, 2).flatten(1, 2)),
        (1, 6, 5, 4),
        (1, 2, 6, 4),
        (1, 3, 6, 3),
    ),
}


class OfThree(nn.Module):
    """A function of three tensors."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, q, k, v):
        return self.function(q, k, v)


@pytest.mark.parametrize("name", ALMOST_ATTENTION)
def test_what_only_looks_like_attention_keeps_what_it_computes(name):
    function, q, k, *v = ALMOST_ATTENTION[name]
    shapes = (q, k, *(v or [(1, 2, 7, 3)]))
    graph = from_torch(OfThree(function).eval(), tuple(torch.zeros(shape) for shape in shapes)).graph
    fused = fuse_attention(graph)
    check_graph(fused)
    assert_same(graph, fused)
    assert_same(graph, optimize(graph))
