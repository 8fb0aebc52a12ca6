"""What every ONNX operator means: compiled, it gives what ONNX Runtime gives and what onnx's own cases say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
import torch

from compiler.agreement import compare
from compiler.batch import compile_batch, run
from compiler.graphs import fitting_inputs
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
from monstera.compiler.ir import Activate, Attention, Constant, Norm, Permute, Reshape, interpret
from monstera.compiler.ir.error_bound import error_bound
from monstera.compiler.passes import optimize

pytestmark = pytest.mark.usefixtures("nan_before_first_use")


X = {"x": (2, 6, 9, 7)}
LINE, VOLUME = {"x": (2, 4, 11)}, {"x": (1, 4, 5, 6, 7)}


@dataclass(frozen=True)
class Made:
    """Nodes, the inputs that are computed (fp32, or of these `dtypes`), constants, outputs; tried at all `opsets`."""

    nodes: str
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: X)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    opsets: tuple[int, ...] = (13, 21)
    dtypes: Mapping[str, int] = field(default_factory=dict)


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
    "MatMul of two inputs": Made("y = MatMul(x, z)", {"x": (2, 3, 5, 7), "z": (3, 7, 17)}),
    "MatMul of an input and its turned self": Made("t = Transpose<perm=[0,2,1]>(x)\n y = MatMul(x, t)", TOKENS),
    "MatMul of a computed row": Made("y = MatMul(z, x)", {**TOKENS, "z": (5,)}),
    "MatMul by a computed column": Made("y = MatMul(x, z)", {**TOKENS, "z": (7,)}),
    "MatMul of two computed vectors": Made("y = MatMul(x, z)", {"x": (7,), "z": (7,)}),
    "MatMul by other matrices in a batch": Made("y = MatMul(x, w)", TOKENS, weights(w=(2, 7, 4))),
    "MatMul of other matrices in a batch": Made("y = MatMul(w, x)", TOKENS, weights(w=(3, 1, 4, 5))),
    "MatMul of a known vector by a batch of matrices": Made("y = MatMul(w, x)", {"x": (3, 2, 5, 7)}, weights(w=(5,))),
    "Gemm of two inputs with all its factors": Made(
        "y = Gemm<alpha=0.5, beta=2.0, transA=1, transB=1>(x, z, b)", {"x": (7, 5), "z": (3, 7)}, weights(b=(3,))
    ),
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
    "sum over axes": Made("y = ReduceSum<keepdims=0>(x, a)", X, ints(a=[-1, 1])),
    "sum of everything": Made("y = ReduceSum(x)"),
    "softmax over the batch": Made("y = Softmax<axis=0>(x)"),
    "layer norm": Made(
        "y = LayerNormalization<epsilon=0.01>(x, w, b)", TOKENS, weights(w=(7,), b=(7,)), opsets=(17, 21)
    ),
    "layer norm of several dimensions": Made(
        "y = LayerNormalization<axis=-3>(x, w)", X, weights(w=(6, 9, 7)), opsets=(17,)
    ),
    "layer norm with one scale": Made("y = LayerNormalization<axis=2>(x, w)", X, weights(w=(9, 7)), opsets=(17,)),
    "layer norm, spelled out": Made(
        """m = ReduceMean<axes=[-1]>(x)
           c = Sub(x, m)
           q = Pow(c, two)
           v = ReduceMean<axes=[-1]>(q)
           e = Add(v, eps)
           d = Sqrt(e)
           n = Div(c, d)
           s = Mul(n, w)
           y = Add(s, b)""",
        TOKENS,
        {**weights(w=(7,), b=(7,)), "two": np.float32(2), "eps": np.float32(0.01)},
        opsets=(13,),
    ),
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
for _name, _exponent in {"two": 2, "three": 3, "a root": 0.5, "a reciprocal root": -0.5, "minus two": -2}.items():
    ELEMENTS[f"Pow of {_name}"] = Made(
        "s = Mul(x, x)\n p = Add(s, one)\n y = Pow(p, e)", X, {"e": np.float32(_exponent), "one": np.float32(1)}
    )
for _name in ("Sqrt", "Exp", "Reciprocal", "Erf"):
    ELEMENTS[_name] = Made(f"a = Abs(x)\n p = Add(a, half)\n y = {_name}(p)", X, {"half": np.float32(0.5)})
ELEMENTS |= {
    "Erf of both signs": Made("y = Erf(x)"),
    "Div of two inputs": Made(
        "e = Exp(z)\n d = Div(x, e)\n f = Div(c, e)\n y = Sub(d, f)", {**X, "z": (6, 1, 7)}, weights(c=(9, 1))
    ),
    "GELU, spelled out as torch's older exporter does": Made(
        "a = Div(x, r)\n e = Erf(a)\n g = Add(e, one)\n p = Mul(x, g)\n y = Mul(p, half)",
        X,
        {"r": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)},
    ),
    "GELU, spelled out as torch's newer exporter does": Made(
        "a = Mul(x, r)\n e = Erf(a)\n g = Add(e, one)\n p = Mul(half, g)\n y = Mul(x, p)",
        X,
        {"r": np.float32(0.5**0.5), "one": np.float32(1), "half": np.float32(0.5)},
    ),
}
INT64, INT32, BOOL = onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL
_PAIR = {"x": (3, 5, 7), "z": (5, 1)}
CONDITIONS = {
    name: Made(f"t = {name}(x, z)\n y = Cast<to=1>(t)", _PAIR, dtypes=dict.fromkeys(_PAIR, dtype), opsets=(16, 21))
    for dtype, names in {
        INT64: ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
        BOOL: ("And", "Or", "Xor"),
    }.items()
    for name in names
} | {
    "comparisons of fp32": Made(
        "t = Less(x, z)\n u = GreaterOrEqual(x, h)\n v = Or(t, u)\n w = Not(v)\n y = Cast<to=1>(w)",
        _PAIR,
        {"h": np.float32(0.5)},
    ),
    "Where": Made("t = Greater(x, z)\n y = Where(t, z, h)", _PAIR, weights(h=(7,))),
    "Where by an input": Made("y = Where(x, z, h)", _PAIR, weights(h=(7,)), dtypes={"x": BOOL}),
    "Where of whole numbers": Made(
        "w = Where(x, z, h)\n y = Cast<to=1>(w)", _PAIR, ints(h=[-2]), dtypes={"x": BOOL, "z": INT64}
    ),
    "IsNaN": Made("s = Sqrt(x)\n n = IsNaN(s)\n y = Where(n, h, s)", X, {"h": np.float32(-1)}),
    "Cast of numbers to truth and back": Made(
        "m = Mul(x, z)\n t = Cast<to=9>(m)\n i = Cast<to=6>(t)\n s = Add(i, m)\n y = Cast<to=1>(s)",
        _PAIR,
        dtypes=dict.fromkeys(_PAIR, INT32),
    ),
    "CastLike": Made("c = CastLike(x, w)\n y = Mul(c, w)", _PAIR, weights(w=(7,)), dtypes={"x": BOOL}, opsets=(15,)),
    "a mask as networks make it": Made(
        """f = Cast<to=1>(x)
           u = Unsqueeze(f, axes)
           n = Sub(one, u)
           y = Mul(n, least)""",
        {"x": (2, 5)},
        {**ints(axes=[1, 2]), "one": np.float32(1), "least": np.float32(-1e4)},
        dtypes={"x": INT64},
    ),
}
LOOKUPS = {
    "rows": Made("y = Gather(w, x)", {"x": (3, 5)}, weights(w=(11, 6)), dtypes={"x": INT64}),
    "one row": Made("y = Gather(w, x)", {"x": ()}, weights(w=(11, 6)), dtypes={"x": INT64}),
    "matrices": Made("y = Gather(w, x)", {"x": (5,)}, weights(w=(11, 2, 3)), dtypes={"x": INT32}),
    "numbers": Made("y = Gather(w, x)", {"x": (2, 3)}, weights(w=(11,)), dtypes={"x": INT64}),
    "rows and their places": Made(
        "e = Gather(w, x)\n p = Gather(v, i)\n y = Add(e, p)",
        {"x": (2, 4)},
        weights(w=(11, 6), v=(9, 6)) | ints(i=[0, 1, 2, 3]),
        dtypes={"x": INT64},
    ),
}
_HEADS = {"q": (2, 3, 5, 4), "k": (2, 3, 9, 4), "v": (2, 3, 9, 6)}
_ATTENTION = """t = Transpose<perm=[0,1,3,2]>(k)
    a = Mul(q, r)
    b = Mul(t, r)
    s = MatMul(a, b)
    m = Add(s, mask)
    w = Softmax<axis=-1>(m)
    """
_MASK = np.where(np.random.default_rng(3).random((2, 1, 5, 9)) < 0.4, -np.inf, 0).astype(np.float32)
_MASK[1, 0, 2] = -np.inf
ATTENTIONS = {
    "softmax between products": Made(
        _ATTENTION + "y = MatMul(w, v)", _HEADS, {"r": np.float32(0.7), "mask": np.maximum(_MASK, -10)}
    ),
    "a query that sees nothing": Made(
        _ATTENTION + "n = IsNaN(w)\n g = Where(n, zero, w)\n y = MatMul(g, v)",
        _HEADS,
        {"r": np.float32(0.7), "zero": np.float32(0), "mask": _MASK},
    ),
}


def _layer(op: str, gates: int, directions: int, *, states: str = "", more: str = "", y: str = "y, h") -> Made:
    """A recurrent layer of 5 steps, 3 in a batch, 4 features and 6 hidden, with initial states that are inputs."""
    rows = gates * 6
    shapes = {"w": (directions, rows, 4), "r": (directions, rows, 6), "b": (directions, 2 * rows)}
    inputs = {"x": (5, 3, 4), **dict.fromkeys(states, (directions, 3, 6))}
    called = f"x, w, r, b{', , ' if states else ''}{', '.join(states)}"
    text = f"{y} = {op}<hidden_size=6{more}>({called})"
    return Made(text, inputs, weights(2, **shapes), tuple(name.strip() for name in y.split(",") if name.strip()))


_BOTH = ", direction='bidirectional'"
_BACK = ", direction='reverse'"
_AFTER = ", linear_before_reset=1"
LOOPS = {
    "LSTM": _layer("LSTM", 4, 1, states="hc", y="y, l, m"),
    "LSTM, both directions": _layer("LSTM", 4, 2, states="hc", more=_BOTH, y="y, l, m"),
    "LSTM backwards, its final cell alone": _layer("LSTM", 4, 1, more=_BACK, y=", , m"),
    "LSTM, its final state alone": _layer("LSTM", 4, 2, more=_BOTH, y=", l"),
    "GRU": _layer("GRU", 3, 1, states="h", more=_AFTER, y="y, l"),
    "GRU, both directions": _layer("GRU", 3, 2, more=_AFTER + _BOTH, y="y, l"),
    "GRU backwards": _layer("GRU", 3, 1, states="h", more=_AFTER + _BACK, y="y, l"),
    "RNN": _layer("RNN", 1, 1, states="h", y="y, l"),
    "RNN with ReLU in both directions": _layer("RNN", 1, 2, more=_BOTH + ", activations=['Relu','Relu']", y="y, l"),
    "without a bias": Made(
        "y = GRU<hidden_size=6, linear_before_reset=1>(x, w, r)",
        {"x": (5, 3, 4)},
        weights(2, w=(1, 18, 4), r=(1, 18, 6)),
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
    "Pad that mirrors": Made("y = Pad<mode='reflect'>(x, p)", X, ints(p=[0, 0, 3, 6, 0, 2, 0, 1])),
    "Pad that repeats the edge": Made("y = Pad<mode='edge'>(x, p)", X, ints(p=[1, 0, 3, 0, 0, 2, 0, 4])),
    "Pad from the other end": Made("y = Pad<mode='wrap'>(x, p)", X, ints(p=[0, 0, 3, 0, 0, 0, 0, 4]), opsets=(19, 21)),
    "Slice backwards": Made("y = Slice(x, s, e, a, t)", X, ints(s=[-1, 7], e=[-100, 0], a=[3, 2], t=[-1, -2])),
    "Tile": Made("y = Tile(x, r)", X, ints(r=[1, 2, 1, 3])),
    "Gather in any order": Made("y = Gather<axis=1>(x, i)", X, ints(i=[[3, 1, 1], [0, -1, 4]])),
    "GatherND": Made("y = GatherND(x, i)", X, ints(i=[[[1, 2], [0, 5]], [[0, 0], [-1, 3]]])),
    "GatherND of numbers": Made("y = GatherND(x, i)", {"x": (2, 3)}, ints(i=[[0, 1], [0, 2], [1, 0]])),
    "Expand of truth values": Made(
        "e = Expand(x, s)\n y = Cast<to=1>(e)", {"x": (6, 1, 7)}, ints(s=[2, 1, 9, 1]), dtypes={"x": BOOL}
    ),
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
    "conditions": CONDITIONS,
    "look-ups and attention": LOOKUPS | ATTENTIONS,
    "recurrent layers": LOOPS,
    "moves": MOVES,
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("group", GROUPS)
def test_every_rule_gives_what_onnx_runtime_gives(group: str) -> None:
    models = {
        f"{name}, opset {opset}": made(m.nodes, m.inputs, m.constants, m.outputs, opset, m.dtypes)
        for name, m in GROUPS[group].items()
        for opset in m.opsets
    }
    graphs = [from_onnx(model) for model in models.values()]
    for (name, model), graph, runner in zip(models.items(), graphs, compile_batch(graphs), strict=True):
        inputs = {i.name: fitting_inputs(graph, 1)[i.name].reshape(i.shape) for i in graph.inputs}
        given = {i.name: inputs[i.name].astype(i.dtype) for i in graph.inputs}
        theirs = [torch.from_numpy(np.array(x)) for x in answers(model, given).values()]
        for _ in range(2):
            compare(name, graph.graph, inputs, run(runner, graph, inputs), theirs)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (ELEMENTS["GELU, spelled out as torch's older exporter does"], Activate),
        (ELEMENTS["GELU, spelled out as torch's newer exporter does"], Activate),
        (NORMS["layer norm, spelled out"], Norm),
        (ATTENTIONS["softmax between products"], Attention),
        (ATTENTIONS["a query that sees nothing"], Attention),
    ],
)
def test_what_exporters_spell_out_is_one_operator(model: Made, kind: type) -> None:
    graph = optimize(from_onnx(made(model.nodes, model.inputs, model.constants, opset=13)).graph)
    moves = (Permute, Reshape, Constant)
    assert [type(n.op) for n in graph.nodes if not isinstance(n.op, moves)] == [kind]


_GRU = "y = GRU<hidden_size=6, linear_before_reset={}{}>(x, w, r, , {})"
_GRU_WEIGHTS = weights(w=(1, 18, 4), r=(1, 18, 6)) | {"n": np.array([5, 4, 2], np.int32)}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (_GRU.format(0, "", ""), "a reset gate before the product with the state; expected linear_before_reset=1"),
        (_GRU.format(1, ", clip=3.0", ""), "peepholes, a clip"),
        (_GRU.format(1, "", "n"), r"sequences of different lengths \(sequence_lens\)"),
        (_GRU.format(1, ", activations=['Sigmoid','Elu']", ""), "the functions Sigmoid, Elu; expected Sigmoid, Tanh"),
    ],
)
def test_recurrent_layers_that_torch_has_not_are_refused(nodes: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"GRU in y: {message}"):
        from_onnx(made(nodes, {"x": (5, 3, 4)}, _GRU_WEIGHTS))


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        ("y = Pow(x, x)", {}, "Y must be one number, known"),
        ("y = Pow(x, e)", {"e": np.float32(2.5)}, r"the power 2.5 of a tensor; expected one of the numbers 1, 2"),
        ("y = Pad<mode='reflect'>(x, p)", ints(p=[0, 200, 0, 0]), r"come in 20\d pieces; at most 128 are joined"),
        ("y = Pad<mode='edge'>(x, p)", ints(p=[0, -1, 0, 2]), r"repeats what is there and cuts off \(pads \[-1, 2\]\)"),
        ("y = GatherND(x, i)", ints(i=[[0, 300]]), "index 300 of a dimension of size 300"),
    ],
)
def test_what_a_rule_cannot_say_is_refused_with_the_reason(
    nodes: str, constants: Mapping[str, np.ndarray], message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        from_onnx(made(nodes, {"x": (2, 300)}, constants))


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
