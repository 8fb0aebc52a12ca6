"""What holes cost in accuracy, estimated by one projection for each layer, pattern and density. Nothing is trained.

The loss of a network is taken as quadratic around its weights, each weight by itself: projecting w to P(w) costs
`sum g (P(w) - w) + 1/2 sum F (P(w) - w)^2` over the weights of a layer. F is the diagonal of a Fisher or Gauss-Newton
matrix, from calibration batches; without any it is `2 / |w|^2`, so that a layer costs the share of its squared
magnitude that goes. g is the gradient, where a loss is given.

That holds near the weights only. It says that a layer that loses everything costs no more than the sum of its parts,
yet nothing passes it any more. So of the second sum, q of at most t, not q is taken but `-t log(1 - q / t)`: the same
for small q, and without bound for a layer that is emptied. Without data that is the sum of LAMP's scores.

Source: for the logarithm, J. Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021,
arXiv 2010.07611: each weight, from the least on, scores its share of the squared magnitude that is left. How we differ:
groups for weights, and the same bend for Fisher matrices, which is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from monstera.modes import evaluating
from monstera.sparsity import Block, Pattern, WeightView, find_view, magnitude
from monstera.sparsity.scores import widened
from monstera.sparsity.selection import kept_groups

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""The mean loss of a model on a batch: a scalar that the weights can be derived by."""

# Random projections of the outputs of each batch.
PROBES = 4
# Of what a layer has; what is kept may count for nothing.
_NEARLY_ALL = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Curvature:
    """How the loss bends, and slopes, at the weights of a network, by name and in each weight's shape.

    Attributes:
        bend: the diagonal of the second derivative, or what stands for it; never negative.
        slope: the gradient; empty where it is not known or taken as zero.
    """

    bend: Mapping[str, Tensor]
    slope: Mapping[str, Tensor]


def by_magnitude(model: nn.Module, names: Sequence[str]) -> Curvature:
    """The curvature that makes a layer's loss the share of its squared magnitude that goes. For want of data."""
    bend = {}
    for name in names:
        weight = find_view(model, name).weight
        total = float(magnitude(weight).sum())
        bend[name] = torch.tensor(2 / total if total else 0.0, device=weight.device).expand(weight.shape)
    return Curvature(bend, {})


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
    return Curvature({n: s / _some(examples) for n, s in zip(names, sums, strict=True)}, {})


def fisher(model: nn.Module, names: Sequence[str], batches: Iterable[Any], loss: Loss) -> Curvature:
    """Estimate the diagonal of the empirical Fisher matrix, and the gradient, of a loss.

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
    the empirical Fisher in place of the Hessian; how we differ: whole batches, and the gradient is kept.
    """
    weights = _weights(model, names)
    bend = [torch.zeros_like(w, dtype=torch.float32) for w in weights]
    slope = [torch.zeros_like(w, dtype=torch.float32) for w in weights]
    count = 0
    with _derivable(model, weights):
        for place, batch in enumerate(_batches(batches)):
            gradients = _gradients(_scalar(loss(model, batch), place), weights)
            _add_squares_(bend, gradients, _examples(batch, place))
            for total, gradient in zip(slope, gradients, strict=True):
                total.add_(gradient)
            count += 1
    means = [{n: s / _some(count) for n, s in zip(names, sums, strict=True)} for sums in (bend, slope)]
    return Curvature(*means)


def losses_of(
    view: WeightView, pattern: Pattern, densities: Sequence[float], bend: Tensor, slope: Tensor | None = None
) -> list[float]:
    """Estimate what projecting one weight costs at each density, all with one pattern.

    Holes are those of the pattern's own projection, by magnitude, as methods will choose them. Groups of blocks are
    ranked once for all densities.

    Args:
        bend: of the weight's shape, see `Curvature`.
        slope: the same, or None for zero.

    Raises:
        PatternError: a density does not fit the pattern, or the weight is NaN.
    """
    if isinstance(pattern, Block) and pattern.scope == "layer":
        sums = _ranked_once(view, pattern, densities, bend, slope)
    else:
        sums = [_moved(view, pattern, density, bend, slope) for density in densities]
    total = float((0.5 * widened(bend) * magnitude(view.weight)).sum())
    return [first + strained(second, total) for first, second in sums]


def strained(lost: float, total: float) -> float:
    """What losing so much of what a layer has costs: as much, as long as it is little; see the head of this module."""
    return -total * math.log1p(-min(lost / total, _NEARLY_ALL)) if total > 0 else 0.0


def _ranked_once(
    view: WeightView, block: Block, densities: Sequence[float], bend: Tensor, slope: Tensor | None
) -> list[tuple[float, float]]:
    """The sums of first and second order for each density."""
    square = magnitude(view.weight)
    # Stable and descending: of equals the first survive, as in the projection itself.
    order = block.group_scores(square, view.layout).flatten().argsort(descending=True, stable=True)
    kept = [kept_groups(block.density(density), len(order)) for density in densities]

    def gone(each: Tensor) -> list[float]:
        ranked = block.group_scores(each, view.layout).flatten()[order]
        # Summed from the least group on, so that small sums are not differences of large ones.
        tails = ranked.flip(0).cumsum(0).flip(0)
        return [float(tails[k]) if k < len(order) else 0.0 for k in kept]

    firsts = [0.0] * len(kept) if slope is None else gone(-widened(slope) * widened(view.weight))
    return [*zip(firsts, gone(0.5 * widened(bend) * square), strict=True)]


def _moved(
    view: WeightView, pattern: Pattern, density: float, bend: Tensor, slope: Tensor | None
) -> tuple[float, float]:
    """The same at one density for patterns of any kind, also those that move what they keep."""
    move = widened(pattern.project(view, density)) - widened(view.weight)
    second = 0.5 * (widened(bend) * move.square()).sum()
    return 0.0 if slope is None else float((widened(slope) * move).sum()), float(second)


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
    args, kwargs = called_with(batch)
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


def called_with(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a model, from a tensor, a tuple or list, or a dict."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch), {}) if isinstance(batch, tuple | list) else ((batch,), {})


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
        raise ValueError(f"calibration batch {place}: the loss is {float(value)}; check the weights and the batch")
    if not value.requires_grad:
        raise ValueError(f"calibration batch {place}: the loss does not depend on the weights; is it detached?")
    return value.reshape(())


def _some(count: int) -> int:
    if count == 0:
        raise ValueError("calibration holds no batch; give at least one, or leave it out")
    return count
