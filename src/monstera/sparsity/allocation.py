"""How dense each layer should be, given how dense the network should be."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import nn

from monstera.sparsity.block import Block, NOfM
from monstera.sparsity.errors import PlanError
from monstera.sparsity.kernel_pattern import KernelPattern
from monstera.sparsity.pattern import ALL, Pattern
from monstera.sparsity.pattern_names import PatternLike
from monstera.sparsity.pattern_names import pattern as pattern_of
from monstera.sparsity.plan import Plan
from monstera.sparsity.rules import SKIPPED, candidates
from monstera.sparsity.view import find_view


def erk_densities(
    shapes: Mapping[str, tuple[int, ...] | torch.Size], density: float, power: float = 1.0
) -> dict[str, float]:
    """Erdos-Renyi-kernel densities: in proportion to `(sum of the dimensions / their product) ** power`, at most 1.

    The weights together keep `density` of all their elements (up to float error).

    Source: Evci et al. 2020, "Rigging the Lottery", section 3. Layers that would exceed 1 are set to 1 all at once and
    the others scaled again, until none does.

    Raises:
        PlanError: the density is outside (0, 1].
    """
    if not 0 < density <= 1:
        raise PlanError([f"density is the kept fraction, in (0, 1]; got {density}"])
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: (sum(shape) / size[name]) ** power for name, shape in shapes.items()}
    budget = density * sum(size.values())
    dense: set[str] = set()
    while True:
        free = [name for name in shapes if name not in dense]
        left = budget - sum(size[name] for name in dense)
        total = sum(raw[name] * size[name] for name in free)
        full = [name for name in free if left * raw[name] >= total * (1 - 1e-12)]
        if not full:
            return {name: 1.0 if name in dense else left * raw[name] / total for name in shapes}
        dense.update(full)


def erk(
    model: nn.Module,
    density: float,
    pattern: PatternLike = "unstructured",
    *,
    skip: Collection[str] = SKIPPED,
    power: float = 1.0,
) -> Plan:
    """A plan with `erk_densities` for the weights that `Plan.uniform` would take.

    Raises:
        PlanError: see `Plan.uniform`; also for N:M patterns, whose density is fixed.
    """
    holes = _allocatable(pattern)
    if isinstance(holes, Block | KernelPattern):
        holes = replace(holes, scope="layer")
    shapes = {name: find_view(model, name).weight.shape for name in candidates(model, skip)}
    plan = Plan({name: (holes, share) for name, share in erk_densities(shapes, density, power).items()})
    plan.check(model)
    return plan


def global_magnitude(
    model: nn.Module, pattern: PatternLike, density: float, *, skip: Collection[str] = SKIPPED
) -> Plan:
    """A plan with the densities that competition over the whole network leaves, each weight then for itself.

    All groups of the weights that `Plan.uniform` would take are ranked by their Frobenius norm. A weight that loses
    all its groups gets one back, since no density is zero.

    Raises:
        PlanError: see `Plan.uniform`; also for N:M patterns, whose density is fixed, and for what is no `Block`.
    """
    block = _allocatable(pattern)
    if not isinstance(block, Block):
        raise PlanError([f"only groups of blocks are shared out, and {block} has others; use erk or Plan.uniform"])
    block = replace(block, scope="network")
    together = Plan.uniform(model, block, density, skip=skip)
    densities: dict[str, float] = {}
    for name, mask in together.masks(model).items():
        alive = block.alive(mask, find_view(model, name).layout)
        densities[name] = max(1, int(alive.sum())) / alive.numel()
    return Plan({name: (replace(block, scope="layer"), share) for name, share in densities.items()})


def _allocatable(name: PatternLike) -> Pattern:
    block = pattern_of(name)
    if isinstance(block, Block) and (block.out, block.in_, block.positions) == (ALL, ALL, ALL):
        raise PlanError(["a whole layer has no density of its own; use Plan.uniform with scope 'network'"])
    if isinstance(block, Block) and isinstance(block.scope, NOfM):
        raise PlanError([f"{block} has a density of its own, {block.density():g}; use Plan.uniform"])
    return block
