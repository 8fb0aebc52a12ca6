"""Prints a program as one readable C file: kernels, one function a step, and `run`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monstera.compiler import kernels
from monstera.compiler.memory import Arena, place
from monstera.compiler.program import Field, GridArgs, Program, Ref, Step, Turn
from monstera.compiler.targets import Target
from monstera.runtime.library import Seal
from monstera.runtime.tensors import data_size, offsets_of

ABI = 2
_INDENT = {"initial_indent": " " * 8, "subsequent_indent": " " * 8, "break_long_words": False}


@dataclass(frozen=True, slots=True)
class Unit:
    """A program ready to print: its place in memory and the prefix of its symbols.

    `weights` says at which byte of the data of weights a table begins. The file has `weight_bytes` of them; what is
    made at load follows in memory.
    """

    prefix: str
    program: Program
    arena: Arena
    weights: Mapping[str, int]
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class TapTable:
    """A table that is made when the weights are loaded: `count` places by the numbers of columns. Bytes of the data.

    Columns are of two bytes each, or of four if `wide`.
    """

    to: int
    columns: int
    places: int
    count: int
    wide: bool


def unit(program: Program, prefix: str = "net") -> Unit:
    """Place a program's buffers and tables."""
    return Unit(prefix, program, place(program), offsets_of(program.tables), data_size(program.tables))


def emit(
    units: Sequence[Unit], target: Target, threads: int, seal: Seal | None = None, taps: Sequence[TapTable] = ()
) -> str:
    """Return the C source of a library that holds the given programs (usually one); with a seal if it will travel."""
    used = (step.kernel for u in units for step in u.program.steps)
    parts = [kernels.source(used, target), kernels.header("team.h")]
    for u in units:
        parts += [_step(u, i, s) for i, s in enumerate(u.program.steps)]
        parts.append(_run(u, threads, seal or Seal()))
    if taps:
        table = ",\n    ".join(f"{{{t.to}, {t.columns}, {t.places}, {t.count}, {int(t.wide)}}}" for t in taps)
        parts.append(kernels.header("taps.h").replace("@prefix@", units[0].prefix).replace("@table@", table))
    return "\n".join(parts) + "\n"


def _step(u: Unit, index: int, step: Step) -> str:
    lines = [
        f"/* {_comment(step.layer)}: {_comment(step.title)} */",
        f"static void {u.prefix}_{index}(const call *c, part p) {{",
    ]
    lines += [
        f"    if (p.id == 0 && p.window.begin == 0) clear({_pointer(u, ref)}, {count});" for ref, count in step.clears
    ]
    arguments = [_value(u, o) for o in step.operands]
    if step.struct:
        fields = _value(u, step.fields).removeprefix("{").removesuffix("}")
        lines += [f"    const {step.struct} a = {{", textwrap.fill(fields, 116, **_INDENT), "    };"]
        arguments.insert(0, "&a")
    lines.append(f"    {step.kernel.name}({', '.join([*arguments, 'p'])});")
    return "\n".join([*lines, "}"])


def _run(u: Unit, threads: int, seal: Seal) -> str:
    table = ",\n    ".join(_turn(u.prefix, t) for t in u.program.turns) or "{0}"
    symbols = {
        "prefix": u.prefix,
        "table": table,
        "count": len(u.program.steps),
        "turns": len(u.program.turns),
        "threads": threads,
        "abi": ABI,
        "seal": seal,
        "arena": u.arena.size,
        "inputs": len(u.program.inputs),
        "outputs": len(u.program.outputs),
        "weights": u.weight_bytes,
    }
    text = kernels.header("run.h")
    for name, value in symbols.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def _turn(prefix: str, turn: Turn) -> str:
    end = "INT32_MAX" if turn.end is None else turn.end
    return f"{{{prefix}_{turn.step}, {turn.step}, {{{turn.begin}, {end}}}}}"


def _value(u: Unit, value: Field) -> str:
    match value:
        case None:
            return "0"
        case Ref():
            return _pointer(u, value)
        case GridArgs():
            return "{" + ",".join(str(getattr(value, f)) for f in GridArgs.__slots__) + "}"
        case Mapping():
            return "{" + ", ".join(f".{k} = {_value(u, v)}" for k, v in value.items()) + "}"
        case tuple():
            return "{" + ", ".join(_value(u, v) for v in value) + "}"
        case float():
            return f"{np.float32(value)!s}f"
        case _:
            return str(value)


def _pointer(u: Unit, ref: Ref) -> str:
    match ref.space:
        case "arena":
            return f"ARENA({u.arena.offsets[ref.name] + ref.offset})"
        case "weights":
            return f"TABLE({u.weights[ref.name] + ref.offset * 4})"
        case "in":
            index = [name for name, _ in u.program.inputs].index(ref.name)
            return f"c->in[{index}] + {ref.offset}"
        case "out":
            index = [name for name, _ in u.program.outputs].index(ref.name)
            return f"c->out[{index}] + {ref.offset}"


def _comment(text: str) -> str:
    """A name from a graph that anybody may have written: a comment ends where we end it.

    A backslash before the end of a line joins lines before comments are read.
    """
    plain = "".join(c if c.isprintable() and c != "\\" else "?" for c in text)
    return plain.replace("*/", "* /").replace("/*", "/ *").replace("??/", "? ? /")
