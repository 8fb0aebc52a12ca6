"""Writes the parts of `compiler.md` that the compiler itself prints: `python docs/compiler_example.py`.

One small layer walks through the compiler, floor by floor. What each floor makes of it stands in the page between the
marks `<!-- name:begin -->` and `<!-- name:end -->`; a test says when the page is out of date. The target is avx512
wherever this runs, and nothing here depends on time.
"""

from __future__ import annotations

import inspect
import tempfile
import textwrap
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from pages import fenced, page_with
from torch import nn

import monstera as ms
from monstera.compiler import kernels
from monstera.compiler.build import code_flags
from monstera.compiler.emit import unit
from monstera.compiler.frontends import from_torch
from monstera.compiler.grids import Layouts, choose_layouts
from monstera.compiler.ir import Graph, Node
from monstera.compiler.layout import Planes
from monstera.compiler.lowering import Lowered, lower_with
from monstera.compiler.lowering.choice import Case
from monstera.compiler.memory import lifetimes
from monstera.compiler.passes import PASSES, optimize
from monstera.compiler.program import Program, Ref, Step
from monstera.compiler.stripes import stripe_windows
from monstera.compiler.targets import target_named
from monstera.compiler.tuning.search import promising
from monstera.runtime import Engine

PAGE = Path(__file__).with_name("compiler.md")
TARGET = target_named("avx512")
SHAPE = (1, 4, 6, 10)


def example() -> nn.Sequential:
    """3x3, 4 to 8 channels, holes in blocks of 4 filters, of which a quarter is kept."""
    layer = nn.Conv2d(4, 8, 3, padding=1, bias=False)
    norm = nn.BatchNorm2d(8)
    with torch.no_grad():
        layer.weight.copy_(((torch.arange(288) ** 2 * 57 % 1009 - 504.5) / 1009).reshape(8, 4, 3, 3))
        norm.weight.copy_(torch.linspace(0.5, 1.5, 8))
        norm.bias.copy_(torch.linspace(-1, 1, 8))
    model = nn.Sequential(layer, norm, nn.ReLU()).eval()
    ms.prune(model, ms.Plan.uniform(model, "4x1", 0.25, skip=()))
    return model


def parts() -> dict[str, str]:
    """What stands between the marks, by name.

    Raises:
        BuildError: there is no C compiler that builds for x86-64 with avx512.
    """
    model = example()
    imported = from_torch(model, (torch.zeros(SHAPE),))
    graph = optimize(imported.graph)
    layouts, lowered = choose_layouts(graph), lower_with(graph, TARGET, 1, {})
    program = lowered.program
    engine = ms.compile(model, torch.zeros(SHAPE), target=TARGET.name)
    return {
        "model": fenced(inspect.getsource(example), "python"),
        "graph": fenced(show_graph(imported.graph)),
        "passes": fenced(show_passes(imported.graph)),
        "optimized": fenced(show_graph(graph)),
        "layouts": fenced(show_layouts(layouts)),
        "plane": fenced(show_plane(_output(layouts), pixels=((0, 0), (3, 9)))),
        "taps": fenced(show_taps(_output(layouts))),
        "mask": fenced(show_mask(graph)),
        "tables": fenced(show_tables(program)),
        "packing": fenced(str(engine.plan())),
        "candidates": fenced(show_candidates(_only(lowered))),
        "choices": fenced(show_choices(_only(lowered))),
        "steps": fenced(show_steps(program)),
        "stripes": fenced(show_stripes()),
        "memory": fenced(show_memory(program)),
        "kernel": fenced(kernel_source(engine.c_source, program), "c"),
        "calls": fenced(calls_source(engine.c_source), "c"),
        "build": fenced(show_build()),
        "artifact": fenced(show_artifact(engine)),
    }


def show_graph(graph: Graph) -> str:
    """Inputs, nodes and outputs, one a line; fields of an operator that have their defaults are left out."""
    lines = [f"input   {name}: {_shape(shape)}" for name, shape in graph.inputs]
    lines += [_node(node) for node in graph.nodes]
    lines += [f"output  {name}" for name in graph.outputs]
    return "\n".join([*lines, *(f"param   {k}: {_shape(v.shape)}" for k, v in graph.params.items())])


def _node(node: Node) -> str:
    op = node.op
    said = [f"{f.name}={getattr(op, f.name)!r}" for f in fields(op) if getattr(op, f.name) != f.default]
    first = f"node    {node.name}: {_shape(node.shape)} = {type(op).__name__}({', '.join(node.inputs)})"
    return "\n".join([first, *(f"          {field}" for field in said)])


def show_passes(graph: Graph) -> str:
    """The passes in order, and which of them found something to do."""
    lines = []
    for rewrite in PASSES:
        after = rewrite(graph)
        changed = after.nodes != graph.nodes
        lines.append(f"{rewrite.__name__:20}" + (f" {len(graph.nodes)} -> {len(after.nodes)} nodes" if changed else ""))
        graph = after
    return "\n".join(line.rstrip() for line in lines)


def show_layouts(layouts: Layouts) -> str:
    """Where each value lies, and where the convolution wants its input."""
    lines = [f"{name:20} {_layout(layout)}" for name, layout in layouts.values.items()]
    return "\n".join(lines + [f"{name + ' reads':20} {_layout(layout)}" for name, layout in layouts.inputs.items()])


def _layout(layout: object) -> str:
    if not isinstance(layout, Planes):
        return str(layout)
    grid = layout.grid
    sizes = f"pitch {grid.pitch}, rows {grid.rows}, stride {grid.stride}, lead {grid.lead}"
    return f"{layout.c} planes of {layout.h}x{layout.w}: {sizes}"


def _output(layouts: Layouts) -> Planes:
    (layout,) = (layout for layout in layouts.values.values() if isinstance(layout, Planes))
    return layout


def show_plane(planes: Planes, pixels: tuple[tuple[int, int], ...]) -> str:
    """The lead and the first plane; `o` is a float of a pixel, `-` a zero, in brackets what taps of `pixels` read."""
    pitch, stride = planes.grid.pitch, planes.grid.stride
    read = {y * pitch + x + offset for y, x in pixels for offset in _offsets(planes)}
    holds = planes.pixels()

    def cell(at: int) -> str:
        if not -planes.lead <= at < stride:
            return "   "
        sign = "o" if at >= 0 and holds[at] else "-"
        return f"[{sign}]" if at in read else f" {sign} "

    rows = range(-(-planes.lead // pitch) * -pitch, stride, pitch)
    return "\n".join(f"{row:5} |" + "".join(map(cell, range(row, row + pitch))).rstrip() for row in rows)


def _offsets(planes: Planes) -> list[int]:
    return [planes.tap(0, dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def show_taps(planes: Planes) -> str:
    """The offsets of the nine taps in channel 0, and what a channel adds."""
    table = np.reshape(_offsets(planes), (3, 3))
    lines = ["".join(f"{offset:5}" for offset in row) for row in table]
    return "\n".join([*lines, f"plus {planes.plane(1)} for every channel"])


def show_mask(graph: Graph) -> str:
    """Filters down, columns (channel, dy, dx) across; `#` is a weight that survives."""
    (weight,) = (graph.params[key] for key in graph.params if key.endswith("weight"))
    rows = (weight != 0).reshape(len(weight), weight.shape[1], -1)
    return "\n".join(f"filter {i}   " + "  ".join(map(_dots, row)) for i, row in enumerate(rows))


def _dots(alive: np.ndarray) -> str:
    return "".join("#" if a else "." for a in alive)


def show_tables(program: Program) -> str:
    """The tables that the SpMM step reads."""
    return "\n".join(_table(name, ref, program) for name, ref in _spmm(program).fields.items() if _is_table(ref))


def _is_table(value: object) -> bool:
    return isinstance(value, Ref) and value.space == "weights"


def _table(name: str, ref: object, program: Program) -> str:
    assert isinstance(ref, Ref)
    table = program.tables[ref.name]
    style = {"float32": ".3f", "uint16": "04x"}.get(table.dtype.name, "d")
    words = [format(value, style) for value in table.reshape(-1)[:18]]
    more = " ..." if table.size > len(words) else ""
    head = f"{name:7} {table.dtype.name:8} {list(table.shape)!s:8} "
    return textwrap.fill(" ".join(words) + more, 110, initial_indent=head, subsequent_indent=" " * len(head))


def _spmm(program: Program) -> Step:
    (step,) = (step for step in program.steps if step.kernel.rows)
    return step


def _only(lowered: Lowered) -> Case:
    (case,) = lowered.cases.values()
    return case


def show_candidates(case: Case) -> str:
    """The ways to cut the rows into blocks, best first, with their predicted cost."""
    return "\n".join(
        f"{c.order}, " + ", ".join(f"{len(p.rows)} of {p.size}" for p in c.parts) + f": {c.flop:.0f} flop"
        for c in case.candidates
    )


def show_choices(case: Case) -> str:
    """What `tune="fast"` times."""
    return "\n".join(str(choice) for choice in promising(case, TARGET))


def show_steps(program: Program) -> str:
    """Each step: kernel, what it clears first, and how it may be cut."""
    return "\n".join(line for i, step in enumerate(program.steps) for line in _step(i, step))


def _step(index: int, step: Step) -> Iterator[str]:
    yield f"{index}  {step.title}"
    yield f"   {step.kernel.name}" + (f", tiles of {step.kernel.widths} half vectors" if step.kernel.rows else "")
    for ref, count in step.clears:
        yield f"   clears {count} floats of {ref.name} from {ref.offset} on"
    if (sweep := step.sweep) is not None:
        yield f"   {sweep.units} units of {sweep.floats} floats"
        for read in sweep.reads:
            yield f"   unit u reads {read.buffer} from {read.step} u {read.first:+} up to {read.step} u {read.past:+}"


def show_stripes() -> str:
    """Two such layers, one after the other, in three stripes."""
    pair = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)).eval()
    program = lower_with(optimize(from_torch(pair, (torch.zeros(SHAPE),)).graph), TARGET, 1, {}).program
    steps = [step for step in program.steps if step.kernel.rows]
    windows = stripe_windows(steps, 3)
    lines = []
    for stripe in range(3):
        pieces = [
            f"layer {step.layer}, vectors {w[stripe]} to {w[stripe + 1]}"
            for step, w in zip(steps, windows, strict=True)
        ]
        lines.append(f"stripe {stripe}:  " + ";  ".join(pieces))
    return "\n".join(lines)


def show_memory(program: Program) -> str:
    """Where buffers lie in the arena, in floats, and during which turns they live."""
    arena, lives = unit(program).arena, lifetimes(program)
    lines = [
        f"{name:8} {program.buffers[name]:4} floats at {arena.offsets[name]:4}, turns {first} to {last}"
        for name, (first, last) in lives.items()
    ]
    return "\n".join([*lines, f"arena {arena.size} floats; buffers that live together {arena.best}"])


def kernel_source(source: str, program: Program) -> str:
    """The part of the C that was written for this layer's kernel."""
    begin = source.rindex("\n", 0, source.index(_spmm(program).kernel.name))
    return source[begin : source.index(kernels.header("team.h"))].strip()


def calls_source(source: str) -> str:
    """The part of the C that was written for this network: its calls, and their order."""
    begin = source.index("/* input: input to planes */")
    return source[begin : source.index("/* ABI version")].strip()


def show_build() -> str:
    """The flags that decide what the C means and how fast it runs."""
    return "cc " + " ".join(code_flags(TARGET)) + " -fPIC -shared ..."


def show_artifact(engine: Engine) -> str:
    """The files in a saved engine, and what its manifest says of its steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.monstera"
        engine.save(path)
        names = zipfile.ZipFile(path).namelist()
    steps = [f"{s.title}: {s.macs} of {s.dense_macs} MACs" for s in engine.manifest.layers if s.dense_macs]
    return "\n".join([*names, "", *steps])


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), parts()), encoding="utf-8")
