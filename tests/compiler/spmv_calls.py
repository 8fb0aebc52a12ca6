"""The structs of the kernels for matrix-vector products, to call them by themselves; and the targets that run here."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from monstera.compiler import kernels
from monstera.compiler.build import build
from monstera.compiler.program import Kernel
from monstera.compiler.targets import TARGETS, Target
from monstera.runtime import architecture, cpu_features

HERE = [t for t in TARGETS.values() if t.architecture == architecture() and cpu_features().issuperset(t.features)]
UNIFIED_POINTERS = ("offset", "magnitude", "sign", "weight", "block", "bias", "row")

_VECTORS = (
    ("x", ctypes.c_void_p),
    ("y", ctypes.c_void_p),
    ("x_image", ctypes.c_long),
    ("y_image", ctypes.c_long),
)


class Args(ctypes.Structure):
    """`spmv_args`."""

    _fields_ = [
        *_VECTORS,
        *((name, ctypes.c_void_p) for name in ("offset", "weight", "block", "bias", "row")),
        *((name, ctypes.c_int) for name in ("blocks", "groups", "images", "first_row")),
    ]


class UnifiedArgs(ctypes.Structure):
    """`spmv_unified_args`."""

    _fields_ = [
        *_VECTORS,
        *((name, ctypes.c_void_p) for name in UNIFIED_POINTERS),
        *((name, ctypes.c_int) for name in ("blocks", "images", "first_row")),
    ]


def library_of(structs: Mapping[Kernel, str], target: Target) -> ctypes.CDLL:
    """A library with `run_NAME(args, id, count)` for each kernel, given with the struct that it takes."""
    exports = "".join(
        f"EXPORT void run_{k.name}(const {struct} *a, int id, int count) "
        f"{{ {k.name}(a, (part){{id, count, {{0, 1 << 30}}}}); }}\n"
        for k, struct in structs.items()
    )
    return ctypes.CDLL(str(build(kernels.source(structs, target) + exports, target)))


def run_kernel(library: ctypes.CDLL, kernel: Kernel, args: ctypes.Structure, threads: int) -> None:
    """Run a kernel by so many threads, one after the other."""
    for thread in range(threads):
        library[f"run_{kernel.name}"](ctypes.byref(args), thread, threads)
