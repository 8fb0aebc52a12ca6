"""Orders of channels by swaps, so that blocks of several channels keep more: what each gains, and which are taken.

What a swap gains is known only when blocks compete anew. So each weight gets a price for a kept block, the energy of
the least one that is kept now, and the gain is what a swap adds to `sum over blocks of max(energy - price, 0)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Of larger groups so many channels are considered at a time, and so many of the blocks that a channel has a part in.
_CHANNELS = 128
_BLOCKS = 512
_ROUNDS = 60
# Gains below this part of what there is are rounding.
TRIFLE = 1e-12


@dataclass(slots=True)
class Side:
    """Part `[channels, k]` of each channel in the k blocks of its place, their energies `[channels, k]`, the price of a
    block, and which places share blocks: `[channels]`."""

    parts: np.ndarray
    energies: np.ndarray
    place: np.ndarray
    price: float

    def gains(self, chosen: np.ndarray) -> np.ndarray:
        """What a swap of each two of the chosen places adds, `[chosen, chosen]`."""
        parts, energies, place = self.parts[chosen], self.energies[chosen], self.place[chosen]
        worth = np.maximum(energies - self.price, 0).sum(1)
        gains = np.empty((len(chosen), len(chosen)))
        for i in range(len(chosen)):
            change = parts - parts[i]
            after = np.maximum(energies[i] + change - self.price, 0).sum(1)
            after += np.maximum(energies - change - self.price, 0).sum(1)
            gains[i] = np.where(place == place[i], 0, after - worth[i] - worth)
        return gains

    def swap(self, i: int, j: int) -> None:
        change = self.parts[j] - self.parts[i]
        self.energies[self.place == self.place[i]] += change
        self.energies[self.place == self.place[j]] -= change
        self.parts[[i, j]] = self.parts[[j, i]]


def side_of(scores: np.ndarray, blocks: np.ndarray, energies: np.ndarray, price: float) -> Side | None:
    """A side from squared weights and numbers of blocks, both `[channels, everything else]`."""
    first, column = np.unique(blocks[0], return_inverse=True)
    heads = np.array([np.flatnonzero(column == k)[0] for k in range(len(first))])
    place = np.unique(blocks[:, heads], axis=0, return_inverse=True)[1].reshape(-1)
    alike = (blocks == blocks[:, heads][:, column]).all()
    if not alike or len(np.unique(place)) == 1 or len(np.unique(blocks[:, heads])) == blocks[:, heads].size:
        # Blocks are cut across channels in no regular way, or hold all of them, or one alone.
        return None
    order = np.argsort(column, kind="stable")
    starts = np.searchsorted(column[order], np.arange(len(first)))
    parts = np.add.reduceat(scores[:, order], starts, axis=1)
    return Side(parts, energies[blocks[:, heads]], place, price)


def order_by_swaps(sides: Sequence[Side], channels: int, random: np.random.Generator) -> np.ndarray:
    """An order of the channels by swaps that each gain something, taken the best first until there are none."""
    sides = [_sampled(side, random) for side in sides]
    order = np.arange(channels)
    for _ in range(_ROUNDS):
        chosen = np.arange(channels)
        if channels > _CHANNELS:
            chosen = np.sort(random.choice(channels, _CHANNELS, replace=False))
        swaps = _disjoint(sides, chosen, np.sum([side.gains(chosen) for side in sides], axis=0))
        for i, j in swaps:
            order[[i, j]] = order[[j, i]]
            for side in sides:
                side.swap(i, j)
        if not swaps:
            break
    return order


def _sampled(side: Side, random: np.random.Generator) -> Side:
    if side.parts.shape[1] <= _BLOCKS:
        return side
    chosen = np.sort(random.choice(side.parts.shape[1], _BLOCKS, replace=False))
    return Side(side.parts[:, chosen], side.energies[:, chosen], side.place, side.price)


def _disjoint(sides: Sequence[Side], chosen: np.ndarray, gains: np.ndarray) -> list[tuple[int, int]]:
    """The best swaps, as far as they touch no block twice: only then do their gains add up."""
    trifle = TRIFLE * max(1e-300, float(np.abs(gains).max(initial=0)))
    left, right = np.nonzero(np.triu(gains, 1) > trifle)
    taken: list[tuple[int, int]] = []
    touched: set[tuple[int, int]] = set()
    for index in np.argsort(-gains[left, right], kind="stable"):
        i, j = int(chosen[left[index]]), int(chosen[right[index]])
        blocks = {(number, int(side.place[k])) for number, side in enumerate(sides) for k in (i, j)}
        if not blocks & touched:
            touched |= blocks
            taken.append((i, j))
    return taken
