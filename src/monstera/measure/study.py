"""What a study found: many timings along the axes of a figure, as plain values that go to JSON and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any, TypeAlias

from monstera.measure.bandwidth import Bandwidth, read_bandwidths
from monstera.measure.machine import Machine, this_machine
from monstera.measure.macs import Macs
from monstera.measure.peak import fma_peak_gflops
from monstera.measure.result_file import in_format, read_json, write_json
from monstera.measure.timing import Timing

FORMAT = "monstera.study.1"

Fact: TypeAlias = str | int | float


@dataclass(frozen=True, slots=True)
class Point:
    """One timing: of which sweep, on which line of its figure, where on the axis.

    `facts` say what was run (kernel, rows, bytes); a point has the error of the answer and, where times were taken, a
    timing, or a note that says why it has neither. `threads` is how many it ran on.
    """

    sweep: str
    line: str
    at: Fact
    macs: Macs
    error: float | None = None
    timing: Timing | None = None
    note: str = ""
    threads: int = 1
    facts: dict[str, Fact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.timing is None and self.error is None) != bool(self.note):
            raise ValueError(f"{self.sweep}, {self.line} at {self.at}: expected either an error or timing, or a note")


@dataclass(frozen=True, slots=True)
class Study:
    """Points that were measured in one run of a script on `subject`, and what the machine could do meanwhile.

    `peak_gflops` is the FMA peak by number of threads; `bandwidths` are those of one thread; `tune` is the effort with
    which engines were tuned where their points do not say otherwise.
    """

    name: str
    subject: str
    date: str
    machine: Machine
    peak_gflops: dict[int, float]
    bandwidths: tuple[Bandwidth, ...]
    points: tuple[Point, ...]
    tune: str = "none"

    def sweep(self, name: str) -> dict[str, tuple[Point, ...]]:
        """Return the points of one sweep by line, in order; nothing where it was not measured."""
        found = [point for point in self.points if point.sweep == name]
        return {line: tuple(p for p in found if p.line == line) for line in dict.fromkeys(p.line for p in found)}

    def bound_ms(self, point: Point) -> float | None:
        """Return the least time in ms that the machine allows: its arithmetic at the peak, or its bytes from where
        they lie, whichever takes longer. None where the peak is unknown. Bytes count where the facts have them.
        """
        peak = self.peak_gflops.get(point.threads)
        if peak is None:
            return None
        arithmetic = 2 * point.macs.surviving / (peak * 1e6)
        return max(arithmetic, self._reading_ms(int(point.facts.get("bytes", 0))))

    def efficiency(self, point: Point) -> float | None:
        """Return the bound divided by the median; None where either is unknown."""
        bound = self.bound_ms(point)
        return None if bound is None or point.timing is None else bound / point.timing.median_ms

    def _reading_ms(self, count: int) -> float:
        fitting = [b for b in self.bandwidths if count <= b.size_bytes] or list(self.bandwidths[-1:])
        return count / (fitting[0].gbytes_per_s * 1e6) if fitting else 0.0


def fma_peaks(threads: Iterable[int]) -> dict[int, float]:
    """Return the FMA peak in GFLOP/s by number of threads, on the cores that this process may use now."""
    return {count: peak for count in threads if (peak := fma_peak_gflops(count)) is not None}


def make_study(
    name: str, subject: str, points: tuple[Point, ...], peak_gflops: dict[int, float], tune: str = "none"
) -> Study:
    """Put a study together, dated today; where peaks were measured, the bandwidths of one thread are measured now."""
    today = datetime.now(timezone.utc).date().isoformat()
    bandwidths = read_bandwidths() if peak_gflops else ()
    return Study(name, subject, today, this_machine(), peak_gflops, bandwidths, points, tune)


def study_to_json(study: Study) -> dict[str, Any]:
    """Return `study` as values that JSON has, with the format's name beside them."""
    return {"format": FORMAT, **asdict(study)}


def study_from_json(data: Any) -> Study:
    """Return the study that `study_to_json` made `data` of.

    Raises:
        ValueError: `data` is not of this format, or its values do not fit together.
    """
    return in_format(data, FORMAT, _study)


def _study(data: Mapping[str, Any]) -> Study:
    return Study(
        name=data["name"],
        subject=data["subject"],
        date=data["date"],
        machine=Machine(**data["machine"]),
        # JSON knows no keys but text.
        peak_gflops={int(threads): peak for threads, peak in data["peak_gflops"].items()},
        bandwidths=tuple(Bandwidth(**bandwidth) for bandwidth in data["bandwidths"]),
        points=tuple(_point(point) for point in data["points"]),
        tune=data["tune"],
    )


def _point(data: Mapping[str, Any]) -> Point:
    timing = data["timing"] and Timing(**data["timing"])
    return Point(**{**data, "macs": Macs(**data["macs"]), "timing": timing})


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read the study in the JSON file at `path`.

    Raises:
        ValueError: the file is not such a result; the message names it.
    """
    return read_json(path, study_from_json)


def write_study(study: Study, path: str | os.PathLike[str]) -> None:
    """Write `study` to `path` as JSON that `read_study` reads; see `write_json`."""
    write_json(study_to_json(study), path)
