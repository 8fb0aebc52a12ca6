"""Commands on compiled programs: time, show, check, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from monstera.cli.app import app


@app.command()
def profile(
    program: Annotated[Path, typer.Argument(help="A .monstera file. It is executable code: trust it first.")],
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs; medians are shown.")] = 20,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show how the weights lie, too: blocks, zeros, predicted ms.")
    ] = False,
    shape: Annotated[int, typer.Option(min=0, help="Which of the shapes that `inspect` lists, from 0.")] = 0,
) -> None:
    """Time every layer of a compiled PROGRAM on random inputs."""
    from monstera.runtime import load

    engine = load(program)
    console = Console()
    console.print(str(engine), highlight=False, markup=False)
    console.print(str(engine.memory), highlight=False)
    times = engine.profile(rounds=rounds, shape=shape)
    console.print(str(times), highlight=False, soft_wrap=True, markup=False)
    if plan:
        console.print(f"\n{engine.plan(times, shape=shape)}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def inspect(
    program: Annotated[Path, typer.Argument(help="A .monstera file; none of it is run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Show what a compiled PROGRAM is: machine, parts with their checksums, signature and layers for each shape."""
    from monstera.runtime import open_artifact

    opened = open_artifact(program)
    if as_json:
        from monstera.runtime.verify import facts

        Console(soft_wrap=True).print_json(data=facts(opened), sort_keys=True)
        return
    from monstera.program import description

    Console().print(description(opened))


@app.command()
def verify(
    program: Annotated[Path, typer.Argument(help="A .monstera file; none of it is run.")],
    sha256: Annotated[str | None, typer.Option(help="The digest that it must have.")] = None,
) -> None:
    """Check a compiled PROGRAM, part by part: exit code 0 if it is sound, 1 if not.

    Checksums find damage, not malice. To know that a file is the one you trust, give its digest.
    """
    from monstera.program import checks

    console = Console()
    for check in checks(program, sha256):
        console.print(f"ok  {check}", highlight=False, soft_wrap=True, markup=False)


@app.command("export-c")
def export_c(
    program: Annotated[Path, typer.Argument(help="A .monstera file, for whatever machine it was compiled.")],
    folder: Annotated[Path, typer.Argument(help="Where the files go; files of the same names are replaced.")],
) -> None:
    """Write a compiled PROGRAM into FOLDER as C source, header and weights, for a program without Python."""
    from monstera.runtime import export_c, read_artifact

    export_c(read_artifact(program), folder)
    files = "net.c, net.h, net.mk, weights.safetensors, README.md"
    Console().print(f"{folder}: {files}", highlight=False, soft_wrap=True, markup=False)
