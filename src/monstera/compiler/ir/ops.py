"""The operators of the IR: frozen values that name their parameters by key.

Convolutions, pools and resizing work on `[N, C, *spatial]` with one, two or three spatial dimensions, in the order
(depth, height, width) that torch has. A tuple such as `stride` has one entry for each of them; a `padding` first says
how much goes before each, then how much after each: (top, left, bottom, right) for images. `ceil_mode` does not exist
here: the frontend turns it into explicit padding after. What an operator means is said by `interpreter.py`.

Integers and truth values are fp32 numbers as well: whole ones, 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

Sizes: TypeAlias = tuple[int, ...]
Padding: TypeAlias = tuple[int, ...]

ActivationKind: TypeAlias = Literal[
    "relu",
    "clamp",
    "leaky_relu",
    "silu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
    "gelu",
    "gelu_tanh",
    "erf",
    "exp",
    "cos",
    "sin",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "not_zero",
]
RecurrentKind: TypeAlias = Literal["gru", "lstm", "rnn_tanh", "rnn_relu"]


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function. `low`/`high` bound `clamp` (relu6 is clamp 0..6), `slope` is leaky ReLU's.

    `not_zero` is 1 where the number is not 0, and 0 elsewhere.
    """

    kind: ActivationKind
    low: float = float("-inf")
    high: float = float("inf")
    slope: float = 0.01


@dataclass(frozen=True, slots=True)
class Conv:
    """`activation(conv(x, weight) * scale + bias [+ residual])`; inputs `(x,)` or `(x, residual)`.

    `weight` is `[out, in / groups, *kernel]` exactly as the model holds it: folding batch norm only touches the
    per-filter `scale` and `bias`, so holes and ties stay readable. `residual` has the output's shape.

    Raises:
        ValueError: stride, padding and dilation do not speak of the same 1, 2 or 3 dimensions.
    """

    weight: str
    bias: str | None = None
    scale: str | None = None
    stride: Sizes = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Sizes = (1, 1)
    groups: int = 1
    activation: Activation | None = None

    def __post_init__(self) -> None:
        _check_dimensions(self, self.stride, self.dilation, self.padding)


@dataclass(frozen=True, slots=True)
class Linear:
    """`activation((x @ weight.T) * scale + bias)` on the last dimension; `weight` is `[out, in]`."""

    weight: str
    bias: str | None = None
    scale: str | None = None
    activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A recurrent layer in one direction, its input products computed before: `[steps, batch, gates * hidden]`.

    Inputs are the products and the initial state `[batch, hidden]`; for an LSTM the initial cell follows. `weight` is
    `[gates * hidden, hidden]` and acts on the state with `bias`; gates are stacked as torch has them: r, z, n of a GRU,
    i, f, g, o of an LSTM. The value is `[steps, batch, hidden]`, the state after each step in the order of the input,
    which `reverse` walks through backwards: the final state is the last step or, reversed, the first. With `cell`, an
    LSTM's final cell follows as one step more.

    Raises:
        ValueError: `cell` is asked of a layer that is no LSTM.
    """

    kind: RecurrentKind
    weight: str
    bias: str | None = None
    reverse: bool = False
    cell: bool = False

    def __post_init__(self) -> None:
        if self.cell and self.kind != "lstm":
            raise ValueError(f"{self}: only an LSTM has a cell")


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
class Compare:
    """1 where `a == b`, `a < b` or `a <= b`, and 0 elsewhere; numpy broadcasting."""

    kind: Literal["eq", "lt", "le"]


@dataclass(frozen=True, slots=True)
class Where:
    """`a` where the condition is not 0, `b` elsewhere; inputs `(condition, a, b)`, numpy broadcasting."""


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
    """Largest value of each window; padding counts as minus infinity.

    Raises:
        ValueError: kernel, stride, padding and dilation do not speak of the same 1, 2 or 3 dimensions.
    """

    kernel: Sizes
    stride: Sizes
    padding: Padding
    dilation: Sizes

    def __post_init__(self) -> None:
        _check_dimensions(self, self.kernel, self.stride, self.dilation, self.padding)


@dataclass(frozen=True, slots=True)
class AvgPool:
    """Sum of each zero-padded window times `factor`, which has the output's spatial shape and holds the reciprocal of
    the divisor that torch uses.

    Raises:
        ValueError: kernel, stride and padding do not speak of the same 1, 2 or 3 dimensions.
    """

    kernel: Sizes
    stride: Sizes
    padding: Padding
    factor: str

    def __post_init__(self) -> None:
        _check_dimensions(self, self.kernel, self.stride, self.padding)


@dataclass(frozen=True, slots=True)
class AdaptivePool:
    """Mean or maximum over torch's adaptive windows: output i covers floor(i*in/out) .. ceil((i+1)*in/out)."""

    mode: Literal["mean", "max"]


@dataclass(frozen=True, slots=True)
class Upsample:
    """Resize the spatial dimensions to the node's shape. `step` = input pixels an output pixel moves, as torch computes
    it, for each of them.

    nearest: source = min(floor(out * step), in - 1). linear, in every dimension: source = out * step with
    `align_corners`, else max(0, (out + 0.5) * step - 0.5); neighbours beyond the edge repeat it. Positions are computed
    in fp32, as torch does (`interpreter.source_pixels` gives them): a floor decides.
    """

    mode: Literal["nearest", "linear"]
    step: tuple[float, ...]
    align_corners: bool = False


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over `dims` (not negative, ascending); the node's shape says whether they are kept as ones."""

    dims: Sizes


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same values in row-major order under the node's shape (flatten, view, squeeze, unsqueeze)."""


@dataclass(frozen=True, slots=True)
class Permute:
    """Dimension d of the result is dimension `dims[d]` of the input (transpose, channel shuffle)."""

    dims: Sizes


@dataclass(frozen=True, slots=True)
class DepthToSpace:
    """Let channels become pixels: channels `[groups, *block, c]` of a pixel fill its block with `groups * c` channels.

    What a transposed convolution that computes one set of filters for each phase of its output ends with (`groups` are
    the convolution's). Torch's pixel_shuffle has as many groups as channels that come out.
    """

    block: Sizes
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Softmax:
    """Softmax along `dim` (not negative)."""

    dim: int


@dataclass(frozen=True, slots=True)
class Norm:
    """`(x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + shift` along `dim` (not negative): layer norm.

    Without `centered` the mean counts as 0: RMS norm. `scale` and `shift` are vectors along `dim`.
    """

    dim: int
    eps: float
    scale: str | None = None
    shift: str | None = None
    centered: bool = True


@dataclass(frozen=True, slots=True)
class Embedding:
    """Row x of the table `weight` (`[rows, features]`) for every x; the features become dimension `dim` of the result.

    A number that is not a row gives NaN.
    """

    weight: str
    dim: int


@dataclass(frozen=True, slots=True)
class MatMul:
    """`a @ b` over the last two dimensions, numpy broadcasting of the others."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Scaled dot products of heads that may differ in width; inputs `(q, k, v)` or `(q, k, v, mask)`.

    Channels first: group g of keys has `qk[g]` channels in k `[n, sum(qk), keys]` and `v[g]` in v `[n, sum(v), keys]`,
    and serves `repeats` heads, neighbours in q `[n, repeats * sum(qk), queries]` and in the result, which has
    `repeats * sum(v)` channels. A head is `v @ softmax(scale * k.T @ q + mask)`, the softmax over keys; the mask
    broadcasts to `[n, heads, keys, queries]`. A query whose scores are all minus infinity gives zeros. `causal`: query
    i sees the keys up to i.

    Raises:
        ValueError: there is no group, or not one width of each kind for every group.
    """

    scale: float
    qk: Sizes
    v: Sizes
    repeats: int = 1
    causal: bool = False

    def __post_init__(self) -> None:
        if not self.qk or len(self.qk) != len(self.v) or self.repeats < 1:
            raise ValueError(f"{self}: expected widths of queries and of values for the same groups, one at least")

    @property
    def heads(self) -> tuple[Head, ...]:
        """Every head in order."""
        found, q, k, v, y = [], 0, 0, 0, 0
        for width, values in zip(self.qk, self.v, strict=True):
            for _ in range(self.repeats):
                parts = ((q, width), (k, width), (v, values), (y, values))
                found.append(Head(*(slice(first, first + size) for first, size in parts)))
                q, y = q + width, y + values
            k, v = k + width, v + values
        return tuple(found)


@dataclass(frozen=True, slots=True)
class CachedAttention:
    """Attention of one query to keys that come in two parts; inputs `(q, k, v, own_k, own_v)`, a mask behind or not.

    Tokens first, for keys and values that a caller keeps: `q` is `[n, heads, 1, width]`, `k` `[n, groups, keys, width]`
    and `v` `[n, groups, keys, values]` are those of earlier tokens, and `own_k` and `own_v` follow them. A group serves
    heads / groups heads, neighbours. The result is `softmax(scale * q @ k.T + mask) @ v`, `[n, heads, 1, values]`; the
    mask broadcasts to `[n, heads, 1, all keys]`. A query whose scores are all minus infinity gives zeros.
    """

    scale: float


@dataclass(frozen=True, slots=True)
class Head:
    """The channels of one head in queries, keys, values and result."""

    q: slice
    k: slice
    v: slice
    y: slice


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

    def run_start(self, source: tuple[int, ...], shape: tuple[int, ...]) -> int | None:
        """Where the slice of this shape begins in a row-major tensor of shape `source`, if it is one run of it."""
        first = next((d for d, size in enumerate(shape) if size > 1), len(shape))
        whole = shape[first + 1 :] == source[first + 1 :]
        if not whole or any(size > 1 and step > 1 for size, step in zip(shape, self.step, strict=True)):
            return None
        return sum(start * prod(source[d + 1 :]) for d, start in enumerate(self.start))


Op: TypeAlias = (
    Conv
    | Linear
    | Recurrent
    | Affine
    | Activate
    | Add
    | Mul
    | Compare
    | Where
    | Constant
    | Concat
    | MaxPool
    | AvgPool
    | AdaptivePool
    | Upsample
    | Mean
    | Reshape
    | Permute
    | DepthToSpace
    | Softmax
    | Norm
    | Embedding
    | MatMul
    | Attention
    | CachedAttention
    | Pad
    | Slice
)


def _check_dimensions(op: Op, *sizes: Sizes) -> None:
    """All tuples have one entry for each of 1, 2 or 3 spatial dimensions, the last (a padding) two."""
    counts = [len(s) for s in sizes[:-1]] + [len(sizes[-1]) / 2]
    if len(set(counts)) != 1 or counts[0] not in (1, 2, 3):
        raise ValueError(
            f"{op}: expected one number for each of 1, 2 or 3 spatial dimensions everywhere, and two in the padding"
        )
