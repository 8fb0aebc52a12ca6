"""`compile`: from a torch module or an ONNX model to an engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias, get_args, overload

import torch
from torch.nn.utils.rnn import PackedSequence

from monstera.compiler.assembly import compile_graphs, lower_by
from monstera.compiler.frontends import Imported, Input, OnnxModel, from_onnx, from_torch, is_onnx, split_torch
from monstera.compiler.hybrid import HybridEngine
from monstera.compiler.lowering.choice import Cut
from monstera.compiler.passes import optimize
from monstera.compiler.targets import Target, platform_of, target_named
from monstera.compiler.tuning import EFFORTS, Effort, Table, read_tuning, tune_layers
from monstera.compiler.undeclared import CompiledAnew
from monstera.runtime import Engine
from monstera.runtime.machine import shortfall
from monstera.runtime.manifest import signature

Undeclared: TypeAlias = Literal["refuse", "compile"]


@overload
def compile(  # noqa: A001
    model: torch.nn.Module | OnnxModel,
    example: Any = None,
    *,
    also: Sequence[Any] = (),
    undeclared: Undeclared = "refuse",
    threads: int = 1,
    target: str = "native",
    tune: Effort = "none",
    tuning: Table | str | os.PathLike[str] | None = None,
    fallback: None = None,
) -> Engine: ...


@overload
def compile(  # noqa: A001
    model: torch.nn.Module | OnnxModel,
    example: Any = None,
    *,
    also: Sequence[Any] = (),
    undeclared: Undeclared = "refuse",
    threads: int = 1,
    target: str = "native",
    tune: Effort = "none",
    tuning: Table | str | os.PathLike[str] | None = None,
    fallback: Literal["torch"],
) -> Engine | HybridEngine: ...


def compile(  # noqa: A001
    model: torch.nn.Module | OnnxModel,
    example: Any = None,
    *,
    also: Sequence[Any] = (),
    undeclared: Undeclared = "refuse",
    threads: int = 1,
    target: str = "native",
    tune: Effort = "none",
    tuning: Table | str | os.PathLike[str] | None = None,
    fallback: Literal["torch"] | None = None,
) -> Engine | HybridEngine:
    """Compile a network for this machine or another. Holes are read off its weights, whoever made them.

    An engine that cannot run here (`engine.runs_here`) can be saved, and says what it needs when it is called.

    Args:
        model: a torch module in eval mode, fp32, on the CPU or not; or an ONNX model, as the path of its file or as
            `onnx.ModelProto`. It is not modified.
        example: what it is called with: a tensor, a tuple of tensors (positional) or a dict (keyword arguments).
            Fixes shapes and dtypes (fp32, int64, int32 or bool); the values do not matter. May be left out for an ONNX
            model that fixes them itself.
        also: further examples, each like `example` but of other shapes. Their programs share one library and one copy
            of the weights, cut into blocks as suits `example`, which should be the one whose speed counts most.
        undeclared: what a call with other shapes does. "refuse" raises an error that lists those there are; "compile"
            compiles then and there, says so in the log, and saves none of it. The engine then holds on to the model,
            which must not change. Engines that are loaded from a file refuse.
        threads: how many threads a run uses.
        target: the instruction set: "avx512", "avx2", "neon" (64-bit Arm), or "native" for the widest of this machine.
            Another architecture than this machine's is built for Linux, by the compiler of the ziglang wheel.
        tune: "none" chooses how each layer runs by a model of its cost, "fast" times the most promising ways, "full"
            searches for better ones for minutes. What was found is kept on this machine and found again.
        tuning: a table of choices (`monstera.read_tuning`), or the path of one; its layers are not timed again.
        fallback: None refuses operators outside the IR. "torch" runs them, and what is not fp32, in torch: the answer
            is then a `HybridEngine`, which lives in this process only; an `Engine` where nothing has to.

    Raises:
        ValueError: training mode; weights that are NaN or not fp32; an input of another type; examples that have the
            same shapes or differ in more; an unknown option; tuning or a fallback for a target that this machine cannot
            run; a fallback for an ONNX model or for several shapes; whatever `from_onnx` refuses.
        FileNotFoundError, ImportError: as for `from_onnx`.
        TypeError: the model is of none of these kinds.
        TableError: `tuning` is the path of something else than a tuning table.
        UnsupportedError: operators outside the IR, all of them listed with the layer they come from.
        BuildError: no C compiler for this target, or its cache cannot be written.
        RuntimeError: the target is "native" and this machine has none of the instruction sets.

    Example:
        >>> import torch, monstera as ms
        >>> engine = ms.compile(torch.nn.Conv2d(3, 8, 3).eval(), torch.zeros(1, 3, 16, 16))
        >>> engine(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 8, 14, 14])
    """
    settings = settings_of(threads, target, tune, tuning)
    _check_undeclared(undeclared)
    if fallback is None:
        engine = build_engine(*_declared(model, example, also), settings=settings)
        return _open_to_others(engine, model, settings) if undeclared == "compile" else engine
    _check_fallback(fallback, settings, one_shape=not also and undeclared == "refuse")
    return _beside_torch(model, example, settings)


def _beside_torch(model: torch.nn.Module | OnnxModel, example: Any, settings: Settings) -> Engine | HybridEngine:
    if is_onnx(model):
        raise ValueError("an ONNX model has no torch to fall back on; compile it without a fallback")
    split = split_torch(_module(model, example), *_call(example))
    if split.imported is not None:
        return build_engine(split.imported, settings=settings)
    return HybridEngine(split, partial(build_engine, settings=settings))


@dataclass(frozen=True, slots=True)
class Settings:
    """How graphs become engines, checked."""

    threads: int
    target: Target
    tune: Effort
    table: Table


def settings_of(
    threads: int = 1,
    target: str = "native",
    tune: Effort = "none",
    tuning: Table | str | os.PathLike[str] | None = None,
) -> Settings:
    """Check arguments of `compile`.

    Raises:
        ValueError, TableError, RuntimeError: as for `compile`.
    """
    if not isinstance(threads, int) or not 1 <= threads <= 64:
        raise ValueError(f"threads must be a whole number from 1 to 64, got {threads!r}")
    if tune not in EFFORTS:
        raise ValueError(f"tune is {tune!r}; expected one of {', '.join(map(repr, EFFORTS))}")
    table = tuning if isinstance(tuning, Table) else Table() if tuning is None else read_tuning(tuning)
    return Settings(threads, target_named(target), tune, table)


def build_engine(imported: Imported, *more: Imported, settings: Settings) -> Engine:
    """Compile what a frontend gives, for one example or several.

    Raises:
        UnsupportedError, BuildError, ValueError: as for `compile`.
    """
    target, threads, table = settings.target, settings.threads, settings.table
    graphs = [replace(each, graph=optimize(each.graph)) for each in (imported, *more)]
    cuts: Mapping[str, Cut] = {}
    for i, each in enumerate(graphs):
        table = tune_layers(each, target, threads, settings.tune, table, cuts)
        if i + 1 < len(graphs) and settings.tune != "none":
            cuts = lower_by(each, target, threads, table, cuts).cuts
    return compile_graphs(graphs, target, threads, table)


def _imported(model: torch.nn.Module | OnnxModel, example: Any) -> Imported:
    if is_onnx(model):
        return from_onnx(model, None if example is None else _shapes(example))
    return from_torch(_module(model, example), *_call(example))


def _open_to_others(engine: Engine, model: torch.nn.Module | OnnxModel, settings: Settings) -> Engine:
    """The engine, which compiles the model anew for shapes that it does not have."""

    def compile_at(args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor]) -> Engine:
        imported = _imported(model, args) if is_onnx(model) else from_torch(_module(model, args), args, kwargs)
        return build_engine(imported, settings=settings)

    return engine.with_undeclared(CompiledAnew(model, engine.manifest.inputs, compile_at))


def _declared(model: torch.nn.Module | OnnxModel, example: Any, also: Sequence[Any]) -> list[Imported]:
    """The network at the shapes of every example, which differ in nothing else."""
    found = [_imported(model, each) for each in (example, *also)]
    first, shapes = found[0].inputs, set()
    for i, inputs in enumerate(each.inputs for each in found):
        if signature(inputs) != signature(first):
            raise ValueError(
                f"also[{i - 1}] has the inputs {_listed(inputs)}, the example {_listed(first)}: "
                "they may differ in their shapes alone"
            )
        own = tuple(x.shape for x in inputs)
        if own in shapes:
            raise ValueError(f"also[{i - 1}] has the shapes of another example: {_listed(inputs)}")
        shapes.add(own)
    return found


def _listed(inputs: Sequence[Input]) -> str:
    return ", ".join(f"{i.name} {list(i.shape)} {i.dtype}" for i in inputs)


def _module(model: Any, example: Any) -> torch.nn.Module:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"cannot compile a {type(model).__name__}; expected a torch module, the path of an ONNX file, or an "
            "onnx.ModelProto"
        )
    if example is None:
        raise ValueError(f"{type(model).__name__} needs an example of its inputs: ms.compile(model, example)")
    return model


def _shapes(example: Any) -> dict[str, tuple[int, ...]] | list[tuple[int, ...]]:
    args, kwargs = _call(example)
    return {name: tuple(x.shape) for name, x in kwargs.items()} or [tuple(x.shape) for x in args]


def _check_undeclared(undeclared: str) -> None:
    if undeclared not in get_args(Undeclared):
        raise ValueError(f"undeclared is {undeclared!r}; expected one of {', '.join(map(repr, get_args(Undeclared)))}")


def _check_fallback(fallback: str, settings: Settings, *, one_shape: bool) -> None:
    if fallback != "torch":
        raise ValueError(f'unknown fallback {fallback!r}; expected "torch", or None to refuse')
    if lack := shortfall(platform_of(settings.target), settings.target.features):
        raise ValueError(f'fallback="torch" runs in this process, and {settings.target.name} cannot: {lack}')
    if not one_shape:
        raise ValueError('fallback="torch" takes one shape; compile an engine for each of several')


def _call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    match example:
        case Mapping():
            return (), dict(example)
        case tuple() | list() if not isinstance(example, PackedSequence):
            return tuple(example), {}
        case _:
            return (example,), {}
