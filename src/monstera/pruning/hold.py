"""Keep the holes of a sparse model, whoever made them, through any later training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from monstera.pruning.distributed import part_of, reshard, whole
from monstera.pruning.holes import clear_state_, punch_
from monstera.sparsity import load_masks, save_masks, weight_views
from monstera.sparsity.attached import attach, detach


@final
class Hold:
    """Masks kept by hooks on an optimizer until `remove()`; also a context manager. Made by `hold`."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]
    ) -> None:
        self.masks = dict(masks)
        self._optimizer, self._weights = optimizer, weights
        self._keep()
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        attach([weights[name] for name in masks], "hold")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the masks to a file that `hold` and `load_masks` read."""
        save_masks(path, {name: whole(mask) for name, mask in self.masks.items()})

    def remove(self) -> None:
        """Let go: the zeros stay, but later steps may fill them."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            detach([self._weights[name] for name in self.masks], "hold")
        self._handles = []

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _before(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        for name, mask in self.masks.items():
            grad = self._weights[name].grad
            if grad is not None:
                # By select, not by product: a skipped step's Inf would become NaN.
                grad.masked_fill_(~mask, 0)

    def _after(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        self._keep()

    def _keep(self) -> None:
        punch_(self._weights, self.masks)
        clear_state_(self._optimizer, self._weights, self.masks)


def hold(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    masks: Mapping[str, Tensor] | str | os.PathLike[str] | None = None,
) -> Hold:
    """Keep zeros zero through fine-tuning; steps with a closure are fine.

    Args:
        model: weights outside the masks are set to zero in place, now and after every step.
        masks: bool tensors by parameter name, or a mask file; default the zeros that the weights of convolutions,
            linear layers and other known modules have now (biases and norms are left alone).

    Raises:
        ValueError: there are no zeros to keep, or a mask fits no parameter; all misfits are listed.
        MaskFileError: the mask file is damaged.
        TypeError: the model was wrapped in torch's first FSDP.
    """
    reshard(model)
    parameters = dict(model.named_parameters())
    if masks is None:
        views = weight_views(model)
        found = {name: whole(view.weight.detach()) != 0 for name, view in views.items()}
        masks = {name: mask for name, mask in found.items() if not mask.all()}
    elif not isinstance(masks, Mapping):
        masks = load_masks(masks)
    if not masks:
        raise ValueError("hold: no weight of the model has a zero to keep; prune it first, or pass masks")
    if problems := [problem for name, mask in masks.items() if (problem := _misfit(name, mask, parameters))]:
        raise ValueError("hold: masks that do not fit the model:\n  - " + "\n  - ".join(problems))
    placed = {name: mask.to(parameters[name].device) for name, mask in masks.items()}
    return Hold(optimizer, parameters, {name: part_of(mask, parameters[name]) for name, mask in placed.items()})


def _misfit(name: str, mask: Tensor, parameters: Mapping[str, nn.Parameter]) -> str:
    if name not in parameters:
        return f"{name}: the model has no such parameter"
    if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
        expected = f"bool {list(parameters[name].shape)}"
        return f"{name}: expected {expected}, got {mask.dtype} {list(mask.shape)}"
    return ""
