"""Torch operators that take elements by their numbers: rows of tables, known indices, distances between tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch

from monstera.compiler.frontends.aten_movement import cut, taken
from monstera.compiler.frontends.builder import Builder, Call, Value
from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.ir import Embedding, Linear


def _embedding(build: Builder, call: Call) -> Value:
    table = build.known(call["weight"], "the table")
    build.limit(call["indices"], len(table))
    return build.add(Embedding(build.param(table, "weight"), len(call.shape) - 1), (call["indices"],), call.shape)


def _gather(build: Builder, call: Call) -> Value:
    """A table whose rows are all alike is looked up by the last dimension alone."""
    if isinstance(call["index"], torch.Tensor):
        return _by_distance(build, call)
    table = build.known(call["self"], "what is gathered from by computed indices")
    if bool((table == table.reshape(-1)[0]).all()):
        return torch.full(call.shape, table.reshape(-1)[0].item(), dtype=table.dtype)
    rows = table.reshape(-1, table.shape[-1])
    if call["dim"] % table.ndim != table.ndim - 1 or not bool((rows == rows[0]).all()):
        raise UnsupportedError("gathering by computed indices, except along the last dimension of rows that are alike")
    build.limit(call["index"], table.shape[-1])
    op = Embedding(build.param(rows[0][:, None], "table"), len(call.shape))
    found = build.add(op, (call["index"],), (*call.shape, 1))
    return build.reshaped(found, call.shape)


def _by_distance(build: Builder, call: Call) -> Value:
    """What query i and key j take depends on j - i alone, as in attention by relative positions.

    First every distance takes its element, by a matrix with a single one a row. Then row i has to begin i elements
    earlier than row 0, which it does by itself where rows are read as if they were one shorter.
    """
    x, *batch, queries, keys = build.shape(call["self"]), *call.shape
    index = call["index"].reshape(-1, queries, keys)
    distances = queries + keys - 1
    elements = torch.cat([index[0].flip(0)[:, 0], index[0][0, 1:]])
    place = torch.arange(keys) - torch.arange(queries)[:, None] + queries - 1
    if call["dim"] % len(x) != len(x) - 1 or x[:-1] != call.shape[:-1] or not bool((index == elements[place]).all()):
        raise UnsupportedError("gathering by known indices, except along the last dimension by the distance to the row")
    chosen = torch.nn.functional.one_hot(elements, x[-1]).float()
    y = build.add(Linear(build.param(chosen, "distances")), (call["self"],), (*batch, queries, distances))
    if queries == 1:
        return y
    flat = build.reshaped(y, (*batch, queries * distances))
    later = cut(build, flat, {len(batch): range(queries - 1, queries * distances - 1)})
    shorter = build.reshaped(later, (*batch, queries, distances - 1))
    return cut(build, shorter, {len(batch) + 1: range(keys)})


def _index(build: Builder, call: Call) -> Value:
    """Known indices that arrange all elements anew in their order, or take rows of one dimension."""
    x, indices = build.shape(call["self"]), call["indices"]
    known = [i if i is None else build.known(i, "an index") for i in indices]
    places = torch.ops.aten.index.Tensor(torch.arange(prod(x)).reshape(x), known)
    if torch.equal(places.reshape(-1), torch.arange(prod(x))):
        return build.reshaped(call["self"], call.shape)
    named = [(dim, index) for dim, index in enumerate(known) if index is not None]
    if len(named) != 1 or named[0][1].ndim != 1 or named[0][1].dtype is torch.bool:
        raise UnsupportedError("indexing by tensors that leave out, repeat or reorder elements of several dimensions")
    ((dim, index),) = named
    return taken(build, call["self"], dim, (index % x[dim]).tolist())


LOOKUPS: Mapping[str, Callable[[Builder, Call], Value]] = {
    "embedding": _embedding,
    "gather": _gather,
    "index": _index,
}
