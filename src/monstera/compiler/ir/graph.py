"""The graph: values in the order they are computed, each defined by one operator. Passes map a graph to a new graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from monstera.compiler.ir.ops import Op

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One value: `name` is unique in the graph, `layer` is what people call it (the module's path), all fp32."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: Shape
    layer: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """A pure function. `inputs` are (name, shape); `nodes` stand in topological order; `outputs` name values.

    `params` maps keys to fp32 arrays that nobody may write to; several nodes may share one key.

    Raises:
        ValueError: a name is defined twice, or used before it is defined, or a parameter is missing.
    """

    inputs: tuple[tuple[str, Shape], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    params: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        known: set[str] = set()
        for name in [n for n, _ in self.inputs] + [n.name for n in self.nodes]:
            if name in known:
                raise ValueError(f"the graph defines {name!r} twice")
            known.add(name)
        seen = {n for n, _ in self.inputs}
        for node in self.nodes:
            missing = [i for i in node.inputs if i not in seen]
            if missing:
                raise ValueError(f"{node.name!r} uses {missing} before they are defined")
            absent = [k for k in param_keys(node.op) if k not in self.params]
            if absent:
                raise ValueError(f"{node.name!r} needs the parameters {absent}, which the graph does not hold")
            seen.add(node.name)
        if unknown := [o for o in self.outputs if o not in seen]:
            raise ValueError(f"outputs {unknown} are not values of the graph")

    def shapes(self) -> dict[str, Shape]:
        """The shape of every value."""
        return dict(self.inputs) | {n.name: n.shape for n in self.nodes}

    def users(self) -> dict[str, list[Node]]:
        """For every value the nodes that read it, in order (a node that reads it twice appears twice)."""
        table: dict[str, list[Node]] = {name: [] for name in self.shapes()}
        for node in self.nodes:
            for i in node.inputs:
                table[i].append(node)
        return table

    def with_nodes(self, nodes: Iterable[Node], outputs: Iterable[str] | None = None, **params: np.ndarray) -> Graph:
        """The same graph with other nodes (and outputs), plus new parameters."""
        outputs = self.outputs if outputs is None else tuple(outputs)
        return replace(self, nodes=tuple(nodes), outputs=outputs, params={**self.params, **params})


_PARAM_FIELDS = ("weight", "bias", "scale", "shift", "value", "factor")


def param_keys(op: Op) -> list[str]:
    """The parameter keys an operator names, in the order of its fields."""
    keys = (getattr(op, field, None) for field in _PARAM_FIELDS)
    return [k for k in keys if isinstance(k, str)]
