"""What several passes need: values that one node alone reads, renaming, new parameter keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from monstera.compiler.ir import Graph, Node


def private_values(graph: Graph) -> set[str]:
    """The values that are read exactly once and are no output, so that their reader may swallow them."""
    return {name for name, users in graph.users().items() if len(users) == 1 and name not in graph.outputs}


def resolve(name: str, stands_for: Mapping[str, str]) -> str:
    """Follow `old -> new` to the end."""
    while name in stands_for:
        name = stands_for[name]
    return name


def rename(
    graph: Graph,
    nodes: Iterable[Node],
    stands_for: Mapping[str, str],
    params: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """The graph with these nodes (and parameters), in which every use of an old name is a use of the new one."""
    return replace(
        graph,
        nodes=tuple(replace(n, inputs=tuple(resolve(i, stands_for) for i in n.inputs)) for n in nodes),
        outputs=tuple(resolve(o, stands_for) for o in graph.outputs),
        params=graph.params if params is None else params,
    )


def new_key(stem: str, taken: Mapping[str, np.ndarray]) -> str:
    """A parameter key that is not taken: `stem`, or `stem` with primes."""
    while stem in taken:
        stem += "'"
    return stem
