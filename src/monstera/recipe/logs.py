"""Logs of a run that outlive it: JSON lines beside the checkpoint, and curves for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monstera.recipe.report import Report
from monstera.sparsity.files import write_atomically

Write = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class Logging:
    """What is logged: one line every so many steps and at the end of an epoch, and whether TensorBoard gets them too.

    Raises:
        ValueError: `every` is not positive.
        ImportError: TensorBoard is asked for and not installed.
    """

    every: int = 10
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"log_every: expected at least 1 step, got {self.every}")
        if self.tensorboard:
            _summary_writer()


@contextmanager
def logged(checkpoint: Path, step: int, how: Logging) -> Iterator[Write]:
    """Give a function that writes a report to the logs beside the checkpoint.

    A run that goes on from `step` first loses what an earlier one wrote of later steps, so that no line is there twice
    and the file in the end is that of a run that was never interrupted, byte for byte.

    Raises:
        ValueError: the log is damaged.
    """
    lines, curves = checkpoint.with_suffix(".jsonl"), checkpoint.with_suffix(".tensorboard")
    with ExitStack() as stack:
        file = stack.enter_context(_continued(lines, step))
        writer = None
        if how.tensorboard:
            # What was written from the purged step on is overlooked by who reads it.
            writer = _summary_writer()(str(curves), purge_step=step + 1)
            stack.callback(writer.close)

        def write(report: Report) -> None:
            fields = report.fields()
            file.write(f"{json.dumps(fields)}\n")
            # Before the checkpoint of this step is there, or a run killed in between would go on with a line missing.
            file.flush()
            if writer is not None:
                for name, value in _scalars(fields):
                    writer.add_scalar(name, value, fields["step"])

        yield write


def _continued(path: Path, step: int) -> Any:
    kept = [line for line, fields in _read(path) if fields["step"] <= step]
    write_atomically(path, "".join(kept).encode())
    return path.open("a", encoding="utf-8")


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            return  # the run was killed while it wrote this
        try:
            yield line, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}: line {number} is not JSON ({error}); remove the file to begin a new one"
            ) from None


def _scalars(fields: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in fields.items():
        if name == "densities":
            yield from ((f"density/{weight}", density) for weight, density in value.items())
        elif name == "divergence":
            yield name, sum(value["layers"].values())
            yield from ((f"divergence/{weight}", flips) for weight, flips in value["layers"].items())
        elif name not in ("step", "phase"):
            yield name, value


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(f"TensorBoard is not there ({error}); pip install 'monstera[tensorboard]'") from error
    return SummaryWriter
