"""From what operators said to groups of channels that may change places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from monstera.sparsity.channels.axes import Axis, Ledger


@dataclass(frozen=True, slots=True, eq=False)
class Resolved:
    """Channels (classes of tied atoms) and who may change places with whom.

    Attributes:
        classes: int64 `[atoms]`, the channel of every atom: the smallest atom in it.
        places: int64 `[atoms]`, which of the atoms of its channel in the axis it was made with an atom is.
        groups: sorted channels of each group, groups in the order of their first channel.
        reasons: for channels that cannot move, why; empty where that is in the nature of things.
        whole: bool `[atoms]`, at a channel: it cannot be taken away.
    """

    classes: np.ndarray
    places: np.ndarray
    groups: tuple[np.ndarray, ...]
    reasons: Mapping[int, str]
    whole: np.ndarray

    def positions(self, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
        """The channel of every position of an axis, and a number that tells the positions of one channel apart."""
        atoms = axis.atoms.reshape(-1)
        lanes = axis.lanes.reshape(-1)
        return self.classes[atoms], self.places[atoms] * _LANES + lanes


# More lanes than any channel has.
_LANES = 2**32


def resolve(ledger: Ledger) -> Resolved:
    """Join atoms, then divide channels by where they occur until those left together are interchangeable."""
    classes = _joined(ledger)
    reasons: dict[int, str] = {}
    for atoms, reason in ledger.fixed:
        for one in np.unique(classes[atoms]).tolist():
            reasons[one] = reasons.get(one) or reason
    whole = np.zeros(ledger.atoms, bool)
    for atoms, _ in ledger.whole:
        whole[classes[atoms]] = True
    resolved = Resolved(classes, _places(ledger, classes), (), reasons, whole)
    for one, other, where in ledger.ties:
        _check_tie(resolved, one, other, where, reasons)
    kinds = _kinds(ledger, resolved, reasons)
    seen = np.unique(np.concatenate([classes[axis.atoms].reshape(-1) for axis in ledger.seen] or [classes[:0]]))
    for channel in np.setdiff1d(np.unique(classes), seen).tolist():
        # Rows of a table of positions beyond the example's length, say: other inputs will read them.
        reasons.setdefault(channel, "the example does not reach it")
    free = np.setdiff1d(np.unique(classes), np.array(list(reasons), np.int64))
    order = free[np.argsort(kinds[free], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(kinds[order])) + 1) if len(order) else []
    return replace(resolved, groups=tuple(sorted(groups, key=lambda g: int(g[0]))))


def _joined(ledger: Ledger) -> np.ndarray:
    """The smallest atom that each atom is tied to, by passing labels on until nothing changes."""
    label = np.arange(ledger.atoms)
    if not ledger.ties:
        return label
    a = np.concatenate([one.atoms.reshape(-1) for one, _, _ in ledger.ties])
    b = np.concatenate([other.atoms.reshape(-1) for _, other, _ in ledger.ties])
    while True:
        low = np.minimum(label[a], label[b])
        new = label.copy()
        for side in (a, b, label[a], label[b]):
            np.minimum.at(new, side, low)
        new = new[new]
        if np.array_equal(new, label):
            return label
        label = new


def _places(ledger: Ledger, classes: np.ndarray) -> np.ndarray:
    """Number the atoms of a channel that were made together, such as its run of columns in a flattened weight."""
    together = np.zeros(ledger.atoms, np.int64)
    together[ledger.made] = 1
    # By channel, then by the axis they were made with; sorting is stable, so atoms keep their order.
    order = np.lexsort((np.cumsum(together), classes))
    keys = np.stack([classes[order], np.cumsum(together)[order]])
    starts = np.flatnonzero(np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(0)]) if ledger.atoms else np.zeros(0, int)
    places = np.zeros(ledger.atoms, np.int64)
    places[order] = np.arange(ledger.atoms) - np.repeat(starts, np.diff(np.r_[starts, ledger.atoms]))
    return places


def _check_tie(resolved: Resolved, one: Axis, other: Axis, where: str, reasons: dict[int, str]) -> None:
    """Channels that change places move alike on both sides only if places correspond one to one, for all of them."""
    (classes, left), (_, right) = resolved.positions(one), resolved.positions(other)
    pairs = np.unique(np.stack([left, right]), axis=1)
    if pairs.shape[1] != len(np.unique(left)) or pairs.shape[1] != len(np.unique(right)):
        for channel in np.unique(classes).tolist():
            reasons.setdefault(channel, f"{where} joins channels that are runs of different kinds")


def _kinds(ledger: Ledger, resolved: Resolved, reasons: dict[int, str]) -> np.ndarray:
    """A number for each channel, equal for those that occur in the same places everywhere."""
    kinds = _Kinds(np.zeros(ledger.atoms, np.int64))
    for axis in [*(seed.axis for seed in ledger.seeds), *ledger.seen]:
        for channel in kinds.divide(*resolved.positions(axis)).tolist():
            reasons.setdefault(channel, "two of its positions cannot be told apart")
    for atoms, place in ledger.pens:
        kinds.divide(resolved.classes[atoms], place)
    for atoms, _ in ledger.whole:
        channels = np.unique(resolved.classes[atoms])
        kinds.divide(channels, np.zeros(len(channels), np.int64))
    return kinds.of


@dataclass(slots=True)
class _Kinds:
    """Channels of one kind have occurred in the same places so far."""

    of: np.ndarray

    def divide(self, classes: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """Tell channels that are here, with the same lanes, from all others; returns those with one lane twice."""
        pairs, counts = np.unique(np.stack([classes, lanes]), axis=1, return_counts=True)
        present, first = np.unique(pairs[0], return_index=True)
        sets = [part.tobytes() for part in np.split(pairs[1], first[1:])]
        known: dict[bytes, int] = {}
        signs = np.array([known.setdefault(s, len(known)) for s in sets], np.int64)
        if len(present):
            both = np.stack([self.of[present], signs])
            self.of[present] = int(self.of.max()) + 1 + np.unique(both, axis=1, return_inverse=True)[1].reshape(-1)
        return np.unique(pairs[0][counts > 1])
