"""Rules that map a pattern to every layer without training: what stays dense, what gets kernel patterns, what blocks.

Source: Y. Gong et al., "Automatic Mapping of the Best-Suited DNN Pruning Schemes for Real-Time Mobile Acceleration",
TODAES 2022, arXiv 2111.11581. Only its abstract was at hand: the rules are recalled, see docs/search/planning.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from monstera.compiler.preview import WORTHWHILE
from monstera.search.blocks import WITHIN
from monstera.sparsity import Block, KernelPattern, Pattern, WeightView, weight_views
from monstera.sparsity.rules import SKIPPED, candidates, weights_by_role

# About half of one another, and the steps between.
DENSITIES = (0.7, 0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.0625, 0.045, 0.03)
# Two rows at once are seldom nearly as fast as four, and every candidate has to be timed.
BLOCKS: tuple[Pattern, ...] = (Block(4, 1), Block(8, 1), Block(16, 1))
KERNELS: Pattern = KernelPattern()

_ROLES = {
    "depthwise": "depthwise",
    "first_conv": "the first convolution",
    "last_linear": "the last linear layer",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """By what the patterns of layers are chosen.

    Attributes:
        blocks: candidates for every layer, of which `choose_block` takes one a density.
        kernels: what 3x3 convolutions of stride 1 get instead, on tasks of one kind.
        kernels_if: on which. That hard tasks are those that want kernel patterns is recalled and not verified.
        hard: whether the task is hard, as ImageNet and COCO are, or easy, as CIFAR-10 is.
        within: of `choose_block`.
        least_gain: how many times faster than dense a layer must be at the lowest density, or it stays dense.
        densities: what a layer may have, besides being dense; from large to small.

    Raises:
        ValueError: no block or density, a density outside (0, 1), a `least_gain` below 1, a negative `within`, or a
            pattern whose groups compete with those of other layers.
    """

    blocks: tuple[Pattern, ...] = BLOCKS
    kernels: Pattern = KERNELS
    kernels_if: Literal["hard", "easy"] = "hard"
    hard: bool = False
    within: float = WITHIN
    least_gain: float = WORTHWHILE
    densities: tuple[float, ...] = DENSITIES

    def __post_init__(self) -> None:
        object.__setattr__(self, "densities", tuple(sorted(set(self.densities), reverse=True)))
        if not self.blocks or not self.densities:
            raise ValueError("rules need at least one block and one density")
        if not all(0 < density < 1 for density in self.densities):
            raise ValueError(f"densities of holes lie in (0, 1), got {self.densities}")
        if self.kernels_if not in ("hard", "easy"):
            raise ValueError(f'kernels_if is "hard" or "easy", got {self.kernels_if!r}')
        if self.least_gain < 1 or self.within < 0:
            raise ValueError(f"expected least_gain >= 1 and within >= 0, got {self.least_gain} and {self.within}")
        if shared := [str(p) for p in (*self.blocks, self.kernels) if p.scope == "network"]:
            raise ValueError(
                f"{', '.join(shared)}: its groups compete across layers, and here each layer has a budget of its own; "
                'take scope "layer"'
            )

    @property
    def with_kernels(self) -> bool:
        """Whether the task is of the kind that gets kernel patterns."""
        return self.hard == (self.kernels_if == "hard")

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """All that any layer may get."""
        return (*self.blocks, self.kernels) if self.with_kernels else self.blocks


def dense_by_role(model: nn.Module) -> dict[str, str]:
    """The weights that stay dense whatever they cost, and why: depthwise, first convolution, last linear layer.

    Embedding tables are no candidates at all and are left out.
    """
    roles = weights_by_role(model)
    return {name: _ROLES[role] for role in reversed(_ROLES) for name in sorted(roles[role])}


def candidate_weights(model: nn.Module) -> list[str]:
    """The weights that may get holes, in the model's order.

    Raises:
        PlanError: none is left, or one is computed from others.
    """
    return candidates(model, SKIPPED)


def listed_weights(model: nn.Module) -> list[str]:
    """All that a plan can name and the rules speak of: candidates, and what stays dense by its role."""
    spoken_of = {*candidate_weights(model), *dense_by_role(model)}
    return [name for name in weight_views(model) if name in spoken_of]


def wants_kernels(view: WeightView, rules: Rules) -> bool:
    """Whether the rules ask for kernel patterns in this weight: 3x3 convolutions of stride 1, on the right tasks."""
    module = view.module
    return (
        rules.with_kernels
        and isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
    )


def fitting(view: WeightView, patterns: Sequence[Pattern], density: float) -> list[Pattern]:
    """The patterns that a weight can have at a density."""
    return [p for p in patterns if p.feasible(density, view.weight.shape, view.layout)]


def misfit(view: WeightView, rules: Rules) -> str:
    """Why a weight can have none of the blocks, at the lowest density."""
    shape, layout = view.weight.shape, view.layout
    return "; ".join(dict.fromkeys(p.refusal(rules.densities[-1], shape, layout) for p in rules.blocks))
