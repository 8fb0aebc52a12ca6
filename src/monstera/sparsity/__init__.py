"""What may be zero: patterns of holes, plans for whole networks, scores, schedules. No training, no compiling."""

from monstera.sparsity.allocation import erk, erk_densities, global_magnitude
from monstera.sparsity.block import Block, NOfM
from monstera.sparsity.block_column_row import BlockColumnRow
from monstera.sparsity.channels import ChannelGraph, ChannelGroup, FixedDimension, Member, channel_graph, permute_
from monstera.sparsity.copies import projected_copy
from monstera.sparsity.entry import Entry, EntryLike
from monstera.sparsity.errors import (
    AttachedError,
    FormatError,
    MaskFileError,
    PatternError,
    PlanError,
    ShrinkError,
    TraceError,
    ViewError,
)
from monstera.sparsity.intersection import Intersection
from monstera.sparsity.kernel_pattern import KernelPattern
from monstera.sparsity.masks import load_masks, save_masks
from monstera.sparsity.pattern import ALL, Pattern
from monstera.sparsity.pattern_names import PatternLike, pattern
from monstera.sparsity.permutation import ChannelPermutation, find_permutation, search_permutation
from monstera.sparsity.pivoting import Pivoting, pivot
from monstera.sparsity.plan import Plan
from monstera.sparsity.quantize import Quantize
from monstera.sparsity.report import PlanReport, WeightReport
from monstera.sparsity.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Cubic,
    Linear,
    OneCycle,
    Schedule,
    schedule,
)
from monstera.sparsity.scores import magnitude
from monstera.sparsity.selection import kept_groups
from monstera.sparsity.shortcuts import layers_with_shortcut
from monstera.sparsity.shrinking import Cuts, shrink
from monstera.sparsity.ties import Ties
from monstera.sparsity.unify import Unify
from monstera.sparsity.view import PLAIN, Layout, WeightView, find_view, register_view, weight_views

__all__ = [
    "ALL",
    "PLAIN",
    "SCHEDULES",
    "AttachedError",
    "Block",
    "BlockColumnRow",
    "ChannelGraph",
    "ChannelGroup",
    "ChannelPermutation",
    "Constant",
    "Cosine",
    "Cubic",
    "Cuts",
    "Entry",
    "EntryLike",
    "FixedDimension",
    "FormatError",
    "Intersection",
    "KernelPattern",
    "Layout",
    "Linear",
    "MaskFileError",
    "Member",
    "NOfM",
    "OneCycle",
    "Pattern",
    "PatternError",
    "PatternLike",
    "Pivoting",
    "Plan",
    "PlanError",
    "PlanReport",
    "Quantize",
    "Schedule",
    "ShrinkError",
    "Ties",
    "TraceError",
    "Unify",
    "ViewError",
    "WeightReport",
    "WeightView",
    "channel_graph",
    "erk",
    "erk_densities",
    "find_permutation",
    "find_view",
    "global_magnitude",
    "kept_groups",
    "layers_with_shortcut",
    "load_masks",
    "magnitude",
    "pattern",
    "permute_",
    "pivot",
    "projected_copy",
    "register_view",
    "save_masks",
    "schedule",
    "search_permutation",
    "shrink",
    "weight_views",
]
