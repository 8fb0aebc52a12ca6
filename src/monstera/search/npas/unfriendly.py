"""Phase 1 of NPAS: functions of exponentials give way to piecewise ones, where the compiled network gets faster."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from monstera.compiler import compile as compile_
from monstera.modes import evaluating
from monstera.runtime import Engine

Kind: TypeAlias = Literal["sigmoid", "silu"]

LEAST_SAVING = 0.02
_PROFILES = 3
_ROUNDS = 30
_MODULES: dict[Kind, tuple[type[nn.Module], type[nn.Module]]] = {
    "sigmoid": (nn.Sigmoid, nn.Hardsigmoid),
    "silu": (nn.SiLU, nn.Hardswish),
}
_FUNCTIONS: Mapping[Kind, tuple[Callable[..., Any], ...]] = {
    "sigmoid": (torch.sigmoid, torch.sigmoid_, F.sigmoid, torch.special.expit, torch.Tensor.sigmoid),
    "silu": (F.silu,),
}
_METHODS: Mapping[Kind, tuple[str, ...]] = {"sigmoid": ("sigmoid", "sigmoid_"), "silu": ()}
_FRIENDLY: Mapping[Kind, Callable[..., Any]] = {"sigmoid": F.hardsigmoid, "silu": F.hardswish}


@dataclass(frozen=True, slots=True)
class Replacement:
    """One kind of function in a network, and what a compiled run takes with it and with its piecewise stand-in.

    Attributes:
        kind: "sigmoid" (stand-in: relu6(x + 3) / 6) or "silu" (stand-in: x relu6(x + 3) / 6).
        places: the modules that compute it, and the graph nodes of functions.
        before_ms, after_ms: a run of the whole network as profiled.
        made: whether it was replaced.
    """

    kind: Kind
    places: tuple[str, ...]
    before_ms: float
    after_ms: float
    made: bool

    @property
    def saving(self) -> float:
        """The share of a run that the stand-in saves."""
        return 1 - self.after_ms / self.before_ms


def replace_unfriendly(
    model: nn.Module, example: torch.Tensor, *, least_saving: float = LEAST_SAVING, threads: int = 1
) -> tuple[nn.Module, tuple[Replacement, ...]]:
    """Replace sigmoid by hard sigmoid and SiLU (swish) by hard swish, each where the compiled network gets faster.

    Every kind is judged by itself: the network is compiled with and without it, and both are profiled in turns. Batch
    norms and weights stay; accuracy has to be tuned back afterwards, which is the caller's. Inside operators that are
    one whole, such as recurrent layers, nothing is replaced.

    Args:
        model: not changed.
        example: what it is called with, on the CPU.
        least_saving: the least share of a run that has to be saved; `-inf` replaces whatever there is.
        threads: of the engines.

    Returns:
        The new network, a copy, in the mode of the old one (a `torch.fx.GraphModule` where functions had to be
        replaced), and one entry for each kind that the network has.

    Raises:
        ValueError: functions have to be replaced and torch.fx cannot trace the network.

    Source: Z. Li et al., "NPAS" (CVPR 2021), phase 1; the measured decision is ours.
    """
    present: list[tuple[Kind, nn.Module, tuple[str, ...]]] = []
    for kind in get_args(Kind):
        changed, places = with_stand_ins(model, example, [kind])
        present += [(kind, changed, places)] if places else []
    if not present:
        return copy.deepcopy(model), ()
    engines = [_engine(m, example, threads) for m in (model, *(changed for _, changed, _ in present))]
    before_ms, *after_ms = _profiled(engines)
    report = tuple(
        Replacement(kind, places, before_ms, ms, 1 - ms / before_ms >= least_saving)
        for (kind, _, places), ms in zip(present, after_ms, strict=True)
    )
    return with_stand_ins(model, example, [row.kind for row in report if row.made])[0], report


def with_stand_ins(
    model: nn.Module, example: torch.Tensor, kinds: Collection[Kind]
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy in which functions of these kinds are piecewise, and the places where they were.

    Raises:
        ValueError: see `replace_unfriendly`.
    """
    changed = copy.deepcopy(model)
    places = [name for kind in kinds for name in _swap_modules(changed, kind)]
    seen = _Functions(kinds)
    with torch.no_grad(), evaluating(changed), seen:
        changed(example)
    if not seen.found:
        return changed, tuple(places)
    try:
        traced = fx.symbolic_trace(changed)
    except (TraceError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"the network calls {', '.join(sorted(seen.found))} as a function, and torch.fx cannot trace it to replace "
            f"that ({error}); write it as a module (nn.Sigmoid, nn.SiLU)"
        ) from error
    places += [name for kind in kinds for name in _swap_functions(traced, kind)]
    traced.recompile()
    return traced.train(model.training), tuple(places)


def _swap_modules(model: nn.Module, kind: Kind) -> Iterator[str]:
    unfriendly, friendly = _MODULES[kind]
    for path, module in list(model.named_modules()):
        for name, child in module.named_children():
            if type(child) is unfriendly:
                setattr(module, name, friendly().train(child.training))
                yield f"{path}.{name}" if path else name


def _swap_functions(traced: fx.GraphModule, kind: Kind) -> Iterator[str]:
    for node in traced.graph.nodes:
        method = node.op == "call_method" and node.target in _METHODS[kind]
        if method or (node.op == "call_function" and node.target in _FUNCTIONS[kind]):
            node.op, node.target, node.args, node.kwargs = "call_function", _FRIENDLY[kind], node.args[:1], {}
            yield node.name


class _Functions(TorchFunctionMode):
    """Notes which of the functions a network calls."""

    def __init__(self, kinds: Collection[Kind]) -> None:
        super().__init__()
        self.kinds, self.found = kinds, set[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= {kind for kind in self.kinds if func in _FUNCTIONS[kind]}
        return func(*args, **(kwargs or {}))


def _engine(model: nn.Module, example: torch.Tensor, threads: int) -> Engine:
    return compile_(copy.deepcopy(model).eval(), example, threads=threads)


def _profiled(engines: list[Engine]) -> list[float]:
    """Milliseconds of a run of each: the least of medians taken in turns, as what disturbs a machine only adds."""
    turns = [[engine.profile(rounds=_ROUNDS).ms for engine in engines] for _ in range(_PROFILES)]
    return [min(times) for times in zip(*turns, strict=True)]
