"""Orders the rows of a mask so that neighbours share columns, and cuts the order into blocks by price.

Rows are joined two by two into nodes of 2, 4, 8, ... rows, which gives a forest; `cut` then chooses, tree by tree, the
blocks with the lowest price. `natural` joins neighbours as they stand. `clustered` joins nodes with the same columns
first, however far apart they stand, and the rest by what the joint block saves; nodes of different convolution groups
are never joined. Neither depends on chance: the same mask gives the same order.

Source: the matrix reorder of GRIM (Niu et al., TPAMI 2022), whose details are not public. How we differ from it as we
understand it: there rows with equal column lists form a group, and a row that differs in one column falls out of it, so
reordering serves masks pruned for it. Here a block stores the union of its rows' columns and its price counts the zeros
this carries, so any mask can gain. The order lives in the table of output rows: no data moves at run time. Permuting
rows or columns so that pruning keeps more (matrix pivoting, Sredojevic et al. 2017) changes which weights live and is
not done here but in `monstera.sparsity.pivoting`: the compiler takes the holes as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from monstera.compiler.price import Price

# More nodes than this are matched in stretches, and on a sample of the columns where all would be too many
# multiplications: both keep the time of a layer in milliseconds. Nodes with the same columns meet nevertheless.
_STRETCH = 1024
_MULTIPLICATIONS = 2**28
# Rounds of matching; each pairs a good part of what is left unless all prefer the same few partners.
_ROUNDS = 24

_ONES = np.array([i.bit_count() for i in range(2**16)], np.uint8)


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Nodes of one level: surviving columns as packed bits `[nodes, words]` uint64, how many, and conv group."""

    bits: np.ndarray
    lengths: np.ndarray
    group: np.ndarray


# Joins nodes of so many rows: disjoint pairs `[pairs, 2]` of indices, each within one convolution group.
_Match: TypeAlias = Callable[[_Nodes, int], np.ndarray]


@dataclass(frozen=True, slots=True)
class Forest:
    """Rows joined two by two; level l holds nodes of 2**l rows.

    Attributes:
        rows: for each level `[nodes, 2**l]` int, the rows of the mask in a node.
        lengths: for each level `[nodes]` int, the columns that any row of the node keeps.
        children: for each level `[nodes, 2]` int, the halves of a node on the level below; none on level 0.
    """

    rows: tuple[np.ndarray, ...]
    lengths: tuple[np.ndarray, ...]
    children: tuple[np.ndarray, ...]


def natural(holes: np.ndarray, groups: int, largest: int) -> Forest:
    """Join neighbours: the blocks that rows make as they stand, counted from the start of each convolution group.

    Args:
        holes: bool `[rows, columns]`, True where the weight is zero.
        groups: convolution groups; rows divide evenly among them.
        largest: rows of the largest node, a power of two.
    """
    return _grow(holes, groups, largest, lambda nodes, _: _neighbours(nodes.group))


def clustered(holes: np.ndarray, groups: int, largest: int, price: Price) -> Forest:
    """Join what has the same columns, then what saves most by being joined; arguments as for `natural`.

    Of equal savings the one between nodes a and b with the smaller `a xor b` is taken, which prefers neighbours.
    """

    def match(nodes: _Nodes, size: int) -> np.ndarray:
        same = _neighbours(_labels(nodes))
        alone = np.ones(len(nodes.group), bool)
        alone[same] = False
        pairs = [same]
        for group in np.unique(nodes.group[alone]):
            left = np.flatnonzero(alone & (nodes.group == group))
            stretches = np.array_split(left, -(-len(left) // _STRETCH))
            pairs += [part[_nearest(nodes, part, price, size)] for part in stretches if len(part) > 1]
        near = np.concatenate(pairs[1:] or [same[:0]])
        return np.concatenate([same, near[_saves(nodes, near, price, size)]])

    return _grow(holes, groups, largest, match)


def cut(
    forest: Forest, price: Price, sizes: Sequence[int], at_any_price: bool = False
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Cut a forest into the cheapest blocks of the given sizes, one of which is 1; of equal prices the larger block.

    With `at_any_price` into the largest blocks instead.

    Returns (size, rows `[blocks, size]`, columns of each block `[blocks]`), large sizes first and only those that have
    blocks; rows ascend within a block, and blocks by their first row.
    """
    best, whole = _choose(forest, price, sizes)
    if at_any_price:
        whole = [np.full(len(node), 2**level in sizes) for level, node in enumerate(whole)]
    blocks = []
    inside = np.zeros(0, int)
    for level in reversed(range(len(best))):
        reached = np.ones(len(best[level]), bool)
        if level + 1 < len(best):
            reached[forest.children[level + 1]] = False
        reached[inside] = True
        taken = reached & whole[level]
        inside = forest.children[level][reached & ~whole[level]].reshape(-1)
        if taken.any():
            rows = np.sort(forest.rows[level][taken], 1)
            order = np.argsort(rows[:, 0])
            blocks.append((2**level, rows[order], forest.lengths[level][taken][order]))
    return blocks


def _choose(forest: Forest, price: Price, sizes: Sequence[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each level, the lowest price of each node's rows, and whether the node as one block reaches it."""
    best: list[np.ndarray] = []
    whole: list[np.ndarray] = []
    for level, lengths in enumerate(forest.lengths):
        alone = price.of(2**level, lengths) if 2**level in sizes else np.full(len(lengths), np.inf)
        split = best[-1][forest.children[level]].sum(1) if level else np.full(len(lengths), np.inf)
        whole.append(alone <= split)
        best.append(np.minimum(alone, split))
    return best, whole


def _grow(holes: np.ndarray, groups: int, largest: int, match: _Match) -> Forest:
    group = np.arange(len(holes)) // max(1, len(holes) // groups)
    bits = _packed(~holes)
    nodes = _Nodes(bits, _counted(bits), group)
    rows, lengths, children = [np.arange(len(holes))[:, None]], [nodes.lengths], [np.zeros((len(holes), 0), int)]
    while 2 ** len(rows) <= largest:
        pairs = match(nodes, 2 ** (len(rows) - 1))
        if not len(pairs):
            break
        bits = nodes.bits[pairs[:, 0]] | nodes.bits[pairs[:, 1]]
        nodes = _Nodes(bits, _counted(bits), nodes.group[pairs[:, 0]])
        rows.append(rows[-1][pairs].reshape(len(pairs), -1))
        lengths.append(nodes.lengths)
        children.append(pairs)
    return Forest(tuple(rows), tuple(lengths), tuple(children))


def _neighbours(labels: np.ndarray) -> np.ndarray:
    """Pairs of nodes with one label, in order: the first with the second, the third with the fourth, ..."""
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[order])
    even = (np.arange(len(order)) - first) % 2 == 0
    left = np.flatnonzero(even[:-1] & (labels[order][:-1] == labels[order][1:]))
    return np.stack([order[left], order[left + 1]], 1)


def _labels(nodes: _Nodes) -> np.ndarray:
    """A number for each node, equal for nodes of one group with the same columns."""
    known: dict[tuple[int, bytes], int] = {}
    keys = zip(nodes.group.tolist(), (row.tobytes() for row in nodes.bits), strict=True)
    return np.array([known.setdefault(key, len(known)) for key in keys], int)


def _nearest(nodes: _Nodes, members: np.ndarray, price: Price, size: int) -> np.ndarray:
    """Pair the members (indices into them), until at most one is left: those that are each other's best partner, again
    and again among the rest; after the last round neighbours."""
    saved = _saved(nodes.bits[members], nodes.lengths[members].astype(np.float32), price, size)
    left, pairs = np.arange(len(members)), []
    for _ in range(_ROUNDS):
        if len(left) < 2:
            break
        partner = saved.argmax(1)
        mutual = partner[partner] == np.arange(len(left))
        first = np.flatnonzero(mutual & (partner > np.arange(len(left))))
        pairs.append(left[np.stack([first, partner[first]], 1)])
        left, saved = left[~mutual], saved[np.ix_(~mutual, ~mutual)]
    return np.concatenate([*pairs, left[: len(left) // 2 * 2].reshape(-1, 2)])


def _saves(nodes: _Nodes, pairs: np.ndarray, price: Price, size: int) -> np.ndarray:
    """Which pairs cost less as one block."""
    joint = _counted(nodes.bits[pairs[:, 0]] | nodes.bits[pairs[:, 1]])
    return price.of(2 * size, joint) < price.of(size, nodes.lengths[pairs]).sum(1)


def _saved(bits: np.ndarray, lengths: np.ndarray, price: Price, size: int) -> np.ndarray:
    """What joining a and b saves, `[nodes, nodes]` fp32, less a trifle that breaks ties; -inf on the diagonal.

    Columns saved are those that both have: estimated from a sample where the product of all is too large.
    """
    columns = bits.shape[1] * 64
    taken = np.arange(columns)
    if (limit := max(64, _MULTIPLICATIONS // len(bits) ** 2)) < columns:
        taken = np.sort(np.random.default_rng(0).choice(columns, limit, replace=False))
    alive = _unpacked(bits, taken).astype(np.float32)
    before, after = price.column[size], price.column[2 * size]
    saved = alive @ alive.T
    saved *= after * columns / len(taken)
    saved += (before - after) * (lengths[:, None] + lengths[None])  # in one sum, so that both halves round alike
    # Every tie would otherwise go to the lowest index, and then only one pair a round is mutual. Nodes at one `xor` are
    # disjoint pairs, so the tie is mutual for all of them.
    index = np.arange(len(bits), dtype=np.int32)
    trifle = np.float32(max(1.0, np.abs(saved).max()) * 2.0**-22)
    saved -= (index[:, None] ^ index[None]) * trifle
    np.fill_diagonal(saved, -np.inf)
    return saved


def _packed(alive: np.ndarray) -> np.ndarray:
    """Bool `[rows, columns]` as bits in uint64 words, `[rows, words]`."""
    rows, columns = alive.shape
    words = np.zeros((rows, -(-columns // 64)), np.uint64)
    words.view(np.uint8)[:, : -(-columns // 8)] = np.packbits(alive, axis=1)
    return words


def _unpacked(words: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The given columns of packed bits, uint8 0 or 1."""
    return words.view(np.uint8)[:, columns // 8] >> (7 - columns % 8).astype(np.uint8) & 1


def _counted(words: np.ndarray) -> np.ndarray:
    """Ones in each row of packed bits."""
    return _ONES[words.view(np.uint16)].sum(1, dtype=np.int64)
