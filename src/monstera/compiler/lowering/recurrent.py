"""Recurrent layers: one step of the program holds the loop over time, so that weights and state stay near."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from monstera.compiler.ir import Node, Recurrent
from monstera.compiler.kernels import recurrent_kernel
from monstera.compiler.layout import Flat
from monstera.compiler.lowering.choice import Case, Part, spmv_candidates
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.matrix import Matrix, spmv_fields, spmv_work
from monstera.compiler.packing import pack
from monstera.compiler.program import Field, Ref, Work


def lower_recurrent(low: Lowering, node: Node) -> None:
    """A layer in one direction; its product with the state is cut in blocks as a linear layer of its batch is."""
    op = node.op
    assert isinstance(op, Recurrent)
    weight = low.graph.params[op.weight]
    _, batch, stacked = low.shape(node.inputs[0])
    state = low.flat(node.inputs[1])
    matrix = Matrix(weight, weight == 0, np.arange(weight.shape[1], dtype=np.int32), low.bias(op), state)
    sums = low.scratch(f"{node.name}:sums", Flat((batch, stacked)))
    fields = _fields(low, node, sums)
    rows = low.tuned.matrix("spmv", matrix.holes)
    given = low.tuned.given.get(rows)
    case = Case(spmv_candidates(matrix.holes, 1, batch, low.target, given), 0)
    how = (low.shape(node.inputs[0]), op.kind, op.reverse)
    key = low.tuned.key("recurrent", np.packbits(matrix.holes), how, given=given)
    for _, candidate in low.tuned.each_choice(key, case, rows, low.steps):
        _recurrence(low, node, matrix, candidate.parts, fields)


def _recurrence(low: Lowering, node: Node, matrix: Matrix, parts: Sequence[Part], fields: dict[str, Field]) -> None:
    """Append the step that walks through time."""
    op = node.op
    assert isinstance(op, Recurrent)
    steps, batch, stacked = low.shape(node.inputs[0])
    hidden = matrix.holes.shape[1]
    sums = fields["sums"]
    assert isinstance(sums, Ref)
    products, works = [], []
    for part in parts:
        blocks = pack(matrix.values, matrix.holes, part.rows)
        products.append(spmv_fields(low, matrix, part, blocks, sums, (batch, hidden)))
        works.append(spmv_work(matrix, part, blocks, batch, steps))
    stored = sum(packing.stored for work in works for packing in work.packing)
    sizes = [part.size for part in parts]
    back = ", backwards" if op.reverse else ""
    title = f"{op.kind} of {hidden}, {steps} steps{back}, blocks of {', '.join(map(str, sizes))}, "
    title += f"{stored / max(1, stacked * hidden):.3f} stored"
    whole = fields | {"product": tuple(products)}
    low.add(node, title, recurrent_kernel(op.kind, sizes), "recurrent_args", whole, work=_together(low, node, works))


def _fields(low: Lowering, node: Node, sums: Ref) -> dict[str, Field]:
    """Everything but the products with the state."""
    op = node.op
    assert isinstance(op, Recurrent)
    steps, batch, stacked = low.shape(node.inputs[0])
    hidden = node.shape[-1]
    x, h, *c = (low.flat(value) for value in node.inputs)
    y = low.result(node)[0]
    cell = y  # what has no cell never looks
    if op.cell:  # the final cell is the step behind the last, where all cells before it lie as well
        cell = y + steps * batch * hidden
    elif c:
        cell = low.scratch(f"{node.name}:cell", Flat((batch, hidden)))
    sizes: dict[str, Field] = {"steps": steps, "images": batch, "hidden": hidden, "gates": stacked // hidden}
    return (
        {"x": x, "h": h, "c": c[0] if c else h, "y": y, "cell": cell, "sums": sums}
        | sizes
        | {"reverse": int(op.reverse)}
    )


def _together(low: Lowering, node: Node, works: Sequence[Work]) -> Work:
    """The work of all parts, and the sequences that are read and written."""
    moved = 4 * sum(prod(low.shape(value)) for value in (*node.inputs, node.name))
    return replace(
        works[0],
        dense_macs=sum(work.dense_macs for work in works),
        macs=sum(work.macs for work in works),
        bytes=sum(work.bytes for work in works) + moved,
        packing=tuple(packing for work in works for packing in work.packing),
    )
