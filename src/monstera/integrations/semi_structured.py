"""Linear layers with 2:4 holes on torch's semi-structured kernels, which run on CUDA GPUs."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator

import torch
from torch import nn
from torch.sparse import to_sparse_semi_structured

from monstera.sparsity import pattern

# What both backends of torch take: CUTLASS asks for as much, cuSPARSELt for multiples of 16.
_DTYPES = (torch.float16, torch.bfloat16)
_ROWS, _COLUMNS = 32, 64
# Ampere has the first sparse tensor cores.
_CAPABILITY = (8, 0)
_TWO_OF_FOUR = pattern("2:4")


def to_semi_structured(model: nn.Module, *, skip: Collection[str] = ()) -> nn.Module:
    """Return a copy of a pruned model whose linear layers with 2:4 holes run on torch's semi-structured kernels.

    Holes are read off the weights, whoever made them; layers without them, and all that are no `nn.Linear`, stay as
    they are. The copy is for inference: its converted weights require no gradient.

    Args:
        model: on a CUDA device, in float16 or bfloat16; not changed.
        skip: names of linear layers to leave as they are.

    Raises:
        ValueError: no linear layer has 2:4 holes, `skip` names what is none, or the kernels do not take the type or
            shape of layers, which are listed.
        RuntimeError: the layers are on no CUDA device of compute capability 8.0 or more.
    """
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    if unknown := sorted(set(skip) - linear.keys()):
        raise ValueError(f"skip: {', '.join(unknown)}: the model has no such linear layer")
    found = {n: m for n, m in linear.items() if n not in skip and _TWO_OF_FOUR.holds(m.weight.detach())}
    if not found:
        raise ValueError('no linear layer of the model has 2:4 holes; prune it with the pattern "2:4" first')
    if problems := [f"{name}: {problem}" for name, module in found.items() for problem in _misfits(module)]:
        raise ValueError(
            "layers that the semi-structured kernels do not take (name them in skip, or change them):\n  - "
            + "\n  - ".join(problems)
        )
    _need_gpu(found)
    made = copy.deepcopy(model)
    for name, module in found.items():
        sparse = to_sparse_semi_structured(module.weight.detach().contiguous())
        made.get_submodule(name).weight = nn.Parameter(sparse, requires_grad=False)
    return made


def _misfits(module: nn.Linear) -> Iterator[str]:
    rows, columns = module.weight.shape
    if module.weight.dtype not in _DTYPES:
        yield f"expected weights in float16 or bfloat16, got {module.weight.dtype}; call model.half() first"
    if rows % _ROWS or columns % _COLUMNS:
        yield f"expected a multiple of {_ROWS} outputs and of {_COLUMNS} inputs, got {rows} and {columns}"


def _need_gpu(layers: dict[str, nn.Linear]) -> None:
    if not torch.cuda.is_available():
        raise RuntimeError(
            "semi-structured kernels run on CUDA GPUs, and torch finds none here; "
            "monstera.compile makes a program for this machine's CPU"
        )
    for name, module in layers.items():
        device = module.weight.device
        if device.type != "cuda":
            raise RuntimeError(f"{name} is on device {device}; call model.cuda() first")
        if torch.cuda.get_device_capability(device) < _CAPABILITY:
            raise RuntimeError(
                f"{torch.cuda.get_device_name(device)} has no sparse tensor cores; "
                f"expected compute capability {'.'.join(map(str, _CAPABILITY))} or more"
            )
