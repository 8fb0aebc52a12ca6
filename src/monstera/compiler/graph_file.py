"""The optimised graph as two parts of an artifact: nodes as JSON, parameters as safetensors without their zeros.

It is what an artifact can be compiled from anew. Reading trusts nothing: fields are checked against the operators' own
annotations, and the graph by the rules of `ir/check.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from monstera.compiler.ir import Graph, Node, Op, Shape, param_keys
from monstera.compiler.ir.check import GraphError, check_graph
from monstera.runtime.memory import LINE
from monstera.runtime.strict_json import canonical_json, decoded, encoded, parse_json
from monstera.runtime.tensors import TensorFileError, pack_tensors, tables_of

_OPS = {op.__name__: op for op in get_args(Op)}


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node: `op` names its operator, `fields` are the operator's."""

    name: str
    op: str
    fields: Mapping[str, Any]
    inputs: tuple[str, ...]
    shape: Shape
    layer: str


@dataclass(frozen=True, slots=True)
class InputRecord:
    """An input of the graph."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class ParamRecord:
    """A parameter, the i-th of the file: the table `i` holds its elements, row by row.

    Of a `sparse` one only those that are not zero (all bits); the table `i.bits` has a bit for each element, the lowest
    bit of a byte first, which says whether it is there.
    """

    key: str
    shape: Shape
    sparse: bool


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """The whole of `graph.json`."""

    inputs: tuple[InputRecord, ...]
    nodes: tuple[NodeRecord, ...]
    outputs: tuple[str, ...]
    params: tuple[ParamRecord, ...]


def pack_graph(graph: Graph) -> tuple[bytes, np.ndarray]:
    """Return a graph as JSON and the parameters that its nodes name as a safetensors file (uint8)."""
    records, tables = [], {}
    for key in dict.fromkeys(key for node in graph.nodes for key in param_keys(node.op)):
        record, own = _packed(key, np.asarray(graph.params[key], order="C"), str(len(records)))
        records.append(record)
        tables |= own
    nodes = (NodeRecord(n.name, type(n.op).__name__, encoded(n.op), n.inputs, n.shape, n.layer) for n in graph.nodes)
    inputs = tuple(InputRecord(name, shape) for name, shape in graph.inputs)
    record = GraphRecord(inputs, tuple(nodes), graph.outputs, tuple(records))
    return canonical_json(encoded(record)), pack_tensors(tables)


def read_graph(text: bytes, params: np.ndarray) -> Graph:
    """Return the graph that `pack_graph` packed, checked.

    Raises:
        GraphError: it is none, its parameters are not those it speaks of, or its shapes do not follow from each other.
    """
    try:
        record: GraphRecord = decoded(GraphRecord, parse_json(text), "graph")
        tables = tables_of(params)
        arrays = {p.key: _unpacked(p, str(i), tables) for i, p in enumerate(record.params)}
        if len(arrays) != len(record.params) or tables:
            raise GraphError(f"the graph does not speak of each parameter once; left over: {sorted(tables)[:8]}")
        inputs = tuple((i.name, i.shape) for i in record.inputs)
        graph = Graph(inputs, tuple(map(_node, record.nodes)), record.outputs, arrays)
    except (ValueError, TensorFileError) as error:
        raise GraphError(f"the graph is damaged: {error}") from error
    check_graph(graph)
    return graph


def _node(record: NodeRecord) -> Node:
    if record.op not in _OPS:
        raise GraphError(f"there is no operator {record.op!r:.40}; known: {', '.join(_OPS)}")
    op = decoded(_OPS[record.op], record.fields, f"node {record.name!r:.40}")
    return Node(record.name, op, record.inputs, record.shape, record.layer)


def _packed(key: str, array: np.ndarray, name: str) -> tuple[ParamRecord, dict[str, np.ndarray]]:
    flat = array.reshape(-1)
    there = flat.view(f"u{flat.itemsize}") != 0
    values = flat[there]
    sparse = values.nbytes + -(-flat.size // 8) < flat.nbytes
    tables = {name: values, f"{name}.bits": np.packbits(there, bitorder="little")} if sparse else {name: flat}
    return ParamRecord(key, array.shape, sparse), tables


def _unpacked(record: ParamRecord, name: str, tables: dict[str, np.ndarray]) -> np.ndarray:
    """The parameter; its tables are taken out of `tables`."""
    size = math.prod(record.shape)
    try:
        values = tables.pop(name)
        bits = tables.pop(f"{name}.bits") if record.sparse else None
    except KeyError as missing:
        raise GraphError(f"the table {missing} of {record.key!r:.60} is missing") from None
    if min(record.shape, default=0) < 0 or (bits is not None and (bits.dtype != np.uint8 or size > 8 * bits.size)):
        raise GraphError(f"the bits of {record.key!r:.60} are too few for the shape {list(record.shape)[:20]}")
    there = None if bits is None else np.unpackbits(bits, count=size, bitorder="little").astype(bool)
    stored = size if there is None else int(np.count_nonzero(there))
    # Tables are padded with zeros to whole lines of 64 bytes.
    if stored > values.size or (values.size - stored) * values.itemsize >= LINE:
        raise GraphError(f"{record.key!r:.60} has {values.size} elements stored, expected {stored}")
    if there is None:
        return values[:size].reshape(record.shape)
    array = np.zeros(size, values.dtype)
    array[there] = values[:stored]
    return array.reshape(record.shape)
