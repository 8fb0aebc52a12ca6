"""What every ONNX operator means: compiled, it gives what ONNX Runtime gives and what onnx's own cases say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from compiler.agreement import compare
from compiler.batch import compile_batch, poison_arenas, run
from compiler.onnx_cases import NodeCase, node_cases
from compiler.onnx_made import answers, ints, made, weights
from monstera.compiler.frontends import Imported, UnsupportedError, from_onnx
from monstera.compiler.frontends.imported import value_indices
from monstera.compiler.frontends.onnx_elementwise import ELEMENTWISE
from monstera.compiler.frontends.onnx_layers import LAYERS
from monstera.compiler.frontends.onnx_logic import LOGIC
from monstera.compiler.frontends.onnx_movement import MOVEMENT
from monstera.compiler.frontends.onnx_products import PRODUCTS
from monstera.compiler.frontends.onnx_recurrent import RECURRENT
from monstera.compiler.frontends.onnx_windows import WINDOWS
from monstera.compiler.ir import interpret
from monstera.compiler.ir.error_bound import error_bound


@pytest.fixture(autouse=True)
def _nan_before_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_arenas(monkeypatch)


X = {"x": (2, 6, 9, 7)}
LINE, VOLUME = {"x": (2, 4, 11)}, {"x": (1, 4, 5, 6, 7)}


@dataclass(frozen=True)
class Made:
    """Nodes, the inputs that are computed, constants, outputs; tried at each of these opsets."""

    nodes: str
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: X)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    opsets: tuple[int, ...] = (13, 21)


CONVOLUTIONS = {
    "uneven padding": Made(
        "y = Conv<pads=[0,2,3,1], strides=[2,1], dilations=[1,2]>(x, w, b)", X, weights(w=(5, 6, 3, 2), b=(5,))
    ),
    "SAME_UPPER of even kernels": Made("y = Conv<auto_pad='SAME_UPPER'>(x, w)", X, weights(w=(5, 6, 4, 2))),
    "SAME_LOWER of even kernels": Made(
        "y = Conv<auto_pad='SAME_LOWER', strides=[2,3]>(x, w)", X, weights(w=(5, 6, 4, 4))
    ),
    "VALID": Made("y = Conv<auto_pad='VALID', strides=[3,2]>(x, w)", X, weights(w=(5, 6, 1, 3))),
    "groups": Made("y = Conv<group=3, pads=[1,1,1,1]>(x, w)", X, weights(w=(9, 2, 3, 3))),
    "a line": Made("y = Conv<pads=[3,0]>(x, w, b)", LINE, weights(w=(3, 4, 5), b=(3,))),
    "a volume": Made("y = Conv<auto_pad='SAME_UPPER', strides=[2,2,2]>(x, w)", VOLUME, weights(w=(3, 4, 3, 2, 3))),
    "a computed weight": Made("s = Mul(w, b)\n y = Conv(x, s)", X, weights(w=(5, 6, 3, 2), b=(5, 1, 1, 1))),
    "transposed": Made(
        "y = ConvTranspose<strides=[2,3], pads=[1,0,0,2], output_padding=[1,0], dilations=[2,1]>(x, w, b)",
        X,
        weights(w=(6, 5, 3, 4), b=(5,)),
    ),
    "transposed SAME_UPPER": Made(
        "y = ConvTranspose<auto_pad='SAME_UPPER', strides=[2,2]>(x, w)", X, weights(w=(6, 5, 3, 4))
    ),
    "transposed SAME_LOWER": Made(
        "y = ConvTranspose<auto_pad='SAME_LOWER', strides=[2,2]>(x, w)", X, weights(w=(6, 5, 3, 4))
    ),
    "transposed to a shape": Made(
        "y = ConvTranspose<output_shape=[20,15], strides=[2,2]>(x, w)", X, weights(w=(6, 5, 4, 4))
    ),
    "transposed groups of a line": Made(
        "y = ConvTranspose<group=2, strides=[3], pads=[1,2]>(x, w)", LINE, weights(w=(4, 3, 5))
    ),
}
ROWS = {"x": (5, 7)}
TOKENS = {"x": (2, 5, 7)}
MATRICES = {
    "Gemm with all its factors": Made(
        "y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, b)", ROWS, weights(w=(3, 7), b=(3,))
    ),
    "Gemm of a transposed input": Made("y = Gemm<transA=1>(x, w)", ROWS, weights(w=(5, 3))),
    "Gemm with a column": Made("y = Gemm<beta=0.5>(x, w, b)", ROWS, weights(w=(7, 3), b=(5, 1))),
    "Gemm with a number": Made("y = Gemm(x, w, b)", ROWS, weights(w=(7, 3), b=())),
    "Gemm of a constant by an input": Made(
        "y = Gemm<transA=1, transB=1, alpha=3.0>(w, x, b)", ROWS, weights(w=(7, 3), b=(1, 5))
    ),
    "Gemm that adds an input": Made("y = Gemm<beta=0.5>(x, w, z)", {**ROWS, "z": (1, 3)}, weights(w=(7, 3))),
    "MatMul over tokens": Made("y = MatMul(x, w)", TOKENS, weights(w=(7, 3))),
    "MatMul by a vector": Made("y = MatMul(x, w)", TOKENS, weights(w=(7,))),
    "MatMul by one matrix in a batch": Made("y = MatMul(x, w)", TOKENS, weights(w=(1, 7, 4))),
    "MatMul that adds dimensions": Made("y = MatMul(x, w)", ROWS, weights(w=(1, 1, 7, 4))),
    "MatMul of a constant by an input": Made("y = MatMul(w, x)", TOKENS, weights(w=(3, 5))),
    "MatMul of a vector by an input": Made("y = MatMul(w, x)", TOKENS, weights(w=(5,))),
}
NORMS = {
    "batch norm": Made(
        "y = BatchNormalization<epsilon=0.01>(x, s, b, m, v)",
        X,
        {**weights(s=(6,), b=(6,), m=(6,)), "v": np.linspace(0.5, 2, 6, dtype=np.float32)},
    ),
    "softmax over channels": Made("y = Softmax<axis=1>(x)"),
    "softmax over the last dimension": Made("y = Softmax(x)"),
    "mean over axes by attribute": Made("y = ReduceMean<axes=[-1,1], keepdims=0>(x)", opsets=(13,)),
    "mean over axes by input": Made("y = ReduceMean(x, a)", X, ints(a=[-1, 2]), opsets=(18, 21)),
    "mean of everything": Made("y = ReduceMean<keepdims=0>(x)"),
    "mean over no axes": Made("y = ReduceMean<noop_with_empty_axes=1>(x, a)", X, ints(a=[]), opsets=(18,)),
    "global means and maxima": Made("a = GlobalAveragePool(x)\n b = GlobalMaxPool(x)\n y = Sub(a, b)", VOLUME),
}
POOLS = {
    "max pool, uneven": Made("y = MaxPool<kernel_shape=[3,2], strides=[2,3], pads=[1,0,0,1], dilations=[2,1]>(x)"),
    "max pool in ceil mode": Made("y = MaxPool<kernel_shape=[3,2], strides=[2,2], ceil_mode=1>(x)"),
    "max pool whose last window starts in the padding": Made(
        "y = MaxPool<kernel_shape=[2,2], strides=[3,3], pads=[1,1,1,1], ceil_mode=1>(x)", {"x": (1, 3, 5, 8)}
    ),
    "max pool SAME_LOWER": Made("y = MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad='SAME_LOWER'>(x)"),
    "mean pool": Made("y = AveragePool<kernel_shape=[3,2], strides=[2,1], pads=[1,0,0,1]>(x)"),
    "mean pool that counts padding": Made(
        "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,0,1,2], count_include_pad=1>(x)"
    ),
    "mean pool in ceil mode that counts padding": Made(
        "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1, ceil_mode=1>(x)",
        {"x": (1, 3, 6, 8)},
    ),
    "mean pool whose last window starts in the padding": Made(
        "y = AveragePool<kernel_shape=[3,3], strides=[3,3], pads=[1,1,1,1], count_include_pad=1, ceil_mode=1>(x)",
        {"x": (1, 3, 2, 5)},
    ),
    "mean pool SAME_UPPER": Made("y = AveragePool<kernel_shape=[2,3], strides=[2,2], auto_pad='SAME_UPPER'>(x)"),
    "pools of a line and a volume": Made(
        "y = AveragePool<kernel_shape=[2,3,2], strides=[1,2,2], ceil_mode=1>(x)", VOLUME
    ),
}
_RESIZE = "y = Resize<mode='{}', coordinate_transformation_mode='{}', nearest_mode='{}'>(x, , {})"


def _resized(
    mode: str, coordinates: str, rounding: str = "floor", scales: list[float] | None = None, shape: list[int] = ()
) -> Made:
    if scales:
        text = _RESIZE.format(mode, coordinates, rounding, "s")
        return Made(text, X, {"s": np.array([1, 1, *scales], np.float32)})
    text = _RESIZE.format(mode, coordinates, rounding, ", s")
    return Made(text, X, ints(s=[2, 6, *shape]))


RESIZES = {
    "nearest as torch has it": _resized("nearest", "asymmetric", scales=[2.0, 1.7]),
    "nearest by a scale that rounding carries to a whole size": Made(
        _RESIZE.format("nearest", "asymmetric", "floor", "s"),
        {"x": (1, 2, 10, 10)},
        {"s": np.array([1, 1, 1.1, 2.1], np.float32)},
    ),
    "nearest to a size": _resized("nearest", "asymmetric", shape=[13, 17]),
    "nearest, rounded, by whole numbers": _resized("nearest", "half_pixel", "round_prefer_floor", [2.0, 3.0]),
    "linear as torch has it": _resized("linear", "half_pixel", shape=[13, 5]),
    "linear by scales": _resized("linear", "pytorch_half_pixel", scales=[1.9, 2.3]),
    "linear, corners aligned": _resized("linear", "align_corners", shape=[13, 20]),
    "linear from the corner": _resized("linear", "asymmetric", scales=[2.0, 2.5]),
    "to what it is": _resized("nearest", "half_pixel", "ceil", shape=[9, 7]),
    "axes of its own": Made(
        "y = Resize<axes=[3], coordinate_transformation_mode='asymmetric', nearest_mode='floor'>(x, , s)",
        X,
        {"s": np.array([2], np.float32)},
        opsets=(18, 21),
    ),
}
ELEMENTS = {
    name: Made(f"y = {call}(x)")
    for name, call in {
        "Relu": "Relu",
        "LeakyRelu": "LeakyRelu<alpha=0.2>",
        "Sigmoid": "Sigmoid",
        "HardSigmoid": "HardSigmoid<alpha=0.3, beta=0.4>",
        "HardSigmoid as torch has it": "HardSigmoid<alpha=0.16666667, beta=0.5>",
        "Tanh": "Tanh",
        "Neg": "Neg",
    }.items()
} | {
    "HardSwish": Made("y = HardSwish(x)", opsets=(14, 21)),
    "Gelu": Made("y = Gelu(x)", opsets=(20,)),
    "Gelu by tanh": Made("y = Gelu<approximate='tanh'>(x)", opsets=(21,)),
    "Clip": Made("y = Clip(x, l, h)", X, {"l": np.float32(-0.5), "h": np.float32(0.8)}),
    "Clip from above": Made("y = Clip(x, , h)", X, {"h": np.float32(0.3)}),
    "PRelu": Made("y = PRelu(x, s)", X, weights(s=(6, 1, 1)), opsets=(13, 16)),
    "arithmetic": Made(
        "a = Add(x, c)\n b = Sub(c, a)\n d = Mul(b, x)\n e = Div(d, k)\n y = Sum(e, z, a)",
        {**X, "z": (6, 1, 7)},
        weights(c=(9, 1), k=(6, 1, 1)),
    ),
}
MOVES = {
    "Split by sizes": Made("a, b, c = Split<axis=-3>(x, s)\n y = Concat<axis=1>(c, a)", X, ints(s=[1, 3, 2])),
    "Split in two": Made("a, b = Split<axis=1>(x)\n y = Sub(a, b)", opsets=(13,)),
    "Split in unequal parts": Made(
        "a, b, c, d = Split<axis=3, num_outputs=4>(x)\n y = Concat<axis=3>(d, b)", opsets=(18, 21)
    ),
    "Slice": Made("y = Slice(x, s, e, a, t)", X, ints(s=[-5, 1], e=[1000, -1], a=[2, -1], t=[2, 3])),
    "Slice of nothing named": Made("y = Slice(x, s, e)", X, ints(s=[0, 2], e=[1, 6])),
    "Pad": Made("y = Pad(x, p, v)", X, {**ints(p=[0, 1, 2, 0, 1, 0, -3, 2]), "v": np.float32(0.5)}),
    "Pad of axes": Made("y = Pad(x, p, , a)", X, ints(p=[2, 1, 0, 3], a=[-1, 1]), opsets=(18, 21)),
    "Reshape with a copied size": Made("y = Reshape(x, s)", X, ints(s=[0, -1, 7])),
    "Flatten": Made("y = Flatten<axis=2>(x)"),
    "Squeeze and Unsqueeze": Made(
        "a = Unsqueeze(x, u)\n b = Squeeze(a, q)\n y = Relu(b)", {"x": (1, 6, 1, 7)}, ints(u=[1, -1], q=[0, 3])
    ),
    "Transpose": Made("y = Transpose<perm=[2,0,3,1]>(x)"),
    "Transpose of everything": Made("y = Transpose(x)"),
    "Expand": Made("a = Expand(x, s)\n y = Add(a, a)", {"x": (6, 1, 7)}, ints(s=[2, 1, 9, 1])),
    "Identity, Dropout and Cast": Made("a = Identity(x)\n b = Dropout(a)\n c = Cast<to=1>(b)\n y = Add(c, x)"),
    "DepthToSpace": Made("y = DepthToSpace<blocksize=2>(x)", {"x": (2, 12, 5, 3)}),
    "DepthToSpace, channels first": Made("y = DepthToSpace<blocksize=2, mode='CRD'>(x)", {"x": (2, 12, 5, 3)}),
    "SpaceToDepth": Made("y = SpaceToDepth<blocksize=3>(x)", {"x": (2, 4, 9, 6)}),
    "Gather of one": Made("y = Gather<axis=2>(x, i)", X, ints(i=-2)),
    "Gather of every other": Made("y = Gather<axis=1>(x, i)", X, ints(i=[[1], [3], [5]])),
    "sizes computed from shapes": Made(
        """s = Shape(x)
           n = Gather<axis=0>(s, zero)
           u = Unsqueeze(n, zeros)
           t = Concat<axis=0>(u, rest)
           r = Reshape(x, t)
           q = Shape(r)
           c = ConstantOfShape(q)
           f = Cast<to=1>(c)
           k = Size(x)
           kf = Cast<to=1>(k)
           i = Range(zero, n, one)
           if = Cast<to=1>(i)
           g = Reshape(if, column)
           h = Div(r, kf)
           j = Add(h, f)
           y = Add(j, g)""",
        X,
        ints(zero=0, one=1, zeros=[0], rest=[-1], column=[-1, 1]),
    ),
}
GROUPS = {
    "convolutions": CONVOLUTIONS,
    "products": MATRICES,
    "norms and means": NORMS,
    "pools and resizing": POOLS | RESIZES,
    "elements": ELEMENTS,
    "moves": MOVES,
}


@pytest.mark.parametrize("group", GROUPS)
def test_every_rule_gives_what_onnx_runtime_gives(group: str) -> None:
    models = {
        f"{name}, opset {opset}": made(m.nodes, m.inputs, m.constants, m.outputs, opset)
        for name, m in GROUPS[group].items()
        for opset in m.opsets
    }
    graphs = [from_onnx(model) for model in models.values()]
    for (name, model), graph, runner in zip(models.items(), graphs, compile_batch(graphs), strict=True):
        inputs = weights(1, **{i.name: i.shape for i in graph.inputs})
        theirs = [torch.from_numpy(np.array(x)) for x in answers(model, inputs).values()]
        for _ in range(2):
            compare(name, graph.graph, inputs, run(runner, graph, inputs), theirs)


# What the IR cannot say of the operators that there are rules for, by their cases in onnx.
REFUSED: Mapping[str, set[str]] = {
    "BatchNormalization": {
        "batchnorm_epsilon_training_mode",
        "batchnorm_example_training_mode",
    },
    "MaxPool": {
        "maxpool_with_argmax_2d_precomputed_pads",
        "maxpool_with_argmax_2d_precomputed_strides",
    },
    "AveragePool": {
        "averagepool_2d_dilations",
        "averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_False",
        "averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True",
        "averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_False",
        "averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True",
        "averagepool_3d_dilations_small",
    },
    "Resize": {
        "resize_downsample_scales_cubic",
        "resize_downsample_scales_cubic_A_n0p5_exclude_outside",
        "resize_downsample_scales_cubic_align_corners",
        "resize_downsample_scales_cubic_antialias",
        "resize_downsample_scales_linear_align_corners",
        "resize_downsample_scales_linear_antialias",
        "resize_downsample_scales_linear_half_pixel_symmetric",
        "resize_downsample_sizes_cubic",
        "resize_downsample_sizes_cubic_antialias",
        "resize_downsample_sizes_linear_antialias",
        "resize_downsample_sizes_linear_pytorch_half_pixel",
        "resize_tf_crop_and_resize",
        "resize_tf_crop_and_resize_axes_2_3",
        "resize_tf_crop_and_resize_axes_3_2",
        "resize_tf_crop_and_resize_extrapolation_value",
        "resize_upsample_scales_cubic",
        "resize_upsample_scales_cubic_A_n0p5_exclude_outside",
        "resize_upsample_scales_cubic_align_corners",
        "resize_upsample_scales_cubic_asymmetric",
        "resize_upsample_scales_linear_half_pixel_symmetric",
        "resize_upsample_sizes_cubic",
        "resize_upsample_sizes_nearest_ceil_half_pixel",
        "resize_upsample_sizes_nearest_round_prefer_ceil_asymmetric",
    },
    "Dropout": {
        "dropout_default_mask",
        "dropout_default_mask_ratio",
        "training_dropout",
        "training_dropout_default",
        "training_dropout_default_mask",
        "training_dropout_mask",
        "training_dropout_zero_ratio_mask",
    },
    "Slice": {
        "slice_start_out_of_bounds",
    },
    "Gather": {
        "gather_1_looked_up",
        "gather_2d_indices_looked_up",
    },
    "GatherND": {
        "gathernd_example_int32_batch_dim1",
    },
    "GRU": {
        "gru_batchwise",
        "gru_bidirectional",
        "gru_defaults",
        "gru_reverse",
        "gru_seq_length",
        "gru_with_initial_bias",
    },
    "LSTM": {
        "lstm_with_peepholes",
    },
    "Div": {
        "div_int32_trunc",
    },
    "Pow": {
        "pow",
        "pow_bcast_array",
        "pow_example",
        "pow_types_float32_int32",
        "pow_types_float32_int64",
        "pow_types_float32_uint32",
        "pow_types_float32_uint64",
        "pow_types_int32_float32",
        "pow_types_int32_int32",
        "pow_types_int64_float32",
        "pow_types_int64_int64",
    },
}


@pytest.mark.parametrize(
    "rules",
    [LAYERS, PRODUCTS, WINDOWS, RECURRENT, ELEMENTWISE, LOGIC, MOVEMENT],
    ids=["layers", "products", "windows", "recurrent", "elements", "logic", "moves"],
)
def test_the_cases_of_onnx_itself_are_computed_or_refused(rules: Mapping[str, object]) -> None:
    cases: list[NodeCase] = []
    graphs: list[Imported] = []
    refused: dict[str, set[str]] = {}
    for case in (c for op in rules for c in node_cases(op)):
        try:
            graphs.append(from_onnx(case.model))
            cases.append(case)
        except UnsupportedError:
            refused.setdefault(case.op, set()).add(case.name.removeprefix("test_"))
    assert refused == {op: names for op, names in REFUSED.items() if op in rules}
    for case, graph, runner in zip(cases, graphs, compile_batch(graphs), strict=True):
        _check(case, graph, run(runner, graph, case.inputs))


def _check(case: NodeCase, imported: Imported, ours: list[np.ndarray]) -> None:
    """As near to the interpreter as rounding allows, and to onnx's numbers, some of which have four digits."""
    graph = imported.graph
    exact, bounds = interpret(graph, case.inputs), error_bound(graph, case.inputs)
    for name, answer in zip(graph.outputs, ours, strict=True):
        assert (np.abs(answer - exact[name]) <= 2 * bounds[name]).all(), f"{case.name} strays from the interpreter"
    indices = value_indices(imported.output)
    for index, expected in zip(indices, case.outputs, strict=True):
        np.testing.assert_allclose(ours[index], expected, rtol=1e-3, atol=1e-6, err_msg=case.name)
