"""Cut an exported program into parts that the IR can say, and calls of torch between them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import create_op_support
from torch.fx.passes.utils.fuser_utils import fuse_by_partitions
from torch.utils import _pytree as pytree

from monstera.compiler.frontends.exported_program import (
    Survey,
    Values,
    layer_of,
    op_name,
    survey_of,
    translate_part,
    whole,
)
from monstera.compiler.frontends.imported import Imported, Input, UnsupportedError
from monstera.runtime import DTYPES

# What layers call the operand that may have holes: convolutions and linear layers, recurrent ones and their cells,
# products.
_WEIGHTS = ("weight", "params", "w_ih", "w_hh", "mat2", "other")
_NO_WEIGHTS = "could be compiled, but there is no layer with weights around it that would pay for the call"

Reasons = dict[fx.Node, str]
Part = dict[fx.Node, int | None]


@dataclass(frozen=True, slots=True)
class TorchCall:
    """One operator that stays in torch: its name, its layer, and why. `refused` where the compiler cannot take it."""

    operator: str
    layer: str
    reason: str
    refused: bool

    def __str__(self) -> str:
        return f"{self.operator} in {self.layer or 'the model itself'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Split:
    """A program in parts.

    `module` takes the values of `inputs` in order, calls the submodules that `parts` names, whose graphs return tuples,
    and gives the leaves of `output`. It holds copies of the weights that torch needs. `torch_calls` are what is between
    the parts, in order. `imported` is the program as one graph where it can be that.
    """

    module: fx.GraphModule
    parts: Mapping[str, Imported]
    torch_calls: tuple[TorchCall, ...]
    inputs: tuple[Input, ...]
    output: pytree.TreeSpec
    imported: Imported | None


def split(program: ExportedProgram, inputs: tuple[Input, ...]) -> Split:
    """Split a program whose user inputs are `inputs`; its graph is used up.

    A part has at least one layer with weights: all else has nothing that holes or kernels could speed up, and would
    carry its tensors in and out for it. Parts take what engines take, and give fp32 tensors on the CPU.
    """
    survey = survey_of(program, inputs, program.state_dict)
    refused = {**_not_finite(program, survey.values), **survey.refused}
    imported = None if refused else _whole(program, inputs, survey)
    module = program.graph_module
    known = _bake(module, survey)
    parts, reasons = _propose(module, refused)
    calls = tuple(_torch_calls(module, parts, reasons, refused))
    fuse_by_partitions(module, parts, "part_", always_return_tuple=True)
    tensors = {**program.constants, **program.state_dict}
    graphs = {node.target: _part(module, node, known, tensors) for node in module.graph.find_nodes(op="call_module")}
    _keep_own_copies(module)
    return Split(module, graphs, calls, inputs, program.call_spec.out_spec, imported)  # pyright: ignore


def is_torch_call(node: fx.Node) -> bool:
    """Whether a node of a split program computes something in torch."""
    return node.op == "call_function" and node.target is not operator.getitem


def _whole(program: ExportedProgram, inputs: tuple[Input, ...], survey: Survey) -> Imported | None:
    try:
        return whole(program, inputs, survey)
    except UnsupportedError:
        # What cannot be returned by an engine can be returned by torch.
        return None


def _not_finite(program: ExportedProgram, values: Values) -> Reasons:
    """Nodes that read weights with NaN or infinite values in them, as they are or after what is computed ahead."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    reasons: Reasons = {}
    for node in program.graph.find_nodes(op="placeholder"):
        weight = program.state_dict.get(names.get(node.name, ""))
        if weight is None or not weight.is_floating_point() or weight.isfinite().all():
            continue
        readers = [*node.users]
        for reader in readers:
            if isinstance(values.get(reader), torch.Tensor):
                readers += reader.users
            else:
                reasons[reader] = f"NaN or infinite values in {names[node.name]}"
    return {node: reason for node, reason in reasons.items() if node.op == "call_function"}


def _bake(module: fx.GraphModule, survey: Survey) -> Mapping[str, torch.Tensor]:
    """Make weights, and all that follows from them, attributes of the module, and drop what nobody uses."""
    known: dict[str, torch.Tensor] = {}
    for node, value in survey.values.items():
        if isinstance(value, torch.Tensor):
            name = f"known_{len(known)}"
            known[name] = value
            module.register_buffer(name, value)
            with module.graph.inserting_before(node):
                constant = module.graph.get_attr(name)
            constant.meta = {**node.meta}
            node.replace_all_uses_with(constant)
    users = {i for i, value in survey.values.items() if i.op == "placeholder" and isinstance(value, str)}
    for node in reversed(module.graph.nodes):
        if not node.users and node.op != "output" and node not in users:
            module.graph.erase_node(node)
    return known


def _propose(module: fx.GraphModule, refused: Mapping[fx.Node, str]) -> tuple[list[Part], Reasons]:
    """Parts as large as can be, and why nodes outside of them are there."""
    reasons, parts, settled = dict(refused), [], False
    able = create_op_support(lambda _, node: node.op == "call_function" and node not in reasons)
    while not settled:
        partitioner = CapabilityBasedPartitioner(module, able, allows_single_node_partition=True)
        parts = [p.nodes for p in partitioner.propose_partitions()]
        barred = {node: why for part in parts for node, why in _barred(part)}
        reasons |= barred
        settled = not barred
    for part in parts:
        if not any(map(_has_weights, part)):
            reasons |= dict.fromkeys(part, _NO_WEIGHTS)
    kept = [part for part in parts if not part.keys() & reasons.keys()]
    order = {node: i for i, node in enumerate(module.graph.nodes)}
    return sorted(kept, key=lambda part: min(order[node] for node in part)), reasons


def _barred(part: Part) -> Iterator[tuple[fx.Node, str]]:
    """Nodes that would take something from torch, or give it something, that no engine takes or gives."""
    for node in part:
        outside = [n for n in node.all_input_nodes if n not in part and n.op != "get_attr"]
        if wrong := next((kind for n in outside if (kind := _foreign(n, DTYPES))), None):
            yield node, f"it takes {wrong} from torch; expected one of {', '.join(DTYPES)} on the CPU"
        elif any(user not in part for user in node.users) and (wrong := _foreign(node, ("float32",))):
            yield node, f"it gives {wrong} to torch; expected float32 on the CPU"


def _foreign(node: fx.Node, dtypes: Sequence[str]) -> str | None:
    """What a value is that cannot pass between torch and an engine, or None; tensors of `dtypes` can."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    if value.device.type != "cpu":
        return f"a tensor on {value.device}"
    return None if (dtype := str(value.dtype)[6:]) in dtypes else dtype


def _has_weights(node: fx.Node) -> bool:
    # A table calls its rows so, too, and looks up a few of them.
    if op_name(node) == "embedding":
        return False
    schema = getattr(node.target, "_schema", None)
    given = {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)} if schema else {}
    weights = [given.get(name, node.kwargs.get(name)) for name in _WEIGHTS]
    # A norm has a vector, which has no holes worth the name.
    return any(n.op == "get_attr" and n.meta["val"].ndim > 1 for n in _nodes(weights))


def _nodes(values: Iterable[Any]) -> list[fx.Node]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, fx.Node)]


def _torch_calls(
    module: fx.GraphModule, parts: Iterable[Part], reasons: Reasons, refused: Mapping[fx.Node, str]
) -> Iterator[TorchCall]:
    inside = {node for part in parts for node in part}
    for node in filter(is_torch_call, module.graph.nodes):
        if node not in inside:
            yield TorchCall(op_name(node), layer_of(node), reasons[node], node in refused)


def _part(
    module: fx.GraphModule, node: fx.Node, known: Mapping[str, torch.Tensor], tensors: dict[str, Any]
) -> Imported:
    """The graph of the part that `node` calls; its weights go into it, and are passed no longer."""
    part: Any = module.get_submodule(str(node.target))
    arguments: Any = node.args
    values: Values = {}
    inputs: dict[fx.Node, Input] = {}
    for placeholder, argument in zip(part.graph.find_nodes(op="placeholder"), arguments, strict=True):
        if argument.op == "get_attr":
            values[placeholder] = known[argument.target]
        else:
            values[placeholder] = placeholder.name
            value = argument.meta["val"]
            inputs[argument] = Input(placeholder.name, tuple(value.shape), str(value.dtype)[6:])
    node.args = tuple(inputs)
    return translate_part(part.graph, tuple(inputs.values()), values, tensors)


def _keep_own_copies(module: fx.GraphModule) -> None:
    """Copy the weights that torch still needs, and let go of the others; what is returned is a copy once more."""
    output = module.graph.output_node()
    for node in module.graph.find_nodes(op="get_attr"):
        if output in node.users:
            with module.graph.inserting_before(output):
                output.replace_input_with(node, module.graph.call_function(torch.ops.aten.clone.default, (node,)))
        elif not node.users:
            module.graph.erase_node(node)
    needed = {node.target for node in module.graph.find_nodes(op="get_attr")}
    for name, value in [*module.named_buffers(recurse=False)]:
        delattr(module, name)
        if name in needed:
            module.register_buffer(name, value.detach().clone())
    module.recompile()
