"""The operators of the IR: frozen values that name their parameters by key, shapes `[N, C, H, W]` unless said.

Paddings are `(top, left, bottom, right)`; every other pair is `(vertical, horizontal)`. `ceil_mode` does not exist
here: the frontend turns it into explicit bottom and right padding. What an operator means is said by `interpreter.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[int, int, int, int]

ActivationKind: TypeAlias = Literal[
    "relu", "clamp", "leaky_relu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "gelu", "gelu_tanh"
]


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function. `low`/`high` bound `clamp` (relu6 is clamp 0..6), `slope` is leaky ReLU's."""

    kind: ActivationKind
    low: float = float("-inf")
    high: float = float("inf")
    slope: float = 0.01


@dataclass(frozen=True, slots=True)
class Conv:
    """`activation(conv(x, weight) * scale + bias [+ residual])`; inputs `(x,)` or `(x, residual)`.

    `weight` is `[out, in / groups, kh, kw]` exactly as the model holds it: folding batch norm only touches the
    per-filter `scale` and `bias`, so holes and ties stay readable. `residual` has the output's shape.
    """

    weight: str
    bias: str | None = None
    scale: str | None = None
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class Linear:
    """`activation((x @ weight.T) * scale + bias)` on the last dimension; `weight` is `[out, in]`."""

    weight: str
    bias: str | None = None
    scale: str | None = None
    activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class Affine:
    """`activation(x * scale[c] + shift[c])` along dimension 1: a batch norm that no convolution could take."""

    scale: str
    shift: str
    activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class Activate:
    """`activation(x)`."""

    activation: Activation


@dataclass(frozen=True, slots=True)
class Add:
    """`activation(a + b)`, numpy broadcasting."""

    activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class Mul:
    """`activation(a * b)`, numpy broadcasting."""

    activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor known at compile time; no inputs."""

    value: str


@dataclass(frozen=True, slots=True)
class Concat:
    """Join along `dim` (not negative)."""

    dim: int


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Largest value of each window; padding counts as minus infinity."""

    kernel: Pair
    stride: Pair
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)


@dataclass(frozen=True, slots=True)
class AvgPool:
    """Sum of each zero-padded window times `factor[oy, ox]`, which holds the reciprocal of the divisor torch uses."""

    kernel: Pair
    stride: Pair
    padding: Padding
    factor: str


@dataclass(frozen=True, slots=True)
class AdaptivePool:
    """Mean or maximum over torch's adaptive windows: output i covers floor(i*in/out) .. ceil((i+1)*in/out)."""

    mode: Literal["mean", "max"]


@dataclass(frozen=True, slots=True)
class Upsample:
    """Resize H and W to the node's shape. `step` = input pixels an output pixel moves, as torch computes it.

    nearest: source = min(floor(out * step), in - 1). bilinear: source = out * step with `align_corners`, else
    max(0, (out + 0.5) * step - 0.5); neighbours beyond the edge repeat it. Positions are computed in fp32, as torch
    does (`interpreter.source_pixels` gives them): a floor decides.
    """

    mode: Literal["nearest", "bilinear"]
    step: tuple[float, float]
    align_corners: bool = False


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over dimensions 2 and 3; the node's shape says whether they are kept as ones."""


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same values in row-major order under the node's shape (flatten, view, squeeze, unsqueeze)."""


@dataclass(frozen=True, slots=True)
class Softmax:
    """Softmax along `dim` (not negative)."""

    dim: int


@dataclass(frozen=True, slots=True)
class Pad:
    """Constant padding, any dimensions: `before[d]` elements of `value` precede dimension d; the node's shape says the
    rest. Negative values crop."""

    before: tuple[int, ...]
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Slice:
    """`x[start[d] :: step[d]]` in every dimension, cut at the node's shape; starts and steps are not negative."""

    start: tuple[int, ...]
    step: tuple[int, ...]


Op: TypeAlias = (
    Conv
    | Linear
    | Affine
    | Activate
    | Add
    | Mul
    | Constant
    | Concat
    | MaxPool
    | AvgPool
    | AdaptivePool
    | Upsample
    | Mean
    | Reshape
    | Softmax
    | Pad
    | Slice
)
