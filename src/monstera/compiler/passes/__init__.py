"""Rewrites of a graph. A pass is a function `Graph -> Graph` that keeps what the outputs compute, up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from monstera.compiler.ir import Graph
from monstera.compiler.passes.channels_first import channels_first
from monstera.compiler.passes.drop_dead_channels import drop_dead_channels
from monstera.compiler.passes.drop_dead_code import drop_dead_code
from monstera.compiler.passes.fold_affine import fold_affine
from monstera.compiler.passes.fold_constants import fold_constants
from monstera.compiler.passes.fuse_activation import fuse_activation
from monstera.compiler.passes.fuse_attention import fuse_attention
from monstera.compiler.passes.fuse_cache import fuse_cache
from monstera.compiler.passes.fuse_formulas import fuse_formulas
from monstera.compiler.passes.fuse_padding import fuse_padding
from monstera.compiler.passes.fuse_residual import fuse_residual
from monstera.compiler.passes.hoist_elementwise import hoist_elementwise
from monstera.compiler.passes.merge_equal import merge_equal
from monstera.compiler.passes.split_products import split_products

Pass: TypeAlias = Callable[[Graph], Graph]

# What is affine is known after the first fold; behind a transposed convolution it then moves to where it can fold.
_FOLD: tuple[Pass, ...] = (fold_affine, hoist_elementwise, fold_affine)

# What models spell out is found first, in the words of the model. Features are channels before anything is folded into
# convolutions, which linear layers over tokens become. Equal slices of a product are one before it is split. Channels
# are dropped before activations and residuals are fused, where constants are easiest to follow; what that leaves may
# fold again. Activations come before residuals, so that an addition brings its activation along.
PASSES: tuple[Pass, ...] = (
    fuse_attention,
    fuse_cache,
    fuse_formulas,
    fold_constants,
    drop_dead_code,
    channels_first,
    fold_constants,
    drop_dead_code,
    merge_equal,
    split_products,
    drop_dead_code,
    *_FOLD,
    drop_dead_channels,
    fold_constants,
    drop_dead_code,
    *_FOLD,
    fuse_padding,
    fuse_activation,
    fuse_residual,
    drop_dead_code,
)


def optimize(graph: Graph) -> Graph:
    """Apply all passes in order. Names of outputs may change; their number and order do not."""
    for rewrite in PASSES:
        graph = rewrite(graph)
    return graph


__all__ = [
    "PASSES",
    "Pass",
    "channels_first",
    "drop_dead_channels",
    "drop_dead_code",
    "fold_affine",
    "fold_constants",
    "fuse_activation",
    "fuse_attention",
    "fuse_formulas",
    "fuse_padding",
    "fuse_residual",
    "hoist_elementwise",
    "merge_equal",
    "optimize",
    "split_products",
]
