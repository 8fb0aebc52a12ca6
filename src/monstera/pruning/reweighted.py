"""Reweighted group regularisation: the smaller a group has become, the harder it is pulled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, final, get_args

import torch
from torch import Tensor, nn

from monstera.pruning.distributed import of_process_0, part_of, whole
from monstera.pruning.group_penalty import GroupPenalty
from monstera.sparsity import PatternLike, Plan, magnitude

Power: TypeAlias = Literal["norm", "square"]


@final
class Reweighted(GroupPenalty):
    """Add `strength * sum of a_g f(||w_g||)` over all groups g to the loss, prune to the plan, tune under fixed masks.

    `a_g` is `1 / (||w_g|| + eps)` or `1 / (||w_g||^2 + eps)` of the weights at the last update, a constant in between:
    strong groups are left alone, weak ones vanish. Which densities the layers get may be left to the penalty: by
    `prune_below`, or within one budget by a pattern of scope "network", with which the groups of all layers compete.

    Args:
        steps: optimizer steps of all phases together.
        strength: weight of the penalty (the papers' lambda).
        alpha: "norm" or "square", by which the factors are made.
        penalty: "norm" or "square", what f is. "norm" with alpha "norm" is the form for language models (Li et al.
            2020), with alpha "square" that of the code for 3-D networks, "square" with "square" that of their paper;
            there the learning rate times 2 strength / eps must stay below 1.
        eps: about the norm (or its square) of the weakest group that is to live.
        reweight_at: fractions of a round's regularising steps after which the factors are made anew; made first of
            the weights as they come.
        harden_at: the fraction of a round after which the weights are projected for good.
        groups: patterns whose groups are penalised; default those of the plan.
        prune_below: when masks are fixed, groups of the plan's patterns whose norm is smaller go as well, whatever
            density the plan leaves: at density 1 each layer gets a density of its own, which the report tells. A
            layer keeps its strongest group in any case.
        rounds: how often to regularise, prune and tune, on the way to the plan's densities; see `ADMM`.

    Raises:
        ValueError: a negative strength or `prune_below`, an eps that is not positive, an unknown form, fractions
            outside (0, 1), or no round.

    Source: E. Candes, M. Wakin, S. Boyd 2008, "Enhancing Sparsity by Reweighted l1 Minimization"; groups as in B. Li et
    al., "Efficient Transformer-based Large Scale Language Representations using Hardware-friendly Block Structured
    Pruning", 2020 (arXiv 2009.08065). There updates are made at epochs that short runs never reach; here at fractions.
    """

    name = "Reweighted"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        *,
        steps: int,
        strength: float = 1e-4,
        alpha: Power = "norm",
        penalty: Power = "norm",
        eps: float = 1e-3,
        reweight_at: Sequence[float] = (0.25, 0.5, 0.75),
        harden_at: float = 0.5,
        groups: Sequence[PatternLike] | None = None,
        prune_below: float = 0.0,
        rounds: int = 1,
    ) -> None:
        for name, value in (("alpha", alpha), ("penalty", penalty)):
            if value not in get_args(Power):
                raise ValueError(f'{name}: expected "norm" or "square", got {value!r}')
        if not eps > 0:
            raise ValueError(f"eps: expected a positive number, got {eps}")
        if not all(0 < part < 1 for part in reweight_at):
            raise ValueError(f"reweight_at: expected fractions between 0 and 1, got {tuple(reweight_at)}")
        if not prune_below >= 0:
            raise ValueError(f"prune_below: expected a norm of 0 or more, got {prune_below}")
        self.alpha, self.penalty, self.eps, self.prune_below = alpha, penalty, eps, prune_below
        super().__init__(model, optimizer, plan, steps, strength, harden_at, rounds, groups)
        lengths = [(start, end - start) for start, end in self.timeline.rounds]
        again = {start + round(part * length) for start, length in lengths for part in (0.0, *reweight_at)}
        self.reweight_steps = sorted(again - {0, *(end for _, end in self.timeline.rounds)})

    def start(self) -> None:
        self._reweight()

    def pull(self, name: str, norms: Sequence[Tensor]) -> Tensor:
        weight = self.weights[name].detach()
        gradient = [2 * weight if self.penalty == "square" else weight / norm for norm in norms]
        return sum((a * g for a, g in zip(self.factors[name], gradient, strict=True)), torch.zeros_like(norms[0]))

    def after_step(self) -> None:
        super().after_step()
        if self.step == self.timeline.harden_step(self.step):
            self.factors = {}
        elif self.step in self.reweight_steps:
            self._reweight()

    @torch.no_grad()
    def harden(self) -> None:
        super().harden()
        if self.prune_below:
            self.masks = {name: self._strong(name, mask) for name, mask in self.masks.items()}
            self.ties = self.bind(self.weights, self.masks)

    def settings(self) -> dict[str, Any]:
        own = {"alpha": self.alpha, "penalty": self.penalty, "eps": self.eps, "reweight_steps": self.reweight_steps}
        return {**super().settings(), **own, "prune_below": self.prune_below}

    def own_state(self) -> dict[str, Any]:
        return {"factors": {name: [factor.clone() for factor in group] for name, group in self.factors.items()}}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self.factors = {
            name: [self.placed(name, factor) for factor in group] for name, group in state["factors"].items()
        }

    def _strong(self, name: str, mask: Tensor) -> Tensor:
        """Those of a mask whose groups are not weaker than `prune_below`, or are the strongest of all."""
        weight = self.weights[name]
        sums = self.plan[name].pattern.sums(magnitude(whole(weight)), self.layouts[name])
        weakest = torch.stack(sums).amin(0).masked_fill(~whole(mask), -1)
        strong = weakest >= weakest.max().clamp_max(self.prune_below**2)
        return part_of(of_process_0(strong, strong.device), weight)

    def _reweight(self) -> None:
        power = 2 if self.alpha == "square" else 1
        self.factors = {name: [1 / (norm**power + self.eps) for norm in self.norms(name)] for name in self.weights}
