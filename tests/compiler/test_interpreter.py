"""The interpreter says what torch says, and the error bound holds for real fp32 arithmetic."""

from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from compiler.graphs import case, pools, random_inputs
from monstera.compiler.ir import (
    Activation,
    AdaptivePool,
    Add,
    AvgPool,
    Concat,
    Conv,
    Graph,
    Linear,
    MaxPool,
    Node,
    Pad,
    Slice,
    Softmax,
    error_bound,
    interpret,
)
from monstera.compiler.ir.interpreter import activate
from monstera.compiler.ir.ops import ActivationKind

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 7, 5)).astype(np.float32)


def single(op, shape, *inputs, **params):
    """A graph of one operator, interpreted."""
    names = [f"x{i}" for i in range(len(inputs))]
    graph = Graph(
        tuple((n, x.shape) for n, x in zip(names, inputs, strict=True)),
        (Node("y", op, tuple(names), shape),),
        ("y",),
        {k: np.asarray(v, np.float32) for k, v in params.items()},
    )
    return interpret(graph, dict(zip(names, inputs, strict=True)))["y"]


ACTIVATIONS = {
    "relu": (Activation("relu"), F.relu),
    "relu6": (Activation("clamp", low=0, high=6), F.relu6),
    "clamp from below": (Activation("clamp", low=-0.3), lambda x: x.clamp(min=-0.3)),
    "leaky relu": (Activation("leaky_relu", slope=0.2), lambda x: F.leaky_relu(x, 0.2)),
    "silu": (Activation("silu"), F.silu),
    "hardswish": (Activation("hardswish"), F.hardswish),
    "hardsigmoid": (Activation("hardsigmoid"), F.hardsigmoid),
    "sigmoid": (Activation("sigmoid"), torch.sigmoid),
    "tanh": (Activation("tanh"), torch.tanh),
    "cos": (Activation("cos"), torch.cos),
    "sin": (Activation("sin"), torch.sin),
    "erf": (Activation("erf"), torch.erf),
    "gelu": (Activation("gelu"), F.gelu),
    "gelu by tanh": (Activation("gelu_tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "exp": (Activation("exp"), torch.exp),
    "sqrt": (Activation("sqrt"), torch.sqrt),
    "rsqrt": (Activation("rsqrt"), torch.rsqrt),
    "reciprocal": (Activation("reciprocal"), torch.reciprocal),
    "not zero": (Activation("not_zero"), lambda x: (x != 0).double()),
}


def test_the_list_of_activations_is_complete():
    assert {activation.kind for activation, _ in ACTIVATIONS.values()} == {*get_args(ActivationKind)}


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero", "ignore:overflow")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_torchs_in_double_precision_and_keeps_nan(name):
    activation, reference = ACTIVATIONS[name]
    x = np.array([*np.linspace(-9, 9, 61), -3.0, 3.0, 0.0, 800.0, -800.0, 6.0, np.nan])
    np.testing.assert_allclose(activate(activation, x), reference(torch.from_numpy(x)).numpy(), rtol=1e-12, atol=1e-15)


def test_no_activation_is_the_identity():
    assert activate(None, X) is X


def test_a_convolution_scales_each_filter_then_adds_bias_and_residual_then_activates():
    weight = RNG.standard_normal((6, 2, 3, 2)).astype(np.float32)
    scale, bias = RNG.standard_normal((2, 6)).astype(np.float32)
    residual = RNG.standard_normal((2, 6, 5, 4)).astype(np.float32)
    op = Conv("w", "b", "s", (2, 1), (2, 0, 3, 1), (1, 2), 2, Activation("relu"))
    got = single(op, (2, 6, 5, 4), X, residual, w=weight, b=bias, s=scale)
    x = F.pad(torch.from_numpy(X).double(), (0, 1, 2, 3))
    y = F.conv2d(x, torch.from_numpy(weight).double(), stride=(2, 1), dilation=(1, 2), groups=2).numpy()
    expected = np.maximum(y * scale[:, None, None] + bias[:, None, None] + residual, 0)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_a_linear_layer_works_on_the_last_dimension():
    weight, (scale, bias) = RNG.standard_normal((3, 5)), RNG.standard_normal((2, 3))
    got = single(Linear("w", "b", "s"), (2, 4, 7, 3), X, w=weight, b=bias, s=scale)
    f32 = [a.astype(np.float32).astype(float) for a in (weight, scale, bias)]
    np.testing.assert_allclose(got, X.astype(float) @ f32[0].T * f32[1] + f32[2], rtol=1e-12, atol=1e-12)


def test_max_pooling_pads_with_minus_infinity():
    x = -1 - np.abs(X)
    got = single(MaxPool((3, 2), (2, 1), (1, 1, 1, 0), (1, 1)), (2, 4, 4, 5), x)
    expected = F.max_pool2d(F.pad(torch.from_numpy(x), (1, 0, 1, 1), value=-np.inf), (3, 2), (2, 1))
    np.testing.assert_array_equal(got, expected.numpy())


def test_average_pooling_multiplies_sums_by_the_factor():
    factor = RNG.random((3, 3)).astype(np.float32)
    got = single(AvgPool((2, 2), (3, 2), (0, 1, 1, 0), "f"), (2, 4, 3, 3), X, f=factor)
    sums = 4 * F.avg_pool2d(F.pad(torch.from_numpy(X).double(), (1, 0, 0, 1)), (2, 2), (3, 2)).numpy()
    np.testing.assert_allclose(got, sums * factor, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 12), st.integers(1, 12))
def test_adaptive_windows_are_torchs(n, m):
    x = RNG.standard_normal((1, 2, n, 3))
    for mode, reference in (("mean", F.adaptive_avg_pool2d), ("max", F.adaptive_max_pool2d)):
        got = single(AdaptivePool(mode), (1, 2, m, 2), x)
        np.testing.assert_allclose(got, reference(torch.from_numpy(x), (m, 2)).numpy(), rtol=1e-12, atol=1e-12)


def test_negative_padding_crops_and_the_rest_is_filled_with_the_value():
    got = single(Pad((0, 1, -2, 1), 1.5), (2, 6, 4, 3), X)
    expected = F.pad(torch.from_numpy(X), (1, -3, -2, -1, 1, 1), value=1.5)
    np.testing.assert_array_equal(got, expected.numpy())


def test_cropping_more_than_there_is_leaves_only_the_filling():
    assert (single(Pad((0, 0, -9, 0), 2.0), (2, 4, 3, 5), X) == 2).all()


def test_slices_start_and_step_in_every_dimension():
    got = single(Slice((1, 0, 2, 1), (1, 3, 2, 1)), (1, 2, 3, 2), X)
    np.testing.assert_array_equal(got, X[1:2, ::3, 2:8:2, 1:3])


def test_softmax_survives_large_numbers():
    x = np.array([[1e4, 1e4 + 1, -1e4]])
    np.testing.assert_allclose(single(Softmax(1), (1, 3), x), torch.softmax(torch.from_numpy(x), 1).numpy())


def test_addition_broadcasts_like_numpy():
    np.testing.assert_array_equal(single(Add(), X.shape, X, X[:, :, :1, :1]), X.astype(float) + X[:, :, :1, :1])


def test_a_missing_input_and_a_wrong_shape_are_named():
    graph = Graph((("x", (1, 2)),), (), ("x",), {})
    with pytest.raises(ValueError, match="input 'x' is missing"):
        interpret(graph, {"y": np.zeros((1, 2))})
    with pytest.raises(ValueError, match=r"expected shape \(1, 2\), got \(2, 1\)"):
        interpret(graph, {"x": np.zeros((2, 1))})


def test_a_node_whose_shape_is_a_lie_is_found():
    with pytest.raises(ValueError, match=r"the graph says \(2, 9, 7, 5\), its inputs give \(2, 8, 7, 5\)"):
        single(Concat(1), (2, 9, 7, 5), X, X)


@pytest.mark.parametrize(("seed", "spatial"), pools(60, 20))
def test_the_error_bound_covers_fp32_arithmetic_on_random_graphs(seed, spatial):
    graph = case(seed, spatial).graph
    inputs = random_inputs(graph, seed)
    exact, rounded = (interpret(graph, inputs, dtype) for dtype in (np.float64, np.float32))
    for name, bound in error_bound(graph, inputs).items():
        assert (np.abs(rounded[name] - exact[name]) <= bound).all()


def test_the_error_bound_is_tight_enough_to_notice_one_wrong_weight():
    weight = RNG.standard_normal((8, 16, 3, 3)).astype(np.float32)
    x = RNG.standard_normal((1, 16, 9, 9)).astype(np.float32)
    node = Node("y", Conv("w", padding=(1, 1, 1, 1), activation=Activation("silu")), ("x",), (1, 8, 9, 9))
    graph = Graph((("x", x.shape),), (node,), ("y",), {"w": weight})
    wrong = weight.copy()
    wrong[3, 5, 1, 1] *= 1.01
    difference = interpret(graph, {"x": x})["y"] - interpret(graph.with_nodes(graph.nodes, w=wrong), {"x": x})["y"]
    assert (np.abs(difference) > error_bound(graph, {"x": x})["y"]).any()
