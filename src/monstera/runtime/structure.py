"""The model's own output structure, built anew around the tensors of a run."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any


class Record(dict[str, Any]):
    """A dict whose values are attributes, too, and can be counted through like a tuple: `r["a"]`, `r.a` and `r[0]`.

    What a model that answers with a dataclass of the transformers package becomes.
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"the model's answer has no {name!r}; it has {', '.join(self)}")

    def __getitem__(self, key: Any) -> Any:
        return self.to_tuple()[key] if isinstance(key, int | slice) else super().__getitem__(key)

    def to_tuple(self) -> tuple[Any, ...]:
        """All values in order."""
        return tuple(self.values())


def build_output(tree: Mapping[str, Any], outputs: Sequence[Any]) -> Any:
    """Put the outputs of a run into the structure that the manifest describes."""
    match tree["kind"]:
        case "value":
            return outputs[tree["index"]]
        case "constant":
            return tree["value"]
    items = [build_output(item, outputs) for item in tree["items"]]
    match tree["kind"]:
        case "tuple":
            return tuple(items)
        case "list":
            return items
        case "dict":
            return dict(zip(tree["keys"], items, strict=True))
        case "record":
            return Record(zip(tree["keys"], items, strict=True))
        case "namedtuple":
            return _named_tuple(tree["name"], tuple(tree["keys"]))(*items)
    raise AssertionError(f"the manifest was checked, yet it has {tree['kind']!r}")


@cache
def _named_tuple(name: str, keys: tuple[str, ...]) -> type[tuple[Any, ...]]:
    """One class for the answers of all runs, so that they are of one type and none waits for its making."""
    return namedtuple(name, keys)
