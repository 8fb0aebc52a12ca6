"""Networks over tokens and steps that torch's exporters write down come back equal to torch, holes included."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler.agreement import compare
from compiler.batch import compile_batch, run
from compiler.graphs import fitting_inputs
from compiler.test_transformers import example, network
from monstera.compiler.frontends import Imported, from_onnx
from monstera.compiler.ir import Attention, Norm, Recurrent
from monstera.compiler.passes import optimize

pytestmark = pytest.mark.usefixtures("nan_before_first_use")


class First(nn.Module):
    """A network of the transformers package with arguments by position, of which the first result counts."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.network(input_ids=input_ids, attention_mask=attention_mask).to_tuple()[0]


def through_onnx(model: nn.Module, args: tuple[Any, ...], path: Path, dynamo: bool, opset: int) -> Imported:
    """The graph of what torch's exporter writes."""
    with warnings.catch_warnings():
        # The exporters warn of their own future.
        warnings.simplefilter("ignore")
        torch.onnx.export(model, args, str(path), dynamo=dynamo, opset_version=opset, verbose=False)
    return from_onnx(path)


def check(name: str, model: nn.Module, imported: Imported, inputs: dict[str, np.ndarray]) -> None:
    """The engine agrees with the interpreter and with torch in float64."""
    (runner,) = compile_batch([imported])
    given = [torch.from_numpy(inputs[i.name]).to(getattr(torch, i.dtype)) for i in imported.inputs]
    with torch.no_grad():
        answer = copy.deepcopy(model).double()(*[t.double() if t.is_floating_point() else t for t in given])
    theirs = [t.float() for t in _flat(answer)]
    for _ in range(2):
        compare(name, imported.graph, inputs, run(runner, imported, inputs), theirs)


def _flat(answer: Any) -> list[torch.Tensor]:
    return [answer] if isinstance(answer, torch.Tensor) else [t for part in answer for t in _flat(part)]


full = pytest.mark.full


@pytest.mark.parametrize(
    ("name", "attention", "dynamo", "opset"),
    [
        ("bert", "sdpa", True, 18),
        ("bert", "eager", False, 13),
        ("gpt2", "sdpa", False, 17),
        pytest.param("bert", "eager", True, 21, marks=full),
        pytest.param("bert", "sdpa", False, 18, marks=full),
        pytest.param("gpt2", "sdpa", True, 18, marks=full),
        pytest.param("gpt2", "eager", True, 18, marks=full),
        pytest.param("gpt2", "eager", False, 17, marks=full),
    ],
)
def test_a_transformer_comes_back_equal_with_its_holes(
    name: str, attention: str, dynamo: bool, opset: int, tmp_path: Path
) -> None:
    # GPT-2's own layers are none that pruning knows.
    model = First(network(name, attention, 0.25 if name == "bert" else 1.0)).eval()
    imported = through_onnx(model, tuple(example(name, 17, 2).values()), tmp_path / "net.onnx", dynamo, opset)
    assert [i.limit for i in imported.inputs] == [101, None]
    inputs = fitting_inputs(imported, 1)
    # Everybody sees the first tokens: what a query that sees none computes depends on rounding.
    inputs[imported.inputs[1].name] = np.arange(17) < np.array([[17], [11]])
    check(name, model, imported, {k: np.asarray(v, np.float32) for k, v in inputs.items()})
    graph = optimize(imported.graph)
    assert sum(isinstance(n.op, Attention) for n in graph.nodes) == 2
    assert sum(isinstance(n.op, Norm) for n in graph.nodes) == 5
    zeros = sum(int((p == 0).sum()) for p in imported.graph.params.values())
    # Nobody reads what the pooler gives.
    read = [p for n, p in model.named_parameters() if "embed" not in n and "pooler" not in n]
    assert zeros >= sum(int((p == 0).sum()) for p in read)


LAYERS = {
    "lstm": lambda: nn.LSTM(5, 7, num_layers=2, bidirectional=True, batch_first=True),
    "gru": lambda: nn.GRU(5, 7, bidirectional=True),
    "rnn": lambda: nn.RNN(5, 7, nonlinearity="relu"),
}


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_recurrent_layer_comes_back_equal(name: str, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LAYERS[name]().eval()
    imported = through_onnx(model, (torch.randn(6, 3, 5),), tmp_path / "net.onnx", dynamo, 18)
    # The newer exporter writes down the steps of a plain RNN, one by one.
    assert any(isinstance(n.op, Recurrent) for n in imported.graph.nodes) or (name == "rnn" and dynamo)
    check(name, model, imported, fitting_inputs(imported, 1))
