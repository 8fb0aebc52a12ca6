"""The network of a scheme: a copy of the base with its layers replaced, and the plan of what is pruned in it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor, nn

from monstera.search.npas.base import Base
from monstera.search.npas.scheme import SKIP, Scheme
from monstera.search.npas.space import SchemeSpace
from monstera.search.npas.stage import Stage
from monstera.sparsity import Plan

# (stage, filter type) -> state of the layer that takes its place.
Inherited: TypeAlias = Mapping[tuple[str, str], Mapping[str, Tensor]]

# The parts of a cascade that are pruned; depthwise ones stay dense.
_PRUNED = {"1x1+3x3dw+1x1": ("expand", "project"), "3x3dw+1x1": ("project",)}


def build(base: Base, scheme: Scheme, inherited: Inherited | None = None) -> tuple[nn.Module, Plan]:
    """Make the candidate network of a scheme, in evaluation mode, and the plan that its weights are to obey.

    Nothing is pruned yet. Layers that keep their filter type keep their weights; the others have those of `inherited`,
    or fresh ones from torch's global generator. Parameters of the rest are called as in the base; a replaced layer has
    parts of its own below its name: `expand`, `depthwise`, `project`.

    Args:
        base: not changed.
        inherited: weights by stage and filter type; see `inherit`.

    Raises:
        SchemeError: the scheme is none of the base's space.
        KeyError: `inherited` has no weights for a layer.
    """
    base.space.check(scheme)
    model = copy.deepcopy(base.model)
    for stage, choice in zip(base.space.stages, scheme.choices, strict=True):
        if choice.filter == SKIP:
            for name in base.vanishing[stage.name]:
                _put(model, name, nn.Identity())
            continue
        if choice.filter != stage.base:
            layer = replacement(stage, choice.filter, _bias(model, stage))
            if inherited is not None:
                layer.load_state_dict(dict(inherited[stage.name, choice.filter]))
            _put(model, stage.name, layer)
    for module in model.modules():
        # What a skipped layer passes on is still read by its shortcut.
        if getattr(module, "inplace", False):
            module.__dict__["inplace"] = False
    plan = scheme_plan(base.space, scheme)
    plan.check(model)
    return model.eval(), plan


def scheme_plan(space: SchemeSpace, scheme: Scheme) -> Plan:
    """What a scheme of the space prunes, by the parameters of its network."""
    entries = {
        name: (choice.pattern, choice.density)
        for stage, choice in zip(space.stages, scheme.choices, strict=True)
        if choice.pattern is not None
        for name in pruned_weights(stage, choice.filter)
    }
    return Plan(entries)


def replacement(stage: Stage, kind: str, bias: bool) -> nn.Module:
    """Make the layer of a filter type, with fresh weights, for a stage whose own is another.

    `3x3dw+1x1` has nothing between its parts, so that it is linear as the layer was; `1x1+3x3dw+1x1` has batch norm and
    ReLU behind the first two, as MobileNetV2's blocks do. The last part has a bias if the stage's convolution has.
    """
    into, out, hidden = stage.in_channels, stage.out_channels, stage.hidden
    if kind == "1x1":
        return nn.Conv2d(into, out, 1, stage.stride, bias=bias)
    if kind == "3x3dw+1x1":
        return nn.Sequential(
            OrderedDict(
                depthwise=nn.Conv2d(into, into, 3, stage.stride, padding=1, groups=into, bias=False),
                project=nn.Conv2d(into, out, 1, bias=bias),
            )
        )
    return nn.Sequential(
        OrderedDict(
            expand=nn.Conv2d(into, hidden, 1, bias=False),
            expand_norm=nn.BatchNorm2d(hidden),
            expand_relu=nn.ReLU(),
            depthwise=nn.Conv2d(hidden, hidden, 3, stage.stride, padding=1, groups=hidden, bias=False),
            depthwise_norm=nn.BatchNorm2d(hidden),
            depthwise_relu=nn.ReLU(),
            project=nn.Conv2d(hidden, out, 1, bias=bias),
        )
    )


def pruned_weights(stage: Stage, kind: str) -> tuple[str, ...]:
    """The parameters of a filter type that pattern and density are for."""
    parts = _PRUNED.get(kind)
    return (f"{stage.name}.weight",) if parts is None else tuple(f"{stage.name}.{part}.weight" for part in parts)


def _bias(model: nn.Module, stage: Stage) -> bool:
    convolution = model.get_submodule(stage.name)
    assert isinstance(convolution, nn.Conv2d)
    return convolution.bias is not None


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    above, _, own = name.rpartition(".")
    setattr(model.get_submodule(above), own, module)
