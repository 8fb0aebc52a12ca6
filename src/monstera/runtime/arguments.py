"""The arguments of a call, brought to the inputs that they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monstera.runtime.manifest import InputSpec


def bound(
    inputs: Sequence[InputSpec], args: Sequence[Any], kwargs: Mapping[str, Any], takes: Callable[[], str]
) -> list[Any]:
    """Return the values of a call in the order of the inputs, as a function of these parameters would see them.

    Args:
        inputs: those that need not be keywords come first.
        takes: says what the callee takes, for the end of an error message; called for these alone.

    Raises:
        TypeError: a value is missing, unknown or given twice, or there are too many.
    """
    positional = [spec.name for spec in inputs if spec.positional]
    if len(args) > len(positional):
        names = ", ".join(positional)
        raise TypeError(f"expected at most {len(positional)} positional inputs ({names}), got {len(args)}; {takes()}")
    values = dict(zip(positional, args, strict=False))
    if twice := sorted(values.keys() & kwargs.keys()):
        raise TypeError(f"input {twice[0]!r} was given twice; {takes()}")
    values |= kwargs
    names = [spec.name for spec in inputs]
    if unknown := sorted(values.keys() - {*names}):
        raise TypeError(f"unknown input {unknown[0]!r}; {takes()}")
    if missing := [name for name in names if name not in values]:
        raise TypeError(f"missing input {missing[0]!r}; {takes()}")
    return [values[name] for name in names]
