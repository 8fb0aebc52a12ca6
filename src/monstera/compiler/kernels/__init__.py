"""The C kernels, written once with vector extensions, and the names under which programs call them.

A `.h` file holds one idea; operators that differ only in an expression are instantiated from its macro, and tiles are
written by `spmm.py`, `depthwise.py` and `gemm.py`.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

import numpy as np

from monstera.compiler.ir import Activation
from monstera.compiler.ir.ops import RecurrentKind
from monstera.compiler.kernels.depthwise import depthwise_source
from monstera.compiler.kernels.gemm import gemm_source
from monstera.compiler.kernels.spmm import Run, spmm_source
from monstera.compiler.layout import LINE
from monstera.compiler.program import Field, Kernel, Loop
from monstera.compiler.targets import Target

POOLS = {
    "max": Kernel("pool_max", "pool.h"),
    "mean": Kernel("pool_mean", "pool.h"),
    "deep max": Kernel("pool_max_deep", "pool.h"),
    "deep mean": Kernel("pool_mean_deep", "pool.h"),
    "adaptive": Kernel("adaptive_pool", "pool.h"),
    "space": Kernel("mean", "pool.h"),
    "dimensions": Kernel("mean_over", "pool.h"),
}
RESIZE = Kernel("resize", "resize.h")
WEAVE = Kernel("weave", "weave.h")
SOFTMAX = Kernel("softmax", "softmax.h")
CACHED_ATTENTION = Kernel("cached_attention", "cached_attention.h")
NORMS = {"planes": Kernel("norm", "norm.h"), "rows": Kernel("norm_rows", "norm.h")}
EMBEDDINGS = {"planes": Kernel("embedding_planes", "embedding.h"), "rows": Kernel("embedding_rows", "embedding.h")}

_MAPS = {
    "none": ("x", "z"),
    "affine": ("splat(*pb)", "x * z + *pb2"),
    "add": ("load_some(pb + at, left)", "x + z"),
    "mul": ("load_some(pb + at, left)", "x * z"),
    "add_one": ("splat(*pb)", "x + z"),
    "mul_one": ("splat(*pb)", "x * z"),
    "eq": ("load_some(pb + at, left)", "truth(x == z)"),
    "lt": ("load_some(pb + at, left)", "truth(x < z)"),
    "le": ("load_some(pb + at, left)", "truth(x <= z)"),
    "where": ("load_some(pb + at, left)", "choose(x, z, load_some(pb2 + at, left))"),
}

# A file of this folder, at the head of another: a program is one file of C, which has it in front of the first to ask.
_INCLUDE = re.compile(r'^#include "(.+)"\n', re.MULTILINE)


def activation_name(activation: Activation | None) -> str:
    """The C function of an activation; bounds and slopes are part of the name."""
    match activation:
        case None:
            return "act_none"
        case Activation(kind="clamp", low=low, high=high):
            return f"act_clamp_{_digits(low)}_{_digits(high)}"
        case Activation(kind="leaky_relu", slope=slope):
            return f"act_leaky_relu_{_digits(slope)}"
        case _:
            return f"act_{activation.kind}"


def spmm_kernel(
    rows: int,
    widths: Iterable[int],
    activation: Activation | None,
    target: Target,
    unroll: int = 0,
    ahead: bool = False,
) -> Kernel:
    """The offset-SpMM kernel with `rows` rows a block and tiles of these widths, in half vectors.

    Its loop is unrolled as the target has it (0) or so many times. With `ahead` it reads `target.ahead` offsets beyond
    the last column's.
    """
    name = f"f32_spmm_planes_{rows}x{target.tiles[rows]}_{target.name}{_suffix(activation)}"
    name += f"_unrolled_{unroll}" if unroll else ""
    name += "_ahead" if ahead else ""
    line = max(1, LINE // target.lanes)
    loop = Loop(unroll or target.unroll, not target.broadcasts, target.ahead * ahead, target.rows, line)
    return Kernel(name, "spmm.h", rows=rows, widths=tuple(sorted(widths)), loop=loop, activation=activation)


def run_of(fields: Mapping[str, Field]) -> Run:
    """How a call of an SpMM kernel with these fields cuts its pixels."""
    names = ("vectors", "chunk", "tile", "half", "by_blocks", "abreast")
    vectors, chunk, tile, half, by_blocks, abreast = (value for n in names if isinstance(value := fields[n], int))
    return Run(vectors, chunk, tile, bool(half), bool(by_blocks), bool(abreast))


def depthwise_kernel(
    kernel: tuple[int, int], step: tuple[int, int], activation: Activation | None, target: Target
) -> Kernel:
    """The direct depthwise kernel for windows of this height and width, so many rows and columns apart."""
    shape = f"{kernel[0]}x{kernel[1]}by{step[0]}x{step[1]}"
    name = f"f32_depthwise_planes_{shape}_{target.name}{_suffix(activation)}"
    return Kernel(name, "depthwise.h", window=(kernel, step), activation=activation)


def spmv_kernel(rows: int, activation: Activation | None) -> Kernel:
    """The SpMV kernel with `rows` rows a block."""
    name = f"f32_spmv_columns_{rows}x1{_suffix(activation)}"
    macro = f"SPMV({name}, {rows}, {activation_name(activation)})"
    return Kernel(name, "spmv.h", macro, activation=activation)


def spmv_unified_kernel(rows: int, activation: Activation | None) -> Kernel:
    """The SpMV kernel with `rows` rows a block, 8 or 16, whose columns may be a magnitude and signs."""
    name = f"f32_spmv_unified_{rows}x1{_suffix(activation)}"
    macro = f"SPMV_UNIFIED({name}, {rows}, {activation_name(activation)})"
    return Kernel(name, "spmv_unified.h", macro, activation=activation)


def attention_kernel(strips: Iterable[int]) -> Kernel:
    """Attention by strips of queries of these widths, in vectors."""
    return Kernel("attention", "attention.h", strips=tuple(sorted(strips)))


def matmul_kernel(strips: Iterable[int]) -> Kernel:
    """The dense product by strips of columns of these widths, in vectors."""
    return Kernel("matmul", "matmul.h", strips=tuple(sorted(strips)))


def recurrent_kernel(kind: RecurrentKind, sizes: Sequence[int]) -> Kernel:
    """A whole recurrence, whose product with the state is in blocks of these sizes, one after another."""
    products = [
        Kernel(name := f"f32_spmv_columns_{rows}x1_sums", "spmv.h", f"SPMV_SUMS({name}, {rows})") for rows in sizes
    ]
    name = f"f32_{kind}_columns_{'_'.join(f'{rows}x1' for rows in sizes)}"
    calls = " ".join(f"STATE_PRODUCT({i}, {product.name})" for i, product in enumerate(products))
    return Kernel(name, "recurrent.h", f"RECURRENT({name}, {kind}, {calls})", needs=tuple(products))


def map_kernel(kind: str, activation: Activation | None) -> Kernel:
    """An elementwise kernel: kind is a key of the table above, then the activation."""
    name = f"f32_map_{kind}{_suffix(activation)}"
    operand, expression = _MAPS[kind]
    macro = f"MAP({name}, {operand}, {activation_name(activation)}({expression}))"
    return Kernel(name, "map.h", macro, activation=activation)


def source(kernels: Iterable[Kernel], target: Target) -> str:
    """The C text of everything that a program calls: headers in a fixed order, instances sorted by name."""
    used = _merged(kernels)
    strips = {width for k in used for width in k.strips}
    definitions = {_definition(k.activation) for k in used if k.activation}
    needed = {n.header for k in used for n in k.needs}
    parts = [f"#define VL {target.lanes}", header("prelude.h"), header("activations.h"), *sorted(definitions)]
    parts += [gemm_source(strips, not target.broadcasts)] if strips else []
    parts += _with_included(sorted({k.header for k in used}, key=lambda name: (name not in needed, name)))
    for kernel in used:
        if kernel.rows:
            activation = activation_name(kernel.activation)
            parts.append(spmm_source(kernel.name, kernel.rows, kernel.widths, activation, kernel.loop))
        elif kernel.window:
            parts.append(depthwise_source(kernel.name, *kernel.window, activation_name(kernel.activation)))
        elif kernel.macro:
            parts.append(kernel.macro)
    return "\n".join(parts)


def _merged(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Kernels by name, each once, with the widths of all that bear the name; those that others need come first."""
    named: dict[str, Kernel] = {}
    needed: set[str] = set()
    for kernel in kernels:
        needed |= {n.name for n in kernel.needs}
        for each in (*kernel.needs, kernel):
            known = named.setdefault(each.name, each)
            widths, strips = {*known.widths, *each.widths}, {*known.strips, *each.strips}
            named[each.name] = replace(known, widths=tuple(sorted(widths)), strips=tuple(sorted(strips)))
    return [named[name] for name in sorted(named, key=lambda name: (name not in needed, name))]


@cache
def fingerprint() -> str:
    """A hash of everything that kernels are made of: timings of other kernels say nothing about these."""
    files = sorted((f for f in resources.files(__name__).iterdir() if f.is_file()), key=lambda f: f.name)
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def header(name: str) -> str:
    """The text of one of the C files in this folder."""
    return resources.files(__name__).joinpath(name).read_text()


def _with_included(names: Iterable[str]) -> list[str]:
    """The text of C files, each once and behind what it includes from this folder."""
    ordered: dict[str, None] = {}
    for name in names:
        ordered |= dict.fromkeys([*_INCLUDE.findall(header(name)), name])
    return [_INCLUDE.sub("", header(name)) for name in ordered]


def _suffix(activation: Activation | None) -> str:
    return activation_name(activation).removeprefix("act").replace("_none", "")


def _digits(value: float) -> str:
    """A number as part of a C name; nine digits tell any two fp32 values apart."""
    return f"{np.float32(value):.9g}".replace("-", "m").replace(".", "p").replace("+", "")


def _definition(activation: Activation) -> str:
    """The C definition of an activation that has numbers; the others stand in `activations.h`."""
    name = activation_name(activation)
    match activation.kind:
        case "clamp":
            body = f"clamp(x, {_exactly(activation.low)}, {_exactly(activation.high)})"
        case "leaky_relu":
            body = f"select_lt(x, (vf){{0}}, x * {_exactly(activation.slope)}, x)"
        case _:
            return ""
    return f"INLINE vf {name}(vf x) {{ return {body}; }}"


def _exactly(value: float) -> str:
    return f"from_bits(0x{struct.pack('>f', value).hex()})"
