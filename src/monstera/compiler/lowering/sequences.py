"""Operators of networks over tokens: norms, look-ups, attention, and products of computed matrices."""

from __future__ import annotations

from math import prod

import numpy as np

from monstera.compiler.ir import Attention, CachedAttention, Embedding, MatMul, Node, Norm, Shape
from monstera.compiler.kernels import CACHED_ATTENTION, EMBEDDINGS, NORMS, attention_kernel, matmul_kernel
from monstera.compiler.kernels.gemm import ROWS
from monstera.compiler.layout import Flat, Layout, Planes, odd_lines
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.windows import RankError, grid_args
from monstera.compiler.program import Field, Ref, Work


def lower_norm(low: Lowering, node: Node) -> None:
    """Along the channels of planes, or along any dimension of a dense tensor."""
    op, layout = node.op, low.layout(node.name)
    assert isinstance(op, Norm)
    size = node.shape[op.dim]
    scale, shift = (
        low.table(np.full(size, fill, np.float32) if key is None else low.graph.params[key].reshape(-1))
        for key, fill in ((op.scale, 1), (op.shift, 0))
    )
    if isinstance(layout, Planes):
        x, inner = low.planes(node.inputs[0], layout), layout.grid.stride
        runs: dict[str, Field] = {"n": 1, "length": inner, "mask": low.mask(layout.pixels())}
    else:
        x, inner = low.flat(node.inputs[0]), prod(node.shape[op.dim + 1 :])
        runs = {"n": prod(node.shape[: op.dim]), "length": inner, "mask": None}
    fields = runs | {
        "c": size,
        **dict.fromkeys(("x_channel", "y_channel"), inner),
        **dict.fromkeys(("x_image", "y_image"), size * inner),
        "scale": scale,
        "shift": shift,
        "eps": float(op.eps),
        "centered": int(op.centered),
    }
    kernel = NORMS["rows" if inner == 1 else "planes"]
    work = Work(bytes=8 * prod(node.shape))
    low.add(node, f"norm of {size}", kernel, "norm_args", fields, (x, low.result(node)[0]), work)


def lower_embedding(low: Lowering, node: Node) -> None:
    """Rows of a table, behind each other or one plane a feature."""
    op, layout = node.op, low.layout(node.name)
    assert isinstance(op, Embedding)
    table, planes = low.graph.params[op.weight], op.dim < len(node.shape) - 1
    if planes and (op.dim != 1 or len(node.shape) != 3):
        raise RankError(f"cannot put the features of {list(node.shape)} in dimension {op.dim}")
    fields: dict[str, Field] = {
        "table": low.table(table),
        "none": low.table(np.full(table.shape[1], np.nan, np.float32)),
        "rows": len(table),
        "width": table.shape[1],
        "y": grid_args(layout if planes else Flat((prod(node.shape),))),
    }
    x, y, work = low.flat(node.inputs[0]), low.result(node)[0], Work(bytes=8 * prod(node.shape))
    title = f"rows of {len(table)}"
    if planes:
        low.add(node, title, EMBEDDINGS["planes"], "embedding_args", fields, (x, y), work)
    else:
        count = prod(low.shape(node.inputs[0]))
        low.add(node, title, EMBEDDINGS["rows"], "embedding_args", fields, (x, y, count), work)


def lower_attention(low: Lowering, node: Node) -> None:
    """Head by head, queries in strips of a few vectors."""
    op = node.op
    assert isinstance(op, Attention)
    (_, channels, queries), keys = low.shape(node.inputs[0]), low.shape(node.inputs[1])[2]
    widths = strip_widths(queries, low.target.lanes, tile := low.target.tiles[ROWS[0]])
    scratch = odd_lines((keys + 1) * max(widths) * low.target.lanes)
    heads = [(h.q.start, h.k.start, h.v.start, h.y.start, h.k.stop - h.k.start, h.v.stop - h.v.start) for h in op.heads]
    fields: dict[str, Field] = {"y": low.result(node)[0], "y_grid": grid_args(low.layout(node.name))}
    for name, value in zip("qkv", node.inputs, strict=False):
        # Keys and values are read float by float. Queries are loaded in whole vectors, at the end of a row as well.
        ref, layout = _readable(low, value) if name == "q" else (low.own(value), low.layout(value))
        image, channel, _ = layout.strides
        fields |= {name: ref, f"{name}_channel": channel, f"{name}_image": image}
    fields |= _mask(low, node, (node.shape[0], len(heads), keys, queries))
    fields |= {
        "head": low.table(np.array(heads, np.int32)),
        "scratch": low.scratch(f"{node.name}:scores", Flat((low.threads * scratch,))),
        "scratch_floats": scratch,
        "heads": len(heads),
        "keys": keys,
        "tile": tile,
        "causal": int(op.causal),
        "scale": float(op.scale),
    }
    macs = node.shape[0] * queries * keys * (channels + node.shape[1])
    size = 4 * sum(prod(low.shape(i)) for i in (*node.inputs, node.name))
    work = Work(dense_macs=macs, macs=macs, bytes=size)
    title = f"attention of {len(heads)} heads, {queries} queries, {keys} keys"
    low.add(node, title, attention_kernel(widths), "attention_args", fields, work=work)


def lower_cached_attention(low: Lowering, node: Node) -> None:
    """Head by head, keys and values read where they lie."""
    op = node.op
    assert isinstance(op, CachedAttention)
    q, k, v, own_k, own_v, *masks = node.inputs
    (n, heads, _, width), values = low.shape(q), node.shape[3]
    tokens = [low.shape(i)[2] for i in (k, own_k)]
    scratch = odd_lines(sum(-(-t // low.target.lanes) * low.target.lanes for t in tokens))
    mask, strides = None, (0, 0, 0, 0)
    if masks:
        mask, strides = low.source(masks[0], (n, heads, 1, sum(tokens)))
    fields: dict[str, Field] = {
        "q": low.flat(q),
        "k": (low.flat(k), low.flat(own_k)),
        "v": (low.flat(v), low.flat(own_v)),
        "mask": mask,
        "y": low.result(node)[0],
        "scratch": low.scratch(f"{node.name}:scores", Flat((low.threads * scratch,))),
        "mask_image": strides[0],
        "mask_head": strides[1],
        "mask_key": strides[3],
        "images": n,
        "heads": heads,
        "repeats": heads // low.shape(k)[1],
        "tokens": tuple(tokens),
        "width": width,
        "values": values,
        "scale": float(op.scale),
        "scratch_floats": scratch,
    }
    macs = n * heads * sum(tokens) * (width + values)
    size = 4 * sum(prod(low.shape(i)) for i in (*node.inputs, node.name))
    work = Work(dense_macs=macs, macs=macs, bytes=size)
    title = f"attention of {heads} heads, 1 query, {tokens[0]} keys kept and {tokens[1]} own"
    low.add(node, title, CACHED_ATTENTION, "cached_attention_args", fields, work=work)


def _mask(low: Lowering, node: Node, scores: Shape) -> dict[str, Field]:
    if len(node.inputs) < 4:
        return {"mask": None, **dict.fromkeys(("mask_image", "mask_head", "mask_key", "mask_query"), 0)}
    ref, (image, head, key, query) = low.source(node.inputs[3], scores)
    return {"mask": ref, "mask_image": image, "mask_head": head, "mask_key": key, "mask_query": query}


def lower_matmul(low: Lowering, node: Node) -> None:
    """Matrix by matrix, columns in strips of a few vectors."""
    assert isinstance(node.op, MatMul)
    (*_, rows, inner), columns = low.shape(node.inputs[0]), node.shape[-1]
    tile, lanes = low.target.tiles[ROWS[0]], low.target.lanes
    places = [_matrices(low.shape(i), node.shape[:-2]) for i in node.inputs]
    fields: dict[str, Field] = {
        "a": low.flat(node.inputs[0]),
        "b": _own_flat(low, node.inputs[1]),
        "y": low.result(node)[0],
        "batch": low.table(np.stack(places, 1).astype(np.int32)),
        "ones": low.table(np.ones(tile * lanes, np.float32)),
        "count": prod(node.shape[:-2]),
        "tile": tile,
        "rows": rows,
        "columns": columns,
        "inner": inner,
    }
    macs = prod(node.shape) * inner
    work = Work(dense_macs=macs, macs=macs, bytes=4 * prod(node.shape))
    title = f"product {rows}x{inner} by {inner}x{columns}"
    kernel = matmul_kernel(strip_widths(columns, lanes, tile))
    low.add(node, title, kernel, "matmul_args", fields, work=work)


def strip_widths(length: int, lanes: int, tile: int) -> set[int]:
    """The widths, in vectors, of the strips into which the kernels cut so many floats; a strip has at most `tile`."""
    vectors = -(-length // lanes)
    strips = -(-vectors // tile)
    return {vectors * (s + 1) // strips - vectors * s // strips for s in range(strips)}


def _matrices(shape: Shape, batch: Shape) -> np.ndarray:
    """Where the matrices of an operand begin, in floats, for each of the result's batch."""
    count = prod(shape[:-2])
    starts = np.arange(count).reshape((1,) * (len(batch) - len(shape) + 2) + shape[:-2]) * prod(shape[-2:])
    return np.broadcast_to(starts, batch).reshape(-1)


def _readable(low: Lowering, value: str) -> tuple[Ref, Layout]:
    """A value where vectors may be loaded beyond its end, and how it lies there."""
    layout, ref = low.layout(value), low.own(value)
    if ref.space == "arena":
        return ref, layout
    return _own_flat(low, value), Flat(low.shape(value))


def _own_flat(low: Lowering, value: str) -> Ref:
    """A value in row-major order in a buffer of the program's."""
    ref = low.flat(value)
    return ref if ref.space == "arena" else low.copied(value, Flat(low.shape(value)))
