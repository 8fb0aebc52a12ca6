"""The curvature of a network at its weights, from a few batches: with a loss, or by its outputs alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from monstera.measure.answers import arguments
from monstera.modes import evaluating
from monstera.search.sensitivity import Curvature
from monstera.sparsity import find_view

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""The mean loss of a model on a batch: a scalar that the weights can be derived by."""

# Random projections of the outputs of each batch.
PROBES = 4


def gauss_newton(
    model: nn.Module, names: Sequence[str], batches: Iterable[Any], *, probes: int = PROBES, seed: int = 0
) -> Curvature:
    """Estimate the diagonal of J'J, by which the squared error of the outputs bends; no labels are needed.

    J holds the derivatives of all outputs by the weights. The gradient of the outputs' sum under random signs, squared,
    is the diagonal on average (Hutchinson); means are taken over `probes` draws and over all examples, which are what
    the first dimension of the first output counts. The model is in evaluation mode meanwhile; it is not changed.

    Args:
        names: the weights, as plans name them.
        batches: each is what the model is called with: a tensor, a tuple (positional) or a dict (keywords).
        probes: draws for each batch; more are more exact and slower, one backward pass each.
        seed: of the signs; torch's global generator is left alone.

    Raises:
        TypeError: `batches` is a batch itself, or the model does not take one, or answers with no tensor.
        ValueError: there is no batch, or an output is not finite.

    Source: M. F. Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = _weights(model, names)
    sums, examples = [torch.zeros_like(w, dtype=torch.float32) for w in weights], 0
    with _derivable(model, weights):
        for place, batch in enumerate(_batches(batches)):
            outputs = _outputs(model, batch, place)
            examples += len(outputs[0]) if outputs[0].dim() else 1
            for probe in range(probes):
                signs = [_signs(output, generator) for output in outputs]
                signed = torch.stack([(o * s).sum() for o, s in zip(outputs, signs, strict=True)]).sum()
                _add_squares_(sums, _gradients(signed, weights, again=probe + 1 < probes), 1 / probes)
    return {name: total / _some(examples) for name, total in zip(names, sums, strict=True)}


def fisher(model: nn.Module, names: Sequence[str], batches: Iterable[Any], loss: Loss) -> Curvature:
    """Estimate the diagonal of the empirical Fisher matrix of a loss.

    Of a batch only the mean gradient is known; near an optimum the examples' gradients cancel, and the mean of n of
    them has an n-th of their square. So squared gradients count times the batch's examples: the first dimension of the
    first tensor in it. The model is in evaluation mode meanwhile; it is not changed.

    Args:
        names: the weights, as plans name them.
        batches: whatever `loss` takes as a batch.
        loss: called as `loss(model, batch)`; the mean over the batch, a scalar.

    Raises:
        TypeError: `batches` is a batch itself, a batch holds no tensor, or the loss is no scalar tensor.
        ValueError: there is no batch, or a loss is not finite or depends on none of the weights.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, arXiv 1801.05787, for
    the empirical Fisher in place of the Hessian; how we differ: the gradients of whole batches.
    """
    weights = _weights(model, names)
    sums, count = [torch.zeros_like(w, dtype=torch.float32) for w in weights], 0
    with _derivable(model, weights):
        for place, batch in enumerate(_batches(batches)):
            value = _scalar(loss(model, batch), place)
            _add_squares_(sums, _gradients(value, weights), _examples(batch, place))
            count += 1
    return {name: total / _some(count) for name, total in zip(names, sums, strict=True)}


# ---- derivatives ----------------------------------------------------------------------------------------------------


def _weights(model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    return [find_view(model, name).weight for name in names]


@contextmanager
def _derivable(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Evaluation mode, and weights that are derived by, frozen ones too; all as before afterwards."""
    asked = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for weight, before in zip(weights, asked, strict=True):
            weight.requires_grad_(before)


def _gradients(value: Tensor, weights: Sequence[Tensor], again: bool = False) -> list[Tensor]:
    """Of a scalar by the weights; `.grad` is not touched. Weights that it does not depend on have zeros."""
    found = torch.autograd.grad(value, list(weights), retain_graph=again, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]


def _add_squares_(sums: Sequence[Tensor], gradients: Sequence[Tensor], factor: float) -> None:
    for total, gradient in zip(sums, gradients, strict=True):
        total.add_(gradient.float().square(), alpha=factor)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, like.shape, generator=generator)
    return (2 * drawn - 1).to(like.device, like.dtype)


# ---- batches --------------------------------------------------------------------------------------------------------


def _batches(batches: Iterable[Any]) -> Iterable[Any]:
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise TypeError(f"calibration is a collection of batches, got a {type(batches).__name__}; write [batch]")
    return batches


def _outputs(model: nn.Module, batch: Any, place: int) -> list[Tensor]:
    """All tensors of real numbers in what the model answers."""
    args, kwargs = arguments(batch)
    try:
        answer = model(*args, **kwargs)
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"calibration batch {place}: {type(model).__name__} does not take it ({error}); without a loss a batch is "
            "what the model is called with: a tensor, a tuple or a dict, and no labels"
        ) from error
    outputs = [tensor for tensor in _tensors(answer) if tensor.is_floating_point() and tensor.requires_grad]
    if not outputs:
        raise TypeError(f"calibration batch {place}: {type(model).__name__} answers with no tensor of real numbers")
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise ValueError(f"calibration batch {place}: an output is NaN or infinite; check the weights and the batch")
    return outputs


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (tensor for each in value.values() for tensor in _tensors(each))
    elif isinstance(value, tuple | list):
        yield from (tensor for each in value for tensor in _tensors(each))


def _examples(batch: Any, place: int) -> int:
    first = next(_tensors(batch), None)
    if first is None:
        raise TypeError(
            f"calibration batch {place} is a {type(batch).__name__} that holds no tensor; expected a tensor, or a "
            "tuple, list or dict of some"
        )
    return len(first) if first.dim() else 1


def _scalar(value: Any, place: int) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"calibration batch {place}: loss(model, batch) is one number as a tensor, got {got}")
    if not bool(value.isfinite()):
        raise ValueError(f"calibration batch {place}: the loss is {value.item()}; check the weights and the batch")
    if not value.requires_grad:
        raise ValueError(f"calibration batch {place}: the loss does not depend on the weights; is it detached?")
    return value.reshape(())


def _some(count: int) -> int:
    if count == 0:
        raise ValueError("calibration holds no batch; give at least one, or leave it out")
    return count
