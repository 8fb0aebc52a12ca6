"""Take channels that do nothing out of a module."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from monstera.modes import evaluating
from monstera.sparsity.attached import refuse_attached
from monstera.sparsity.channels.graph import named_tensors
from monstera.sparsity.channels.trace import Example, Trace, trace
from monstera.sparsity.shrinking.choice import Choice, choose
from monstera.sparsity.shrinking.cuts import BIASED, Cuts, Kept, add_bias
from monstera.sparsity.shrinking.known import known_values

# Of the largest output: more than rounding ever moves it, or so many times what the coarsest parameter rounds by.
_TOLERANCE = 1e-4
_ROUNDINGS = 8


def shrink(model: nn.Module, example: Example) -> tuple[nn.Module, Cuts]:
    """Make a smaller module that computes the same, without channels that are wholly zero or that nobody reads.

    A filter of zeros emits a number, what its bias and norm make of it. Where the layers after it can add that number
    to their bias, which they get if they have none, the channel goes. Where they cannot, as beside padding, or where
    the module's own code counts on the size, it stays: `print` the cuts to see which and why.

    Args:
        model: not changed. It is traced in eval mode; the copy has the mode that the model has.
        example: an input of the model, or a tuple of all its inputs.

    Returns:
        The smaller module, and its cuts: `cuts.save(path)`, later `Cuts.load(path).apply_(fresh)` and
        `fresh.load_state_dict(...)`.

    Raises:
        TraceError: torch.export cannot trace the model.
        AttachedError: a pruner is attached to it; finish first.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> _ = model[0].weight.data[2:5].zero_()
        >>> smaller, cuts = shrink(model, torch.randn(1, 4))
        >>> smaller[0]
        Linear(in_features=4, out_features=3, bias=True)
    """
    refuse_attached(named_tensors(model), "cut")
    args = example if isinstance(example, tuple) else (example,)
    small, cuts = copy.deepcopy(model), Cuts({})
    expected = [_run(model, inputs) for inputs in (args, _noise(args))]
    while True:
        # What one round refuses may go in the next, when others have gone.
        refused: dict[str, str] = {}
        traced = trace(small, args)
        layers = {f"{name}.weight": name for name, layer in small.named_modules() if isinstance(layer, BIASED)}
        choice = choose(traced, known_values(traced.program, named_tensors(small)), layers)
        smaller, own = _tried(small, traced, choice, layers, args, expected, refused)
        if not own.kept:
            break
        small, cuts = smaller, _joined(cuts, own)
    stayed = (*choice.stayed, *(f"{name}: {why}" for name, why in refused.items()))
    sizes = tuple(sum(p.numel() for p in m.parameters()) for m in (model, small))
    return small, replace(cuts, stayed=stayed, parameters=sizes)


def _tried(
    model: nn.Module,
    traced: Trace,
    choice: Choice,
    layers: Mapping[str, str],
    args: tuple[Any, ...],
    expected: list[list[Tensor]],
    refused: dict[str, str],
) -> tuple[nn.Module, Cuts]:
    """A copy without all channels that can go, or, if it then fails or differs, without as many groups as it can."""
    done = _cut_and_run(model, traced, choice, choice.gone, layers, args, expected)
    if not isinstance(done, str):
        return done
    best, gone = (model, Cuts({})), np.zeros_like(choice.gone)
    for group in choice.resolved.groups:
        if not choice.gone[group].any():
            continue
        more = gone.copy()
        more[group] = choice.gone[group]
        done = _cut_and_run(model, traced, choice, more, layers, args, expected)
        if isinstance(done, str):
            refused[_name(traced, choice, group)] = f"{int(choice.gone[group].sum())} channels cannot go: {done}"
        else:
            best, gone = done, more
    return best


def _cut_and_run(
    model: nn.Module,
    traced: Trace,
    choice: Choice,
    gone: np.ndarray,
    layers: Mapping[str, str],
    args: tuple[Any, ...],
    expected: list[list[Tensor]],
) -> tuple[nn.Module, Cuts] | str:
    """A copy without some channels, or why it does not do."""
    cuts = Cuts(_kept(traced, choice, gone))
    if not cuts.kept:
        return model, cuts
    small = copy.deepcopy(model)
    added = _fold(small, choice, gone, layers)
    cuts.apply_(small)
    cuts = replace(cuts, biases=tuple(added))
    try:
        found = [_run(small, inputs) for inputs in (args, _noise(args))]
    except Exception as error:
        return f"the module's code counts on their number ({str(error).splitlines()[0]})"
    pairs = [pair for few, many in zip(found, expected, strict=True) for pair in zip(few, many, strict=True)]
    if not all(_close(a, b, _tolerance(model)) for a, b in pairs):
        return "the module computes something else without them, as its code counts on their number"
    return small, cuts


def _kept(traced: Trace, choice: Choice, gone: np.ndarray) -> Kept:
    kept: dict[str, dict[int, tuple[int, ...]]] = {}
    for seed in traced.ledger.seeds:
        stays = ~gone[choice.resolved.positions(seed.axis)[0]]
        if not stays.all():
            kept.setdefault(seed.parameter, {})[seed.axis.dims[0]] = tuple(np.flatnonzero(stays).tolist())
    return kept


@torch.no_grad()
def _fold(model: nn.Module, choice: Choice, gone: np.ndarray, layers: Mapping[str, str]) -> list[str]:
    """Add to biases what channels that go had added to their sums; returns the modules that got a bias for it."""
    added = []
    for reader in choice.readers:
        leaving = gone[reader.channels] & ~reader.free
        if not leaving.any():
            continue
        assert reader.weight is not None
        layer = model.get_submodule(layers[reader.weight])
        weight = layer.get_parameter("weight").double()
        sums = weight if weight.dim() == 2 else weight.flatten(2).sum(2)
        numbers = torch.from_numpy(np.where(leaving, reader.numbers, 0)).to(weight.device)
        if layer.bias is None:
            added.append(layers[reader.weight])
        bias = add_bias(layer)
        bias.copy_(bias.double() + sums @ numbers)
    return added


def _joined(first: Cuts, then: Cuts) -> Cuts:
    """Both cuts in one; indices of the second are those that the first has left."""
    kept = {name: dict(dims) for name, dims in first.kept.items()}
    for name, dims in then.kept.items():
        for dim, left in dims.items():
            before = kept.get(name, {}).get(dim)
            kept.setdefault(name, {})[dim] = left if before is None else tuple(before[i] for i in left)
    biases = (*first.biases, *then.biases)
    # A bias that is added is as long as its weight is by then.
    own = {f"{name}.bias" for name in biases}
    return Cuts({name: dims for name, dims in kept.items() if name not in own}, biases)


def _name(traced: Trace, choice: Choice, group: np.ndarray) -> str:
    members = (s for s in traced.ledger.seeds if np.isin(choice.resolved.positions(s.axis)[0], group).any())
    return next((f"{s.parameter}[{s.axis.dims[0]}]" for s in members), "a value")


def _run(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    with evaluating(model), torch.no_grad():
        outputs = model(*pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, inputs))
    return [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]


def _noise(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs of the example's shapes that are surely not all zero; whole numbers stay."""
    generator = torch.Generator().manual_seed(0)

    def noise(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return torch.randn(x.shape, generator=generator).to(x)

    return pytree.tree_map(noise, args)


def _tolerance(model: nn.Module) -> float:
    coarsest = (torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point())
    return max(_TOLERANCE, _ROUNDINGS * max(coarsest, default=0.0))


def _close(found: Tensor, expected: Tensor, within: float) -> bool:
    if found.shape != expected.shape:
        return False
    scale = float(expected.double().abs().max()) if expected.numel() else 0.0
    return float((found.double() - expected.double()).abs().max() if expected.numel() else 0.0) <= within * scale
