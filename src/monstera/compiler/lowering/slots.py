"""Slots of concatenations: values that are made right where the concatenation has them, and need no copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from monstera.compiler.grids import Layouts
from monstera.compiler.ir import Concat, Constant, Graph, Reshape
from monstera.compiler.layout import Planes

Slots: TypeAlias = Mapping[str, tuple[str, int]]
"""By value: the concatenation that it is a part of, and how many floats into it."""


def concat_slots(graph: Graph, layouts: Layouts) -> Slots:
    """The slots of all values that can be made right inside a concatenation's buffer."""
    made = {n.name for n in graph.nodes if not isinstance(n.op, Constant | Reshape)}
    slots: dict[str, tuple[str, int]] = {}
    for node in graph.nodes:
        whole = layouts.values[node.name]
        if not isinstance(node.op, Concat) or not isinstance(whole, Planes):
            continue
        channel = 0
        for value in node.inputs:
            layout = layouts.values[value]
            alone = node.inputs.count(value) == 1 and value not in slots and value in made
            if alone and isinstance(layout, Planes) and layout.grid == whole.grid:
                slots[value] = (node.name, whole.plane(channel))
            channel += layout.shape[1]
    return slots


def root_of(value: str, slots: Slots) -> tuple[str, int]:
    """The buffer a value is a part of (concatenations nest), and how many floats into it."""
    floats = 0
    while value in slots:
        value, offset = slots[value]
        floats += offset
    return value, floats
