"""Convolutions, pools and the like in one, two and three dimensions: the graph says what torch says."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from compiler.test_frontend import Function
from compiler.test_interpreter import single
from monstera.compiler.frontends import UnsupportedError, from_torch
from monstera.compiler.frontends.aten_transposed import conv_transpose
from monstera.compiler.frontends.builder import Builder, Call
from monstera.compiler.ir import AvgPool, Conv, DepthToSpace, MaxPool, Mean, Permute, Reshape, Slice, interpret

SIZES = {1: (13,), 2: (9, 10), 3: (5, 8, 10)}
RANKS = pytest.mark.parametrize("k", [1, 2, 3])


def image(k, channels=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(k)
    return torch.randn(2, channels, *SIZES[k], generator=generator, dtype=torch.float32).to(dtype)


def module(name, k, *args, **kwargs):
    torch.manual_seed(0)
    return getattr(nn, f"{name}{k}d")(*args, **kwargs)


def assert_exact(model, x, tolerance=1e-10):
    """The graph in float64 against torch in float64, with the same fp32 weights."""
    graph = from_torch(model.eval(), (x.float(),)).graph
    values = interpret(graph, {"x" if isinstance(model, Function) else graph.inputs[0][0]: x.numpy()})
    with torch.no_grad():
        expected = model.double()(x.double()).numpy()
    np.testing.assert_allclose(values[graph.outputs[0]], expected, rtol=tolerance, atol=tolerance)
    return graph


# Numbers for up to three dimensions; the last ones are those of a single dimension.
STRIDES, DILATIONS = (3, 1, 2), (1, 3, 2)


@RANKS
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("padding", [0, (1, 0, 2), (2, 3, 1), "same", "valid"])
def test_a_convolution(k, groups, padding):
    padding = padding[-k:] if isinstance(padding, tuple) else padding
    stride = 1 if isinstance(padding, str) else STRIDES[-k:]
    conv = module("Conv", k, 6, 12, (2, 3, 4)[-k:], stride, padding, DILATIONS[-k:], groups)
    (node,) = assert_exact(conv, image(k)).nodes
    assert isinstance(node.op, Conv)
    assert len(node.op.stride) == len(node.op.dilation) == k


@RANKS
def test_same_padding_leaves_the_larger_half_behind(k):
    graph = from_torch(module("Conv", k, 6, 2, 4, padding="same").eval(), (image(k),)).graph
    assert graph.nodes[0].op.padding == (1,) * k + (2,) * k


@RANKS
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_maximum_of_windows(k, ceil, padding):
    pool = module("MaxPool", k, (3, 2, 4)[-k:], STRIDES[-k:], padding, 1 if padding else (1, 2, 2)[-k:], ceil_mode=ceil)
    graph = assert_exact(pool, image(k), 0)
    assert [type(n.op) for n in graph.nodes] == [MaxPool]


@RANKS
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("count", [False, True])
def test_a_mean_of_windows(k, ceil, count):
    pool = module("AvgPool", k, (3, 2, 4)[-k:], STRIDES[-k:], 1, ceil_mode=ceil, count_include_pad=count)
    # The reciprocals of the divisors are stored in fp32.
    graph = assert_exact(pool, image(k), 1e-7)
    assert [type(n.op) for n in graph.nodes] == [AvgPool]
    assert graph.params[graph.nodes[0].op.factor].shape == graph.nodes[0].shape[2:]


@RANKS
@pytest.mark.parametrize("kind", ["Avg", "Max"])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 4), (5, 9, 13), (1, 4, 7)])
def test_adaptive_pooling(k, kind, size):
    assert_exact(module(f"Adaptive{kind}Pool", k, size[-k:]), image(k), 1e-7)


@RANKS
def test_pooling_to_one_pixel_is_a_mean_over_all_spatial_dimensions(k):
    (node,) = assert_exact(module("AdaptiveAvgPool", k, 1), image(k)).nodes
    assert node.op == Mean(tuple(range(2, 2 + k)))


@pytest.mark.parametrize("dims", [(0,), (1,), (-1,), (2, -1), (1, 3), (0, 1, 2, 3, 4), None])
@pytest.mark.parametrize("keep", [False, True])
def test_means_over_any_dimensions(dims, keep):
    if dims is None and keep:
        dims = []
    function = (lambda _, x: x.mean()) if dims is None else (lambda _, x: x.mean(dims, keepdim=keep))
    assert_exact(Function(function), image(3))


SCALES = (0.3, 0.5, 0.7, 1.0, 1.1, 1.5, 1.7, 2.0, 2.1, 3.0)


@RANKS
@pytest.mark.parametrize("mode", ["nearest", "linear", "corners"])
@pytest.mark.parametrize("trust", ["scale factor", "sizes"])
def test_interpolation_picks_torchs_pixels(k, mode, trust):
    # Positions are a matter of fp32, so that this is compared in fp32.
    options = {"mode": {1: "linear", 2: "bilinear", 3: "trilinear"}[k], "align_corners": mode == "corners"}
    options = {"mode": mode} if mode == "nearest" else options
    sizes = [(n, scale) for n in (1, 2, 5, 7, 8) for scale in SCALES if int(n * scale) > 0]

    class Resize(nn.Module):
        def forward(self, **inputs):
            return [
                F.interpolate(
                    x, **({"scale_factor": s} if trust == "scale factor" else {"size": int(n * s)}), **options
                )
                for x, (n, s) in zip(inputs.values(), sizes, strict=True)
            ]

    inputs = {f"x{i}": torch.randn(1, 1, *[n] * k) for i, (n, _) in enumerate(sizes)}
    graph = from_torch(Resize().eval(), (), inputs).graph
    values = interpret(graph, {name: x.numpy() for name, x in inputs.items()})
    for name, expected in zip(graph.outputs, Resize()(**inputs), strict=True):
        np.testing.assert_allclose(values[name], expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_a_batch_norm_of_any_rank(rank):
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[rank](6)
    x = image(3)[(..., *[0] * (5 - rank))]
    norm(x)
    assert_exact(norm, x, 1e-6)


@RANKS
def test_dropout_does_nothing_in_inference(k):
    layers = [module("Dropout", k), nn.Dropout(), nn.AlphaDropout(), nn.FeatureAlphaDropout()]
    assert from_torch(nn.Sequential(*layers).eval(), (image(k),)).graph.nodes == ()


class TestTransposedConvolution:
    @settings(max_examples=120)
    @given(data=st.data(), k=st.integers(1, 3))
    def test_any_kernel_stride_padding_dilation_and_groups(self, data, k):
        def draw(low, high):
            return [data.draw(st.integers(low, high)) for _ in range(k)]

        kernel, stride, dilation, padding, size = draw(1, 4), draw(1, 4), draw(1, 3), draw(0, 4), draw(1, 5)
        extra = [data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
        groups, inside, outside = (data.draw(st.integers(1, 3)) for _ in range(3))
        rng = np.random.default_rng(0)
        x = rng.standard_normal((2, groups * inside, *size))
        weight = rng.standard_normal((groups * inside, outside, *kernel)).astype(np.float32)
        bias = rng.standard_normal(groups * outside).astype(np.float32)
        reference = getattr(F, f"conv_transpose{k}d")
        doubles = [torch.from_numpy(a).double() for a in (x, weight, bias)]
        try:
            expected = reference(*doubles, stride, padding, extra, groups, dilation).numpy()
        except RuntimeError:
            assume(False)
        args = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias), "groups": groups}
        args |= {"input": "x", "stride": stride, "padding": padding, "dilation": dilation}
        build = Builder([("x", x.shape)], {})
        y = conv_transpose(build, Call(f"conv_transpose{k}d", args, (expected.shape,)))
        graph = build.finish((y,))
        np.testing.assert_allclose(interpret(graph, {"x": x})[y], expected, rtol=1e-10, atol=1e-10)
        conv = graph.nodes[0].op
        assert isinstance(conv, Conv)
        assert conv.stride == (1,) * k
        # Every weight has exactly one place, and the other places are holes.
        np.testing.assert_array_equal(
            np.sort(graph.params[conv.weight][graph.params[conv.weight] != 0]), np.sort(weight, None)
        )

    @RANKS
    @pytest.mark.parametrize("groups", [1, 2, 6])
    def test_a_module_becomes_a_convolution_and_pixels_from_channels(self, k, groups):
        conv = module("ConvTranspose", k, 6, 12, 4, 2, 1, groups=groups)
        graph = assert_exact(conv, image(k))
        assert [type(n.op) for n in graph.nodes] == [Conv, DepthToSpace]
        assert graph.params[graph.nodes[0].op.weight].shape[2:] == (3,) * k

    @RANKS
    def test_an_odd_size_is_cut_and_output_padding_only_gets_the_bias(self, k):
        conv = module("ConvTranspose", k, 6, 4, 2, 3, output_padding=1)
        graph = assert_exact(conv, image(k))
        assert [type(n.op) for n in graph.nodes] == [Conv, DepthToSpace]
        graph = assert_exact(module("ConvTranspose", k, 6, 4, 3, 2), image(k))
        assert [type(n.op) for n in graph.nodes] == [Conv, DepthToSpace, Slice]

    @RANKS
    def test_stride_one_is_a_convolution_alone(self, k):
        graph = assert_exact(module("ConvTranspose", k, 6, 4, 3, padding=1, bias=False), image(k))
        assert [type(n.op) for n in graph.nodes] == [Conv]
        assert graph.nodes[0].op.bias is None


PERMUTATIONS = {
    "permute": lambda _, x: x.permute(0, 3, -1, 1, 2),
    "transpose": lambda _, x: x.transpose(1, -1),
    "movedim": lambda _, x: x.movedim((1, 2), (-1, 0)).moveaxis(0, 1),
    "swapaxes": lambda _, x: x.swapaxes(0, 1).swapdims(-1, 2),
    "a matrix": lambda _, x: x[0, 0, 0].t() + x[1, 1, 1].T,
    "rows and columns": lambda _, x: x.mT,
    "all at once": lambda _, x: x[0, 0].permute(2, 1, 0).contiguous(),
}


class TestPixelsAndChannels:
    @pytest.mark.parametrize("shape", [(2, 12, 3, 5), (12, 3, 5), (2, 3, 12, 3, 5)])
    def test_pixel_shuffle(self, shape):
        assert_exact(nn.PixelShuffle(2), torch.randn(shape), 0)

    @pytest.mark.parametrize("shape", [(2, 3, 6, 9), (3, 6, 9), (2, 4, 1, 3, 6)])
    def test_pixel_unshuffle(self, shape):
        assert_exact(nn.PixelUnshuffle(3), torch.randn(shape), 0)

    @RANKS
    def test_channel_shuffle(self, k):
        assert_exact(nn.ChannelShuffle(3), image(k, dtype=torch.float64), 0)

    @pytest.mark.parametrize("name", PERMUTATIONS)
    def test_dimensions_in_another_order(self, name):
        graph = assert_exact(Function(PERMUTATIONS[name]), image(3, dtype=torch.float64), 0)
        assert Permute in {type(n.op) for n in graph.nodes}

    @pytest.mark.parametrize("groups", [1, 2, 6])
    def test_groups_say_in_which_order_channels_fill_a_block(self, groups):
        x = np.arange(24).reshape(1, 24, 1, 1)
        got = single(DepthToSpace((2, 2), groups), (1, 6, 2, 2), x)
        # [group, row, column, channel of the group] to [group, channel of the group, row, column]
        expected = x.reshape(groups, 2, 2, 6 // groups).transpose(0, 3, 1, 2).reshape(1, 6, 2, 2)
        np.testing.assert_array_equal(got, expected)


def test_numbers_for_different_ranks_in_one_operator_are_refused():
    for sizes in itertools.product([(1,), (1, 1)], [(0,) * 2, (0,) * 4, (0,) * 6], [(1,), (1, 1, 1)]):
        if {len(sizes[0]), len(sizes[1]) / 2, len(sizes[2])} == {1}:
            continue
        with pytest.raises(ValueError, match="one number for each of 1, 2 or 3 spatial dimensions"):
            Conv("w", None, None, *sizes)
        with pytest.raises(ValueError, match="expected one number"):
            MaxPool(sizes[0], sizes[2], sizes[1], sizes[0])


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv1d(6, 2, 3), (6, 9), r"\[batch, channels, width\]"),
        (nn.ConvTranspose2d(6, 2, 3), (6, 9, 9), r"\[batch, channels, height, width\]"),
        (nn.MaxPool3d(2), (6, 9, 9, 9), r"\[batch, channels, depth, height, width\]"),
        (nn.AdaptiveAvgPool3d(2), (6, 9, 9, 9), r"\[batch, channels, depth, height, width\]"),
    ],
)
def test_an_image_without_a_batch_is_refused(layer, shape, message):
    with pytest.raises(UnsupportedError, match=message):
        from_torch(layer.eval(), (torch.zeros(shape),))


def test_writing_in_place_to_what_a_transposed_convolution_gave_is_seen_by_nobody():
    conv = nn.Sequential(nn.ConvTranspose3d(2, 3, 2, 2), nn.ReLU(inplace=True))
    graph = from_torch(conv.eval(), (torch.randn(1, 2, 2, 2, 2),)).graph
    assert Reshape not in {type(n.op) for n in graph.nodes}
