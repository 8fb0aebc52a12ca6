"""Random networks, cut at random operators: the parts and torch together compute what torch computes alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler.graphs import RandomModel, pools, random_model
from monstera.compiler.frontends import Imported, exported_program, split_torch
from monstera.compiler.hybrid import HybridEngine
from monstera.compiler.ir import interpret
from monstera.compiler.passes import optimize
from monstera.measure.answers import arrays


class Interpreted:
    """A part's graph in the place of its engine; optimised, as the engine's would be."""

    def __init__(self, imported: Imported) -> None:
        self.graph, self.output = optimize(imported.graph), imported.output

    def __call__(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {name: x.numpy() for (name, _), x in zip(self.graph.inputs, args, strict=True)}
        values = interpret(self.graph, given)
        answers = [torch.from_numpy(np.array(values[name], np.float32)) for name in self.graph.outputs]
        return tuple(answers[item["index"]] for item in self.output["items"])


def cut(monkeypatch, seed: int, spatial: int | None) -> tuple[RandomModel, Any, HybridEngine]:
    """A random model, its example, and the model in parts; a third of the compiler's operators are taken from it."""
    rng = np.random.default_rng(seed)
    handlers = {name: rule for name, rule in exported_program._HANDLERS.items() if rng.random() > 1 / 3}
    model = random_model(rng, spatial)
    monkeypatch.setattr(exported_program, "_HANDLERS", handlers)
    example = model.example(seed)
    return model, example, HybridEngine(split_torch(model, example), Interpreted)  # pyright: ignore


def assert_agrees(model: RandomModel, example: Any, hybrid: HybridEngine) -> None:
    with torch.no_grad():
        expected = model(*[x.clone() for x in example])
    for answer, exact in zip(arrays(hybrid(*example)), arrays(expected), strict=True):
        np.testing.assert_allclose(answer, exact, rtol=0, atol=1e-4 * max(1.0, float(np.abs(exact).max())))


def test_random_networks_agree_wherever_they_are_cut(monkeypatch):
    parts, calls = 0, 0
    for seed, spatial in pools(12, 4):
        with monkeypatch.context() as patch:
            model, example, hybrid = cut(patch, seed, spatial)
            assert_agrees(model, example, hybrid)
        parts += len(hybrid.engines)
        calls += len(hybrid.torch_calls)
    assert parts > 20
    assert calls > 48


class Around(nn.Module):
    """A layer, and before and behind it what the compiler does not know."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(torch.flip(x, [0]))
        return torch.flip(y, [0])


LAYERS = {
    "linear": (nn.Linear(6, 4), torch.zeros(3, 6), 1),
    "a cell of a GRU": (nn.GRUCell(6, 4), torch.zeros(3, 6), 1),
    "a cell of an RNN without biases": (nn.RNNCell(6, 4, bias=False), torch.zeros(3, 6), 1),
    "a table": (nn.Embedding(9, 4), torch.zeros(3, dtype=torch.int64), 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_part_has_a_layer_whose_weights_may_have_holes(name: str) -> None:
    layer, x, count = LAYERS[name]
    split = split_torch(Around(layer).eval(), (x,))
    assert len(split.parts) == count
    assert [call.refused for call in split.torch_calls if call.operator == "flip"] == [True, True]


@pytest.mark.full
@pytest.mark.parametrize(("seed", "spatial"), [(1000 + seed, spatial) for seed, spatial in pools(200, 70)])
def test_many_random_networks_agree_wherever_they_are_cut(monkeypatch, seed, spatial):
    assert_agrees(*cut(monkeypatch, seed, spatial))
