"""Writes the offset-SpMM microkernels: R rows x P vectors of accumulators, named one by one so that none is spilled.

Widths are counted in half vectors: where half a vector costs half as much, a run may end in one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from monstera.compiler.program import Loop

_TILE = """\
TILE void {name}_{width}(const float *x, const int *offset, const float *w, long k, const spmm_args *a,
    const int *row, const float *bias, const float *start, int last, long at) {{
{declare}
    if (a->far) spmm_fetch(a, row, {R}, at, {vectors});
    if (start) {{
{begin}
    }}
{unroll}    for (long i = 0; i < k; i++, w += {R}) {{
        const float *xi = x + offset[i];
{fetch}{multiply}
    }}
    const uint16_t *mask = a->mask + at / VL;
    (void)mask;
{finish}
}}
"""

_DRIVER = """\
static void {name}_run(const spmm_args *a, part p) {{
    const range blocks = a->by_blocks ? spmm_blocks(a, p) : (range){{0, a->blocks}};
    const range run = a->by_blocks ? window_of(a->vectors, p) : share(a->vectors, p);
    for (long from = run.begin; from < run.end; from += a->chunk)
        for (int group = 0; group < a->groups; group++) {{
            const long to = from + a->chunk < run.end ? from + a->chunk : run.end;
            const long tiles = (to - from + a->tile - 1) / a->tile;
            const float *start = group ? a->y : a->res;
            const int last = group == a->groups - 1;
            for (long b = blocks.begin; b < blocks.end; b++) {{
                const int *block = a->block + 4 * (group * a->blocks + b), *row = a->row + {R} * b;
                const int *offset = a->offset + block[0];
                const float *x = a->x + block[3];
                const float *w = a->weight + (long)block[1] * {R}, *bias = group ? no_bias : a->bias + {R} * b;
                for (long t = 0; t < tiles; t++) {{
                    const long v = from + (to - from) * t / tiles, next = from + (to - from) * (t + 1) / tiles;
                    const long at = v * VL;
                    switch (2 * (next - v) - (a->half && next == a->vectors)) {{
{cases}
                        default: __builtin_trap(); /* no such tile was built */
                    }}
                }}
                if (last && from == 0) spmm_tail(a, row, {R});
            }}
        }}
}}

static void {name}(const spmm_args *a, part p) {{
    const long all = a->abreast ? (long)a->chunk * p.count : INT32_MAX;
    for (long from = 0; from < a->vectors; from += all)
        for (int i = 0; i < a->stretches; i++) {{
            const spmm_args s = spmm_stretch(a, i);
            if (a->abreast) p.window = (range){{from, from + all}};
            {name}_run(&s, p);
        }}
}}
"""


# Columns from where one is multiplied to where its inputs are asked for; the table of offsets goes on so far.
AHEAD = 2


@dataclass(frozen=True, slots=True)
class Run:
    """How the driver cuts the pixels: a run of `vectors` (the last one a half?) in chunks, and these in tiles."""

    vectors: int
    chunk: int
    tile: int
    half: bool
    by_blocks: bool
    abreast: bool = False

    def widths(self, windows: Iterable[tuple[int, int]], threads: int) -> set[int]:
        """The tile widths, in half vectors, that occur while these windows of the run are done."""
        shares = 1 if self.by_blocks else threads
        found: set[int] = set()
        if self.abreast:
            piece = self.chunk * threads
            windows = [(at, min(at + piece, end)) for begin, end in windows for at in range(begin, end, piece)]
        for begin, end in windows:
            for t in range(shares):
                first, last = (begin + (end - begin) * i // shares for i in (t, t + 1))
                found |= self._cuts(first, last)
        return found

    def _cuts(self, begin: int, end: int) -> set[int]:
        found: set[int] = set()
        for at in range(begin, end, self.chunk):
            length = min(self.chunk, end - at)
            tiles = -(-length // self.tile)
            cuts = [length * i // tiles for i in range(tiles + 1)]
            found |= {2 * (b - a) for a, b in itertools.pairwise(cuts[:-1])}
            found.add(2 * (cuts[-1] - cuts[-2]) - (self.half and at + length == self.vectors))
        return found


@dataclass(frozen=True, slots=True)
class _Part:
    """A vector, or half of one, of a tile: its type's letter and where it lies, in floats from the tile's start."""

    kind: str
    place: str

    @property
    def load(self) -> str:
        return "load" if self.kind == "v" else "load_half"


def spmm_source(name: str, rows: int, widths: Iterable[int], activation: str, loop: Loop) -> str:
    """Return the C text of one kernel: a driver `name(args, part)` and a tile function for every width.

    Args:
        name: the kernel's name in C.
        rows: rows of a block.
        widths: tile widths that occur, in half vectors.
        activation: the C function applied at the last store.
        loop: how columns are done.
    """
    ordered = sorted(widths)
    parts = [_tile(name, rows, _parts(width), width, activation, loop) for width in ordered]
    call = "{name}_{w}(x + at, offset, w, block[2], a, row, bias, start, last, at); break;"
    cases = "\n".join(f"                        case {w}: " + call.format(name=name, w=w) for w in ordered)
    return "\n".join([*parts, _DRIVER.format(name=name, R=rows, cases=cases)])


def _tile(name: str, rows: int, parts: list[_Part], width: int, activation: str, loop: Loop) -> str:
    names = [[f"a{r}_{p}" for p in range(len(parts))] for r in range(rows)]
    begin, finish = [], []
    for r, accumulators in enumerate(names):
        sums = " ".join(f"{a} += {p.load}(s + {p.place});" for a, p in zip(accumulators, parts, strict=True))
        begin.append(f"        {{ const float *s = start + row[{r}] * a->y_plane + at; {sums} }}")
        finish.append(f"    {{ float *y = a->y + row[{r}] * a->y_plane + at;")
        finish += _stores(accumulators, parts, activation)
    return _TILE.format(
        name=name,
        width=width,
        vectors=len(parts),
        R=rows,
        declare="\n".join(line for r in range(rows) for line in _declare(names[r], parts, r)),
        begin="\n".join(begin),
        unroll=f"#pragma GCC unroll {loop.unroll}\n" if loop.unroll > 1 else "",
        fetch=_fetch(parts) if loop.ahead else "",
        multiply="\n".join((_multiply_by_rows if loop.by_rows else _multiply)(names, parts, rows)),
        finish="\n".join(finish),
    )


def _parts(width: int) -> list[_Part]:
    whole = [_Part("v", f"{i} * VL") for i in range(width // 2)]
    return [*whole, *([_Part("h", f"{width // 2} * VL")] if width % 2 else [])]


def _declare(accumulators: list[str], parts: list[_Part], row: int) -> list[str]:
    splat = {"v": f"splat(bias[{row}])", "h": f"splat_half(bias[{row}])"}
    return [f"    {p.kind}f {a} = {splat[p.kind]};" for a, p in zip(accumulators, parts, strict=True)]


def _fetch(parts: list[_Part]) -> str:
    asked = " ".join(f"__builtin_prefetch(later + {part.place});" for part in parts)
    return f"        const float *later = x + offset[i + {AHEAD}]; {asked}\n"


def _multiply(names: list[list[str]], parts: list[_Part], rows: int) -> list[str]:
    """One column: load a vector, use it for every row. Loads one by one keep a register free for wide tiles."""
    lines = []
    for i, part in enumerate(parts):
        updates = " ".join(f"{names[r][i]} += x{i} * w[{r}];" for r in range(rows))
        lines.append(f"        const {part.kind}f x{i} = {part.load}(xi + {part.place}); {updates}")
    return lines


def _multiply_by_rows(names: list[list[str]], parts: list[_Part], rows: int) -> list[str]:
    """One column: all vectors first, then each weight spread over a register and used for all of them."""
    lines = [f"        const {part.kind}f x{i} = {part.load}(xi + {part.place});" for i, part in enumerate(parts)]
    for r in range(rows):
        updates = " ".join(f"{names[r][i]} += x{i} * w{r};" for i in range(len(parts)))
        lines.append(f"        {{ const vf w{r} = w[{r}] - (vf){{0}}; {updates} }}")
    return lines


def _stores(accumulators: list[str], parts: list[_Part], activation: str) -> list[str]:
    """The sums, as they are while columns are still to come, then activated and without their pads."""
    raw, done = [], []
    for a, p in zip(accumulators, parts, strict=True):
        index = p.place.split()[0]
        if p.kind == "v":
            raw.append(f"store(y + {p.place}, {a});")
            done.append(f"store(y + {p.place}, keep({activation}({a}), mask[{index}]));")
            continue
        raw.append(f"store_half(y + {p.place}, {a});")
        done.append(f"store_half(y + {p.place}, narrow(keep({activation}(widen({a})), mask[{index}])));")
    return [f"      if (last) {{ {' '.join(done)} }}", f"      else {{ {' '.join(raw)} }} }}"]
