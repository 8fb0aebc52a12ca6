"""The optimised graphs as two parts of an artifact: nodes as JSON, parameters as safetensors without their zeros.

They are what an artifact can be compiled from anew: one for each program, with their parameters in common. Reading
trusts nothing: fields are checked against the operators' own annotations, and the graphs by the rules of `ir/check.py`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

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
    """A parameter: the table that is called by the number `table` holds its elements, row by row.

    Of a `sparse` one only those that are not zero (all bits); the table `i.bits`, i being the number, has a bit for
    each element, the lowest bit of a byte first, which says whether it is there. Equal parameters are stored once.
    """

    key: str
    shape: Shape
    sparse: bool
    table: int


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """The graph of one program."""

    inputs: tuple[InputRecord, ...]
    nodes: tuple[NodeRecord, ...]
    outputs: tuple[str, ...]
    params: tuple[ParamRecord, ...]


Known: TypeAlias = dict[tuple[str, bytes], tuple[int, bool]]
"""By type and content of a parameter, its number and whether it is packed as a sparse one."""


@dataclass(frozen=True, slots=True)
class GraphsRecord:
    """The whole of `graph.json`: a graph for each program."""

    graphs: tuple[GraphRecord, ...]


def pack_graphs(graphs: Sequence[Graph]) -> tuple[bytes, np.ndarray]:
    """Return graphs as JSON, and the parameters that their nodes name as one safetensors file (uint8)."""
    tables: dict[str, np.ndarray] = {}
    known: Known = {}
    record = GraphsRecord(tuple(_record(graph, tables, known) for graph in graphs))
    return canonical_json(encoded(record)), pack_tensors(tables)


def read_graphs(text: bytes, params: np.ndarray) -> tuple[Graph, ...]:
    """Return the graphs that `pack_graphs` packed, checked.

    Raises:
        GraphError: they are none, their parameters are not those they speak of, or shapes do not follow from each
            other.
    """
    try:
        record: GraphsRecord = decoded(GraphsRecord, parse_json(text), "graph")
        tables = tables_of(params)
        arrays = _arrays([p for graph in record.graphs for p in graph.params], tables)
        graphs = tuple(_graph(each, arrays) for each in record.graphs)
    except (ValueError, TensorFileError) as error:
        raise GraphError(f"the graph is damaged: {error}") from error
    for graph in graphs:
        check_graph(graph)
    return graphs


def _record(graph: Graph, tables: dict[str, np.ndarray], known: Known) -> GraphRecord:
    """The record of a graph; parameters that are not `known` by type and content are added to the tables."""
    params = []
    for key in dict.fromkeys(key for node in graph.nodes for key in param_keys(node.op)):
        array = np.asarray(graph.params[key], order="C")
        content = (array.dtype.name, hashlib.sha256(array.reshape(-1).data).digest())
        if content not in known:
            sparse, own = _packed(array, str(len(known)))
            known[content] = (len(known), sparse)
            tables |= own
        number, sparse = known[content]
        params.append(ParamRecord(key, array.shape, sparse, number))
    nodes = (NodeRecord(n.name, type(n.op).__name__, encoded(n.op), n.inputs, n.shape, n.layer) for n in graph.nodes)
    inputs = tuple(InputRecord(name, shape) for name, shape in graph.inputs)
    return GraphRecord(inputs, tuple(nodes), graph.outputs, tuple(params))


def _arrays(params: Sequence[ParamRecord], tables: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """What lies in the tables, each unpacked once and in one way: a small file must not ask for much memory."""
    arrays: dict[int, np.ndarray] = {}
    known: dict[int, tuple[int, bool]] = {}
    for p in params:
        if p.table not in arrays:
            arrays[p.table] = _unpacked(p, tables)
        if known.setdefault(p.table, (math.prod(p.shape), p.sparse)) != (math.prod(p.shape), p.sparse):
            raise GraphError(f"{p.key!r:.60} and another parameter take the table {p.table} in two ways")
    if tables:
        raise GraphError(f"the graph does not speak of each parameter; left over: {sorted(tables)[:8]}")
    return arrays


def _graph(record: GraphRecord, arrays: Mapping[int, np.ndarray]) -> Graph:
    params = {p.key: arrays[p.table].reshape(p.shape) for p in record.params}
    if len(params) != len(record.params):
        raise GraphError("the graph speaks of a parameter twice")
    inputs = tuple((i.name, i.shape) for i in record.inputs)
    return Graph(inputs, tuple(map(_node, record.nodes)), record.outputs, params)


def _node(record: NodeRecord) -> Node:
    if record.op not in _OPS:
        raise GraphError(f"there is no operator {record.op!r:.40}; known: {', '.join(_OPS)}")
    op = decoded(_OPS[record.op], record.fields, f"node {record.name!r:.40}")
    return Node(record.name, op, record.inputs, record.shape, record.layer)


def _packed(array: np.ndarray, name: str) -> tuple[bool, dict[str, np.ndarray]]:
    """Whether a parameter is stored without its zeros, and its tables."""
    flat = array.reshape(-1)
    there = flat.view(f"u{flat.itemsize}") != 0
    values = flat[there]
    sparse = values.nbytes + -(-flat.size // 8) < flat.nbytes
    tables = {name: values, f"{name}.bits": np.packbits(there, bitorder="little")} if sparse else {name: flat}
    return sparse, tables


def _unpacked(record: ParamRecord, tables: dict[str, np.ndarray]) -> np.ndarray:
    """The elements of a parameter; its tables are taken out of `tables`."""
    size, name = math.prod(record.shape), str(record.table)
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
        return values[:size]
    array = np.zeros(size, values.dtype)
    array[there] = values[:stored]
    return array
