"""Writes the offset-SpMM microkernels: R rows x P vectors of accumulators, named one by one so that none is spilled.

Widths are counted in half vectors: where half a vector costs half as much, a run may end in one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from monstera.compiler.program import Loop

_TILE = """\
TILE void {name}_{width}(const float *x, const int *offset, const float *weight, long k, const spmm_args *a,
    const int *row, const float *bias, const float *start, int last, long at, long tiles) {{
{outputs}
    for (; tiles > 0; tiles--, at += {vectors} * VL) {{
        const float *xt = x + at, *w = weight;
{declare}
        if (a->far) spmm_fetch(a, row, {rows}, at, {vectors});
        if (start) {{
{begin}
        }}
{unroll}        for (long i = 0; i < k; i++, w += {R}) {{
            const float *xi = xt + offset[i];
{fetch}{multiply}
        }}
        if (last) {{
            const uint16_t *mask = a->mask + at / VL;
{finish}
        }} else {{
{leave}
        }}
    }}
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
            /* Tiles that are as good as equal, by their width in half vectors: the wider ones first. */
            const long each = (to - from) / tiles, more = (to - from) % tiles, half = a->half && to == a->vectors;
            const long widths[] = {{2 * each + 2, 2 * each, 2 * each - 1}};
            const long counts[] = {{more, tiles - more - half, half}};
            const float *start = group ? a->y : a->res;
            const int last = group == a->groups - 1;
            for (long b = blocks.begin; b < blocks.end; b++) {{
                const int *block = a->block + 4 * (group * a->blocks + b), *row = a->row + {R} * b;
                const int *offset = a->offset + block[0];
                const float *x = a->x + block[3];
                const float *w = a->weight + (long)block[1] * {R}, *bias = group ? no_bias : a->bias + {R} * b;
                for (long i = 0, at = from * VL; i < 3; at += counts[i] * ((widths[i] + 1) / 2) * VL, i++) {{
                    const long count = counts[i];
                    if (count > 0) switch (widths[i]) {{
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
            each, more = divmod(length, tiles)
            half = self.half and at + length == self.vectors
            counts = {2 * each + 2: more, 2 * each: tiles - more - half, 2 * each - 1: int(half)}
            found |= {width for width, count in counts.items() if count}
        return found


@dataclass(frozen=True, slots=True)
class _Part:
    """A vector, or half of one, of a tile: its type's letter and where it lies, in floats from the tile's start."""

    kind: str
    place: str

    @property
    def load(self) -> str:
        return "load" if self.kind == "v" else "load_half"

    @property
    def store(self) -> str:
        return "store" if self.kind == "v" else "store_half"


def spmm_source(name: str, rows: int, widths: Iterable[int], activation: str, loop: Loop) -> str:
    """Return the C text of one kernel: a driver `name(args, part)` and a tile function for every width.

    Args:
        name: the kernel's name in C.
        rows: rows of a block.
        widths: tile widths that occur, in half vectors.
        activation: the C function applied at the last store.
        loop: how columns are done, and how many rows at once.
    """
    ordered = sorted(widths)
    parts = [_tile(name, rows, _parts(width), width, activation, loop) for width in ordered]
    cases = "\n".join(f"                        case {w}: {_call(name, rows, w, loop)} break;" for w in ordered)
    return "\n".join([*parts, _DRIVER.format(name=name, R=rows, cases=cases)])


def _call(name: str, rows: int, width: int, loop: Loop) -> str:
    """All tiles of one width, or one at a time where every pass reads again what the one before has brought in."""
    if rows <= loop.rows:
        return f"{name}_{width}(x, offset, w, block[2], a, row, bias, start, last, at, count);"
    tiles = f"for (long t = 0; t < count; t++) for (int r = 0; r < {rows}; r += {loop.rows})"
    there = f"at + t * {-(-width // 2)} * VL"
    return f"{tiles} {name}_{width}(x, offset, w + r, block[2], a, row + r, bias + r, start, last, {there}, 1);"


def _tile(name: str, block: int, parts: list[_Part], width: int, activation: str, loop: Loop) -> str:
    """The rows of a block that are summed up at once, the next ones of which the caller asks for again."""
    rows = min(block, loop.rows)
    names = [[f"a{r}_{p}" for p in range(len(parts))] for r in range(rows)]
    begin = []
    for r, accumulators in enumerate(names):
        sums = " ".join(f"{a} += {p.load}(s + {p.place});" for a, p in zip(accumulators, parts, strict=True))
        begin.append(f"            {{ const float *s = start + row[{r}] * a->y_plane + at; {sums} }}")
    by_rows = loop.by_rows and len(parts) <= rows
    return _TILE.format(
        name=name,
        width=width,
        vectors=len(parts),
        R=block,
        rows=rows,
        declare="\n".join(line for r in range(rows) for line in _declare(names[r], parts, r)),
        begin="\n".join(begin),
        unroll=f"        #pragma GCC unroll {loop.unroll}\n" if loop.unroll > 1 else "",
        fetch=_fetch(parts, loop) if loop.ahead else "",
        multiply="\n".join((_multiply_by_rows if by_rows else _multiply)(names, parts, rows)),
        outputs="\n".join(f"    float *y{r} = a->y + row[{r}] * a->y_plane;" for r in range(rows)),
        finish="\n".join(_finish(names, parts, activation)),
        leave="\n".join(_leave(names, parts)),
    )


def _parts(width: int) -> list[_Part]:
    whole = [_Part("v", f"{i} * VL") for i in range(width // 2)]
    return [*whole, *([_Part("h", f"{width // 2} * VL")] if width % 2 else [])]


def _declare(accumulators: list[str], parts: list[_Part], row: int) -> list[str]:
    splat = {"v": f"splat(bias[{row}])", "h": f"splat_half(bias[{row}])"}
    return [f"        {p.kind}f {a} = {splat[p.kind]};" for a, p in zip(accumulators, parts, strict=True)]


def _fetch(parts: list[_Part], loop: Loop) -> str:
    """Ask for every line of a tile of a later column: the first vector of each, and the end."""
    wanted = dict.fromkeys([*parts[:: loop.line], parts[-1]])
    asked = " ".join(f"__builtin_prefetch(later + {part.place});" for part in wanted)
    return f"            const float *later = xt + offset[i + {loop.ahead}]; {asked}\n"


def _multiply(names: list[list[str]], parts: list[_Part], rows: int) -> list[str]:
    """One column: load a vector, use it for every row. Loads one by one keep a register free for wide tiles."""
    lines = []
    for i, part in enumerate(parts):
        updates = " ".join(f"{names[r][i]} += x{i} * w[{r}];" for r in range(rows))
        lines.append(f"            const {part.kind}f x{i} = {part.load}(xi + {part.place}); {updates}")
    return lines


def _multiply_by_rows(names: list[list[str]], parts: list[_Part], rows: int) -> list[str]:
    """One column: all vectors first, then each weight spread over a register and used for all of them."""
    lines = [f"            const {part.kind}f x{i} = {part.load}(xi + {part.place});" for i, part in enumerate(parts)]
    for r in range(rows):
        updates = " ".join(f"{names[r][i]} += x{i} * w{r};" for i in range(len(parts)))
        lines.append(f"            {{ const vf w{r} = w[{r}] - (vf){{0}}; {updates} }}")
    return lines


def _finish(names: list[list[str]], parts: list[_Part], activation: str) -> list[str]:
    """The sums activated and without their pads, vector by vector, as all rows have the same pads."""
    lines = []
    for i, part in enumerate(parts):
        lines.append(f"            {{ const valid m = valid_lanes(mask[{part.place.split()[0]}]);")
        for r, accumulators in enumerate(names):
            sums = accumulators[i] if part.kind == "v" else f"widen({accumulators[i]})"
            done = f"keep_lanes({activation}({sums}), m)"
            done = done if part.kind == "v" else f"narrow({done})"
            lines.append(f"              {part.store}(y{r} + at + {part.place}, {done});")
        lines[-1] += " }"
    return lines


def _leave(names: list[list[str]], parts: list[_Part]) -> list[str]:
    """The sums as they are while columns are still to come."""
    return [
        "            "
        + " ".join(f"{p.store}(y{r} + at + {p.place}, {a});" for a, p in zip(accumulators, parts, strict=True))
        for r, accumulators in enumerate(names)
    ]
