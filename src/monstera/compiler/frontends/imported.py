"""What a frontend gives: a graph, the caller's names for its inputs, the structure of its outputs."""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from typing import Any, TypeAlias

from monstera.compiler.ir import Graph
from monstera.runtime import InputSpec as Input

OutputTree: TypeAlias = dict[str, Any]
"""Plain JSON. {"kind": "value", "index": i} is `graph.outputs[i]`; {"kind": "constant", "value": v} a None, bool,
number or string; "tuple" and "list" have "items", "dict" has "keys" and "items", "namedtuple" and "record" have "name"
as well. A record is a dict whose values are attributes, too, and can be counted through like a tuple."""


class UnsupportedError(ValueError):
    """The model computes something that the IR cannot say; the message lists all of it."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A graph and its calling convention. `inputs` stand in the order of `graph.inputs`, positional ones first.

    Raises:
        ValueError: inputs or output tree do not fit the graph.
    """

    graph: Graph
    inputs: tuple[Input, ...]
    output: OutputTree

    def __post_init__(self) -> None:
        if tuple((i.name, i.shape) for i in self.inputs) != self.graph.inputs:
            raise ValueError(f"the signature {self.inputs} does not fit the graph's inputs {self.graph.inputs}")
        used = set(value_indices(self.output))
        if used != set(range(len(self.graph.outputs))):
            raise ValueError(f"the output tree uses {sorted(used)} of the graph's {len(self.graph.outputs)} outputs")


def value_indices(tree: OutputTree) -> list[int]:
    """The indices of the outputs that an output tree names, in order."""
    if tree["kind"] == "value":
        return [tree["index"]]
    return [index for item in tree.get("items", ()) for index in value_indices(item)]


def describe_output(structure: Any) -> OutputTree:
    """Turn a Python structure whose tensors are replaced by `OutputIndex` into an output tree.

    Raises:
        UnsupportedError: a container or a value that JSON cannot say.
    """
    if isinstance(structure, OutputIndex):
        return {"kind": "value", "index": structure.index}
    if structure is None or isinstance(structure, bool | int | float | str):
        return {"kind": "constant", "value": structure}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        keys, name = list(structure._fields), type(structure).__name__  # pyright: ignore[reportAttributeAccessIssue]
        return {"kind": "namedtuple", "name": name, "keys": keys, "items": [describe_output(i) for i in structure]}
    if isinstance(structure, tuple | list):
        kind = "tuple" if isinstance(structure, tuple) else "list"
        return {"kind": kind, "items": [describe_output(i) for i in structure]}
    if isinstance(structure, dict) and all(isinstance(k, str | int) for k in structure):
        plain = {"kind": "dict", "keys": [*structure], "items": [describe_output(i) for i in structure.values()]}
        if not is_dataclass(structure):
            return plain
        return {**plain, "kind": "record", "name": type(structure).__name__}
    raise UnsupportedError(
        f"the model returns a {type(structure).__name__}: return tensors, or tuples, lists and dicts of them"
    )


@dataclass(frozen=True, slots=True)
class OutputIndex:
    """Stands for a tensor in a structure that `describe_output` reads."""

    index: int
