"""Writes the dense product of small matrices: R rows x P vectors of accumulators, for weights that are computed.

Y[r, p] = factor[p] * sum_k W[r, k] X[k, p], where a weight lies at `r * w_row + k * w_k`: planes of keys and of values
are weights as they lie, the ones by columns and the others by rows.
"""

from __future__ import annotations

from collections.abc import Iterable

# Rows that share the vectors loaded, and what is left over.
ROWS = (4, 1)

_TILE = """\
TILE void {name}(const float *w, long w_row, long w_k, const float *x, long x_k, long k, const float *factor, float *y,
    long y_row, long valid) {{
{declare}
    for (long i = 0; i < k; i++, w += w_k, x += x_k) {{
{multiply}
    }}
{finish}
}}
"""

_DRIVER = """\
/* Rows of W times `width` vectors; of the vectors of Y, `valid` floats are stored. */
static void gemm(long rows, int width, const float *w, long w_row, long w_k, const float *x, long x_k, long k,
    const float *factor, float *y, long y_row, long valid) {{
    long r = 0;
    switch (width) {{
{cases}
    default: __builtin_trap(); /* no such tile was built */
    }}
}}
"""

_CASE = """\
    case {P}:
        for (; r + {R} <= rows; r += {R})
            {wide}(w + r * w_row, w_row, w_k, x, x_k, k, factor, y + r * y_row, y_row, valid);
        for (; r < rows; r++) {narrow}(w + r * w_row, w_row, w_k, x, x_k, k, factor, y + r * y_row, y_row, valid);
        break;
"""


def gemm_source(widths: Iterable[int], by_rows: bool) -> str:
    """Return the C text of `gemm` for tiles of these widths in vectors.

    Args:
        widths: vectors of a tile.
        by_rows: take a column's weights one by one, not its vectors.
    """
    ordered = sorted(widths)
    tiles = [_tile(rows, width, by_rows) for width in ordered for rows in ROWS]
    wide, narrow = ROWS
    cases = "".join(_CASE.format(P=p, R=wide, wide=_name(wide, p), narrow=_name(narrow, p)) for p in ordered)
    return "\n".join([*tiles, _DRIVER.format(cases=cases.rstrip("\n"))])


def _name(rows: int, width: int) -> str:
    return f"f32_gemm_{rows}x{width}"


def _tile(rows: int, width: int, by_rows: bool) -> str:
    sums = [[f"a{r}_{p}" for p in range(width)] for r in range(rows)]
    finish = [
        f"    store_some(y + {r} * y_row + {p} * VL, {a} * load(factor + {p} * VL), valid - {p} * VL);"
        for r, row in enumerate(sums)
        for p, a in enumerate(row)
    ]
    return _TILE.format(
        name=_name(rows, width),
        declare="\n".join("    vf " + ", ".join(f"{a} = {{0}}" for a in row) + ";" for row in sums),
        multiply="\n".join((_multiply_by_rows if by_rows else _multiply)(sums)),
        finish="\n".join(finish),
    )


def _multiply(sums: list[list[str]]) -> list[str]:
    """Load a vector, use it for every row."""
    lines = []
    for p in range(len(sums[0])):
        updates = " ".join(f"{row[p]} += x{p} * w[{_row(r)}];" for r, row in enumerate(sums))
        lines.append(f"        const vf x{p} = load(x + {p} * VL); {updates}")
    return lines


def _multiply_by_rows(sums: list[list[str]]) -> list[str]:
    """All vectors first, then each weight spread over a register and used for all of them."""
    lines = [f"        const vf x{p} = load(x + {p} * VL);" for p in range(len(sums[0]))]
    for r, row in enumerate(sums):
        updates = " ".join(f"{a} += x{p} * w{r};" for p, a in enumerate(row))
        lines.append(f"        {{ const vf w{r} = w[{_row(r)}] - (vf){{0}}; {updates} }}")
    return lines


def _row(r: int) -> str:
    return f"{r} * w_row" if r else "0"
