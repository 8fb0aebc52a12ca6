"""Counts multiply-accumulates from the torch module itself, so that no engine judges its own work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from monstera.measure.answers import Inputs, arguments
from monstera.modes import attention_in_full
from monstera.sparsity.view import layouts_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_aten = torch.ops.aten
_COUNTED = (*_CONVOLUTIONS, *_TRANSPOSED, *_RECURRENT, nn.Linear, nn.MultiheadAttention)


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one call of a network: of all its weights, and of those that are not zero."""

    dense: int
    surviving: int

    def __post_init__(self) -> None:
        if not 0 <= self.surviving <= self.dense:
            raise ValueError(f"expected 0 <= surviving <= dense, got {self.surviving} of {self.dense}")


def count_macs(model: nn.Module, example: Inputs) -> Macs:
    """Run `model` once on `example` and count the MACs of its convolutions, linear and recurrent layers, and attention.

    Every weight is counted once for each output position it serves, taps on padding included, batch included. Products
    of computed tensors survive as a whole, masked scores included. Arithmetic other than products (norms, activations,
    gates, pooling) is not counted. The model is left as it was; torch's fast path of attention, whose operators hide
    layers and products, is off for the whole process meanwhile.
    """
    counts: list[Macs] = []
    counted = [module for module in model.modules() if isinstance(module, _COUNTED) or _is_transposed_linear(module)]
    hooks = [module.register_forward_hook(partial(_count, counts), with_kwargs=True) for module in counted]
    args, kwargs = arguments(example)
    products = _Products(counted)
    try:
        with torch.no_grad(), attention_in_full(), products:
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return Macs(sum(c.dense for c in counts) + products.macs, sum(c.surviving for c in counts) + products.macs)


class _Products(TorchDispatchMode):
    """Counts products of computed tensors: attention written out, and attention as one operator of torch on the CPU.

    Weights of the layers that are counted by themselves meet their input in such a product, too, where torch likes to.
    """

    def __init__(self, counted: Iterable[nn.Module]) -> None:
        super().__init__()
        weights = (parameter for module in counted for parameter in module.parameters())
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in weights}
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (_aten.bmm.default, _aten.baddbmm.default):
            a, b = args[-2:]
            if not self._weights & {a.untyped_storage().data_ptr(), b.untyped_storage().data_ptr()}:
                self.macs += result.numel() * a.shape[-1]
        elif func is _aten._scaled_dot_product_flash_attention_for_cpu.default:
            q, k, v = args[:3]
            self.macs += q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        return result


def _count(
    counts: list[Macs], module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: torch.Tensor
) -> None:
    if isinstance(module, nn.MultiheadAttention):
        counts += _projections(module, dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs))
        return
    positions = _positions(module, (*args, *kwargs.values())[0], output)
    counts += [_used(weight, positions) for weight in _weights(module)]


def _used(weight: torch.Tensor, positions: int) -> Macs:
    return Macs(weight.numel() * positions, int(torch.count_nonzero(weight)) * positions)


def _projections(module: nn.MultiheadAttention, given: Mapping[str, torch.Tensor]) -> list[Macs]:
    """The layers of queries, keys and values, which are no modules, and that of the output, which is never called."""
    together = module.in_proj_weight
    apart = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    weights = apart if together is None else together.chunk(3)
    tokens = [given[name].numel() // given[name].shape[-1] for name in ("query", "key", "value")]
    return list(map(_used, (*weights, module.out_proj.weight), (*tokens, tokens[0])))


def _weights(module: nn.Module) -> list[torch.Tensor]:
    """Every matrix of a recurrent layer meets the input, or a state, of each step once."""
    if isinstance(module, _RECURRENT):
        return [parameter for parameter in module.parameters() if parameter.dim() == 2]
    assert isinstance(module.weight, torch.Tensor)
    return [module.weight]


def _is_transposed_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer that holds its weight as `[in, out]`."""
    layout = (layouts_of(module) or {}).get("weight")
    return layout is not None and layout.transposed and not isinstance(module, _TRANSPOSED)


def _positions(module: nn.Module, x: torch.Tensor, output: torch.Tensor) -> int:
    """Return how many times each weight is used: places per channel or feature, times the batch."""
    if isinstance(module, nn.Linear):
        return output.numel() // module.out_features
    if _is_transposed_linear(module):
        return x.numel() // x.shape[-1]
    if isinstance(module, _TRANSPOSED):
        return x.numel() // module.in_channels
    if isinstance(module, _RECURRENT):
        return x.numel() // module.input_size
    assert isinstance(module, _CONVOLUTIONS)
    return output.numel() // module.out_channels
