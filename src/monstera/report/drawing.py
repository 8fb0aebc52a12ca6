"""Draws lines and bars as SVG, always to the same bytes, so that a test can tell a figure that is out of date."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Text stays text, so that a figure is small and can be searched; names inside the file do not depend on a random salt.
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "monstera",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
_INCHES = (4.6, 3.2)
# Of more places than these the names would run into each other.
_MOST_TICKS = 16

Series = Mapping[str, Mapping[Any, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: for every line, a value at each place; places that are text become groups of bars.

    `dashed` lines are drawn without marks, for bounds. `scale` holds for lines: of the horizontal axis, or of both.
    """

    title: str
    across: str
    up: str
    series: Series
    dashed: Series = field(default_factory=dict)
    scale: Literal["linear", "log", "log-log"] = "linear"

    @property
    def inches(self) -> float:
        """How wide it has to be for its bars."""
        places = {at for values in self.series.values() for at in values}
        return max(_INCHES[0], 0.09 * len(places) * len(self.series))


def svg(panels: Sequence[Panel], source: str, digest: str) -> bytes:
    """Draw the panels side by side, and name in the file what it was made from.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ValueError("figures need matplotlib: pip install 'monstera[plots]'")
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):  # pyright: ignore[reportArgumentType]
        figure = Figure(figsize=(sum(panel.inches for panel in panels) + 1.6, _INCHES[1]), layout="constrained")
        FigureCanvasSVG(figure)
        for index, panel in enumerate(panels):
            _draw(figure.add_subplot(1, len(panels), index + 1), panel)
        _legend(figure)
        file = io.BytesIO()
        # The day of drawing would make every run another file.
        figure.savefig(file, format="svg", metadata={"Date": None, "Source": source, "Identifier": digest})
    return file.getvalue()


def _draw(axes: Axes, panel: Panel) -> None:
    places = list(dict.fromkeys(at for values in panel.series.values() for at in values))
    draw: Callable[[Axes, Panel, list[Any]], None] = _bars if any(isinstance(at, str) for at in places) else _lines
    draw(axes, panel, places)
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_xlabel(panel.across)
    axes.set_ylabel(panel.up)
    if panel.scale != "log-log":
        axes.set_ylim(bottom=0)


def _legend(figure: Figure) -> None:
    """One legend for all panels, outside of them; none where there is only one line."""
    named = {}
    for axes in figure.axes:
        named |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if len(named) > 1:
        figure.legend(list(named.values()), list(named), loc="outside right upper", fontsize=8)


def _lines(axes: Axes, panel: Panel, places: list[Any]) -> None:
    from matplotlib.ticker import LogLocator

    for name, values in panel.series.items():
        axes.plot(list(values), list(values.values()), marker="o", markersize=3, linewidth=1.2, label=name)
    for name, values in panel.dashed.items():
        axes.plot(list(values), list(values.values()), "--", color="gray", linewidth=1, label=name)
    if panel.scale != "linear":
        axes.set_xscale("log")
    if panel.scale == "log-log":
        axes.set_yscale("log")
    if len(places) <= _MOST_TICKS:
        axes.set_xticks(sorted(places), [f"{at:g}" for at in sorted(places)])
    axes.minorticks_off()
    if panel.scale == "log-log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")


def _bars(axes: Axes, panel: Panel, places: list[Any]) -> None:
    width = 0.8 / len(panel.series)
    for index, (name, values) in enumerate(panel.series.items()):
        middles = [places.index(at) + (index - (len(panel.series) - 1) / 2) * width for at in values]
        axes.bar(middles, list(values.values()), width=width, label=name)
    axes.set_xticks(range(len(places)), [str(at) for at in places], rotation=40, ha="right")
