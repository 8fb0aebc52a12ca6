"""Matrix pivoting: reorder rows and columns of weights, by the channels of the network, so that blocks keep more.

Orders are found by swaps (see `swaps`), one group of the channel graph after the other. Where neighbours compete (N:M),
columns are dealt to stripes instead, see `find_permutation`. An order is taken if the plan keeps more with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from monstera.sparsity.attached import refuse_attached
from monstera.sparsity.block import Block, NOfM
from monstera.sparsity.channels import ChannelGroup, Member, channel_graph, permute_
from monstera.sparsity.channels.graph import named_tensors
from monstera.sparsity.channels.trace import Example
from monstera.sparsity.competition import pools
from monstera.sparsity.errors import PatternError
from monstera.sparsity.intersection import Intersection
from monstera.sparsity.pattern import Pattern
from monstera.sparsity.permutation import find_permutation
from monstera.sparsity.plan import Plan
from monstera.sparsity.scores import magnitude
from monstera.sparsity.swaps import TRIFLE, Side, order_by_swaps, side_of
from monstera.sparsity.view import Layout

# Of the search for stripes; more gain little.
_ESCAPES = 5

Scores = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Pivoting:
    """What pivoting did.

    Attributes:
        before: what the plan keeps of the squared magnitude of the planned weights as they stood, from 0 to 1.
        after: the same in the new order; never less.
        orders: for each group of channels that was reordered, by its name, the place where each channel came from.
    """

    before: float
    after: float
    orders: Mapping[str, tuple[int, ...]]

    def __str__(self) -> str:
        return (
            f"kept of the squared magnitude: {self.before:.2%} as it stood, {self.after:.2%} pivoted "
            f"({len(self.orders)} groups of channels reordered)"
        )


def pivot(model: nn.Module, example: Example, plan: Plan, *, sweeps: int = 4) -> Pivoting:
    """Reorder the channels of a model in place so that the plan keeps more of its weights.

    The model computes the same function, up to rounding: neighbouring layers, norms and residual streams take the same
    order. Inputs and outputs keep theirs. Do it before optimizer, teacher and pruner exist.

    Args:
        model: its parameters and buffers are reordered; nothing is pruned.
        example: an input of the model, or a tuple of all its inputs.
        plan: which weights will be pruned, how; blocks of several rows or columns and N:M give reason to reorder,
            also under constraints on values.
        sweeps: how often all groups are visited at most; it ends when one sweep finds nothing.

    Raises:
        PlanError: the plan does not fit the model.
        TraceError: torch.export cannot trace the model.
        AttachedError: a pruner is attached to a weight.

    Source: R. Sredojevic et al., "Structured Deep Neural Network Pruning via Matrix Pivoting", 2017, of which only the
    abstract was at hand: criterion and search are ours.
    """
    weights = plan.weights(model)
    tensors = named_tensors(model)
    refuse_attached(tensors, "reordered")
    names = {id(tensors[name]): name for name in plan}
    search = _Search(plan, plan.layouts(model), {name: magnitude(weight).cpu() for name, weight in weights.items()})
    groups = [(group, _planned(group, tensors, names)) for group in channel_graph(model, example)]
    groups = [(group, members) for group, members in groups if len(group) > 1 and members]
    before = search.kept(search.scores)
    orders = {group.name: np.arange(len(group)) for group, _ in groups}
    for _ in range(sweeps):
        gained = [search.improve(group, members, orders) for group, members in groups]
        if not any(gained):
            break
    moved = {g.name: (g, orders[g.name].tolist()) for g, _ in groups if (np.diff(orders[g.name]) != 1).any()}
    for group, order in moved.values():
        permute_(model, group, order)
    total = search.total()
    return Pivoting(
        before / total, search.kept(search.scores) / total, {name: tuple(order) for name, (_, order) in moved.items()}
    )


def _planned(group: ChannelGroup, tensors: Mapping[str, Tensor], names: Mapping[int, str]) -> dict[str, list[Member]]:
    """The members of a group that are planned weights, by the name the plan has for them."""
    found: dict[str, list[Member]] = {}
    for member in group.members:
        if name := names.get(id(tensors[member.name])):
            found.setdefault(name, []).append(member)
    return found


class _Search:
    """The squared weights in the order of the moment, on the CPU, and the best that is known."""

    def __init__(self, plan: Plan, layouts: Mapping[str, Layout], scores: Scores) -> None:
        self.plan, self.layouts, self.scores = plan, layouts, scores
        self.random = np.random.default_rng(0)

    def total(self) -> float:
        return sum(float(score.sum()) for score in self.scores.values()) or 1.0

    def kept(self, scores: Scores) -> float:
        """What the plan keeps of the squared magnitude of the weights given, and of what competes with them."""
        among = [pool for pool in pools(self.plan) if not scores.keys().isdisjoint(pool)]
        every = {**self.scores, **scores}
        masks = Plan({name: self.plan[name] for pool in among for name in pool}).masks(every, every, self.layouts)
        return sum(float(every[name][mask].sum()) for name, mask in masks.items())

    def improve(self, group: ChannelGroup, members: Mapping[str, list[Member]], orders: dict[str, np.ndarray]) -> bool:
        """Reorder one group if the plan then keeps more; says whether it does."""
        swapped = self._take(group, members, self._blocks(group, members), orders)
        dealt = self._take(group, members, self._stripes(members), orders)
        return swapped or dealt

    def _take(
        self,
        group: ChannelGroup,
        members: Mapping[str, list[Member]],
        order: np.ndarray | None,
        orders: dict[str, np.ndarray],
    ) -> bool:
        if order is None:
            return False
        before = {name: self.scores[name] for name in members}
        after = dict(before)
        for name, own in members.items():
            for member in own:
                after[name] = member.reordered(after[name], order)
        if self.kept(after) <= self.kept(before) * (1 + TRIFLE):
            return False
        self.scores |= after
        orders[group.name] = orders[group.name][order]
        return True

    def _blocks(self, group: ChannelGroup, members: Mapping[str, list[Member]]) -> np.ndarray | None:
        """An order in which blocks of several channels keep more."""
        sides = [side for name, own in members.items() for m in own if (side := self._side(name, m)) is not None]
        return order_by_swaps(sides, len(group), self.random) if sides else None

    def _stripes(self, members: Mapping[str, list[Member]]) -> np.ndarray | None:
        """An order in which N:M keeps more, if all weights that read the channels under N:M have the same pattern."""
        names = [name for name, own in members.items() for member in own if self._competes(name, member)]
        patterns = {self._holes(name) for name in names}
        if len(patterns) != 1:
            return None
        # The search takes weights; their signs make no difference to it.
        weights, layouts = [self.scores[name].sqrt() for name in names], [self.layouts[name] for name in names]
        return find_permutation(weights, patterns.pop(), layouts, escapes=_ESCAPES).order.numpy()

    def _competes(self, name: str, member: Member) -> bool:
        """Whether the channels are all the inputs of a weight, whose neighbours compete."""
        pattern, layout = self._holes(name), self.layouts[name]
        if not isinstance(pattern, Block) or not isinstance(pattern.scope, NOfM) or pattern.in_ != 1:
            return False
        inputs = member.dim == (0 if layout.transposed else 1) and layout.groups == 1
        return inputs and np.array_equal(member.positions, np.arange(member.view[member.dims[0]])[:, None])

    def _holes(self, name: str) -> Pattern:
        pattern = self.plan[name].pattern
        return pattern.holes if isinstance(pattern, Intersection) else pattern

    def _side(self, name: str, member: Member) -> Side | None:
        """How one weight is cut along the channels of a group; None where their order makes no difference."""
        pattern, layout, score = self.plan[name].pattern, self.layouts[name], self.scores[name]
        if isinstance(pattern.scope, NOfM):
            return None
        try:
            blocks = pattern.groups(score, layout)
        except PatternError:  # no disjoint blocks
            return None
        energies = np.bincount(blocks.numpy().reshape(-1), score.numpy().reshape(-1))
        mask = pattern.mask(score, self.plan[name].density, layout)
        price = float(energies[np.unique(blocks[mask].numpy())].min())
        return side_of(_rows(member, score).numpy(), _rows(member, blocks).numpy(), energies, price)


def _rows(member: Member, tensor: Tensor) -> Tensor:
    """`[channels, everything else]`: what belongs to each channel of a member."""
    front = tensor.reshape(member.view).movedim(member.dims, tuple(range(len(member.dims))))
    return front.flatten(0, len(member.dims) - 1)[torch.from_numpy(member.positions)].flatten(1)
