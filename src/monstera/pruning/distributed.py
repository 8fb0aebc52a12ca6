"""One network on many processes: weights are looked at whole, masks are those of process 0, parts go back.

Under DDP every process holds all weights, under FSDP2 (`fully_shard`) parts of each, as DTensors. Whatever says
"collective" below has to be called by all processes, in the same order.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from monstera.sparsity import Layout, Plan, Ties, find_view


def processes() -> int:
    """How many processes train together: those of torch's default group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor only."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process; one that is not sharded is returned as it is. Collective."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def whole_state(value: Any) -> Any:
    """Nested plain values and tensors with every tensor whole. Collective."""
    if isinstance(value, Tensor):
        return whole(value)
    if isinstance(value, dict):
        return {key: whole_state(inner) for key, inner in value.items()}
    return [whole_state(inner) for inner in value] if isinstance(value, list) else value


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """What of a whole tensor this process holds, if it is cut as `like` is; nothing is sent."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # pyright: ignore[reportAttributeAccessIssue]
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def decided(
    plan: Plan, points: Mapping[str, Tensor], layouts: Mapping[str, Layout], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The masks that a plan gives the whole of `points`, the same on all processes, cut as the tensors of `like`.

    Every process works them out, as it would else wait for them, and takes those of process 0: a difference in the last
    bit between two processors then makes none in the masks. Collective.

    Raises:
        PlanError: see `Plan.masks`; on all processes, as all see the same weights.
    """
    masks = plan.masks({name: whole(point.detach()) for name, point in points.items()}, layouts=layouts)
    return {name: part_of(of_process_0(mask, mask.device), like[name]) for name, mask in masks.items()}


def tied(
    plan: Plan, points: Mapping[str, Tensor], masks: Mapping[str, Tensor], layouts: Mapping[str, Layout]
) -> dict[str, Ties]:
    """How a plan binds what masks keep of `points`, the same on all processes, as masks are. Collective."""
    made = plan.ties(points, masks, layouts)
    return {
        name: Ties(*(of_process_0(part, part.device) for part in (ties.group, ties.factor)))
        for name, ties in made.items()
    }


def of_process_0(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor as process 0 has it; it is sent from `device`, as not every backend sends from the CPU. Collective."""
    if processes() == 1:
        return tensor
    sent = tensor.to(device, copy=True).contiguous()
    dist.broadcast(sent.view(torch.uint8), 0)  # as bytes, which every backend sends
    return torch.empty_like(tensor).copy_(sent)


@contextmanager
def whole_weights(model: nn.Module, plan: Plan) -> Iterator[None]:
    """Let the modules hold their planned weights whole for a while, to be read. Collective."""
    reshard(model)
    views = [find_view(model, name) for name in plan]
    held = [(view.module, view.parameter, view.weight) for view in views if is_sharded(view.weight)]
    try:
        for module, name, weight in held:
            module._parameters[name] = nn.Parameter(whole(weight.detach()), requires_grad=False)
        yield
    finally:
        for module, name, weight in held:
            module._parameters[name] = weight


def refuse_disagreement(who: str, what: str, values: Any) -> None:
    """Compare plain values and tensors, nested, over all processes; sharded tensors are left out. Collective.

    Raises:
        RuntimeError: they differ; on all processes.
    """
    if processes() == 1:
        return
    digest = hashlib.sha256()
    _feed(digest, values)
    digests: list[Any] = [None] * processes()
    dist.all_gather_object(digests, digest.hexdigest())
    if len({*digests}) > 1:
        groups = [[rank for rank, other in enumerate(digests) if other == one] for one in dict.fromkeys(digests)]
        raise RuntimeError(
            f"{who}: processes {' and '.join(map(str, groups))} have different {what}; make the pruner alike on every "
            "process, after DistributedDataParallel has made the weights equal, and load its state on all of them"
        )


def reshard(model: nn.Module) -> None:
    """Let a model hold the weights that train: refuse flattened ones, and drop the copies that FSDP2 has made.

    After an evaluation the outermost module of FSDP2 holds copies of its weights, whole, which the next step forgets.

    Raises:
        TypeError: the model is wrapped in FullyShardedDataParallel, torch's first FSDP.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # where it was not imported, nothing is wrapped in it
    if fsdp is None:
        return
    for module in model.modules():
        if isinstance(module, fsdp.FullyShardedDataParallel):
            raise TypeError(
                "FullyShardedDataParallel joins weights into flat ones, in which no pattern can be seen; "
                "shard the model by torch.distributed.fsdp.fully_shard, which keeps them"
            )
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()  # pyright: ignore[reportCallIssue]


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        if not is_sharded(value):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            digest.update(repr(key).encode())
            _feed(digest, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _feed(digest, inner)
    else:
        digest.update(repr(value).encode())
