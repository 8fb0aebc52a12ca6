"""Strict JSON for frozen dataclasses: what `encoded` gives is read back, and nothing else is.

No duplicate or unknown keys, nothing missing, no number where a word belongs: the text may come from anybody.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

# Whatever counts bytes or elements fits in here, and so do sums and products of two small ones in C.
LARGEST = 2**48
# Deeper than an output tree, whose every level is an object in a list, and far from where Python's recursion ends.
DEEPEST = 200


def parse_json(text: bytes) -> Any:
    """Parse UTF-8 JSON.

    Raises:
        ValueError: it is not JSON, nests more than `DEEPEST` deep, or an object has a key twice.
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError(f"it nests more than {DEEPEST} deep") from error
    _check_depth(value)
    return value


def canonical_json(value: Any) -> bytes:
    """Return plain values as JSON with sorted keys: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode()


def encoded(value: Any) -> Any:
    """Return a dataclass as plain JSON values; numbers that JSON lacks become the words "inf", "-inf" and "nan"."""
    if is_dataclass(value):
        return {f.name: encoded(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    return value


def decoded(hint: Any, value: Any, where: str) -> Any:
    """Return a plain value as what a type annotation says; `where` names it in errors.

    Raises:
        ValueError: it is something else.
        TypeError: the annotation is none that JSON can say.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _record(hint, value, where)
    if origin in (Union, types.UnionType):
        return _either(arguments, value, where)
    if origin is Literal:
        return _checked(type(value) in {type(a) for a in arguments} and value in arguments, value, where, arguments)
    if origin is tuple and arguments[1:] == (...,):
        _checked(isinstance(value, list), value, where, "a list")
        return tuple(decoded(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping and arguments[0] is str:
        _checked(isinstance(value, dict), value, where, "an object")
        return {key: decoded(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return _checked(whole and abs(value) <= LARGEST, value, where, "a whole number, not too large")
    if hint is float:
        return _number(value, where)
    if hint in (str, bool, types.NoneType):
        return _checked(isinstance(value, hint), value, where, hint.__name__)
    raise TypeError(f"{where}: strict JSON does not know the annotation {hint!r}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, str):
        return float(_checked(value in ("inf", "-inf", "nan"), value, where, "a number"))
    number = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
    return float(_checked(number and math.isfinite(value) and abs(value) < 1e300, value, where, "a number"))


def _either(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    reasons = []
    for hint in hints:
        try:
            return decoded(hint, value, where)
        except ValueError as reason:
            reasons.append(str(reason))
    raise ValueError("; or ".join(reasons))


def _record(hint: Any, value: Any, where: str) -> Any:
    hints = _hints(hint)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        found = sorted(value) if isinstance(value, dict) else _shown(value)
        raise ValueError(f"{where}: expected an object with {sorted(hints)}, got {found}")
    return hint(**{name: decoded(of, value[name], f"{where}.{name}") for name, of in hints.items()})


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _checked(holds: bool, value: Any, where: str, expected: Any) -> Any:
    if not holds:
        raise ValueError(f"{where} is {_shown(value)}, expected {expected}")
    return value


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 2**64 else "a huge number"
    return text if len(text) < 80 else f"{text[:77]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"an object has a key twice among {sorted(key for key, _ in pairs)[:20]}")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        holders = [holder for holder in level if isinstance(holder, dict | list)]
        if not holders:
            return
        level = [item for holder in holders for item in (holder.values() if isinstance(holder, dict) else holder)]
    raise ValueError(f"it nests more than {DEEPEST} deep")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
