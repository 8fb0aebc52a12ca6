"""What a search that is kept was begun with, against what is asked for now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name every field that differs, nested ones by dotted names, with both values; empty where none does.

    Args:
        then, now: plain values, as JSON gives them back.

    Example:
        >>> differences({"seed": 0, "search": {"pool": 200}}, {"seed": 0, "search": {"pool": 100}})
        'search.pool was 200, now 100'
    """
    return "; ".join(_told(then, now, ""))


def _told(then: Mapping[str, Any], now: Mapping[str, Any], above: str) -> Iterator[str]:
    for name in dict.fromkeys([*then, *now]):
        one, other = then.get(name), now.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _told(one, other, f"{above}{name}.")
        elif one != other:
            yield f"{above}{name} was {one!r}, now {other!r}"
