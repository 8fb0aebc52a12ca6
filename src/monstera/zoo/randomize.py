"""Random weights that behave like trained ones, for checks of speed and agreement where no checkpoint is needed."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from monstera.modes import evaluating

Product: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
Recurrent: TypeAlias = nn.RNNBase | nn.RNNCellBase


@torch.no_grad()
def randomize_(model: nn.Module, example: Tensor | tuple[Tensor, ...], seed: int = 0) -> nn.Module:
    """Draw every weight, bias and norm's constant of `model` in place; activations keep a scale of about one.

    No norm is left trivial (scale and shift, and of a batch norm mean and variance, differ from channel to channel), so
    that a compiler which drops one of them is found out.

    Args:
        example: an input of the model, such as `torch.randn(4, 3, 64, 64)`, or a tuple of all its inputs; several
            examples are better.
        seed: the same seed, model and example give the same weights; torch's global generator is left alone.

    Returns:
        `model`, in the mode it had.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, Product):
            _normal_(module.weight, 1.0, generator)
            _normal_(module.bias, 0.2, generator)
        elif isinstance(module, Recurrent):
            for parameter in module.parameters():
                _normal_(parameter, 1.0 if parameter.dim() == 2 else 0.2, generator)
        elif isinstance(module, _BatchNorm | nn.LayerNorm):
            _uniform_(module.weight, 0.5, 1.5, generator)
            _normal_(module.bias, 0.3, generator)
    return calibrate_(model, example, seed)


@torch.no_grad()
def calibrate_(model: nn.Module, example: Tensor | tuple[Tensor, ...], seed: int = 0) -> nn.Module:
    """Scale the weights of `model` in place, and set its batch-norm statistics, so that `example` keeps its variance.

    Zeros stay zeros: call it after pruning random weights, whose activations would else fade from layer to layer.
    Statistics are the example's own, moved by up to a tenth, as no data set matches its training set exactly. What is
    between the layers of a recurrent module does not show, so rows of its matrices get a norm of one on average.

    Source: Mishkin, Matas, "All you need is a good init" (2015), one pass; batch norms get their statistics as well.

    Returns:
        `model`, in the mode it had.
    """
    generator = torch.Generator().manual_seed(seed + 1)

    def unit_variance(module: Product, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return _scale_product_(module, output)

    def statistics(module: _BatchNorm, inputs: tuple[Tensor]) -> None:
        _set_statistics_(module, inputs[0], generator)

    handles = []
    for module in model.modules():
        if isinstance(module, Product):
            handles.append(module.register_forward_hook(unit_variance))
        elif isinstance(module, Recurrent):
            _scale_rows_(module)
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(statistics))
    try:
        with evaluating(model):
            model(*(example if isinstance(example, tuple) else (example,)))
    finally:
        for handle in handles:
            handle.remove()
    return model


def _scale_product_(module: Product, output: Tensor) -> Tensor:
    bias = 0 if module.bias is None else _along_channels(module.bias, output, module)
    spread = (output - bias).std()
    if not spread > 0:
        return output
    module.weight /= spread
    return (output - bias) / spread + bias


def _scale_rows_(module: Recurrent) -> None:
    for parameter in module.parameters():
        if parameter.dim() == 2 and parameter.any():
            parameter /= parameter.square().sum(1).mean().sqrt()


def _along_channels(values: Tensor, output: Tensor, module: Product) -> Tensor:
    axes = 0 if isinstance(module, nn.Linear) else output.dim() - 2
    return values.reshape(-1, *[1] * axes)


def _set_statistics_(module: _BatchNorm, x: Tensor, generator: torch.Generator) -> None:
    rows = x.transpose(0, 1).flatten(1)
    mean, variance = rows.mean(1), rows.var(1)
    shift = torch.randn(mean.shape, generator=generator).to(mean).clamp(-1, 1)
    stretch = torch.rand(mean.shape, generator=generator).to(mean)
    assert module.running_mean is not None
    assert module.running_var is not None
    module.running_mean.copy_(mean + 0.1 * shift * variance.sqrt())
    module.running_var.copy_(variance.clamp_min(1e-3) * (0.9 + 0.2 * stretch))


def _normal_(parameter: Tensor | None, spread: float, generator: torch.Generator) -> None:
    if parameter is not None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)


def _uniform_(parameter: Tensor | None, low: float, high: float, generator: torch.Generator) -> None:
    if parameter is not None:
        parameter.copy_(torch.rand(parameter.shape, generator=generator) * (high - low) + low)
