"""Random CNNs for tests: odd sizes, unusual paddings, joins, holes of every kind; small, so that hundreds run quickly.

`random_model(rng)` is a torch module with an example, `random_graph(rng)` its graph; equal generators give equal ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from monstera.compiler.frontends import Imported, from_torch
from monstera.compiler.ir import Graph

MAX_ELEMENTS = 20_000
MAX_CHANNELS = 20
MAX_SIZE = 23
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


def random_model(rng: Rng) -> RandomModel:
    """A model of 1-3 inputs, batch 1-3, 2-9 steps and 1-3 outputs, in eval mode."""
    draft = _Draft(rng)
    batch, size = int(rng.integers(1, 4)), _size(rng)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        same = rng.random() < 0.6
        channels = int(rng.integers(1, 9))
        draft.shapes.append((batch, channels, *(size if same else _size(rng))))
    draft.inputs = len(draft.shapes)
    for _ in range(int(rng.integers(2, 10))):
        _KINDS[rng.choice(len(_KINDS), p=_WEIGHTS)](draft)
    return draft.finish().eval()


def imported(model: RandomModel) -> Imported:
    """The model as the frontend reads it."""
    return from_torch(model, model.example())


def random_graph(rng: Rng) -> Graph:
    """The graph of a random model, before any pass."""
    return imported(random_model(rng)).graph


@dataclass(frozen=True)
class Case:
    """A random model with its graph, before any pass."""

    model: RandomModel
    imported: Imported

    @property
    def graph(self) -> Graph:
        return self.imported.graph


@cache
def case(seed: int) -> Case:
    """The random model of a seed and its graph, made once a test run."""
    model = random_model(np.random.default_rng(seed))
    return Case(model, imported(model))


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Normally distributed fp32 inputs by name."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in graph.inputs}


def normal(rng: Rng, shape: Sequence[int], scale: float = 1.0) -> torch.Tensor:
    """fp32 noise from a numpy generator."""
    return torch.from_numpy((scale * rng.standard_normal(tuple(shape))).astype(np.float32))


@dataclass
class _Draft:
    """A model in the making: shapes of all values so far, and the steps that make them."""

    rng: Rng
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

    def pick(self, like: Callable[[Shape], bool] = lambda shape: len(shape) == 4) -> int:
        """A value of four dimensions, recent ones more often."""
        candidates = [i for i, shape in enumerate(self.shapes) if like(shape)]
        return candidates[min(int(self.rng.geometric(0.5)), len(candidates)) * -1]

    def finish(self) -> RandomModel:
        read = {i for reads in self.reads for i in reads}
        loose = [i for i in range(self.inputs, len(self.shapes)) if i not in read]
        extra = [int(i) for i in self.rng.integers(0, len(self.shapes), int(self.rng.integers(0, 2)))]
        return RandomModel(
            self.steps, self.reads, [*loose, *extra] or [len(self.shapes) - 1], self.shapes[: self.inputs]
        )


def _size(rng: Rng) -> tuple[int, int]:
    return int(rng.integers(1, MAX_SIZE + 1)), int(rng.integers(1, MAX_SIZE + 1))


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


def _conv(rng: Rng, in_: int, out: int, kernel: tuple[int, int], **options: Any) -> nn.Conv2d:
    conv = nn.Conv2d(in_, out, kernel, bias=bool(rng.random() < 0.7), **options)
    fan_in = max(1, conv.weight[0].numel())
    _set(conv, weight=punch(rng, normal(rng, conv.weight.shape, 1.4 / fan_in**0.5)))
    if conv.bias is not None:
        _set(conv, bias=normal(rng, (out,), 0.5))
    return conv


def _norm(rng: Rng, channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
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
    channels, height, width = draft.shapes[x][1:]
    kernel = (
        (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
        if rng.random() < 0.4
        else (int(rng.choice([1, 3, 3, 7])),) * 2
    )
    dilation = tuple(int(rng.choice([1, 1, 1, 2, 3])) for _ in range(2))
    groups = int(rng.choice([1, 1, 1, channels, *[g for g in (2, 3, 4) if channels % g == 0]]))
    most = max(1, min(MAX_CHANNELS // groups, MAX_ELEMENTS // max(1, groups * height * width)))
    options: dict[str, Any] = {"dilation": dilation, "groups": groups}
    if rng.random() < 0.15:
        options["padding"] = "same"
    else:
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        usual = rng.random() < 0.6
        options["padding"] = tuple(r // 2 if usual else int(rng.integers(0, r + 2)) for r in reach)
        options["stride"] = tuple(int(rng.choice([1, 1, 2, 3])) for _ in range(2)) if rng.random() < 0.4 else 1
    conv = _conv(rng, channels, groups * int(rng.integers(1, most + 1)), kernel, **options)
    norm = _norm(rng, conv.out_channels) if rng.random() < 0.5 else nn.Identity()
    pad = tuple(int(p) for p in rng.integers(-1, 3, 4)) if rng.random() < 0.15 else None

    def run(self: Step, x: torch.Tensor) -> torch.Tensor:
        x = x if pad is None else F.pad(x, pad)
        return self.act(self.norm(self.conv(x)))

    return draft.add(Step(run, conv=conv, norm=norm, act=_activation(rng)), x)


def _add_residual(draft: _Draft) -> int | None:
    """act(norm(conv(x)) + other), where the other is x, a value of x's shape or another convolution of x."""
    rng, x = draft.rng, draft.pick()
    shape = draft.shapes[x]
    conv = _conv(rng, shape[1], shape[1], (3, 3), padding=1)
    other = draft.pick(lambda s: s == shape) if rng.random() < 0.7 else x
    swap, again = bool(rng.random() < 0.5), bool(rng.random() < 0.3)
    shortcut = _conv(rng, shape[1], shape[1], (1, 1)) if again else nn.Identity()

    def run(self: Step, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        y, other = self.norm(self.conv(x)), self.shortcut(other)
        y = other + y if swap else y + other
        return self.act(y)

    norm = _norm(rng, shape[1]) if rng.random() < 0.5 else nn.Identity()
    return draft.add(Step(run, conv=conv, norm=norm, shortcut=shortcut, act=_activation(rng)), x, other)


def _add_squeeze_excite(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    channels = draft.shapes[x][1]
    middle = int(rng.integers(1, 7))
    gate = nn.Sigmoid() if rng.random() < 0.5 else nn.Hardsigmoid()
    expand = bool(rng.random() < 0.3)

    def run(self: Step, x: torch.Tensor) -> torch.Tensor:
        s = self.gate(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return x * (s.expand_as(x) if expand else s)

    down, up = _conv(rng, channels, middle, (1, 1)), _conv(rng, middle, channels, (1, 1))
    return draft.add(Step(run, down=down, up=up, gate=gate), x)


def _add_pool(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    kernel = (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
    stride = tuple(int(rng.integers(1, 4)) for _ in range(2)) if rng.random() < 0.7 else None
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    options: dict[str, Any] = {"stride": stride, "padding": padding, "ceil_mode": bool(rng.random() < 0.4)}
    if rng.random() < 0.5:
        dilation = (2, 1) if rng.random() < 0.3 and padding[0] == 0 else (1, 1)
        return draft.add(Step(lambda _, x: F.max_pool2d(x, kernel, dilation=dilation, **options)), x)
    options["count_include_pad"] = bool(rng.random() < 0.5)
    options["divisor_override"] = int(rng.integers(1, 9)) if rng.random() < 0.2 else None
    return draft.add(Step(lambda _, x: F.avg_pool2d(x, kernel, **options)), x)


def _add_adaptive_pool(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    size = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
    pool = F.adaptive_avg_pool2d if rng.random() < 0.6 else F.adaptive_max_pool2d
    return draft.add(Step(lambda _, x: pool(x, size)), x)


def _add_arithmetic(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    channels, height, width = draft.shapes[x][1:]
    shape = [(1, channels, 1, 1), (channels, 1, 1), (1, 1, height, width), (1,), (1, channels, height, width)]
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
    """Two values of equal rows and columns, joined or combined; the second may be one pixel or one channel."""
    rng, x = draft.rng, draft.pick()
    batch, channels, height, width = draft.shapes[x]
    kind = rng.choice(["concat", "add", "mul", "sub"])
    if kind == "concat":
        other = draft.pick(lambda s: len(s) == 4 and s[2:] == (height, width))
        return draft.add(Step(lambda _, a, b: torch.cat([b, a], 1)), x, other)
    shapes = [(batch, c, *s) for c in (1, channels) for s in ((1, 1), (height, width))]
    other = draft.pick(lambda s: s in shapes)
    function = {"add": torch.add, "mul": torch.mul, "sub": torch.sub}[kind]
    return draft.add(Step(lambda _, a, b: function(a, b)), x, other)


def _add_upsample(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    options: dict[str, Any] = {"mode": "nearest"}
    if rng.random() < 0.5:
        options = {"mode": "bilinear", "align_corners": bool(rng.random() < 0.5)}
    if rng.random() < 0.5:
        options["size"] = (int(rng.integers(1, 2 * MAX_SIZE)), int(rng.integers(1, 2 * MAX_SIZE)))
    else:
        options["scale_factor"] = (float(rng.choice([0.6, 1.1, 1.5, 2.0])), float(rng.choice([0.5, 2.0, 2.1, 3.0])))
        options["recompute_scale_factor"] = bool(rng.random() < 0.5)
    return draft.add(Step(lambda _, x: F.interpolate(x, **options)), x)


def _add_movement(draft: _Draft) -> int | None:
    rng, x = draft.rng, draft.pick()
    before = tuple(int(p) for p in rng.integers(-1, 3, rng.choice([4, 4, 6])))
    value, start = float(rng.choice([0.0, 0.0, 1.5])), int(rng.integers(0, 3))
    functions: list[Callable[[Step, torch.Tensor], torch.Tensor]] = [
        lambda _, x: F.pad(x, before, value=value),
        lambda _, x: x[:, start:, ::2, start::3],
        lambda _, x: x[:, ::2, 1:],
        lambda _, x: x.chunk(2, 1)[-1],
        lambda _, x: x.flatten(2).unsqueeze(2),
        lambda _, x: x.clone().contiguous(),
    ]
    return draft.add(Step(functions[int(rng.integers(len(functions)))]), x)


def _add_head(draft: _Draft) -> int | None:
    """Features to classes; with softmax or batch norm at times."""
    rng, x = draft.rng, draft.pick()
    batch, channels, height, width = draft.shapes[x]
    average = bool(rng.random() < 0.5) or channels * height * width > 1500
    linear = nn.Linear(channels if average else channels * height * width, int(rng.integers(1, 30)))
    scale = linear.in_features**-0.5
    _set(
        linear,
        weight=punch(rng, normal(rng, linear.weight.shape, scale)),
        bias=normal(rng, (linear.out_features,), 0.5),
    )
    softmax = bool(rng.random() < 0.4)

    def run(self: Step, x: torch.Tensor) -> torch.Tensor:
        x = x.mean((-1, -2)) if average else x.contiguous().view(batch, -1)
        y = self.act(self.linear(x))
        return y.softmax(-1) if softmax else y

    return draft.add(Step(run, linear=linear, act=_activation(rng)), x)


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
_KINDS = [*_FREQUENCIES]
_WEIGHTS = np.array([*_FREQUENCIES.values()]) / sum(_FREQUENCIES.values())
