"""How like two schemes are: their networks as labelled graphs, compared by Weisfeiler-Lehman subtrees."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from monstera.search.npas.scheme import SKIP, LayerChoice, Scheme
from monstera.search.npas.space import SchemeSpace
from monstera.search.npas.stage import Stage

# For each depth, how often each label is there.
Counts: TypeAlias = tuple[Counter[str], ...]


@dataclass(frozen=True, slots=True)
class LabelledGraph:
    """Nodes by number, each with its label, and edges along which data flow, `(from, to)`.

    Attributes:
        labels: of the nodes.
        edges: each once, sorted.
        traits: for each node coarser labels, counted beside those of depth 0.

    Raises:
        ValueError: an edge between nodes that are not there, or traits of another number of nodes.
    """

    labels: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    traits: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(sorted(set(self.edges))))
        if wrong := [edge for edge in self.edges if not all(0 <= node < len(self.labels) for node in edge)]:
            raise ValueError(f"edges {wrong} between nodes that are not there; the graph has {len(self.labels)}")
        if self.traits and len(self.traits) != len(self.labels):
            raise ValueError(f"expected traits of {len(self.labels)} nodes, got {len(self.traits)}")


def scheme_graph(space: SchemeSpace, scheme: Scheme) -> LabelledGraph:
    """The network of a scheme as a graph: one node for each layer, the input, the output, and each addition.

    A layer that is skipped has no node: what reads it reads what it would read. A shortcut around nothing but skipped
    layers adds a thing to itself and is left out, as such a block is.

    Raises:
        SchemeError: the scheme is not one of the space.
    """
    space.check(scheme)
    labels, edges = ["input"], []
    traits: list[tuple[str, ...]] = [()]
    ends = {last: first for first, last in space.shortcuts}
    value, entering = 0, []
    for number, (stage, choice) in enumerate(zip(space.stages, scheme.choices, strict=True)):
        entering.append(value)
        if choice.filter != SKIP:
            edges.append((value, len(labels)))
            value = len(labels)
            labels.append(_label(stage, choice))
            traits.append(_traits(stage, choice))
        if number in ends and (start := entering[ends[number]]) != value:
            edges += [(value, len(labels)), (start, len(labels))]
            value = len(labels)
            labels.append(f"add|{stage.out_channels}")
            traits.append(())
    edges.append((value, len(labels)))
    return LabelledGraph((*labels, "output"), tuple(edges), (*traits, ()))


def _label(stage: Stage, choice: LayerChoice) -> str:
    return f"{choice.filter}|{choice.pattern or 'dense'}|{choice.density:.6g}|{stage.shape}"


def _traits(stage: Stage, choice: LayerChoice) -> tuple[str, ...]:
    """What it has in common with choices that differ in the rest; of densities, with every one that is not smaller."""
    pruned = [f"at most {density:.6g}|{stage.shape}" for density in stage.densities if choice.density <= density]
    return (f"{choice.filter}|{stage.shape}", f"{choice.pattern or 'dense'}|{stage.shape}", *pruned)


def subtree_counts(graph: LabelledGraph, depth: int) -> Counts:
    """How often each label is there at depth 0 to `depth`.

    The label of a node at one depth is a hash of its own label and the sorted labels of what it reads, at the depth
    before. Hashes are the same in every process.

    Source: N. Shervashidze et al., "Weisfeiler-Lehman Graph Kernels", JMLR 12, 2011; edges taken with their direction.
    """
    read: list[list[int]] = [[] for _ in graph.labels]
    for source, target in graph.edges:
        read[target].append(source)
    labels, made = list(graph.labels), [Counter(graph.labels) + Counter(t for own in graph.traits for t in own)]
    for _ in range(depth):
        labels = [_hashed(label, sorted(labels[n] for n in own)) for label, own in zip(labels, read, strict=True)]
        made.append(Counter(labels))
    return tuple(made)


def _hashed(label: str, read: list[str]) -> str:
    return hashlib.sha256(json.dumps([label, read]).encode()).hexdigest()[:32]


def kernels(first: Sequence[Counts], second: Sequence[Counts], weights: Sequence[float]) -> np.ndarray:
    """The kernel of every pair for every greatest depth: float64 `[depths, first, second]`, from 0 to 1.

    Entry H is `k / sqrt(k(G, G) k(G', G'))` with `k = sum over h = 0..H of weights[h] <counts_h(G), counts_h(G')>`.

    Raises:
        ValueError: a negative weight, a first weight of 0, or counts of another number of depths.
    """
    if not weights or weights[0] <= 0 or min(weights) < 0:
        raise ValueError(f"expected a positive weight for depth 0 and none below 0 for the others, got {list(weights)}")
    if wrong := {len(counts) for counts in (*first, *second)} - {len(weights)}:
        raise ValueError(f"expected counts of {len(weights)} depths, one for each weight, got {sorted(wrong)}")
    products, squares_first, squares_second = [], [], []
    for depth, weight in enumerate(weights):
        columns = {label: n for n, label in enumerate(sorted({k for c in (*first, *second) for k in c[depth]}))}
        a, b = _matrix(first, depth, columns), _matrix(second, depth, columns)
        products.append(weight * (a @ b.T))
        squares_first.append(weight * (a * a).sum(1))
        squares_second.append(weight * (b * b).sum(1))
    both = (np.cumsum(squares, axis=0) for squares in (squares_first, squares_second))
    of_first, of_second = (np.sqrt(squares) for squares in both)
    return np.cumsum(products, axis=0) / (of_first[:, :, None] * of_second[:, None, :])


def _matrix(counts: Sequence[Counts], depth: int, columns: dict[str, int]) -> np.ndarray:
    made = np.zeros((len(counts), len(columns)))
    for row, of in enumerate(counts):
        for label, number in of[depth].items():
            made[row, columns[label]] = number
    return made
