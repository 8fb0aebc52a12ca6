"""The channel-dependency graph: which dimensions of which parameters can only be reordered or cut together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from monstera.sparsity.attached import refuse_attached
from monstera.sparsity.channels.axes import Shape
from monstera.sparsity.channels.resolve import Resolved, resolve
from monstera.sparsity.channels.trace import Example, Trace, trace


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """Where the channels of a group lie in one parameter or buffer.

    Attributes:
        name: of the parameter or buffer.
        view: the shape it is reshaped to; its own but for grouped convolutions.
        dims: the dimensions of that view along which channels lie.
        positions: int64 `[channels, run]`, for each channel its positions along `dims`, flattened.
    """

    name: str
    view: Shape
    dims: tuple[int, ...]
    positions: np.ndarray

    @property
    def dim(self) -> int | None:
        """The dimension of the parameter itself, where it is a single one."""
        return self.dims[0] if len(self.dims) == 1 else None

    def reordered(self, tensor: Tensor, order: Sequence[int] | np.ndarray) -> Tensor:
        """A new tensor in whose place k of the group stands the channel that was at `order[k]`."""
        sizes = [self.view[d] for d in self.dims]
        index = np.arange(prod(sizes))
        index[self.positions.reshape(-1)] = self.positions[np.asarray(order)].reshape(-1)
        front = tensor.reshape(self.view).movedim(self.dims, tuple(range(len(self.dims))))
        moved = front.flatten(0, len(self.dims) - 1)[torch.from_numpy(index).to(tensor.device)]
        return moved.unflatten(0, sizes).movedim(tuple(range(len(self.dims))), self.dims).reshape(tensor.shape)

    def __str__(self) -> str:
        runs = self.positions.shape[1]
        first = int(self.positions.min())
        notes = [f"from {first}"] * (first > 0) + [f"runs of {runs}"] * (runs > 1)
        return f"{self.name}[{', '.join(['x'.join(map(str, self.dims)), *notes])}]"


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Channels that may change places, in all members at once.

    Attributes:
        members: the dimensions of parameters and buffers that hold them, in the order of the program.
        removable: whether channels may be taken away as well, as far as the operators can tell.
    """

    members: tuple[Member, ...]
    removable: bool

    @property
    def name(self) -> str:
        """The first member: where it lies tells the group from all others."""
        return f"{self.members[0]}"

    def __len__(self) -> int:
        """Channels in the group."""
        return len(self.members[0].positions)

    def __str__(self) -> str:
        return f"{len(self)} channels of {', '.join(map(str, self.members))}"


@dataclass(frozen=True, slots=True)
class FixedDimension:
    """A dimension of a parameter whose channels cannot be reordered, and the operator that is why."""

    name: str
    dim: int
    reason: str

    def __str__(self) -> str:
        return f"{self.name}[{self.dim}]: {self.reason}"


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGraph:
    """The groups of a model; made by `channel_graph`. `fixed` lists what stays where it is, and why."""

    groups: tuple[ChannelGroup, ...]
    fixed: tuple[FixedDimension, ...]

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self.groups)

    def __str__(self) -> str:
        lines = [*map(str, self.groups), *(f"fixed: {one}" for one in self.fixed)]
        return "\n".join(lines) or "(no channels)"


def channel_graph(model: nn.Module, example: Example) -> ChannelGraph:
    """Find which channels of a model's parameters and buffers depend on each other.

    An operator that is not known fixes everything that it touches, so what is offered can be used.

    Args:
        model: read only; it is traced in eval mode and comes back in the mode it had.
        example: an input of the model, or a tuple of all its inputs.

    Raises:
        TraceError: torch.export cannot trace the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> print(channel_graph(model, torch.zeros(1, 4)).groups[0])
        6 channels of 0.weight[0], 0.bias[0], 2.weight[1]
    """
    return graph_of(trace(model, example))


def graph_of(traced: Trace) -> ChannelGraph:
    """The graph of a program that was traced."""
    resolved = resolve(traced.ledger)
    groups = [_group(traced, resolved, classes) for classes in resolved.groups]
    return ChannelGraph(tuple(group for group in groups if group.members), _fixed(traced, resolved))


def _group(traced: Trace, resolved: Resolved, classes: np.ndarray) -> ChannelGroup:
    members = []
    for seed in traced.ledger.seeds:
        found, places = resolved.positions(seed.axis)
        here = np.flatnonzero(np.isin(found, classes))
        if len(here):
            # By channel, then by place within its run.
            order = here[np.lexsort((places[here], found[here]))]
            members.append(Member(seed.parameter, seed.view, seed.axis.dims, order.reshape(len(classes), -1)))
    if members:
        # Channels are numbered as they lie in the first member.
        first = np.argsort(members[0].positions[:, 0])
        members = [Member(m.name, m.view, m.dims, m.positions[first]) for m in members]
    return ChannelGroup(tuple(members), not resolved.whole[classes].any())


def _fixed(traced: Trace, resolved: Resolved) -> tuple[FixedDimension, ...]:
    found: dict[tuple[str, int], FixedDimension] = {}
    for seed in traced.ledger.seeds:
        reasons = [resolved.reasons[c] for c in resolved.classes[seed.axis.atoms].reshape(-1) if c in resolved.reasons]
        if told := [reason for reason in reasons if reason]:
            dim = seed.axis.dims[-1]
            found.setdefault((seed.parameter, dim), FixedDimension(seed.parameter, dim, told[0]))
    return tuple(found.values())


@torch.no_grad()
def permute_(model: nn.Module, group: ChannelGroup, order: Sequence[int]) -> None:
    """Reorder the channels of a group in place, in every parameter and buffer that holds them.

    The model computes the same function, up to rounding, as sums are taken in another order.

    Args:
        order: a permutation of `range(len(group))`; channel `order[k]` moves to place k.

    Raises:
        ValueError: `order` is no such permutation.
        AttachedError: a pruner is attached to a parameter of the group.
    """
    if sorted(order) != list(range(len(group))):
        raise ValueError(f"order: expected each of 0 to {len(group) - 1} once, for {group.name}")
    tensors = named_tensors(model)
    refuse_attached({member.name: tensors[member.name] for member in group.members}, "reordered")
    for member in group.members:
        tensors[member.name].copy_(member.reordered(tensors[member.name], order))


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name they have."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
