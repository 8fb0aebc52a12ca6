"""What may be zero: patterns of holes, plans for whole networks, scores, schedules. No training, no compiling."""

from monstera.sparsity.allocation import erk, erk_densities, global_magnitude
from monstera.sparsity.block import Block, NOfM
from monstera.sparsity.block_column_row import BlockColumnRow
from monstera.sparsity.entry import Entry, EntryLike
from monstera.sparsity.errors import FormatError, MaskFileError, PatternError, PlanError, ViewError
from monstera.sparsity.intersection import Intersection
from monstera.sparsity.kernel_pattern import KernelPattern
from monstera.sparsity.masks import load_masks, save_masks
from monstera.sparsity.pattern import ALL, Pattern
from monstera.sparsity.pattern_names import PatternLike, pattern
from monstera.sparsity.permutation import ChannelPermutation, find_permutation, search_permutation
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
from monstera.sparsity.ties import Ties
from monstera.sparsity.unify import Unify
from monstera.sparsity.view import PLAIN, Layout, WeightView, find_view, register_view, weight_views

__all__ = [
    "ALL",
    "PLAIN",
    "SCHEDULES",
    "Block",
    "BlockColumnRow",
    "ChannelPermutation",
    "Constant",
    "Cosine",
    "Cubic",
    "Entry",
    "EntryLike",
    "FormatError",
    "Intersection",
    "KernelPattern",
    "Layout",
    "Linear",
    "MaskFileError",
    "NOfM",
    "OneCycle",
    "Pattern",
    "PatternError",
    "PatternLike",
    "Plan",
    "PlanError",
    "PlanReport",
    "Quantize",
    "Schedule",
    "Ties",
    "Unify",
    "ViewError",
    "WeightReport",
    "WeightView",
    "erk",
    "erk_densities",
    "find_permutation",
    "find_view",
    "global_magnitude",
    "kept_groups",
    "load_masks",
    "magnitude",
    "pattern",
    "register_view",
    "save_masks",
    "schedule",
    "search_permutation",
    "weight_views",
]
