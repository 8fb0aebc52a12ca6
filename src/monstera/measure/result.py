"""What a comparison found, as plain values that go to JSON and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from monstera.measure.machine import Machine
from monstera.measure.macs import Macs
from monstera.measure.result_file import in_format, read_json, write_json
from monstera.measure.timing import Timing

FORMAT = "monstera.comparison.1"


@dataclass(frozen=True, slots=True)
class Row:
    """One measured line: a timing and the error of the answer, or a note that says why there is no time.

    `precision` is the type that the engine computed in ("" if it did not run); in old files it is missing and was fp32.
    """

    engine: str
    weights: str
    macs: Macs
    error: float | None = None
    timing: Timing | None = None
    note: str = ""
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if (self.timing is None) != bool(self.note):
            raise ValueError(f"{self.engine}, {self.weights}: expected either a timing or a note")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one run measured, on which machine, when, and with how many threads; `inputs` are the input shapes.

    `tune` is the effort with which Monstera's engines were tuned; before there was a choice it was "none".
    """

    network: str
    inputs: tuple[tuple[int, ...], ...]
    threads: int
    date: str
    machine: Machine
    peak_gflops: float | None
    rows: tuple[Row, ...]
    tune: str = "none"

    def row(self, engine: str, weights: str = "dense") -> Row:
        """Return the row of that engine and those weights.

        Raises:
            ValueError: there is none; the message lists those there are.
        """
        for row in self.rows:
            if (row.engine, row.weights) == (engine, weights):
                return row
        known = "; ".join(f"{row.engine}, {row.weights}" for row in self.rows)
        raise ValueError(f"no row for {engine}, {weights}; there are {known}")

    def efficiency(self, row: Row) -> float | None:
        """Return which part of the machine's FMA peak went into surviving weights; None where either is unknown."""
        if row.timing is None or self.peak_gflops is None:
            return None
        return 2 * row.macs.surviving / (row.timing.median_ms * 1e6) / self.peak_gflops


def fastest(rows: Iterable[Row]) -> Row | None:
    """Return the timed row with the smallest median; None when nothing was timed."""
    timed = [(row.timing.median_ms, index, row) for index, row in enumerate(rows) if row.timing is not None]
    return min(timed)[2] if timed else None


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return `comparison` as values that JSON has, with the format's name beside them."""
    return {"format": FORMAT, **asdict(comparison)}


def from_json(data: Any) -> Comparison:
    """Return the comparison that `to_json` made `data` of.

    Raises:
        ValueError: `data` is not of this format, or its values do not fit together.
    """
    return in_format(data, FORMAT, _comparison)


def _comparison(data: Mapping[str, Any]) -> Comparison:
    return Comparison(
        network=data["network"],
        inputs=tuple(tuple(shape) for shape in data["inputs"]),
        threads=data["threads"],
        date=data["date"],
        machine=Machine(**data["machine"]),
        peak_gflops=data["peak_gflops"],
        rows=tuple(_row(row) for row in data["rows"]),
        tune=data.get("tune", "none"),
    )


def _row(data: Mapping[str, Any]) -> Row:
    timing = data["timing"] and Timing(**data["timing"])
    return Row(**{**data, "macs": Macs(**data["macs"]), "timing": timing})


def read(path: str | os.PathLike[str]) -> Comparison:
    """Read the comparison in the JSON file at `path`.

    Raises:
        ValueError: the file is not such a result; the message names it.
    """
    return read_json(path, from_json)


def write(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write `comparison` to `path` as JSON that `read` reads; see `write_json`."""
    write_json(to_json(comparison), path)
