"""What all commands share: the application they are commands of, common options, and errors as messages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from typer.core import TyperGroup

# Options of several commands.
DataFolder: TypeAlias = Annotated[Path | None, typer.Option(help="Data folder; else MONSTERA_DATA or ../shared/data.")]
TargetName: TypeAlias = Annotated[str, typer.Option(help="Instruction set: native, avx512, avx2 or neon.")]

# What the library raises for people; anything else is a bug, and then the traceback is the message.
_FOR_PEOPLE = (ValueError, TypeError, OSError, RuntimeError, ImportError)


class _Commands(TyperGroup):
    """The commands, with errors of the library shown as a message."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _FOR_PEOPLE as reason:
            # typer leaves by way of RuntimeErrors too.
            if ctx.params["debug"] or isinstance(reason, (typer.Exit, typer.Abort)):
                raise
            Console(stderr=True).print(f"[bold red]error:[/] {_message(reason)}", soft_wrap=True, highlight=False)
            raise typer.Exit(1) from reason


app = typer.Typer(
    cls=_Commands,
    help="Prune networks into shapes that hardware likes, and compile them to native programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False) -> None:
    """Prune networks into shapes that hardware likes, and compile them to native programs."""


def overrides(settings: list[str]) -> dict[str, Any]:
    """Read what `--set` gives, each FIELD=VALUE.

    Raises:
        ValueError: one of them is not of this form.
    """
    import yaml

    pairs = [setting.partition("=") for setting in settings]
    if wrong := [name for name, equals, _ in pairs if not name or not equals]:
        raise ValueError(f"--set: expected FIELD=VALUE such as epochs=1, got {wrong[0]!r}")
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def _message(reason: BaseException) -> str:
    from rich.markup import escape

    if isinstance(reason, OSError) and reason.filename is not None:
        return escape(f"{reason.filename}: {reason.strerror}")
    return escape(str(reason) or type(reason).__name__)
