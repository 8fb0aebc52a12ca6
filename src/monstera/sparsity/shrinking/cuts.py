"""What is cut from a module, as a value that can be written down and done again to a fresh one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monstera.sparsity.attached import refuse_attached
from monstera.sparsity.errors import ShrinkError
from monstera.sparsity.files import write_atomically

_FORMAT = "monstera-cuts"
_VERSION = 1
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Layers that can be given a bias.
BIASED = (*_CONVOLUTIONS, nn.Linear)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Cuts:
    """Which rows and columns of which parameters and buffers are left.

    Attributes:
        kept: name -> dimension -> the indices that are left, ascending; only what is cut is listed.
        biases: modules that get a bias, for what channels that are gone had added to theirs.
        stayed: channels that emit the same number whatever the input is and are kept nevertheless, and why; told to
            people, not written to the file.
        parameters: how many there were before, and are now; 0 where that is not known.
    """

    kept: Kept
    biases: tuple[str, ...] = ()
    stayed: tuple[str, ...] = field(default=(), compare=False)
    parameters: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        before, after = self.parameters
        layers = [f"{name}[{d}]: {len(k)} left" for name, dims in self.kept.items() for d, k in dims.items()]
        return "\n".join([f"{after:,} of {before:,} parameters left", *layers, *(f"stays: {s}" for s in self.stayed)])

    def apply_(self, model: nn.Module) -> nn.Module:
        """Cut a module of the same architecture in place; what is left keeps its values, new biases are 0.

        Parameters are replaced, so make the optimizer afterwards.

        Returns:
            `model`.

        Raises:
            ShrinkError: it lacks parameters or indices that are kept, or has more or fewer in all.
            AttachedError: a pruner is attached to one of them.
        """
        tensors = _named(model)
        size, before = sum(p.numel() for p in model.parameters()), self.parameters[0]
        if before and size != before:
            raise ShrinkError(f"these cuts are of another model: of {before:,} parameters, but it has {size:,}")
        if problems := [p for name, dims in self.kept.items() if (p := _misfit(name, dims, tensors))]:
            raise ShrinkError("these cuts are of another model:\n  - " + "\n  - ".join(problems))
        refuse_attached({name: tensors[name] for name in self.kept}, "cut")
        layers = [_layer(model, name) for name in self.biases]
        new = {id(tensors[name]): _cut(tensors[name], dims) for name, dims in self.kept.items()}
        for module in model.modules():
            _replace(module, new)
        for layer in layers:
            add_bias(layer)
        return model

    def to_json(self) -> str:
        """The cuts as JSON text, which `from_json` turns back into equal ones."""
        kept = {name: {str(d): list(k) for d, k in dims.items()} for name, dims in self.kept.items()}
        data = {
            "format": _FORMAT,
            "version": _VERSION,
            "parameters": list(self.parameters),
            "biases": list(self.biases),
        }
        return json.dumps({**data, "kept": kept})

    @classmethod
    def from_json(cls, text: str) -> Cuts:
        """Cuts from JSON text.

        Raises:
            ShrinkError: it is no such text, or of another version.
        """
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT or data["version"] != _VERSION:
                raise ShrinkError(f"expected {_FORMAT} {_VERSION}, got {data['format']} {data['version']}")
            kept = {name: {int(d): _ascending(k) for d, k in dims.items()} for name, dims in data["kept"].items()}
            before, after = map(int, data["parameters"])
            return cls(kept, tuple(map(str, data["biases"])), parameters=(before, after))
        except ShrinkError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ShrinkError(f"not a file of cuts: {error!r}; write it anew with Cuts.save") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cuts to a JSON file, whole or not at all."""
        write_atomically(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Cuts:
        """Read cuts from a JSON file.

        Raises:
            FileNotFoundError: there is no such file.
            ShrinkError: see `from_json`.
        """
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def add_bias(layer: nn.Module) -> nn.Parameter:
    """The bias of a convolution or linear layer, which gets one of zeros if it has none."""
    if layer.bias is None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        layer.bias = nn.Parameter(torch.zeros(len(weight), dtype=weight.dtype, device=weight.device))
    assert isinstance(layer.bias, nn.Parameter)
    return layer.bias


def _layer(model: nn.Module, name: str) -> nn.Module:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise ShrinkError(f"these cuts are of another model: there is no module {name!r}") from None
    if not isinstance(layer, BIASED):
        raise ShrinkError(f"{name}: expected a convolution or a linear layer, got {type(layer).__name__}")
    return layer


def _named(model: nn.Module) -> dict[str, Tensor]:
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def _ascending(indices: Any) -> tuple[int, ...]:
    numbers = tuple(indices)
    if not all(type(i) is int for i in numbers) or list(numbers) != sorted(set(numbers)) or min(numbers) < 0:
        raise ValueError(f"indices ascend from 0 on, got {numbers[:8]}")
    return numbers


def _misfit(name: str, dims: Mapping[int, Sequence[int]], tensors: Mapping[str, Tensor]) -> str:
    if name not in tensors:
        return f"{name}: the model has no such parameter"
    shape = tuple(tensors[name].shape)
    bad = [d for d, kept in dims.items() if d >= len(shape) or kept[-1] >= shape[d]]
    return (
        f"{name}: its shape is {list(shape)}, the cuts keep index {dims[bad[0]][-1]} of dimension {bad[0]}"
        if bad
        else ""
    )


def _cut(tensor: Tensor, dims: Mapping[int, Sequence[int]]) -> Tensor:
    new = tensor.detach()
    for dim, kept in dims.items():
        new = new.index_select(dim, torch.tensor(kept, device=new.device))
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _replace(module: nn.Module, new: Mapping[int, Tensor]) -> None:
    """Put new tensors where the old ones are, and correct the sizes that the module knows of."""
    for store in (module._parameters, module._buffers):
        changed: dict[str, Any] = {name: new[id(t)] for name, t in store.items() if id(t) in new}
        store.update(changed)
    weight = module._parameters.get("weight")
    if isinstance(module, _BATCH_NORMS):
        # Of a norm without factors only the statistics know.
        sized = module.running_mean if weight is None else weight
        module.num_features = module.num_features if sized is None else len(sized)
    if weight is None:
        return
    if isinstance(module, _CONVOLUTIONS):
        if module.groups == module.in_channels == module.out_channels > 1:
            module.groups = len(weight)
        module.out_channels, module.in_channels = len(weight), weight.shape[1] * module.groups
    elif isinstance(module, _TRANSPOSED):
        module.in_channels, module.out_channels = len(weight), weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
