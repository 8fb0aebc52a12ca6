"""Recurrent networks for tests: every kind of layer at odd sizes, with holes of several kinds."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

KINDS = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}
CELLS = {"gru": nn.GRUCell, "lstm": nn.LSTMCell, "rnn_tanh": nn.RNNCell, "rnn_relu": nn.RNNCell}
HOLES = ("dense", "unstructured", "16x1", "bcr", "empty")


class Stateless(nn.Module):
    """A recurrent layer that starts from zeros; gives the sequence and the final states."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor):
        return self.layer(x)


class WithState(Stateless):
    """A recurrent layer whose initial states are inputs; an LSTM's two stand side by side."""

    def forward(self, x: torch.Tensor, *states: torch.Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.layer(x, states if len(states) > 1 else states[0])


def recurrent(kind: str, inputs: int, hidden: int, holes: str = "dense", seed: int = 0, **options) -> nn.RNNBase:
    """A layer with weights drawn by `seed`, of a size at which gates neither saturate nor fade."""
    if kind.startswith("rnn"):
        options["nonlinearity"] = kind.removeprefix("rnn_")
    layer = KINDS[kind](inputs, hidden, **options)
    fill(layer, holes, seed)
    return layer.eval()


def cell(kind: str, inputs: int, hidden: int, *, bias: bool = True, seed: int = 0) -> nn.Module:
    """A cell with weights drawn by `seed`."""
    options = {"nonlinearity": kind.removeprefix("rnn_")} if kind.startswith("rnn") else {}
    made = CELLS[kind](inputs, hidden, bias=bias, **options)
    fill(made, "dense", seed)
    return made.eval()


def fill(layer: nn.Module, holes: str, seed: int) -> None:
    """Draw weights and biases, and punch holes into every weight."""
    rng = np.random.default_rng(seed)
    for parameter in layer.parameters():
        spread = parameter.shape[1] ** -0.5 if parameter.ndim == 2 else 0.3
        value = spread * rng.standard_normal(tuple(parameter.shape))
        if parameter.ndim == 2:
            value *= mask(rng, tuple(parameter.shape), holes)
        parameter.data = torch.from_numpy(value.astype(np.float32))


def mask(rng: np.random.Generator, shape: tuple[int, ...], holes: str) -> np.ndarray:
    """Bool `[rows, columns]`: unstructured, blocks of 16 rows, GRIM's block columns and rows, or nothing left."""
    rows, columns = shape
    match holes:
        case "dense":
            return np.ones(shape, bool)
        case "unstructured":
            return rng.random(shape) < 0.2
        case "16x1":
            return (rng.random((-(-rows // 16), columns)) < 0.3).repeat(16, 0)[:rows]
        case "bcr":
            # Blocks of 8 rows by 4 columns lose whole columns, and whole rows.
            kept = (rng.random((-(-rows // 8), columns)) < 0.5).repeat(8, 0)[:rows]
            return kept & (rng.random((rows, -(-columns // 4))) < 0.6).repeat(4, 1)[:, :columns]
        case _:
            return np.zeros(shape, bool)


def with_example(
    layer: nn.RNNBase, steps: int, batch: int, *, given: bool
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The layer as a model, and what it is called with; with `given` the initial states are inputs."""
    rng = np.random.default_rng(1)
    sizes = (batch, steps) if layer.batch_first else (steps, batch)
    state = (layer.num_layers * (1 + layer.bidirectional), batch, layer.hidden_size)
    shapes = [(*sizes, layer.input_size), *[state] * (1 + isinstance(layer, nn.LSTM)) * given]
    model = WithState(layer) if given else Stateless(layer)
    return model.eval(), tuple(torch.from_numpy(rng.standard_normal(s).astype(np.float32)) for s in shapes)
