"""Writes the parts of `formats.md` that code prints: `python docs/formats_example.py`.

One small weight is drawn in every form, and a layer of ResNet-50 is accounted under several patterns at one density.
Sizes follow from masks alone, and the masks from numbers that are the same everywhere; a test says when the page is out
of date.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pages import fenced, page_with

from monstera.sparsity import pattern
from monstera.sparsity.storage import BCRC, BSR, CSR, FKW, Dense, Form, UnifiedBlocks, storage_table

PAGE = Path(__file__).with_name("formats.md")
BLOCK = (2, 1, 1)
LAYER = (256, 256, 3, 3)
DENSITY = 0.1
PACKED = ("patterns", "alive", "unified", "sign")
# Eight patterns of four positions in a 3x3 kernel: its corners of 2x2, and the four T shapes.
LIBRARY = ("##.##....", ".##.##...", "...##.##.", "....##.##", "...###.#.", ".#..##.#.", ".#.##..#.", ".#.###...")


def example() -> np.ndarray:
    """Four filters of two channels with kernels of 2x2."""
    return np.array(
        [
            [[[5, -5], [0, 0]], [[3, 0], [0, 7]]],
            [[[5, 5], [0, 0]], [[2, 0], [0, 4]]],
            [[[0, 0], [0, 0]], [[6, -1], [0, 0]]],
            [[[0, 0], [0, 0]], [[0, 0], [0, 0]]],
        ],
        np.float32,
    )


def parts() -> dict[str, str]:
    """What stands between the marks, by name."""
    weight = example()
    return {
        "matrix": fenced(show_matrix(weight)),
        "dense": fenced(show_form(Dense.encode(weight))),
        "csr": fenced(show_form(CSR.encode(weight))),
        "bsr": fenced(show_form(BSR.encode(weight, BLOCK))),
        "bcrc": fenced(show_form(BCRC.encode(weight))),
        "fkw": fenced(show_form(FKW.encode(weight))),
        "unified": fenced(show_form(UnifiedBlocks.encode(weight, BLOCK))),
        "table": fenced(str(storage_table(weight, BLOCK))),
        "layer": show_layer(),
    }


def show_matrix(weight: np.ndarray) -> str:
    """Filters down, columns (channel, position) across; a dot is a hole."""
    rows = weight.reshape(len(weight), weight.shape[1], -1)
    head = "column     " + "  ".join(_cells(np.arange(rows[0].size).reshape(rows[0].shape)))
    return "\n".join([head, *(f"filter {i}   " + "  ".join(_cells(row)) for i, row in enumerate(rows))])


def _cells(row: np.ndarray) -> list[str]:
    if row.dtype.kind == "i":
        return ["".join(f"{v:4}" for v in channel) for channel in row]
    return ["".join(f"{v:4.0f}" if v else "   ." for v in channel) for channel in row]


def show_form(form: Form) -> str:
    """The arrays of a form, one a line, and their bytes; packed bits as bits."""
    lines = [f"{name:15} {_values(array, '08b' if name in PACKED else 'g')}" for name, array in form.arrays.items()]
    total = f"{form.value_nbytes} bytes of weights, {form.index_nbytes} of index, {form.nbytes} together"
    return "\n".join([*(line.rstrip() for line in lines), total])


def _values(array: np.ndarray, style: str) -> str:
    head = f"{array.dtype.name:8} {'x'.join(map(str, array.shape)):9} "
    return head + " ".join(format(value, style) for value in array.reshape(-1))


def show_layer() -> str:
    """A table: a pattern a line, and the KiB that the layer takes in each form."""
    head = ["pattern", "density", "dense", "CSR", "BSR 4x1", "BCRC", "rows a group", "FKW", "unified 16x1", "smallest"]
    lines = [head, ["---"] * len(head), *(_line(name, weight) for name, weight in masked_layers())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(name: str, weight: np.ndarray) -> list[str]:
    table, grouped = storage_table(weight), BCRC.encode(weight)
    sizes = {form.form: form.nbytes for form in table.forms if not form.refused}
    sizes["unified"] = UnifiedBlocks.encode(weight, (16, 1, 1)).nbytes
    best = min(sizes, key=lambda form: sizes[form])
    shown = {form: f"{size / 1024:.0f}" for form, size in sizes.items()}
    rows = f"{grouped.reorder.size / grouped.groups:.1f}"
    middle = [shown[form] for form in ("dense", "CSR", "BSR", "BCRC")]
    share = f"{best}, {sizes[best] / sizes['dense']:.4f} of dense"
    return [name, f"{table.stored / table.size:.4f}", *middle, rows, shown.get("FKW", "-"), shown["unified"], share]


def masked_layers() -> Iterator[tuple[str, np.ndarray]]:
    """The weight of a 3x3 convolution of ResNet-50 under each pattern: random values, largest groups kept."""
    weight = np.random.RandomState(0).standard_normal(LAYER).astype(np.float32)
    for name in ("unstructured", "4x1", "16x1"):
        yield name, pattern(name).project(torch.from_numpy(weight), DENSITY).numpy()
    # Of the blocks that were kept: chosen together with their values, others would be.
    kept = pattern("16x1").project(torch.from_numpy(weight), DENSITY)
    yield "16x1, unified", pattern("unify16x1").project(kept, DENSITY).numpy()
    for columns in (LAYER[1] * 9, 256):
        yield f"BCR, blocks of 64x{columns}", block_column_row(weight, 64, columns, keep=(0.8, 0.125))
    yield "4 of 9 and kernels", kernel_patterns(weight, round(DENSITY * 9 / 4 * LAYER[0] * LAYER[1]))


def block_column_row(weight: np.ndarray, rows: int, columns: int, keep: tuple[float, float]) -> np.ndarray:
    """In each block of the matrix keep these shares of its rows and of its columns, those of largest norm."""
    matrix = weight.reshape(len(weight), -1).copy()
    for y in range(0, matrix.shape[0], rows):
        for x in range(0, matrix.shape[1], columns):
            block = matrix[y : y + rows, x : x + columns]
            for axis, share in ((0, keep[1]), (1, keep[0])):
                norms = (block**2).sum(axis)
                weakest = np.argsort(norms, kind="stable")[: round((1 - share) * norms.size)]
                block[(slice(None), weakest) if axis == 0 else weakest] = 0
    return matrix.reshape(weight.shape)


def kernel_patterns(weight: np.ndarray, kernels: int) -> np.ndarray:
    """In each kernel keep the strongest pattern of the library, and of the kernels so many of largest norm."""
    library = np.array([[c == "#" for c in word] for word in LIBRARY])
    flat = weight.reshape(-1, 9)
    energy = flat**2 @ library.T.astype(np.float32)
    kept = np.where(library[energy.argmax(1)], flat, 0)
    kept[np.argsort(-energy.max(1), kind="stable")[kernels:]] = 0
    return kept.reshape(weight.shape)


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), parts()), encoding="utf-8")
