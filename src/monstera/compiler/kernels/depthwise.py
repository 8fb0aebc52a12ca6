"""Writes the direct depthwise kernels: Q output rows x one vector of accumulators, named one by one."""

from __future__ import annotations

from collections.abc import Iterator

# Output rows of a tile: they and the vectors they share fit the registers of every target.
ROWS = 4

_TILE = """\
INLINE void {name}_{Q}(const float *x, long x_row, const float *w, float bias, const float *res, float *y, long y_row,
    long left, long room) {{
    vf {accumulators};
{multiply}
{finish}
}}
"""

_DRIVER = """\
static void {name}(const depthwise_args *a, part p) {{
    const grid *g = &a->y_grid;
    const piece mine = piece_of(g, p);
    for (long c = mine.planes.begin; c < mine.planes.end; c++)
        for (int n = 0; n < g->n; n++) {{
            const long plane = c * g->plane + n * g->image;
            const float *x = a->x + c * a->x_plane + n * a->x_image, *w = a->weight + c * {taps};
            for (long r = mine.rows.begin; r < mine.rows.end; r += {Q}) {{
                const long rows = mine.rows.end - r < {Q} ? mine.rows.end - r : {Q};
                long q = 0;
                for (; q < g->w; q += VL) {{
                    const float *from = x + r * {step_h} * a->x_row + q * {step_w};
                    const long at = plane + r * g->row + q;
                    const float *res = a->res ? a->res + at : 0;
                    switch (rows) {{
{cases}
                    }}
                }}
                for (long i = 0; q < g->row && i < rows; i++) clear(a->y + plane + (r + i) * g->row + q, g->row - q);
            }}
            if (mine.rows.begin == 0) clear_below(a->y + plane, g, n);
        }}
}}
"""


def depthwise_source(name: str, kernel: tuple[int, int], step: tuple[int, int], activation: str) -> str:
    """Return the C text of one kernel: a driver `name(args, part)` and a tile for 1 to ROWS rows.

    Args:
        name: the kernel's name in C.
        kernel: its height and width.
        step: the stride; 1 or 2 horizontally.
        activation: the C function applied at the store.
    """
    tiles = [_tile(name, rows, kernel, step, activation) for rows in range(1, ROWS + 1)]
    call = "{name}_{q}(from, a->x_row, w, a->bias[c], res, a->y + at, g->row, g->w - q, g->row - q); break;"
    cases = [f"                    case {q}: " + call.format(name=name, q=q) for q in range(1, ROWS + 1)]
    driver = _DRIVER.format(
        name=name, Q=ROWS, taps=kernel[0] * kernel[1], step_h=step[0], step_w=step[1], cases="\n".join(cases)
    )
    return "\n".join([*tiles, driver])


def _tile(name: str, rows: int, kernel: tuple[int, int], step: tuple[int, int], activation: str) -> str:
    finish = []
    for q in range(rows):
        at = f"{q} * y_row"
        finish.append(f"    if (res) a{q} += load_some(res + {at}, room);")
        finish.append(f"    store_some(y + {at}, keep_first({activation}(a{q}), left), room);")
    return _TILE.format(
        name=name,
        Q=rows,
        accumulators=", ".join(f"a{q} = splat(bias)" for q in range(rows)),
        multiply="\n".join(_multiply(rows, kernel, step)),
        finish="\n".join(finish),
    )


def _multiply(rows: int, kernel: tuple[int, int], step: tuple[int, int]) -> Iterator[str]:
    """Every input row once: its shifted vectors, and what each output row takes of them."""
    height, width = kernel
    for i in range((rows - 1) * step[0] + height):
        users = [(q, i - q * step[0]) for q in range(rows) if 0 <= i - q * step[0] < height]
        if not users:
            continue
        yield f"    {{ const float *xi = x + {i} * x_row;"
        for j in range(width):
            updates = " ".join(f"a{q} += x{j} * w[{k * width + j}];" for q, k in users)
            yield f"      const vf x{j} = {_load(j, step[1])}; {updates}"
        yield "    }"


def _load(tap: int, step: int) -> str:
    if step == 1:
        return f"load(xi + {tap})"
    base = tap - tap % 2
    return f"{'odd' if tap % 2 else 'even'}(load(xi + {base}), load(xi + {base} + VL))"
