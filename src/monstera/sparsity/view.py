"""Weights of every module type seen in one way: `[slices, out, in, positions]`.

A slice is one part (an RNN gate; the query, key or value of attention) of one convolution group. Blocks are cut inside
slices, so they never straddle two of them. Positions are the kernel's, flattened in row-major order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from monstera.sparsity.errors import ViewError, suggestion


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor holds its slices: `[parts * groups * out, in, *kernel]`, or `[groups * in, parts * out, *kernel]`.

    Attributes:
        parts: equal runs of output rows that blocks must not straddle. For unequal runs take their common divisor.
        groups: convolution groups.
        transposed: the second form (transposed convolutions, linear layers stored `[in, out]`).
    """

    parts: int = 1
    groups: int = 1
    transposed: bool = False

    def __post_init__(self) -> None:
        if self.parts < 1 or self.groups < 1:
            raise ViewError(f"a layout needs parts >= 1 and groups >= 1, got {self}")

    def extents(self, shape: tuple[int, ...] | torch.Size) -> tuple[int, int, int, int]:
        """`(slices, out, in, positions)` of a weight of this shape.

        Raises:
            ViewError: fewer than 2 or more than 5 dimensions, an empty weight, or rows that do not divide evenly.
        """
        if not 2 <= len(shape) <= 5 or 0 in shape:
            raise ViewError(f"a weight needs 2 to 5 dimensions and no empty one, [out, in, *kernel]; got {list(shape)}")
        in_split, out_split = (self.groups, self.parts) if self.transposed else (1, self.parts * self.groups)
        rows, columns = (shape[1], shape[0]) if self.transposed else (shape[0], shape[1])
        if rows % out_split or columns % in_split:
            raise ViewError(f"shape {list(shape)} does not divide into {self}")
        positions = 1
        for size in shape[2:]:
            positions *= size
        return self.parts * self.groups, rows // out_split, columns // in_split, positions

    def to_canonical(self, weight: Tensor) -> Tensor:
        """The weight as `[slices, out, in, positions]`: differentiable, sharing memory where possible."""
        slices, out, in_, positions = self.extents(weight.shape)
        if not self.transposed:
            return weight.reshape(slices, out, in_, positions)
        split = weight.reshape(self.groups, in_, self.parts, out, positions)
        return split.permute(2, 0, 3, 1, 4).reshape(slices, out, in_, positions)

    def from_canonical(self, canonical: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """The inverse of `to_canonical` for a weight of the given shape."""
        _, out, in_, positions = self.extents(shape)
        if not self.transposed:
            return canonical.reshape(shape)
        split = canonical.reshape(self.parts, self.groups, out, in_, positions)
        return split.permute(1, 3, 0, 2, 4).reshape(shape)


PLAIN = Layout()
ModuleT = TypeVar("ModuleT", bound=nn.Module)
LayoutsOf: TypeAlias = Callable[[Any], Mapping[str, Layout]]

_REGISTRY: dict[type[nn.Module], LayoutsOf] = {}
# Types of packages that are not imported for their sake, by where they are defined.
_BY_NAME: dict[str, LayoutsOf] = {}


def register_view(module_type: type[ModuleT], layouts: Callable[[ModuleT], Mapping[str, Layout]]) -> None:
    """Say which parameters of a module type are weights, and how each holds its slices.

    Subclasses are covered unless they are registered themselves; registering a type again replaces what it had.

    Example:
        >>> class Transposed(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.zeros(3, 8))
        >>> register_view(Transposed, lambda module: {"weight": Layout(transposed=True)})
        >>> WeightView(Transposed()).canonical().shape
        torch.Size([1, 8, 3, 1])
    """
    _REGISTRY[module_type] = layouts


def layouts_of(module: nn.Module) -> Mapping[str, Layout] | None:
    """The layouts of a module's own weights by parameter name, or None if its type is not registered."""
    for base in type(module).__mro__:
        layouts = _REGISTRY.get(base) or _BY_NAME.get(f"{base.__module__}.{base.__qualname__}")
        if layouts is not None:
            return layouts(module)
    return None


@dataclass(frozen=True, slots=True)
class WeightView:
    """One weight of one module; `layout` is found in the registry. The parameter itself is read anew at each access.

    Raises:
        ViewError: the module's type is not registered, it has no such weight, or the weight is computed from others.
    """

    module: nn.Module
    parameter: str = "weight"
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", _layout(self.module, self.parameter))
        self.layout.extents(self.weight.shape)

    @property
    def weight(self) -> nn.Parameter:
        """The parameter, as the module holds it."""
        return getattr(self.module, self.parameter)

    def canonical(self) -> Tensor:
        """The weight as `[slices, out, in, positions]`, detached; shares memory where the layout allows."""
        return self.layout.to_canonical(self.weight.detach())

    def restore(self, canonical: Tensor) -> Tensor:
        """A tensor of the weight's own shape from one in canonical form. Nothing is written to the module."""
        return self.layout.from_canonical(canonical, self.weight.shape)


def _layout(module: nn.Module, parameter: str) -> Layout:
    kind = type(module).__name__
    layouts = layouts_of(module)
    if layouts is None and not isinstance(getattr(module, parameter, None), Tensor):
        raise ViewError(f"{kind} has no parameter {parameter!r}")
    if layouts is None:
        raise ViewError(
            f"{kind} is not a known module type, so the rows and columns of its {parameter!r} are unknown; "
            f'say them with monstera.sparsity.register_view({kind}, lambda module: {{"{parameter}": Layout()}})'
        )
    if parameter not in layouts:
        raise ViewError(f"{kind} has no weight {parameter!r}; {suggestion(parameter, layouts)}")
    if reason := _unusable(module, parameter):
        raise ViewError(f"{kind}.{parameter} {reason}")
    return layouts[parameter]


def _unusable(module: nn.Module, parameter: str) -> str:
    """Why zeros cannot be written to a weight, with advice; empty if they can."""
    if parametrize.is_parametrized(module, parameter):
        return (
            "is parametrised, so zeros written to it would not last; bake it in first with "
            f"torch.nn.utils.parametrize.remove_parametrizations(module, {parameter!r})"
        )
    own = module._parameters
    if f"{parameter}_orig" in own:
        return f"is masked by torch.nn.utils.prune; make it permanent with prune.remove(module, {parameter!r})"
    if f"{parameter}_g" in own:
        return "is computed by the old weight_norm; undo it with torch.nn.utils.remove_weight_norm(module)"
    leaf = own.get(parameter)
    if leaf is None:
        return "is not a parameter of the module; prune the parameter it is computed from"
    if nn.parameter.is_lazy(leaf):
        return "has no shape yet; run the model once on an example first"
    return ""


def weight_views(model: nn.Module) -> dict[str, WeightView]:
    """Every weight of the model that has a registered layout, by parameter name, in registration order.

    A shared parameter appears once, under the first of its names. Weights that `WeightView` refuses are left out.
    """
    views: dict[str, WeightView] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for parameter in layouts_of(module) or ():
            if _unusable(module, parameter):
                continue
            view = WeightView(module, parameter)
            if id(view.weight) not in seen:
                seen.add(id(view.weight))
                views[f"{path}.{parameter}" if path else parameter] = view
    return views


def find_view(model: nn.Module, name: str) -> WeightView:
    """The view of the weight that `model.state_dict()` would call `name`; any name of a shared parameter will do.

    Raises:
        ViewError: there is no such module or weight, or `WeightView` refuses it.
    """
    path, _, parameter = name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise ViewError(f"the model has no module {path!r}; {suggestion(name, weight_views(model))}") from None
    return WeightView(module, parameter)


def _grouped(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> dict[str, Layout]:
    return {"weight": Layout(groups=module.groups)}


def _grouped_transposed(module: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) -> dict[str, Layout]:
    return {"weight": Layout(groups=module.groups, transposed=True)}


def _plain(_: nn.Module) -> dict[str, Layout]:
    return {"weight": PLAIN}


def _transposed(_: nn.Module) -> dict[str, Layout]:
    return {"weight": Layout(transposed=True)}


def _attention(module: nn.MultiheadAttention) -> dict[str, Layout]:
    if module.in_proj_weight is not None:
        return {"in_proj_weight": Layout(parts=3)}
    return {f"{which}_proj_weight": PLAIN for which in "qkv"}


_GATES: dict[type[nn.Module], int] = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4, nn.RNNCell: 1, nn.GRUCell: 3, nn.LSTMCell: 4}


def _gated(gates: int) -> LayoutsOf:
    """Stacked gates are parts; the projection of an LSTM (`weight_hr`) has none."""

    def cell(_: nn.RNNCellBase) -> dict[str, Layout]:
        return {"weight_ih": Layout(parts=gates), "weight_hh": Layout(parts=gates)}

    def layers(module: nn.RNNBase) -> dict[str, Layout]:
        one = {"weight_ih": Layout(parts=gates), "weight_hh": Layout(parts=gates)}
        one |= {"weight_hr": PLAIN} if module.proj_size else {}
        directions = ("", "_reverse") if module.bidirectional else ("",)
        ends = [f"_l{layer}{direction}" for layer in range(module.num_layers) for direction in directions]
        return {name + end: layout for end in ends for name, layout in one.items()}

    def layouts(module: nn.RNNBase | nn.RNNCellBase) -> dict[str, Layout]:
        return layers(module) if isinstance(module, nn.RNNBase) else cell(module)

    return layouts


register_view(nn.Linear, _plain)
register_view(nn.Embedding, _plain)
register_view(nn.Conv1d, _grouped)
register_view(nn.Conv2d, _grouped)
register_view(nn.Conv3d, _grouped)
register_view(nn.ConvTranspose1d, _grouped_transposed)
register_view(nn.ConvTranspose2d, _grouped_transposed)
register_view(nn.ConvTranspose3d, _grouped_transposed)
register_view(nn.MultiheadAttention, _attention)
for _type, _count in _GATES.items():
    register_view(_type, _gated(_count))
# The linear layer of GPT-2 and its kin, [in, out].
_BY_NAME["transformers.pytorch_utils.Conv1D"] = _transposed
