"""A network as costs see it: every product knows its weight, and holes can be laid in without exporting it again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from monstera.compiler.assembly import compile_graphs, lower_by
from monstera.compiler.frontends import Imported, Traced, trace_torch
from monstera.compiler.ir import Graph, Node
from monstera.compiler.passes import PASSES, drop_dead_channels
from monstera.compiler.program import Program
from monstera.compiler.targets import Target
from monstera.compiler.tuning import Table
from monstera.measure.answers import Inputs, arguments
from monstera.runtime import Engine
from monstera.search.costs.signature import Signature, fingerprint, use_of
from monstera.sparsity import Plan, WeightView, projected_copy, weight_views

# What dead channels save in other layers is not put down to the holes of this one: it is gone where those have others.
_OWN_PASSES = tuple(rewrite for rewrite in PASSES if rewrite is not drop_dead_channels)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A network without holes, and what it is called with.

    Attributes:
        model: a copy of the caller's model; where that has zeros, it has small numbers.
        traced: the model, once for all holes.
        views: the weights that plans can name and that a call uses, in the order in which their layers run.
        graph: optimised; the layer of every product is the name of its weight.
        signatures: what decides the time of each weight's layers.
    """

    model: nn.Module
    traced: Traced
    example: Inputs
    threads: int
    views: Mapping[str, WeightView]
    graph: Graph
    signatures: Mapping[str, Signature]

    @property
    def fingerprint(self) -> str:
        """The name of what is no layer, for tables."""
        return fingerprint(self.graph, self.threads)

    def imported(self, plan: Plan, *, own: bool = False) -> Imported:
        """The optimised graph with holes as in the plan, chosen by magnitude.

        Args:
            own: leave dead channels in, so that holes of a layer change the time of no other.

        Raises:
            PlanError: the plan does not fit the model.
        """
        imported = _labelled(self.traced, projected_copy(self.model, plan))
        return replace(imported, graph=_optimized(imported.graph, own=own))

    def engine(self, imported: Imported, target: Target) -> Engine:
        """Compile what `imported` gave, by the model of costs.

        Raises:
            UnsupportedError, BuildError: as for `monstera.compile`.
        """
        return compile_graphs([imported], target, self.threads, Table())

    def program(self, imported: Imported, target: Target) -> Program:
        """The same as a program before it is C.

        Raises:
            UnsupportedError: as for `monstera.compile`.
        """
        return lower_by(imported, target, self.threads, Table(), {}).program


def subject_of(model: nn.Module, example: Inputs, threads: int = 1) -> Subject:
    """Look at a model, which is not modified: it is copied, its zeros filled.

    Raises:
        ValueError, UnsupportedError: as for `monstera.compile`.
    """
    dense = without_zeros(model)
    views = weight_views(dense)
    args, kwargs = arguments(example)
    traced = trace_torch(dense, args, kwargs)
    graph = _optimized(_labelled(traced, dense).graph, own=True)
    uses: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.layer in views and isinstance(getattr(node.op, "weight", None), str):
            uses.setdefault(node.layer, []).append(node)
    signatures = {name: _signature(views[name], nodes, graph, threads) for name, nodes in uses.items()}
    return Subject(dense, traced, example, threads, {name: views[name] for name in uses}, graph, signatures)


def without_zeros(model: nn.Module) -> nn.Module:
    """Copy a model and fill its holes with small numbers, so that it is measured dense whatever it has already."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for view in weight_views(model).values():
            zeros = view.weight == 0
            if zeros.any():
                scale = float(view.weight.abs().max()) or 1.0
                view.weight.masked_fill_(zeros, 1e-3 * scale)
    return model


def _optimized(graph: Graph, *, own: bool) -> Graph:
    for rewrite in _OWN_PASSES if own else PASSES:
        graph = rewrite(graph)
    return graph


def _signature(view: WeightView, nodes: Sequence[Node], graph: Graph, threads: int) -> Signature:
    layout = view.layout
    uses = tuple(use_of(node, graph) for node in nodes)
    return Signature(tuple(view.weight.shape), layout.parts, layout.groups, layout.transposed, uses, threads)


def _labelled(traced: Traced, model: nn.Module) -> Imported:
    """The network with the weights of a copy, as the compiler imports it, its products named as their weights.

    A weight that the frontend had to turn or cut is found by the module that it lies in, if that has no other.
    """
    imported = traced.imported(model)
    views = weight_views(model)
    lone: dict[str, list[str]] = {}
    for name in views:
        lone.setdefault(name.rpartition(".")[0], []).append(name)

    def labelled(node: Node) -> Node:
        key: Any = getattr(node.op, "weight", None)
        if key in views:
            return replace(node, layer=key)
        inside = lone.get(node.layer, []) if isinstance(key, str) else []
        return replace(node, layer=inside[0]) if len(inside) == 1 else node

    graph = imported.graph
    return replace(imported, graph=replace(graph, nodes=tuple(map(labelled, graph.nodes))))
