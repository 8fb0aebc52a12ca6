"""Random CNNs for tests: odd sizes, unusual paddings, joins, holes of every kind; small, so that hundreds run quickly.

`random_model(rng)` is a torch module with an example, `random_graph(rng)` its graph; equal generators give equal ones.
By themselves they draw from a pool of image models that stays as it is, so that a seed stays what it was. `spatial`
chooses another pool, of models over 1, 2 or 3 spatial dimensions that also transpose convolutions, permute dimensions
and shuffle pixels; lines go through recurrent layers as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from monstera.compiler.frontends import Imported, from_torch
from monstera.compiler.ir import Graph
from monstera.runtime import InputSpec, as_array, random_array

MAX_ELEMENTS = 20_000
MAX_CHANNELS = 20
MAX_SIZES = {1: 61, 2: 23, 3: 9}
Rng = np.random.Generator
Shape = tuple[int, ...]


class Step(nn.Module):
    """A function of tensors with the modules it uses, so that layers have names."""

    def __init__(self, function: Callable[..., torch.Tensor], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, value in modules.items():
            setattr(self, name, value)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self, *inputs)


class RandomModel(nn.Module):
    """Runs its steps in order; step i reads the values `reads[i]` (inputs come first) and adds one."""

    def __init__(
        self, steps: Sequence[Step], reads: Sequence[tuple[int, ...]], outputs: Sequence[int], shapes: Sequence[Shape]
    ):
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.reads, self.outputs, self.shapes = tuple(reads), tuple(outputs), tuple(shapes)

    def forward(self, *inputs: torch.Tensor) -> dict[str, Any]:
        values = [*inputs]
        for step, read in zip(self.steps, self.reads, strict=True):
            values.append(step(*[values[i] for i in read]))
        first, *others = [values[i] for i in self.outputs]
        return {"first": first, "others": tuple(others)}

    def example(self, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Inputs of the right shapes, normally distributed."""
        rng = np.random.default_rng(seed)
        return tuple(normal(rng, shape) for shape in self.shapes)


def random_model(rng: Rng, spatial: int | None = None) -> RandomModel:
    """A model of 1-3 inputs, batch 1-3, 2-9 steps and 1-3 outputs, in eval mode.

    `spatial` chooses the pool: None the old one of image models, 1, 2 or 3 the one of models with as many dimensions.
    """
    draft = _Draft(rng, spatial or 2)
    batch, size = int(rng.integers(1, 4)), draft.size()
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        same = rng.random() < 0.6
        channels = int(rng.integers(1, 9))
        draft.shapes.append((batch, channels, *(size if same else draft.size())))
    draft.inputs = len(draft.shapes)
    kinds = _FREQUENCIES if spatial is None else {**_FREQUENCIES, **_MORE_FREQUENCIES}
    kinds = {**kinds, **_LINE_FREQUENCIES} if spatial == 1 else kinds
    weights = np.array([*kinds.values()]) / sum(kinds.values())
    for _ in range(int(rng.integers(2, 10))):
        [*kinds][rng.choice(len(kinds), p=weights)](draft)
    return draft.finish().eval()


def imported(model: RandomModel) -> Imported:
    """The model as the frontend reads it."""
    return from_torch(model, model.example())


def random_graph(rng: Rng, spatial: int | None = None) -> Graph:
    """The graph of a random model, before any pass."""
    return imported(random_model(rng, spatial)).graph


@dataclass(frozen=True)
class Case:
    """A random model with its graph, before any pass."""

    model: RandomModel
    imported: Imported

    @property
    def graph(self) -> Graph:
        return self.imported.graph


@cache
def case(seed: int, spatial: int | None = None) -> Case:
    """The random model of a seed and its graph, made once a test run; `spatial` chooses the pool."""
    model = random_model(np.random.default_rng(seed), spatial)
    return Case(model, imported(model))


def pools(images: int, each: int) -> list[tuple[int, int | None]]:
    """Arguments of `case`: the first models of the pool of images, and of each pool with a number of dimensions."""
    return [(seed, None) for seed in range(images)] + [(seed, k) for k in (1, 2, 3) for seed in range(each)]


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Normally distributed fp32 inputs by name."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in graph.inputs}


def fitting_inputs(imported: Imported, seed: int = 0) -> dict[str, np.ndarray]:
    """fp32 inputs by name, as the library takes them: noise, or whole numbers that the engine would accept."""
    rng = np.random.default_rng(seed)
    specs = [InputSpec(i.name, i.shape, i.dtype, i.positional, i.limit) for i in imported.inputs]
    return {spec.name: as_array(random_array(spec, rng), spec) for spec in specs}


def normal(rng: Rng, shape: Sequence[int], scale: float = 1.0) -> torch.Tensor:
    """fp32 noise from a numpy generator."""
    return torch.from_numpy((scale * rng.standard_normal(tuple(shape))).astype(np.float32))


@dataclass
class _Draft:
    """A model in the making: shapes of all values so far, and the steps that make them."""

    rng: Rng
    spatial: int = 2
    shapes: list[Shape] = field(default_factory=list)
    inputs: int = 0
    steps: list[Step] = field(default_factory=list)
    reads: list[tuple[int, ...]] = field(default_factory=list)

    def add(self, step: Step, *reads: int) -> int | None:
        """Append a step if what it gives exists and is small enough; its shape is found by running it."""
        step.eval()
        try:
            with torch.no_grad(), warnings.catch_warnings():
                # Even kernels under padding="same" are slow in torch; that is no concern here.
                warnings.simplefilter("ignore", UserWarning)
                shape = tuple(step(*[torch.zeros(self.shapes[i]) for i in reads]).shape)
        except RuntimeError:
            # Torch refuses the shapes, a window larger than the plane for instance.
            return None
        if 0 in shape or np.prod(shape) > MAX_ELEMENTS or max(shape) > 2000:
            return None
        self.steps.append(step)
        self.reads.append(reads)
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def pick(self, like: Callable[[Shape], bool] | None = None) -> int:
        """A value that has all spatial dimensions, recent ones more often."""
        like = like or (lambda shape: len(shape) == 2 + self.spatial)
        candidates = [i for i, shape in enumerate(self.shapes) if like(shape)]
        return candidates[min(int(self.rng.geometric(0.5)), len(candidates)) * -1]

    def numbers(self, low: int, high: int) -> tuple[int, ...]:
        """A number for every spatial dimension, `high` left out."""
        return tuple(int(self.rng.integers(low, high)) for _ in range(self.spatial))

    def choices(self, values: Sequence[int]) -> tuple[int, ...]:
        """One of the values for every spatial dimension."""
        return tuple(int(self.rng.choice(values)) for _ in range(self.spatial))

    def size(self) -> tuple[int, ...]:
        """A spatial shape."""
        return self.numbers(1, MAX_SIZES[self.spatial] + 1)

    def functional(self, name: str) -> Callable[..., torch.Tensor]:
        """`F.max_pool2d` for `max_pool`, and so on."""
        return getattr(F, f"{name}{self.spatial}d")

    def finish(self) -> RandomModel:
        read = {i for reads in self.reads for i in reads}
        loose = [i for i in range(self.inputs, len(self.shapes)) if i not in read]
        extra = [int(i) for i in self.rng.integers(0, len(self.shapes), int(self.rng.integers(0, 2)))]
        return RandomModel(
            self.steps, self.reads, [*loose, *extra] or [len(self.shapes) - 1], self.shapes[: self.inputs]
        )


def punch(rng: Rng, weight: torch.Tensor) -> torch.Tensor:
    """Put holes into `[out, in, ...]`: none, unstructured, 4x1 blocks, whole filters, channels, or everything."""
    kind = rng.choice(["dense", "unstructured", "4x1", "filter", "channel", "all"], p=[0.3, 0.15, 0.2, 0.2, 0.1, 0.05])
    density = float(rng.choice([0.1, 0.25, 0.5]))
    out, in_, positions = weight.shape[0], weight.shape[1], weight[0, 0].numel()
    shape = {
        "dense": (1, 1, 1),
        "unstructured": (out, in_, positions),
        "4x1": (-(-out // 4), in_, positions),
        "filter": (out, 1, 1),
        "channel": (1, in_, 1),
        "all": (1, 1, 1),
    }[kind]
    mask = rng.random(shape) < {"dense": 1.0, "all": 0.0}.get(kind, density)
    if kind == "4x1":
        mask = mask.repeat(4, axis=0)[:out]
    mask = np.broadcast_to(mask, (out, in_, positions)).reshape(weight.shape)
    return weight * torch.from_numpy(mask.astype(np.float32))


def _set(module: nn.Module, **values: torch.Tensor) -> None:
    for name, value in values.items():
        getattr(module, name).data = value


def _conv(draft: _Draft, in_: int, out: int, kernel: tuple[int, ...], **options: Any) -> nn.Module:
    rng, kind = draft.rng, getattr(nn, f"Conv{draft.spatial}d")
    conv = kind(in_, out, kernel, bias=bool(rng.random() < 0.7), **options)
    fan_in = max(1, conv.weight[0].numel())
    _set(conv, weight=punch(rng, normal(rng, conv.weight.shape, 1.4 / fan_in**0.5)))
    if conv.bias is not None:
        _set(conv, bias=normal(rng, (out,), 0.5))
    return conv


def _norm(draft: _Draft, channels: int) -> nn.Module:
    rng, norm = draft.rng, getattr(nn, f"BatchNorm{draft.spatial}d")(channels)
    gamma = normal(rng, (channels,)) * torch.from_numpy((rng.random(channels) < 0.9).astype(np.float32))
    variance = torch.from_numpy(rng.uniform(0.5, 2, channels).astype(np.float32))
    _set(norm, weight=gamma, bias=normal(rng, (channels,), 0.5), running_mean=normal(rng, (channels,), 0.5))
    norm.running_var = variance
    return norm


def _activation(rng: Rng) -> nn.Module:
    kinds: list[Callable[[], nn.Module]] = [
        nn.Identity,
        nn.ReLU,
        lambda: nn.ReLU(inplace=True),
        nn.ReLU6,
        nn.SiLU,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Sigmoid,
        nn.Tanh,
        nn.GELU,
        lambda: nn.GELU("tanh"),
        lambda: nn.LeakyReLU(0.2),
        lambda: nn.Hardtanh(-0.5, 0.8),
    ]
    return kinds[min(int(rng.integers(0, 2 * len(kinds))), 2 * len(kinds) - 1) % len(kinds)]()


def _add_conv(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    channels, *size = draft.shapes[x][1:]
    kernel = draft.numbers(1, 6) if rng.random() < 0.4 else (int(rng.choice([1, 3, 3, 7])),) * draft.spatial
    dilation = draft.choices([1, 1, 1, 2, 3])
    groups = int(rng.choice([1, 1, 1, channels, *[g for g in (2, 3, 4) if channels % g == 0]]))
    most = max(1, min(MAX_CHANNELS // groups, MAX_ELEMENTS // max(1, groups * prod(size))))
    options: dict[str, Any] = {"dilation": dilation, "groups": groups}
    if rng.random() < 0.15:
        options["padding"] = "same"
    else:
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        usual = rng.random() < 0.6
        options["padding"] = tuple(r // 2 if usual else int(rng.integers(0, r + 2)) for r in reach)
        options["stride"] = draft.choices([1, 1, 2, 3]) if rng.random() < 0.4 else 1
    conv = _conv(draft, channels, groups * int(rng.integers(1, most + 1)), kernel, **options)
    norm = _norm(draft, conv.out_channels) if rng.random() < 0.5 else nn.Identity()
    pad = tuple(int(p) for p in rng.integers(-1, 3, 2 * draft.spatial)) if rng.random() < 0.15 else None

    def run(self: Step, x: torch.Tensor) -> torch.Tensor:
        x = x if pad is None else F.pad(x, pad)
        return self.act(self.norm(self.conv(x)))

    return draft.add(Step(run, conv=conv, norm=norm, act=_activation(rng)), x)


def _add_residual(draft: _Draft) -> int | None:
    """act(norm(conv(x)) + other), where the other is x, a value of x's shape or another convolution of x."""
    rng, x = draft.rng, draft.pick()
    shape = draft.shapes[x]
    conv = _conv(draft, shape[1], shape[1], (3,) * draft.spatial, padding=1)
    other = draft.pick(lambda s: s == shape) if rng.random() < 0.7 else x
    swap, again = bool(rng.random() < 0.5), bool(rng.random() < 0.3)
    shortcut = _conv(draft, shape[1], shape[1], (1,) * draft.spatial) if again else nn.Identity()

    def run(self: Step, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        y, other = self.norm(self.conv(x)), self.shortcut(other)
        y = other + y if swap else y + other
        return self.act(y)

    norm = _norm(draft, shape[1]) if rng.random() < 0.5 else nn.Identity()
    return draft.add(Step(run, conv=conv, norm=norm, shortcut=shortcut, act=_activation(rng)), x, other)


def _add_squeeze_excite(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    channels = draft.shapes[x][1]
    middle = int(rng.integers(1, 7))
    gate = nn.Sigmoid() if rng.random() < 0.5 else nn.Hardsigmoid()
    expand = bool(rng.random() < 0.3)
    space, one = tuple(range(2, 2 + draft.spatial)), (1,) * draft.spatial

    def run(self: Step, x: torch.Tensor) -> torch.Tensor:
        s = self.gate(self.up(F.relu(self.down(x.mean(space, keepdim=True)))))
        return x * (s.expand_as(x) if expand else s)

    down, up = _conv(draft, channels, middle, one), _conv(draft, middle, channels, one)
    return draft.add(Step(run, down=down, up=up, gate=gate), x)


def _add_pool(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    kernel = draft.numbers(1, 5)
    stride = draft.numbers(1, 4) if rng.random() < 0.7 else None
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    options: dict[str, Any] = {"stride": stride, "padding": padding, "ceil_mode": bool(rng.random() < 0.4)}
    max_pool, avg_pool = draft.functional("max_pool"), draft.functional("avg_pool")
    if rng.random() < 0.5:
        dilation = (2 if rng.random() < 0.3 and padding[0] == 0 else 1, *[1] * (draft.spatial - 1))
        return draft.add(Step(lambda _, x: max_pool(x, kernel, dilation=dilation, **options)), x)
    options["count_include_pad"] = bool(rng.random() < 0.5)
    divisor = int(rng.integers(1, 9)) if rng.random() < 0.2 else None
    # One dimension alone has no divisor of one's own.
    options |= {"divisor_override": divisor} if draft.spatial > 1 else {}
    return draft.add(Step(lambda _, x: avg_pool(x, kernel, **options)), x)


def _add_adaptive_pool(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    size = draft.numbers(1, 6)
    pool = draft.functional("adaptive_avg_pool" if rng.random() < 0.6 else "adaptive_max_pool")
    return draft.add(Step(lambda _, x: pool(x, size)), x)


def _add_arithmetic(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    channels, *size = draft.shapes[x][1:]
    one = (1,) * draft.spatial
    shape = [(1, channels, *one), (channels, *one), (1, 1, *size), (1,), (1, channels, *size)]
    other = nn.Parameter(normal(rng, shape[int(rng.integers(len(shape)))]))
    number = float(rng.uniform(-1.5, 1.5))
    functions: list[Callable[[Step, torch.Tensor], torch.Tensor]] = [
        lambda self, x: x * self.other,
        lambda self, x: x + self.other,
        lambda self, x: torch.sub(x, self.other, alpha=2),
        lambda self, x: x / (self.other.abs() + 0.5),
        lambda _, x: number - x,
        lambda _, x: -x * number,
        lambda _, x: (x + number).clamp(min=0),
    ]
    return draft.add(Step(functions[int(rng.integers(len(functions)))], other=other), x)


def _add_join(draft: _Draft) -> int | None:
    """Two values of equal spatial shape, joined or combined; the second may be one pixel or one channel."""
    rng, x = draft.rng, draft.pick()
    batch, channels, *size = draft.shapes[x]
    kind = rng.choice(["concat", "add", "mul", "sub"])
    if kind == "concat":
        other = draft.pick(lambda s: len(s) == len(draft.shapes[x]) and s[2:] == tuple(size))
        return draft.add(Step(lambda _, a, b: torch.cat([b, a], 1)), x, other)
    shapes = [(batch, c, *s) for c in (1, channels) for s in ((1,) * draft.spatial, size)]
    other = draft.pick(lambda s: s in shapes)
    function = {"add": torch.add, "mul": torch.mul, "sub": torch.sub}[kind]
    return draft.add(Step(lambda _, a, b: function(a, b)), x, other)


def _add_upsample(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    options: dict[str, Any] = {"mode": "nearest"}
    if rng.random() < 0.5:
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[draft.spatial]
        options = {"mode": mode, "align_corners": bool(rng.random() < 0.5)}
    if rng.random() < 0.5:
        options["size"] = draft.numbers(1, 2 * MAX_SIZES[draft.spatial])
    else:
        scales = ([0.6, 1.1, 1.5, 2.0], [0.5, 2.0, 2.1, 3.0], [0.7, 1.0, 2.0])[: draft.spatial]
        options["scale_factor"] = tuple(float(rng.choice(s)) for s in scales)
        options["recompute_scale_factor"] = bool(rng.random() < 0.5)
    return draft.add(Step(lambda _, x: F.interpolate(x, **options)), x)


def _add_movement(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    space = 2 * draft.spatial
    before = tuple(int(p) for p in rng.integers(-1, 3, rng.choice([space, space, space + 2])))
    value, start = float(rng.choice([0.0, 0.0, 1.5])), int(rng.integers(0, 3))
    functions: list[Callable[[Step, torch.Tensor], torch.Tensor]] = [
        lambda _, x: F.pad(x, before, value=value),
        lambda _, x: x[:, start:, ::2, ..., start::3] if x.ndim > 3 else x[:, start:, start::3],
        lambda _, x: x[:, ::2, 1:],
        lambda _, x: x.chunk(2, 1)[-1],
        lambda _, x: x.flatten(2).reshape(*x.shape[:2], *[1] * (x.ndim - 3), -1),
        lambda _, x: x.clone().contiguous(),
    ]
    return draft.add(Step(functions[int(rng.integers(len(functions)))]), x)


def _add_head(draft: _Draft) -> int | None:
    """Features to classes; with softmax or batch norm at times."""
    rng, x = draft.rng, draft.pick()
    batch, channels, *size = draft.shapes[x]
    average = bool(rng.random() < 0.5) or channels * prod(size) > 1500
    linear = nn.Linear(channels if average else channels * prod(size), int(rng.integers(1, 30)))
    scale = linear.in_features**-0.5
    _set(
        linear,
        weight=punch(rng, normal(rng, linear.weight.shape, scale)),
        bias=normal(rng, (linear.out_features,), 0.5),
    )
    softmax = bool(rng.random() < 0.4)

    def run(self: Step, x: torch.Tensor) -> torch.Tensor:
        x = x.mean([*range(2, x.ndim)]) if average else x.contiguous().view(batch, -1)
        y = self.act(self.linear(x))
        return y.softmax(-1) if softmax else y

    return draft.add(Step(run, linear=linear, act=_activation(rng)), x)


def _add_transposed(draft: _Draft) -> int | None:
    """A transposed convolution, at times with a norm and an activation that can move in front of its pixels."""
    rng, x = draft.rng, draft.pick()
    channels = draft.shapes[x][1]
    stride, dilation = draft.choices([1, 2, 2, 3]), draft.choices([1, 1, 1, 2])
    kernel = stride if rng.random() < 0.3 else draft.numbers(1, 5)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(int(rng.integers(0, r // 2 + 2)) for r in reach)
    extra = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True))
    groups = int(rng.choice([1, 1, channels, *[g for g in (2, 3) if channels % g == 0]]))
    out, kind = groups * int(rng.integers(1, max(2, 9 // groups))), getattr(nn, f"ConvTranspose{draft.spatial}d")
    options = {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation}
    conv = kind(channels, out, kernel, bias=bool(rng.random() < 0.7), **options)
    _set(conv, weight=punch(rng, normal(rng, conv.weight.shape, channels**-0.5)))
    norm = _norm(draft, conv.out_channels) if rng.random() < 0.5 else nn.Identity()
    step = Step(lambda self, x: self.act(self.norm(self.conv(x))), conv=conv, norm=norm, act=_activation(rng))
    return draft.add(step, x)


def _add_shuffle(draft: _Draft) -> int | None:
    """Dimensions in another order, channels dealt anew, means over some dimensions, pixels from channels."""
    rng, x = draft.rng, draft.pick()
    batch, channels, *size = draft.shapes[x]
    groups, rank = int(rng.integers(1, 4)), 2 + draft.spatial
    order = tuple(int(d) for d in rng.permutation(rank))
    dims = tuple(int(d) for d in rng.choice(rank, int(rng.integers(1, rank)), replace=False))
    functions: list[Callable[[Step, torch.Tensor], torch.Tensor]] = [
        lambda _, x: x.permute(order),
        lambda _, x: x.transpose(1, -1),
        lambda _, x: x.reshape(batch, groups, channels // groups, *size).transpose(1, 2).reshape(x.shape),
        lambda _, x: x.mean(dims, keepdim=True),
        lambda _, x: F.pixel_shuffle(x, groups),
        lambda _, x: F.pixel_unshuffle(x, groups),
        lambda _, x: x.softmax(order[0]),
    ]
    return draft.add(Step(functions[int(rng.integers(len(functions)))]), x)


def _add_recurrent(draft: _Draft) -> int | None:
    """A recurrent layer along a line: the states of all steps, or the final ones as pixels of a line of their own."""
    rng, x = draft.rng, draft.pick()
    channels, hidden = draft.shapes[x][1], int(rng.integers(1, 13))
    kind = [nn.GRU, nn.LSTM, nn.RNN][int(rng.integers(3))]
    options = {"nonlinearity": str(rng.choice(["tanh", "relu"]))} if kind is nn.RNN else {}
    layer = kind(channels, hidden, int(rng.integers(1, 3)), **options, bidirectional=bool(rng.random() < 0.4))
    for name, parameter in layer.named_parameters():
        # Small enough that the bound on rounding does not grow from step to step.
        weight = parameter.ndim == 2
        value = normal(rng, parameter.shape, 0.5 * parameter.shape[-1] ** -0.5 if weight else 0.3)
        _set(layer, **{name: punch(rng, value) if weight else value})
    final = bool(rng.random() < 0.3)

    def run(self: Step, x: torch.Tensor) -> torch.Tensor:
        y, state = self.layer(x.permute(2, 0, 1))
        state = state[-1] if isinstance(state, tuple) else state
        return (state if final else y).permute(1, 2, 0)

    return draft.add(Step(run, layer=layer), x)


_FREQUENCIES = {
    _add_conv: 8,
    _add_residual: 3,
    _add_squeeze_excite: 1,
    _add_pool: 3,
    _add_adaptive_pool: 1,
    _add_arithmetic: 2,
    _add_join: 3,
    _add_upsample: 1.5,
    _add_movement: 1.5,
    _add_head: 1,
}
_MORE_FREQUENCIES = {_add_transposed: 3, _add_shuffle: 1.5}
_LINE_FREQUENCIES = {_add_recurrent: 4}
