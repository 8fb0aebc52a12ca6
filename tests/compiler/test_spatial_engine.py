"""Engines over one, two and three dimensions: every operator alone, from memory that held NaN, and what is skipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import monstera as ms
from compiler.agreement import compare, torch_answers
from compiler.batch import compile_batch, poison_arenas, run
from compiler.graphs import random_inputs
from compiler.test_frontend import Function
from monstera.compiler import UnsupportedError
from monstera.compiler.frontends import from_torch
from monstera.compiler.layout import odd_lines
from monstera.compiler.lowering import convolution, lower, tiling
from monstera.compiler.lowering.shape import merged_dims
from monstera.compiler.passes import optimize
from monstera.compiler.targets import native


class Residual(nn.Module):
    """A block whose sum is laid over its operand."""

    def __init__(self, conv: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.conv, self.head = conv, head

    def forward(self, x):
        x = self.head(x)
        return F.relu(x + self.conv(x).relu() * 0.5 + self.conv(x))


class Sum(nn.Module):
    """The sum of two layers on one input."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x):
        return F.relu(self.one(x) + self.other(x))


def over(function) -> nn.Module:
    return Function(lambda _, x: function(x))


def deep(*args, **options) -> nn.Module:
    return nn.Conv3d(5, 8, *args, **options)


X1, X2, X3 = (2, 6, 37), (2, 12, 6, 10), (2, 5, 6, 7, 9)
MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "a line": (nn.Conv1d(6, 8, 5, padding=2), X1),
    "a line with stride and dilation": (nn.Conv1d(6, 9, 4, 3, 5, 2), X1),
    "a line of depthwise filters": (nn.Sequential(nn.Conv1d(6, 6, 1), nn.Conv1d(6, 6, 3, padding=1, groups=6)), X1),
    "lines from lines": (nn.ConvTranspose1d(6, 4, 5, 3, 2, 1), X1),
    "tokens": (nn.Sequential(nn.Linear(37, 20), nn.GELU(), nn.Linear(20, 37), nn.Softmax(-1)), X1),
    "a line pooled": (nn.Sequential(nn.Conv1d(6, 6, 1), nn.MaxPool1d(3, 2, 1), nn.AvgPool1d(2, ceil_mode=True)), X1),
    "a volume": (deep(3, padding=1), X3),
    "a volume without pads": (deep(3), X3),
    "a volume seen in time alone": (deep((3, 1, 1), padding=(1, 0, 0)), X3),
    "a volume seen in space alone": (deep((1, 3, 3), padding=(0, 1, 1)), X3),
    "a stride in depth": (deep(3, (2, 1, 1), 1), X3),
    "a stride in space": (deep(3, (1, 2, 3), 1), X3),
    "strides everywhere": (deep((4, 3, 2), (3, 2, 2), (2, 1, 0)), X3),
    "dilated in depth": (deep(3, 1, (2, 1, 1), (2, 1, 1)), X3),
    "dilated beyond the volume": (deep(3, 1, (7, 1, 1), (7, 1, 1)), X3),
    "more pad than kernel": (deep((2, 1, 1), padding=(4, 0, 0)), X3),
    "volumes in groups": (nn.Sequential(deep(1), nn.Conv3d(8, 8, 3, padding=1, groups=4)), X3),
    "volumes channel by channel": (nn.Sequential(deep(1), nn.Conv3d(8, 16, 3, 1, 1, groups=8)), X3),
    "a whole volume at once": (deep((6, 7, 9)), X3),
    "a whole depth at once": (deep((6, 1, 1)), X3),
    "small slices": (nn.Conv3d(5, 8, 3, padding=1), (2, 5, 7, 2, 1)),
    "a residual": (Residual(nn.Conv3d(8, 8, 3, padding=1), deep(1)), X3),
    "volumes from volumes": (nn.ConvTranspose3d(5, 4, (2, 3, 4), (2, 3, 2), (0, 1, 1), (1, 0, 1)), X3),
    "volumes pooled": (nn.Sequential(deep(1), nn.MaxPool3d((2, 3, 2), (1, 2, 2), 1), nn.AvgPool3d(2)), X3),
    "pairs pooled": (nn.Sequential(deep(1), nn.MaxPool3d(2), nn.AvgPool3d(2)), (1, 5, 8, 8, 40)),
    "adaptive means": (nn.AdaptiveAvgPool3d((4, 3, 2)), X3),
    "adaptive maxima": (nn.Sequential(deep(1), nn.AdaptiveMaxPool3d((4, 2, 5))), X3),
    "one mean": (nn.Sequential(deep(3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3)), X3),
    "flattened where it lies": (nn.Sequential(deep(3), nn.Flatten(), nn.Linear(8 * 4 * 5 * 7, 3)), X3),
    "resized": (nn.Upsample(scale_factor=(1.5, 2.0, 0.7), mode="trilinear"), X3),
    "resized to the nearest": (nn.Sequential(deep(1), nn.Upsample(size=(9, 4, 11))), X3),
    "normed": (nn.Sequential(nn.MaxPool3d(2), nn.BatchNorm3d(5), nn.SiLU()), X3),
    "padded": (over(lambda x: F.pad(x, (1, -1, 2, 0, 0, 3), value=1.5) * 2), X3),
    "cut": (over(lambda x: x[:, 1:, ::2, 1:, ::3].relu()), X3),
    "joined in depth": (over(lambda x: torch.cat([x, x[:, :, :2].relu()], 2)), X3),
    "joined in place": (over(lambda x: torch.cat([x.relu(), x.sigmoid()], 1) + 1), X3),
    "scaled by image and channel": (over(lambda x: x.relu() * x.mean((2, 3, 4), keepdim=True)), X3),
    "means over images": (over(lambda x: x.mean(0)), X3),
    "means over depth and width": (over(lambda x: x.relu().mean((2, 4))), X3),
    "the mean of it all": (over(lambda x: x.mean().reshape(1, 1)), X3),
    "means over channels": (over(lambda x: (x * x).mean(1, keepdim=True)), X2),
    "dimensions in another order": (over(lambda x: x.relu().permute(4, 2, 0, 3, 1)), X3),
    "depth as channels": (nn.Sequential(over(lambda x: x.transpose(1, 2)), nn.Conv3d(6, 4, 3, padding=1)), X3),
    "six dimensions": (over(lambda x: x.view(2, 3, 4, 3, 2, 10).permute(4, 0, 5, 3, 1, 2).relu()), X2),
    "pixels from channels": (nn.Sequential(nn.Conv2d(12, 12, 1), nn.PixelShuffle(2), nn.SiLU()), X2),
    "channels from pixels": (nn.PixelUnshuffle(2), X2),
    "channels dealt anew": (nn.Sequential(nn.Conv2d(12, 12, 1), nn.ChannelShuffle(3), nn.Conv2d(12, 3, 1)), X2),
    "three times as large": (nn.ConvTranspose2d(12, 5, 3, 3), X2),
}


@pytest.mark.parametrize("threads", [1, 2])
def test_every_operator_agrees_with_the_interpreter_and_with_torch(threads, monkeypatch):
    _agree(MODELS, threads, monkeypatch)


LARGE = (2, 5, 6, 13, 30)
IN_DEPTH: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "a volume": (deep(3, padding=1), LARGE),
    "a volume seen in time alone": (deep((3, 1, 1), padding=(1, 0, 0)), LARGE),
    "of one image": (deep((3, 1, 1), padding=(1, 0, 0)), (1, *LARGE[1:])),
    "a stride in depth": (deep(3, (2, 1, 1), 1), LARGE),
    "dilated in depth": (deep(3, 1, (2, 1, 1), (2, 1, 1)), LARGE),
    "more pad than kernel": (deep((2, 1, 1), padding=(4, 0, 0)), LARGE),
    "a whole depth at once": (deep((6, 1, 1)), LARGE),
    "rows by themselves": (nn.Conv3d(5, 3, 3, padding=1), LARGE),
    "a residual": (Residual(nn.Conv3d(8, 8, 3, padding=1), deep(1)), LARGE),
    # Without pads a slice, and after 16 of them the next plane, follows at once: no room for the rest of a vector.
    "no pads": (deep((3, 1, 1)), (1, 5, 18, 17, 17)),
    "no pads and a residual": (Sum(deep((3, 1, 1)), deep((3, 1, 1))), (1, *LARGE[1:])),
}


@pytest.mark.parametrize("threads", [1, 2])
def test_slices_that_take_turns_agree_with_slices_one_after_another(threads, monkeypatch):
    """What large volumes do, on small ones: slices abreast, lines asked for before they are stored to."""
    monkeypatch.setattr(tiling, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(convolution, "LAST_LEVEL_BYTES", 0)
    steps = program_of(IN_DEPTH["a volume"][0], *LARGE).steps
    assert any(
        s.fields["abreast"] and s.fields["vectors"] > 2 * s.fields["chunk"] for s in steps if "abreast" in s.fields
    )
    assert all(s.fields["far"] for s in steps if "far" in s.fields)
    _agree(IN_DEPTH, threads, monkeypatch)


def _agree(models_and_shapes: dict[str, tuple[nn.Module, tuple[int, ...]]], threads: int, monkeypatch) -> None:
    poison_arenas(monkeypatch)
    torch.manual_seed(0)
    models = {name: (model.eval(), torch.randn(shape)) for name, (model, shape) in models_and_shapes.items()}
    graphs = [from_torch(model, (x,)) for model, x in models.values()]
    for (name, (model, _)), graph, runner in zip(models.items(), graphs, compile_batch(graphs, threads), strict=True):
        inputs = random_inputs(graph.graph)
        theirs = torch_answers(model, graph, inputs)
        for _ in range(2):
            compare(name, graph.graph, inputs, run(runner, graph, inputs), theirs)


def program_of(model: nn.Module, *shape: int):
    return lower(optimize(from_torch(model.eval(), (torch.zeros(shape),)).graph), native())


def test_taps_that_lie_in_the_padding_of_the_depth_are_skipped():
    program = program_of(nn.Conv3d(4, 4, 3, padding=1), 1, 4, 5, 30, 30)
    (step,) = (s for s in program.steps if s.struct == "spmm_args")
    stretches, blocks = (program.tables[step.fields[name].name] for name in ("stretch", "block"))
    lengths = blocks.reshape(-1, step.fields["blocks"], 4)[:, :, 2]
    assert lengths.tolist() == [[4 * 27], [4 * 18], [4 * 18]]
    # The first and the last slice read two thirds of the taps, the three in the middle are one stretch.
    assert sorted(stretches[:, -1]) == [0, 1, 2]
    assert stretches[1, -1] == 0
    assert stretches[1, 3] > 2.9 * stretches[0, 3] == 2.9 * stretches[2, 3]


@pytest.mark.parametrize("conv", [nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 2, 3, padding=1), nn.Conv3d(4, 4, 1)])
def test_every_table_is_read(conv):
    program = program_of(conv, 1, 4, 5, 30, 30)
    assert program.tables.keys() == {r.name for s in program.steps for r in s.refs() if r.space == "weights"}


def test_depth_is_not_padded_in_memory():
    program = program_of(nn.Sequential(nn.Conv3d(4, 8, 3, padding=1), nn.Conv3d(8, 4, 3, padding=1)), 1, 4, 5, 30, 30)
    plane = odd_lines(5 * 31 * 31)
    assert {size // plane for size in program.buffers.values()} == {4, 8}
    assert all(size % plane <= 48 for size in program.buffers.values())


def test_planes_of_a_line_have_one_row():
    program = program_of(nn.Conv1d(4, 8, 3, padding=1), 1, 4, 50)
    assert max(program.buffers.values()) <= 8 * odd_lines(51) + 16


@pytest.mark.parametrize(
    ("shape", "dims", "fewer"),
    [
        ((2, 3, 4, 5, 6, 7), (0, 1, 2, 5, 3, 4), ((24, 30, 7), (0, 2, 1))),
        ((2, 1, 4, 1, 6, 7), (4, 1, 0, 2, 3, 5), ((8, 6, 7), (1, 0, 2))),
        ((1, 1, 1, 1, 1, 3), (5, 4, 3, 2, 1, 0), ((3,), (0,))),
        ((2, 3, 4, 5, 6, 7), (5, 4, 3, 2, 1, 0), ((2, 3, 4, 5, 6, 7), (5, 4, 3, 2, 1, 0))),
    ],
)
def test_dimensions_that_stay_together_are_permuted_as_one(shape, dims, fewer):
    assert merged_dims(shape, dims) == fewer
    x = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(x.transpose(dims).reshape(-1), x.reshape(fewer[0]).transpose(fewer[1]).reshape(-1))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(5, 4, 3, 2, 1, 0),
        lambda x: x[:, 1:, :, ::2],
        lambda x: x.mean(3),
        lambda x: F.pad(x, (0, 0, 1, 1)),
        lambda x: x + x[:, :1],
    ],
)
def test_what_needs_six_dimensions_at_once_is_refused_with_its_layer(function):
    model = nn.Sequential(over(function))
    with pytest.raises(UnsupportedError, match=r"0: cannot take a tensor of more than 5 dimensions; got \["):
        ms.compile(model.eval(), torch.zeros(2, 3, 2, 3, 2, 3))
