"""Graph to program: each operator becomes kernel calls on the layouts chosen for its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from monstera.compiler.frontends.imported import UnsupportedError
from monstera.compiler.grids import choose_layouts
from monstera.compiler.ir import (
    Activate,
    AdaptivePool,
    Add,
    Affine,
    Attention,
    AvgPool,
    CachedAttention,
    Compare,
    Concat,
    Constant,
    Conv,
    DepthToSpace,
    Embedding,
    Graph,
    Linear,
    MatMul,
    MaxPool,
    Mean,
    Mul,
    Node,
    Norm,
    Pad,
    Permute,
    Recurrent,
    Reshape,
    Slice,
    Softmax,
    Upsample,
    Where,
)
from monstera.compiler.layout import Flat
from monstera.compiler.lowering.choice import Case, Choice, Cut
from monstera.compiler.lowering.context import Lowering
from monstera.compiler.lowering.convolution import lower_conv
from monstera.compiler.lowering.linear import lower_linear
from monstera.compiler.lowering.pointwise import (
    lower_activate,
    lower_add,
    lower_affine,
    lower_compare,
    lower_mul,
    lower_where,
)
from monstera.compiler.lowering.recurrent import lower_recurrent
from monstera.compiler.lowering.sequences import (
    lower_attention,
    lower_cached_attention,
    lower_embedding,
    lower_matmul,
    lower_norm,
)
from monstera.compiler.lowering.shape import lower_concat, lower_pad, lower_permute, lower_slice, lower_softmax
from monstera.compiler.lowering.spatial import (
    lower_adaptive,
    lower_depth_to_space,
    lower_mean,
    lower_pool,
    lower_upsample,
)
from monstera.compiler.lowering.tuned import TunedLayers
from monstera.compiler.lowering.windows import RankError
from monstera.compiler.program import Program, Ref, Turn
from monstera.compiler.stripes import in_stripes
from monstera.compiler.targets import Target


def _nothing(_low: Lowering, _node: Node) -> None:
    """Constants are tables and reshapes are aliases: whoever reads them asks for them."""


_RULES: dict[type, Callable[[Lowering, Node], None]] = {
    Activate: lower_activate,
    AdaptivePool: lower_adaptive,
    Add: lower_add,
    Affine: lower_affine,
    Attention: lower_attention,
    AvgPool: lower_pool,
    CachedAttention: lower_cached_attention,
    Compare: lower_compare,
    Concat: lower_concat,
    Constant: _nothing,
    Conv: lower_conv,
    DepthToSpace: lower_depth_to_space,
    Embedding: lower_embedding,
    Linear: lower_linear,
    MatMul: lower_matmul,
    MaxPool: lower_pool,
    Mean: lower_mean,
    Mul: lower_mul,
    Norm: lower_norm,
    Pad: lower_pad,
    Permute: lower_permute,
    Recurrent: lower_recurrent,
    Reshape: _nothing,
    Slice: lower_slice,
    Softmax: lower_softmax,
    Upsample: lower_upsample,
    Where: lower_where,
}


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program, what could be chosen for each of its layers, the steps that each choice made, how rows were cut."""

    program: Program
    cases: Mapping[str, Case]
    steps: Mapping[str, Mapping[Choice, list[int]]]
    cuts: Mapping[str, Cut]


def lower(graph: Graph, target: Target, threads: int = 1) -> Program:
    """Turn an optimised graph into a program for a target, every layer as the model of its cost chooses.

    Raises:
        UnsupportedError: as for `lower_with`.
    """
    return lower_with(graph, target, threads, {}).program


def lower_with(
    graph: Graph,
    target: Target,
    threads: int,
    choices: Mapping[str, Sequence[Choice]],
    *,
    cuts: Mapping[str, Cut] | None = None,
    stripes: bool = True,
) -> Lowered:
    """Turn an optimised graph into a program for a target.

    Args:
        choices: by layer key, how the layer is run. Several choices are run one after another, to be timed.
        cuts: how rows are cut by programs of other shapes that lie in the same library: where they have a layer of the
            same holes, so has this one.
        stripes: let layers share stripes (see `stripes.py`).

    Raises:
        UnsupportedError: a tensor has a form that no kernel takes (six dimensions where it must be copied).
    """
    tuned = TunedLayers(target, threads, choices, cuts or {})
    low = Lowering(graph, choose_layouts(graph), target, threads, tuned)
    for node in graph.nodes:
        try:
            _RULES[type(node.op)](low, node)
        except RankError as error:
            raise UnsupportedError(f"{node.layer or node.name}: {error}") from error
    outputs = []
    for i, value in enumerate(graph.outputs):
        name, layout = f"out{i}", Flat(low.shape(value))
        low.copy(f"{value} to output {i}", value, layout, Ref("out", name), layer=low.layer(value))
        outputs.append((name, layout.shape))
    turns = tuple(Turn(i) for i in range(len(low.steps)))
    program = Program(graph.inputs, tuple(outputs), tuple(low.steps), low.buffers, low.tables, turns, low.places)
    return Lowered(in_stripes(program, threads) if stripes else program, tuned.cases, tuned.steps, tuned.cuts)
