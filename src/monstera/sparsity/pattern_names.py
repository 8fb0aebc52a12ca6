"""Short names of patterns, as the literature and recipes write them."""

from __future__ import annotations

import re
from typing import TypeAlias

from monstera.sparsity.block import NAMED, Block, NOfM
from monstera.sparsity.block_column_row import BlockColumnRow
from monstera.sparsity.errors import PatternError
from monstera.sparsity.intersection import Intersection
from monstera.sparsity.kernel_pattern import KernelPattern
from monstera.sparsity.pattern import ALL, Extent, Pattern
from monstera.sparsity.quantize import Quantize
from monstera.sparsity.unify import Unify

PatternLike: TypeAlias = str | Pattern

_EXTENTS = re.compile(r"(all|\d+)x(all|\d+)(?:x(all|\d+))?")
_N_OF_M = re.compile(r"(\d+):(\d+)")
_KERNEL_PATTERN = re.compile(r"patterns(\d+)of(\d+)(anywhere)?(?:@(layer|network))?")
_BLOCK_COLUMN_ROW = re.compile(r"bcr(all|\d+)x(all|\d+)(?:r(\d\.?\d*(?:e-\d+)?))?(?:@(layer|block))?")
_UNIFY = re.compile(r"unify(all|\d+)x(all|\d+)(?:x(all|\d+))?(?:u(\d\.?\d*(?:e-\d+)?))?")
_QUANTIZE = re.compile(r"int(\d+)(?:@(channel|layer))?")
_GRAMMAR = (
    f'{", ".join(NAMED)}, "4x1", "8x4", "8x4xall" (out x in x positions), "2:4", "4x1@2:4", "4x1@network", "bcr16x64", '
    '"patterns4of8", "unify4x1", "int4", "4x1&int4"'
)


def pattern(name: PatternLike) -> Pattern:
    """The pattern of a short name; a pattern is returned as it is.

    Names: those of the table (unstructured, filter, channel, column, kernel, layer), `OxI` or `OxIxP` for blocks (each
    a number or `all`), `N:M`; a block may be followed by `@layer`, `@network` or `@N:M`. `bcrOxI` for columns and rows
    of blocks, followed by `rS` for another share of the rows, then by `@layer` or `@block`. `patternsEofL` for kernels
    that keep E positions in one of L patterns, followed by `anywhere` where the middle one may go, then by a scope.
    `unifyOxI` or `unifyOxIxP` for blocks of one magnitude, followed by `uF` for the fraction of blocks that have one.
    `intB` for whole multiples of B bits of a scale, followed by `@channel` or `@layer`. `A&B` for the holes of A, and B
    for the values of what is left.

    Raises:
        PatternError: not such a name.

    Example:
        >>> pattern("8x4")
        Block(out=8, in_=4, positions=1, scope='layer')
        >>> print(pattern("4x1@2:4").describe())
        blocks of 4 x 1 x 1 (out x in x positions), 2 kept of every 4 along in
    """
    if isinstance(name, Pattern):
        return name
    if not isinstance(name, str):
        raise PatternError(f"a pattern is a Pattern (Block, Unify) or a short name, got {name!r}")
    text = name.strip().lower()
    holes, nested, values = text.partition("&")
    if nested:
        return _intersection(pattern(holes), pattern(values))
    return _values(text) or _holes(text, name)


def _intersection(holes: Pattern, values: Pattern) -> Intersection:
    if not isinstance(values, Unify | Quantize):
        raise PatternError(f"behind & stands what constrains values, as in '4x1&int4' or '8x1&unify4x1', got {values}")
    return Intersection(holes, values)


def _values(text: str) -> Pattern | None:
    if match := _UNIFY.fullmatch(text):
        *extents, unified = match.groups(default="1")
        return Unify(*map(_extent, extents), unified=float(unified))
    if match := _QUANTIZE.fullmatch(text):
        return Quantize(int(match[1]), "layer" if match[2] == "layer" else "channel")
    return None


def _holes(text: str, name: str) -> Pattern:
    if match := _BLOCK_COLUMN_ROW.fullmatch(text):
        out, in_, share, among = match.groups()
        return BlockColumnRow(
            _extent(out), _extent(in_), float(share or 0.25), "block" if among == "block" else "layer"
        )
    if match := _KERNEL_PATTERN.fullmatch(text):
        entries, library, anywhere, among = match.groups()
        shared = "network" if among == "network" else "layer"
        return KernelPattern(int(entries), int(library), not anywhere, shared)
    head, at, scope = text.partition("@")
    if _N_OF_M.fullmatch(head):
        head, at, scope = "unstructured", "@", head if not at else ""
    block = _block(head)
    if block is None:
        raise PatternError(f"unknown pattern {name!r}; patterns: {_GRAMMAR}")
    return _with_scope(block, scope, name) if at else block


def _block(text: str) -> Block | None:
    if text in NAMED:
        return NAMED[text]
    match = _EXTENTS.fullmatch(text)
    if match is None:
        return None
    out, in_, positions = map(_extent, match.groups(default="1"))
    return Block(out, in_, positions)


def _extent(text: str) -> Extent:
    return ALL if text == ALL else int(text)


def _with_scope(block: Block, text: str, name: str) -> Block:
    if match := _N_OF_M.fullmatch(text):
        return Block(block.out, block.in_, block.positions, NOfM(int(match[1]), int(match[2])))
    if text == "layer" or text == "network":
        return Block(block.out, block.in_, block.positions, text)
    raise PatternError(f"unknown scope {text!r} in pattern {name!r}; scopes: layer, network, N:M")
