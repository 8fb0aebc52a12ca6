"""Which channels can leave a program without changing what it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, fx

from monstera.sparsity.channels.axes import Axis, Value
from monstera.sparsity.channels.operators import PRODUCTS, operator_name
from monstera.sparsity.channels.resolve import Resolved, resolve
from monstera.sparsity.channels.trace import Trace, arguments_of
from monstera.sparsity.shrinking.known import Known, uniform


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A product that sums channels: of each position of the axis that it sums, what can be said.

    Attributes:
        node: the product.
        channels: the channel of every position.
        numbers: what is read there, the same everywhere, else NaN.
        free: whether the position adds nothing to any sum.
        weight: the name of the parameter on the right, if it is one.
        refusal: why what they add cannot become a bias of the layer; empty if it can.
    """

    node: fx.Node
    channels: np.ndarray
    numbers: np.ndarray
    free: np.ndarray
    weight: str | None
    refusal: str


@dataclass(slots=True, eq=False)
class Choice:
    """What can leave: `gone` is bool over atoms, true at channels. `stayed` says what is constant and cannot leave."""

    resolved: Resolved
    readers: list[Reader]
    gone: np.ndarray
    stayed: list[str] = field(default_factory=list)


def choose(traced: Trace, known: Known, biased: Collection[str]) -> Choice:
    """Find the channels that no product misses: they add zero to each, or a number that its bias can take.

    Args:
        known: from `known_values`.
        biased: names of the weights of layers that have, or can get, a bias of their own.
    """
    resolved = resolve(traced.ledger)
    readers = [reader for node in known if (reader := _reader(node, traced, resolved, known))]
    uses = Counter(reader.weight for reader in readers)
    readers = [_with_refusal(reader, traced, uses, biased) for reader in readers]
    free = np.ones(traced.ledger.atoms, bool)
    constant = np.zeros(traced.ledger.atoms, bool)
    missed: dict[int, str] = {}
    for reader in readers:
        still = reader.free | (~np.isnan(reader.numbers) & (not reader.refusal))
        free[reader.channels[~still]] = False
        for channel in reader.channels[~still & ~np.isnan(reader.numbers)].tolist():
            missed[channel] = f"{reader.node.name} {reader.refusal}"
    read = np.zeros(traced.ledger.atoms, bool)
    for reader in readers:
        read[reader.channels] = True
        constant[reader.channels] |= ~np.isnan(reader.numbers)
    for reader in readers:
        constant[reader.channels[np.isnan(reader.numbers)]] = False
    gone = free & read & ~resolved.whole
    gone[list(resolved.reasons)] = False
    gone &= resolved.classes == np.arange(traced.ledger.atoms)
    _leave_one_and_even_rows(traced, resolved, gone)
    choice = Choice(resolved, readers, gone)
    choice.stayed += _stayed(traced, resolved, constant & ~gone, missed)
    return choice


def _with_refusal(reader: Reader, traced: Trace, uses: Mapping[str | None, int], biased: Collection[str]) -> Reader:
    given = arguments_of(reader.node, traced.values)
    if reader.weight not in biased:
        refusal = "has no bias that could take what it adds"
    elif uses[reader.weight] > 1:
        refusal = "shares its weight, so its bias is not its own"
    elif "padding" in given and _pads(given["padding"]):
        refusal = "pads, so that what it adds is not the same at the edges"
    else:
        refusal = ""
    return replace(reader, refusal=refusal)


def _reader(node: fx.Node, traced: Trace, resolved: Resolved, known: Known) -> Reader | None:
    name = operator_name(node) if node.op == "call_function" else ""
    if name not in PRODUCTS:
        return None
    given = arguments_of(node, traced.values)
    left, right = (given[key] for key in PRODUCTS[name])
    x, w = (_tensor(node, key, known) for key in PRODUCTS[name])
    summed = _summed_dimension(name, left, right)
    axis = next((a for a in left.axes if summed[0] in a.dims), None)
    if axis is None or x is None or w is None or given.get("groups", 1) != 1:
        return None
    channels, _ = resolved.positions(axis)
    numbers = uniform(x, axis.dims).cpu().double().numpy()
    other = next((a for a in right.axes if summed[1] in a.dims), None)
    unread = np.zeros(len(channels), bool)
    if other is not None and len(axis.dims) == len(other.dims):
        unread = (uniform(w, other.dims) == 0).cpu().numpy()
    return Reader(node, channels, numbers, unread | (numbers == 0), right.parameter, "")


def _tensor(node: fx.Node, key: str, known: Known) -> Tensor | None:
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [a.name for a in node.target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    source = given[key]
    return known.get(source) if isinstance(source, fx.Node) else None


def _summed_dimension(name: str, left: Value, right: Value) -> tuple[int, int]:
    if name.startswith("conv_transpose"):
        return 1, 0
    if name.startswith("conv"):
        return 1, 1
    return left.rank - 1, right.rank - (1 if name == "linear" else 2)


def _pads(padding: object) -> bool:
    return padding != "valid" if isinstance(padding, str) else any(np.atleast_1d(np.array(padding)))


def _leave_one_and_even_rows(traced: Trace, resolved: Resolved, gone: np.ndarray) -> None:
    """Take channels off the list until every axis keeps one, and axes of several dimensions stay rectangles."""
    before = -1
    while before != (before := int(gone.sum())):
        for axis in _axes(traced):
            channels = resolved.positions(axis)[0].reshape([s for s in axis.atoms.shape if s != 1] or [1])
            if channels.ndim == 1:
                if gone[channels].all():
                    gone[channels[0]] = False
            else:
                _even(channels, gone)


def _axes(traced: Trace) -> Iterator[Axis]:
    yield from (seed.axis for seed in traced.ledger.seeds)
    yield from traced.ledger.seen


def _even(channels: np.ndarray, gone: np.ndarray) -> None:
    """Of every row along the last dimension as many channels leave as of the row that loses least, and never all."""
    rows = channels.reshape(-1, channels.shape[-1])
    fewest = min(min(int(gone[row].sum()) for row in rows), rows.shape[1] - 1)
    for row in rows:
        leaving = row[gone[row]]
        gone[leaving[fewest:]] = False


def _stayed(traced: Trace, resolved: Resolved, stuck: np.ndarray, missed: Mapping[int, str]) -> list[str]:
    """One line for each reason and first member."""
    whole = {int(c): reason for atoms, reason in traced.ledger.whole for c in np.unique(resolved.classes[atoms])}
    lines: dict[tuple[str, str], int] = {}
    told: set[int] = set()
    for seed in traced.ledger.seeds:
        for channel in np.unique(resolved.classes[seed.axis.atoms]).tolist():
            if stuck[channel] and channel not in told:
                told.add(channel)
                why = (
                    missed.get(channel)
                    or whole.get(channel)
                    or resolved.reasons.get(channel)
                    or "some must stay: one in each layer, as many in each head"
                )
                key = (f"{seed.parameter}[{'x'.join(map(str, seed.axis.dims))}]", why)
                lines[key] = lines.get(key, 0) + 1
    return [f"{count} of {member}: {why}" for (member, why), count in lines.items()]
