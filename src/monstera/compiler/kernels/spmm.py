"""Writes the offset-SpMM microkernels: R rows x P vectors of accumulators, named one by one so that none is spilled."""

from __future__ import annotations

from collections.abc import Sequence

_TILE = """\
INLINE void {name}_{P}(const float *x, const int *offset, const float *w, long k, const spmm_args *a, const int *row,
    const float *bias, long at, long v) {{
{declare}
    for (long i = 0; i < k; i++, w += {R}) {{
        const float *xi = x + offset[i];
{multiply}
    }}
{finish}
}}
"""

_DRIVER = """\
static void {name}(const spmm_args *a, part p) {{
    const range blocks = a->by_blocks ? spmm_blocks(a, p) : (range){{0, a->blocks}};
    const range run = a->by_blocks ? (range){{0, a->vectors}} : share(a->vectors, p);
    for (long from = run.begin; from < run.end; from += a->chunk) {{
        const long to = from + a->chunk < run.end ? from + a->chunk : run.end;
        const long tiles = (to - from + {P} - 1) / {P};
        for (long b = blocks.begin; b < blocks.end; b++) {{
            const int *block = a->block + 4 * b, *row = a->row + {R} * b;
            const int *offset = a->offset + block[0];
            const float *x = a->x + block[3];
            const float *w = a->weight + (long)block[1] * {R}, *bias = a->bias + {R} * b;
            for (long t = 0; t < tiles; t++) {{
                const long v = from + (to - from) * t / tiles, at = v * VL;
                switch (from + (to - from) * (t + 1) / tiles - v) {{
{cases}
                }}
            }}
            if (to == a->vectors)
                for (int r = 0; r < {R}; r++)
                    clear(a->y + row[r] * a->y_plane + to * VL, a->y_tail - to * VL);
        }}
    }}
}}
"""


def spmm_source(name: str, rows: int, tiles: Sequence[int], activation: str) -> str:
    """Return the C text of one kernel: a driver `name(args, part)` and a tile function for every P of `tiles`.

    `tiles` must be 1..P without holes; `activation` is the C function applied at the store.
    """
    parts = [_tile(name, rows, p, activation) for p in tiles]
    call = "{name}_{p}(x + at, offset, w, block[2], a, row, bias, at, v);"
    cases = "\n".join(f"                case {p}: {call.format(name=name, p=p)} break;" for p in tiles)
    return "\n".join([*parts, _DRIVER.format(name=name, R=rows, P=max(tiles), cases=cases)])


def _tile(name: str, rows: int, width: int, activation: str) -> str:
    accumulators = [[f"a{r}_{p}" for p in range(width)] for r in range(rows)]
    declare = [f"    vf {', '.join(f'{a} = splat(bias[{r}])' for a in accumulators[r])};" for r in range(rows)]
    add = ["    if (a->res) {"]
    finish = []
    for r, row in enumerate(accumulators):
        sums = " ".join(f"{a} += load(res + {p} * VL);" for p, a in enumerate(row))
        add.append(f"        {{ const float *res = a->res + row[{r}] * a->y_plane + at; {sums} }}")
        finish.append(f"    {{ float *y = a->y + row[{r}] * a->y_plane + at;")
        for p, a in enumerate(row):
            finish.append(f"      store(y + {p} * VL, keep({activation}({a}), a->mask[v + {p}]));")
        finish[-1] += " }"
    return _TILE.format(
        name=name,
        P=width,
        R=rows,
        declare="\n".join(declare),
        multiply="\n".join(_multiply(accumulators, width, rows)),
        finish="\n".join([*add, "    }", *finish]),
    )


def _multiply(accumulators: list[list[str]], width: int, rows: int) -> list[str]:
    """One column: load a vector, use it for every row. Loads one by one keep a register free for wide tiles."""
    lines = []
    for p in range(width):
        updates = " ".join(f"{accumulators[r][p]} += x{p} * w[{r}];" for r in range(rows))
        lines.append(f"        const vf x{p} = load(xi + {p} * VL); {updates}")
    return lines
