"""First weights for every layer that a candidate may have, such that it gives what the layer in its place gave."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.pruning import reestimate_batch_norm
from monstera.search.npas.base import Base
from monstera.search.npas.candidate import Inherited, replacement
from monstera.search.npas.scheme import SKIP
from monstera.search.npas.stage import Stage
from monstera.sparsity.files import tensors_digest, write_tensors

STEPS = 100
LR = 0.01
_SEPARATOR = "|"


def inherit(base: Base, batch: Tensor, path: str | os.PathLike[str] | None = None) -> Inherited:
    """Weights for every stage and every filter type but its own, found once for all schemes.

    The base answers `batch`, and each alternative learns to give, for what came into the layer, what came out of it:
    a 1x1 convolution by least squares, a cascade by some steps of Adam and least squares for its last part.

    Args:
        batch: `[N, channels, height, width]` as the network takes it; a few dozen pictures, no more.
        path: a safetensors file that is read if it holds the weights for this base and batch, and else is written.

    Source: Z. Li et al., "NPAS" (CVPR 2021): the reconstruction error of a layer's output is minimised; how is ours.
    """
    name = _fingerprint(base, batch)
    if path is not None and (kept := _read(Path(path), name)) is not None:
        return kept
    stages = [stage for stage in base.space.stages if _alternatives(stage)]
    seen = observed(base.model, batch, [stage.name for stage in stages])
    found = {
        (stage.name, kind): _state(fitted(stage, kind, base.model.get_submodule(stage.name), *seen[stage.name]))
        for stage in stages
        for kind in _alternatives(stage)
    }
    if path is not None:
        tensors = {_SEPARATOR.join((*key, part)): t for key, state in found.items() for part, t in state.items()}
        write_tensors(tensors, path, {"fingerprint": name})
    return found


def observed(model: nn.Module, batch: Tensor, names: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """What went into the named modules and what came out, for one batch."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with _watching(model, names, seen), torch.no_grad():
        model(batch)
    return seen


@contextmanager
def _watching(model: nn.Module, names: list[str], seen: dict[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Copies, as activations may work in place.
            seen[name] = inputs[0].clone(), output.clone()

        return model.get_submodule(name).register_forward_hook(hook)

    handles = [watch(name) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def fitted(stage: Stage, kind: str, layer: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    """Make the layer of a filter type whose outputs for `x` come close to `y`, in evaluation mode.

    Args:
        layer: the convolution in whose place it stands.
        x, y: what went into that and came out, `[N, channels, height, width]`.
    """
    assert isinstance(layer, nn.Conv2d)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = replacement(stage, kind, layer.bias is not None)
    if isinstance(made, nn.Conv2d):
        _solve(made, x, y)
        return made.eval()
    assert isinstance(made, nn.Sequential)
    if kind == "3x3dw+1x1":
        _separate(made, layer.weight.detach())
    _approach(made, x, y)
    hidden = made[:-1]
    reestimate_batch_norm(hidden, [x])
    with torch.no_grad():
        _solve(made[-1], hidden.eval()(x), y)
    return made.eval()


def _solve(layer: nn.Module, x: Tensor, y: Tensor) -> None:
    """Set a 1x1 convolution to the least-squares solution of `layer(x) = y`, the smallest where there are several."""
    assert isinstance(layer, nn.Conv2d)
    step = layer.stride[0]
    rows, wanted = (t.movedim(1, -1).flatten(0, -2).double() for t in (x[:, :, ::step, ::step], y))
    if layer.bias is not None:
        rows = F.pad(rows, (0, 1), value=1.0)
    solution = torch.linalg.lstsq(rows, wanted, driver="gelsd").solution.T
    with torch.no_grad():
        layer.weight.copy_(solution[:, : layer.in_channels, None, None])
        if layer.bias is not None:
            layer.bias.copy_(solution[:, -1])


def _separate(cascade: nn.Sequential, weight: Tensor) -> None:
    """Begin with the nearest cascade of dense 3x3 kernels: of each input channel the leading pair of vectors."""
    depthwise, project = cascade[0], cascade[1]
    assert isinstance(depthwise, nn.Conv2d)
    assert isinstance(project, nn.Conv2d)
    left, size, right = torch.linalg.svd(weight.transpose(0, 1).flatten(2), full_matrices=False)
    with torch.no_grad():
        depthwise.weight.copy_(right[:, 0].reshape(depthwise.weight.shape))
        project.weight.copy_((left[:, :, 0] * size[:, :1]).T[:, :, None, None])


def _approach(cascade: nn.Sequential, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.Adam(cascade.parameters(), LR)
    cascade.train()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LR * (1 - step / STEPS)
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(cascade(x), y).backward()
        optimizer.step()


def _alternatives(stage: Stage) -> list[str]:
    return [kind for kind in stage.filters if kind not in (stage.base, SKIP)]


def _state(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in layer.state_dict().items()}


def _fingerprint(base: Base, batch: Tensor) -> str:
    """Name everything that decides the weights: the base's, the batch, the stages and the constants here."""
    stages = [[stage.name, stage.filters, stage.hidden] for stage in base.space.stages]
    return tensors_digest({**base.model.state_dict(), "": batch}, json.dumps([stages, STEPS, LR]))


def _read(path: Path, fingerprint: str) -> Inherited | None:
    """The weights in a file, or None where there are none or those of something else."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); remove it to make it again") from None
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, value in tensors.items():
        stage, kind, part = key.split(_SEPARATOR)
        found.setdefault((stage, kind), {})[part] = value
    return found
