"""How the offset-SpMM kernel walks through a layer: chunks, tiles and column groups, by what fits the caches."""

from __future__ import annotations

from dataclasses import replace

from monstera.compiler.ir import Conv, Node
from monstera.compiler.layout import LINE, Planes
from monstera.compiler.lowering.choice import Choice
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.packing import Blocks
from monstera.compiler.taps import Axis

# What the input chunk of an SpMM may take of the second-level cache; weights and outputs pass through the rest.
CHUNK_BYTES = 384 * 1024
# Cache lines that single rows read over and over (some leave the first-level cache, rarely), and the planes worth it.
GROUP_LINES = 600
GROUPED_FLOATS = 640
# Columns that a block should have in each group on average.
GROUP_COLUMNS = 64
# Blocks of so many rows have time to ask for what they read later; smaller ones are busy with loads.
AHEAD_ROWS = 4


def slices_abreast(depth: Axis, inside: Planes, layout: Planes) -> bool:
    """Whether slices take turns, a chunk of pixels each: where they share input that outgrows the cache meanwhile.

    The end of a slice is then stored after the beginning of the next, and must not reach into it.
    """
    shares = depth.out > 1 and len(depth.alive) > 1 and layout.apart
    return shares and 4 * len(depth.alive) * inside.c * inside.grid.slice > CHUNK_BYTES


def tiling_of(low: Lowering, channels: int, vectors: int, size: int, choice: Choice) -> dict[str, int]:
    """Vectors of a chunk: the planes' share of it fits the cache, and chunks are whole tiles of about equal length."""
    tile = min(low.target.tiles[size], choice.tile or low.target.tiles[size])
    fitting = CHUNK_BYTES // _chunk_bytes(low, channels)
    chunks = -(-vectors // max(fitting // tile * tile, tile))
    chunk = vectors if vectors <= fitting else max(1, -(-vectors // (chunks * tile)) * tile)
    return {"chunk": choice.chunk or chunk, "tile": tile, "by_blocks": int(vectors < 2 * low.threads * tile)}


def in_groups(low: Lowering, node: Node, size: int, choice: Choice) -> Choice:
    """The choice with as many column groups as keep what single rows read of a tile in the first-level cache.

    Single rows load a vector for each multiply-add. Pointwise layers have too few columns a group, and small planes too
    few pixels, to pay for coming back to their sums. Larger blocks are left as they are: they share what they load.
    """
    op, layout = node.op, low.layout(node.name)
    assert isinstance(op, Conv)
    assert isinstance(layout, Planes)
    depth, height, width = low.taps(node).kernel
    channels = low.graph.params[op.weight].shape[1] * depth
    if size > 1:
        return choice
    if height * width == 1 or layout.run() < GROUPED_FLOATS:
        return replace(choice, groups=1)
    tile = low.target.tiles[size]
    floats = tile * low.target.lanes
    together = -(-((height - 1) * layout.grid.pitch + width - 1 + floats) // LINE) + 1
    lines = min(together, height * (floats // LINE + 1))
    groups = -(-channels // max(1, GROUP_LINES // lines))
    return replace(choice, groups=groups, tile=tile, chunk=tile) if groups > 1 else replace(choice, groups=1)


def shared_groups(low: Lowering, channels: int, chunk: int, blocks: Blocks) -> int:
    """As many column groups as keep what they read of a chunk in the second-level cache, where one tile outgrows it.

    A block comes back to its sums once a group, which has to have enough columns of it to be worth that.
    """
    wanted = -(-_chunk_bytes(low, channels) * chunk // CHUNK_BYTES)
    return max(1, min(wanted, blocks.columns.size // (GROUP_COLUMNS * blocks.count)))


def looks_ahead(low: Lowering, size: int, blocks: Blocks, columns: int) -> bool:
    """Whether the kernel asks for the inputs of later columns."""
    few = blocks.length.sum() <= low.target.ahead_density * blocks.count * columns
    return bool(few) and size >= AHEAD_ROWS


def _chunk_bytes(low: Lowering, channels: int) -> int:
    """What one vector of every channel takes."""
    return 4 * low.target.lanes * max(1, channels)
