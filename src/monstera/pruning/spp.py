"""Structured probabilistic pruning: groups die by chance for one step at a time, and for good when it is certain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from monstera.pruning.base import Pruner
from monstera.pruning.distributed import of_process_0, part_of, whole
from monstera.pruning.pruning_probability import drawn, settled, updated
from monstera.pruning.report import Progress, Sampling
from monstera.pruning.timeline import step_at
from monstera.sparsity import Layout, PatternError, Plan, PlanError, kept_groups
from monstera.sparsity.competition import pools
from monstera.sparsity.scores import widened

INCREMENT = 0.05
CENTRE = 0.25
UPDATE_EVERY = 180
# How many updates are enough for the last of some thousand groups, if their ranks hold still.
_UPDATES = 200


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """How a weight falls into groups: the group of every weight, and where the first weight of every group lies."""

    group: Tensor
    first: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """Give every weight the value of its group."""
        return values.to(self.group.device)[self.group]


@final
class SPP(Pruner):
    """Prune every group with a probability of its own, anew at every step; ranks move the probabilities.

    All probabilities start at 0. At every step masks are drawn by them: what is pruned by chance sits out the forward
    pass and the optimizer's step, and is back unharmed when it is drawn again. At every update the groups of a layer
    are ranked by their L1 norm, and probabilities rise for low ranks and fall for high ones. A group whose probability
    reaches 1 is dead for good, and a layer that has lost what its plan says is left alone. When all have, or at
    `harden_at`, masks are fixed and the survivors tuned.

    Groups are those of the plan's patterns: "column" is the paper's, "filter" its rows. They compete as the pattern's
    scope says, in the layer or in the network. Patterns without disjoint groups, and N:M, are refused.

    Args:
        steps: optimizer steps of all phases together.
        increment: what an update adds to the probability of the lowest rank (the paper's A).
        centre: where the paper's curve has its point of symmetry, as a fraction of `increment` (the paper's u).
        update_every: steps between two updates (the paper's t, 180); default as many as leave room for 200 updates
            before `harden_at`, and at most 180.
        harden_at: the fraction of `steps` after which layers that have not lost enough lose their likeliest groups.
        seed: of the masks; the mask of a step depends on it, on the step and on the name of the weight.

    Raises:
        ValueError: an increment outside (0, 1], a centre or `harden_at` outside (0, 1), or so few updates before
            `harden_at` that no probability can reach 1; see also `Pruner`.
        PlanError: a pattern that cannot be served; all are named.

    Source: H. Wang et al., "Structured Probabilistic Pruning for Convolutional Neural Network Acceleration", BMVC 2018,
    arXiv 1709.06994. The released code sees unpruned weights in the gradient of inputs, and momentum moves what sits
    out; here neither. `harden_at` is ours: there updates go on until every layer has lost enough.
    """

    name = "SPP"
    works_on_parts = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        *,
        steps: int,
        increment: float = INCREMENT,
        centre: float = CENTRE,
        update_every: int | None = None,
        harden_at: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not 0 < increment <= 1:
            raise ValueError(f"increment: expected a number in (0, 1], got {increment}")
        if not 0 < centre < 1:
            raise ValueError(f"centre: expected a number between 0 and 1, got {centre}")
        self.increment, self.centre, self.seed = increment, centre, seed
        self.harden_step = step_at(harden_at, steps, "harden_at")
        self.update_every = _interval(update_every, self.harden_step, increment)
        self.history: list[Sampling] = []
        super().__init__(model, optimizer, plan, steps)

    def start(self) -> None:
        self._cuts = _cuts(self.plan, self.weights, self.layouts)
        self.probabilities = {name: torch.zeros(len(c.first), dtype=torch.float64) for name, c in self._cuts.items()}
        self.dense = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._pools = [(names, self._to_prune(names)) for names in pools(self.plan)]

    @property
    def phase(self) -> str:
        return "sample" if self.dense else "tune"

    @property
    def holds_holes(self) -> bool:
        """Not while masks are drawn: what sits out keeps its momentum."""
        return not self.dense

    def before_step(self, grads: Mapping[str, Tensor], scale: Tensor | float) -> None:  # noqa: ARG002
        for name, dense in self.dense.items():
            self.weights[name].copy_(dense)
            if name in grads:
                grads[name].masked_fill_(~self.masks[name], 0)

    def after_step(self) -> None:
        if not self.dense:
            return
        for name, mask in self.masks.items():
            # By select: weight decay and momentum have moved what sat out.
            self.dense[name] = torch.where(mask, self.weights[name].detach(), self.dense[name])
        if self.step % self.update_every == 0:
            self._update()
        if self.step == self.harden_step or all(self._dead(names) == count for names, count in self._pools):
            self.harden()
        else:
            self._show({n: drawn(p, self.seed, self.step, n) for n, p in self.probabilities.items()})

    @torch.no_grad()
    def harden(self) -> None:
        """Fix the masks: layers that have not lost enough lose their likeliest groups, of equals the least."""
        if not self.dense:
            return
        before = sum(self._dead(names) for names, _ in self._pools)
        for names, count in self._pools:
            probability, norms = self._pooled(names)
            self._deal(names, settled(probability, norms, count))
        self._record(decided=sum(count for _, count in self._pools) - before)
        self._show({name: p < 1 for name, p in self.probabilities.items()})
        self.ties = self.bind(self.weights, self.masks)
        self.dense = {}

    def progress(self) -> Progress:
        return replace(super().progress(), sampling=self.history[-1] if self.history else None)

    def settings(self) -> dict[str, Any]:
        return {
            "increment": self.increment,
            "centre": self.centre,
            "update_every": self.update_every,
            "harden_step": self.harden_step,
            "seed": self.seed,
        }

    def own_state(self) -> dict[str, Any]:
        return {
            "dense": {name: weight.clone() for name, weight in self.dense.items()},
            "probabilities": {name: p.clone() for name, p in self.probabilities.items()},
            "history": [[entry.step, entry.dead, entry.to_go, entry.decided] for entry in self.history],
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self.dense = {name: self.placed(name, value) for name, value in state["dense"].items()}
        self.probabilities = {name: p.to("cpu", copy=True) for name, p in state["probabilities"].items()}
        self.history = [Sampling(*entry) for entry in state["history"]]

    # ---- probabilities ----------------------------------------------------------------------------------------------

    def _update(self) -> None:
        for names, count in self._pools:
            probability, norms = self._pooled(names)
            self._deal(names, updated(probability, norms, count, self.increment, self.centre))
        self._record(decided=0)

    def _pooled(self, names: list[str]) -> tuple[Tensor, Tensor]:
        """Probabilities and L1 norms of all groups that share a budget."""
        norms = []
        for name in names:
            (sums,) = self.plan[name].pattern.sums(widened(whole(self.dense[name])).abs(), self.layouts[name])
            norms.append(sums.flatten()[self._cuts[name].first].to("cpu", torch.float64))
            if norms[-1].isnan().any():
                raise PlanError([f"{name}: groups of NaN weights cannot be ranked; has the training diverged?"])
        return torch.cat([self.probabilities[name] for name in names]), torch.cat(norms)

    def _deal(self, names: list[str], probability: Tensor) -> None:
        # What processes draw by may not differ in the last bit.
        probability = of_process_0(probability, self.weights[names[0]].device)
        parts = probability.split([len(self.probabilities[name]) for name in names])
        self.probabilities |= {name: part.clone() for name, part in zip(names, parts, strict=True)}

    def _show(self, living: Mapping[str, Tensor]) -> None:
        """Let the forward pass see the dense weights of living groups; the base punches the holes."""
        self.masks = {
            name: part_of(self._cuts[name].spread(groups), self.weights[name]) for name, groups in living.items()
        }
        for name, dense in self.dense.items():
            self.weights[name].copy_(dense)

    def _dead(self, names: list[str]) -> int:
        return sum(int((self.probabilities[name] == 1).sum()) for name in names)

    def _to_prune(self, names: list[str]) -> int:
        groups = sum(len(self._cuts[name].first) for name in names)
        return groups - kept_groups(self.plan[names[0]].density, groups)

    def _record(self, decided: int) -> None:
        dead = sum(self._dead(names) for names, _ in self._pools)
        to_go = sum(count for _, count in self._pools) - dead
        self.history.append(Sampling(self.step, dead, to_go, decided))


def _interval(asked: int | None, harden_step: int, increment: float) -> int:
    if asked is not None and asked < 1:
        raise ValueError(f"update_every: expected at least 1 step, got {asked}")
    every = min(UPDATE_EVERY, max(1, harden_step // _UPDATES)) if asked is None else asked
    updates = harden_step // every
    if updates * increment < 1 - 1e-9:
        raise ValueError(
            f"steps: {updates} updates fit before masks are fixed at step {harden_step}, and no probability reaches 1 "
            f"in fewer than 1 / increment = {1 / increment:g}; take more steps, a smaller update_every than {every}, "
            "or a larger increment"
        )
    return every


def _cuts(plan: Plan, weights: Mapping[str, Tensor], layouts: Mapping[str, Layout]) -> dict[str, _Cut]:
    """The groups of every planned weight.

    Raises:
        PlanError: patterns whose groups do not live or die each by itself.
    """
    cuts: dict[str, _Cut] = {}
    problems: list[str] = []
    for name, weight in weights.items():
        pattern = plan[name].pattern
        if pattern.scope not in ("layer", "network"):
            problems.append(
                f"{name}: SPP ranks all groups of a layer or network for one budget, and {pattern} gives every "
                f"{pattern.scope} its own; take another method, or scope 'layer'"
            )
            continue
        try:
            group = pattern.groups(weight.detach(), layouts[name])
        except PatternError as error:
            problems.append(f"{name}: SPP needs a probability for each group: {error}")
            continue
        cuts[name] = _Cut(group, _first(group.flatten()))
    if problems:
        raise PlanError(problems)
    return cuts


def _first(group: Tensor) -> Tensor:
    places = torch.arange(len(group), device=group.device)
    return torch.zeros(int(group.max()) + 1, dtype=torch.int64, device=group.device).scatter_reduce_(
        0, group, places, "amin", include_self=False
    )
