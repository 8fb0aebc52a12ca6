"""The network that a search starts from: which of its convolutions may be replaced, found by running it once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from monstera.modes import evaluating
from monstera.search.npas.scheme import DENSITIES, FILTERS, PATTERNS, LayerChoice, Scheme
from monstera.search.npas.space import SchemeSpace
from monstera.search.npas.stage import Stage, replacements
from monstera.sparsity.errors import suggestion

EXPANSION = 2


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A trained network and the space of its candidates.

    Attributes:
        model: in evaluation mode; read only.
        space: one stage for each convolution that may be replaced, called by the module's name.
        vanishing: for each stage that may be skipped the modules that then pass on what they are given: the convolution
            and its batch norm, or the largest module around them that has no other weights and keeps the shape.
    """

    model: nn.Module
    space: SchemeSpace
    vanishing: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if self.model.training:
            raise ValueError("the base network is in training mode; call model.eval()")


def base_network(
    model: nn.Module,
    example: Tensor,
    names: Collection[str] | None = None,
    *,
    filters: Sequence[str] = FILTERS,
    patterns: Sequence[str] = PATTERNS,
    densities: Sequence[float] = DENSITIES,
    expansion: int = EXPANSION,
) -> Base:
    """Find the convolutions that a search may replace, in the order in which they run, and what it may make of them.

    These are the 3x3 convolutions with padding 1 and the 1x1 convolutions without, of one stride, neither grouped nor
    dilated, that run once in a call; the first convolution of the network is left as it is.

    Args:
        model: in evaluation mode; read only.
        example: `[N, channels, height, width]`, run through the model once.
        names: the convolutions that are meant; default all that may be.
        filters, patterns, densities: what layers may have, each as far as it fits them; see `Stage`.
        expansion: channels in the middle of `1x1+3x3dw+1x1` for each channel that comes in.

    Raises:
        ValueError: training mode, no such convolution, or a name is none of those found.
        SchemeError: a filter type, pattern or density that no layer can have.
    """
    run = _Run(model, example)
    found = [name for name in run.convolutions[1:] if run.replaceable(name)]
    if wrong := [name for name in names or () if name not in found]:
        raise ValueError(f"no convolution {wrong[0]!r} may be replaced; {suggestion(wrong[0], found)}")
    chosen = [name for name in found if names is None or name in names]
    if not chosen:
        raise ValueError("no convolution of the network may be replaced: expected 3x3 (padding 1) or 1x1, not grouped")
    stages = [run.stage(name, filters, patterns, densities, expansion) for name in chosen]
    vanishing = {stage.name: run.vanishing(stage.name) for stage in stages if stage.skippable}
    return Base(model, SchemeSpace(stages, run.shortcuts(chosen)), vanishing)


def uniform_schemes(space: SchemeSpace) -> tuple[Scheme, ...]:
    """The base network pruned alike everywhere, by each pattern at each density; layers that cannot be stay dense."""
    pairs = {(a.pattern, a.density): None for actions in space.actions for a in actions if a.pattern is not None}

    def choice(stage: Stage, actions: tuple[LayerChoice, ...], pattern: str, density: float) -> LayerChoice:
        pruned, dense = LayerChoice(stage.base, pattern, density), LayerChoice(stage.base)
        return pruned if pruned in actions else dense

    layers = [*zip(space.stages, space.actions, strict=True)]
    return tuple(Scheme(tuple(choice(*layer, *pair) for layer in layers)) for pair in pairs)


class _Run:
    """What one call showed: inputs and outputs of modules, held on to, so that tensors are told apart by identity."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.modules = dict(model.named_modules())
        self.calls: dict[str, list[tuple[Any, Any]]] = {}
        self.convolutions: list[str] = []
        self.flow = _Flow()
        handles = [module.register_forward_hook(self._seen(name)) for name, module in self.modules.items() if name]
        try:
            with torch.no_grad(), evaluating(model), self.flow:
                model(example)
        finally:
            for handle in handles:
                handle.remove()

    def _seen(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(module, nn.Conv2d) and name not in self.calls:
                self.flow.mark(output, len(self.convolutions))
                self.convolutions.append(name)
            self.calls.setdefault(name, []).append((inputs[0] if inputs else None, output))

        return hook

    def replaceable(self, name: str) -> bool:
        conv = self.modules[name]
        assert isinstance(conv, nn.Conv2d)
        plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        square = conv.kernel_size in ((1, 1), (3, 3)) and conv.padding == (conv.kernel_size[0] // 2,) * 2
        return plain and square and conv.stride[0] == conv.stride[1] and len(self.calls[name]) == 1

    def stage(
        self, name: str, filters: Sequence[str], patterns: Sequence[str], densities: Sequence[float], expansion: int
    ) -> Stage:
        conv = self.modules[name]
        assert isinstance(conv, nn.Conv2d)
        size = "3x3" if conv.kernel_size == (3, 3) else "1x1"
        skippable = conv.in_channels == conv.out_channels and conv.stride == (1, 1)
        possible = [kind for kind in replacements(size) if kind != "skip" or skippable]
        return Stage(
            name,
            conv.in_channels,
            conv.out_channels,
            size,
            conv.stride[0],
            hidden=expansion * conv.in_channels,
            # A layer always may stay what it is.
            filters=[kind for kind in possible if kind in filters or kind == size],
            patterns=patterns,
            densities=densities,
        )

    def vanishing(self, name: str) -> tuple[str, ...]:
        output = self.calls[name][0][1]
        norms = [
            other
            for other, calls in self.calls.items()
            if isinstance(self.modules[other], _BatchNorm) and any(read is output for read, _ in calls)
        ]
        around = self._around(name, {name, *norms})
        return (around,) if around else (name, *norms)

    def _around(self, name: str, own: set[str]) -> str:
        """The largest module around a layer that ran once, keeps the shape and has no weights but the layer's own."""
        found, above = "", name.rpartition(".")[0]
        while above:
            weighted = {p for p, m in self.modules.items() if f"{p}.".startswith(f"{above}.") and m._parameters}
            calls = self.calls.get(above, [])
            if len(calls) == 1 and weighted <= own and _same_shape(*calls[0]):
                found = above
            above = above.rpartition(".")[0]
        return found

    def shortcuts(self, chosen: Sequence[str]) -> list[tuple[int, int]]:
        """What was added to what, in stages: one shortcut for each stage that ends any, the longest."""
        places = [self.convolutions.index(name) for name in chosen]
        longest: dict[int, int] = {}
        for earlier, later in self.flow.sums:
            first = sum(place <= earlier for place in places)
            last = sum(place <= later for place in places) - 1
            if first <= last:
                longest[last] = min(first, longest.get(last, first))
        return [(first, last) for last, first in longest.items()]


class _Flow(TorchFunctionMode):
    """Which convolution a tensor has passed last, through whatever came behind it, and which two were added."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[tuple[int, int]] = []
        # With the tensor, as the number of one that is gone may be given to another.
        self._last: dict[int, tuple[Tensor, int]] = {}

    def mark(self, tensor: Tensor, convolution: int) -> None:
        self._last[id(tensor)] = (tensor, convolution)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        passed = [self._passed(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if getattr(func, "__name__", "") in ("add", "add_", "__add__", "__radd__", "__iadd__") and len(passed) == 2:
            self.sums += [(min(passed), max(passed))] if passed[0] != passed[1] else []
        if isinstance(result, Tensor) and passed:
            self.mark(result, max(passed))
        return result

    def _passed(self, tensor: Tensor) -> int:
        return self._last.get(id(tensor), (tensor, -1))[1]


def _same_shape(x: Any, y: Any) -> bool:
    return isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape
