"""Direct depthwise kernels: every size around a vector, every stride they know, against torch, from memory of NaN."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from compiler.batch import compile_batch, poison_arenas, run
from monstera.compiler.frontends import from_torch
from monstera.compiler.lowering import lower
from monstera.compiler.passes import optimize
from monstera.compiler.targets import TARGETS, native


class _Around(nn.Module):
    """A depthwise convolution between two pointwise ones, with a residual if shapes allow: all of it in planes."""

    def __init__(self, channels: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]):
        super().__init__()
        self.before = nn.Conv2d(2, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels)
        self.after = nn.Conv2d(channels, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        y = self.depthwise(x)
        return self.after(torch.relu(y + x if x.shape == y.shape else y))


WINDOWS = [
    ((3, 3), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (1, 1)),
    ((5, 3), (1, 2), (2, 0)),
    ((2, 5), (3, 1), (0, 4)),
    ((7, 7), (2, 2), (3, 3)),
]
SIZES = [(10, 15), (11, 16), (12, 17), (13, 31), (5, 33)]


def _cases(threads: int, target: str) -> list[tuple[str, nn.Module, torch.Tensor, np.ndarray]]:
    torch.manual_seed(0)
    models, inputs, names = [], [], []
    for (window, size), batch in itertools.product(itertools.product(WINDOWS, SIZES), (1, 2)):
        models.append(_Around(5, *window).eval())
        inputs.append(torch.randn(batch, 2, *size))
        names.append(f"{window} on {size}, batch {batch}")
    graphs = [from_torch(m, (x,), {}) for m, x in zip(models, inputs, strict=True)]
    runners = compile_batch(graphs, threads, TARGETS[target])
    return [
        (name, model, x, run(runner, graph, {graph.inputs[0].name: x.numpy()})[0])
        for name, model, x, graph, runner in zip(names, models, inputs, graphs, runners, strict=True)
    ]


@pytest.mark.parametrize(("threads", "target"), [(1, native().name), (3, native().name), (1, "avx2")])
def test_direct_depthwise_convolutions_agree_with_torch(monkeypatch, threads, target):
    if target == "avx2" and native().name == "neon":
        pytest.skip("this processor has no avx2")
    poison_arenas(monkeypatch)
    for name, model, x, answer in _cases(threads, target):
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(answer), model(x), rtol=1e-5, atol=1e-5, msg=name)


def _kernels(model: nn.Module, x: torch.Tensor) -> list[str]:
    program = lower(optimize(from_torch(model.eval(), (x,), {}).graph), native())
    return [step.kernel.name.split("_planes")[0] for step in program.steps if "planes" in step.kernel.name]


def test_wide_depthwise_layers_are_read_directly_whatever_their_stride():
    for stride in (1, 2):
        model = _Around(5, (3, 3), (stride, stride), (1, 1))
        assert "f32_depthwise" in _kernels(model, torch.zeros(1, 2, 20, 20))


def test_narrow_planes_and_kernels_with_many_holes_go_the_way_of_other_convolutions():
    model = _Around(5, (3, 3), (1, 1), (1, 1))
    assert "f32_depthwise" not in _kernels(model, torch.zeros(1, 2, 7, 7))
    with torch.no_grad():
        model.depthwise.weight[:, :, 1:] = 0
    assert "f32_depthwise" not in _kernels(model, torch.zeros(1, 2, 20, 20))
