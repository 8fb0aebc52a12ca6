"""The C kernels, written once with vector extensions, and the names under which programs call them.

A `.h` file holds one idea; operators that differ only in an expression are instantiated from its macro, and the SpMM
tiles are written by `spmm.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from importlib import resources

from monstera.compiler.ir import Activation
from monstera.compiler.kernels.spmm import spmm_source
from monstera.compiler.program import Kernel
from monstera.compiler.targets import Target

POOLS = {
    "max": Kernel("pool_max", "pool.h"),
    "mean": Kernel("pool_mean", "pool.h"),
    "adaptive": Kernel("adaptive_pool", "pool.h"),
    "space": Kernel("mean", "pool.h"),
}
RESIZE = Kernel("resize", "resize.h")
SOFTMAX = Kernel("softmax", "softmax.h")

_SPMV_VECTOR = {1: "float", 4: "v4", 8: "v8", 16: "v16"}
_MAPS = {
    "none": ("x", "z"),
    "affine": ("splat(*pb)", "x * z + *pb2"),
    "add": ("load_some(pb + at, left)", "x + z"),
    "mul": ("load_some(pb + at, left)", "x * z"),
    "add_one": ("splat(*pb)", "x + z"),
    "mul_one": ("splat(*pb)", "x * z"),
}


def activation_name(activation: Activation | None) -> str:
    """The C function of an activation; bounds and slopes are part of the name."""
    match activation:
        case None:
            return "act_none"
        case Activation(kind="clamp", low=low, high=high):
            return f"act_clamp_{_bits(low)}_{_bits(high)}"
        case Activation(kind="leaky_relu", slope=slope):
            return f"act_leaky_relu_{_bits(slope)}"
        case _:
            return f"act_{activation.kind}"


def activation_kernel(activation: Activation | None) -> str:
    """The same, as an operand of a kernel that applies it by pointer."""
    return activation_name(activation)


def spmm_kernel(rows: int, activation: Activation | None) -> Kernel:
    """The offset-SpMM kernel with `rows` rows a block."""
    act = activation_name(activation)
    return Kernel(f"spmm_f32_{rows}_{act.removeprefix('act_')}", "spmm.h", spec=(rows, act))


def spmv_kernel(rows: int) -> Kernel:
    """The SpMV kernel with `rows` rows a block."""
    name = f"spmv_f32_{rows}"
    return Kernel(name, "spmv.h", macro=f"SPMV({name}, {_SPMV_VECTOR[rows]}, {rows})")


def map_kernel(kind: str, activation: Activation | None) -> Kernel:
    """An elementwise kernel: kind is a key of the table above, then the activation."""
    act = activation_name(activation)
    name = f"map_f32_{kind}_{act.removeprefix('act_')}"
    operand, expression = _MAPS[kind]
    return Kernel(name, "map.h", macro=f"MAP({name}, {operand}, {act}({expression}))")


def _bits(value: float) -> str:
    return struct.pack(">f", value).hex()


def source(kernels: Iterable[Kernel], activations: Iterable[str], target: Target) -> str:
    """The C text of everything that a program calls: headers in a fixed order, instances sorted by name."""
    used = sorted(set(kernels), key=lambda k: k.name)
    headers = ["prelude.h", "activations.h", *sorted({k.header for k in used})]
    parts = [f"#define VL {target.lanes}", *[_header(h) for h in headers[:2]]]
    named = {k.spec[1] for k in used if k.spec} | set(activations)
    named |= {a for k in used for a in _mentioned(k.macro)}
    parts += [line for name in sorted(named) if (line := _parametrised(name))]
    parts += [_header(h) for h in headers[2:]]
    for kernel in used:
        if kernel.spec:
            rows, act = kernel.spec
            parts.append(spmm_source(kernel.name, rows, range(1, target.tiles[rows] + 1), act))
        elif kernel.macro:
            parts.append(kernel.macro)
    return "\n".join(parts)


def _mentioned(macro: str) -> list[str]:
    return [
        word for word in macro.replace("(", " ").replace(")", " ").replace(",", " ").split() if word.startswith("act_")
    ]


def _parametrised(name: str) -> str:
    """The definition of an activation whose numbers are part of its name."""
    words = name.split("_")
    if words[1] == "clamp":
        low, high = (f"from_bits(0x{w})" for w in words[2:])
        return f"INLINE vf {name}(vf x) {{ return clamp(x, {low}, {high}); }}"
    if words[1] == "leaky":
        return f"INLINE vf {name}(vf x) {{ return select_lt(x, (vf){{0}}, x * from_bits(0x{words[3]}), x); }}"
    return ""


def _header(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text()
