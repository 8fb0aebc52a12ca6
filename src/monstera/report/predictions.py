"""Tables of predictions: a line a plan for the terminal, and a line a network for the docs."""

from __future__ import annotations

from collections.abc import Iterable

from monstera.report.tables import Table, milliseconds, threads_of
from monstera.search.costs.trials import Trial, Trials

_FIGURES = ("MACs left", "predicted ms", "ms", "miss", "spread")


def plans_table(trials: Trials) -> Table:
    """Return the dense network and every plan, in the order in which they were drawn."""
    title = f"{trials.network}, random plans of {', '.join(trials.patterns)}, {threads_of(trials.threads)}"
    plans = [("dense", trials.dense), *((str(i), plan) for i, plan in enumerate(trials.plans, start=1))]
    return Table(title, ("plan", *_FIGURES), tuple((name, *_cells(trial)) for name, trial in plans))


def predictions_table(found: Iterable[Trials]) -> Table:
    """Return a line for each network: how far predictions of random plans were off, and how well they ordered them."""
    columns = (
        "network",
        "instructions",
        "threads",
        "plans",
        "ms from",
        "to",
        "median error",
        "largest",
        "rank correlation",
        "dense",
    )
    return Table("Predicted against measured time, random plans", columns, tuple(map(_line, found)))


def _line(trials: Trials) -> tuple[str, ...]:
    times = [plan.measured_ms for plan in trials.plans]
    return (
        trials.network,
        trials.machine.instructions,
        str(trials.threads),
        str(len(trials.plans)),
        milliseconds(min(times)),
        milliseconds(max(times)),
        f"{trials.median_error:.1%}",
        f"{trials.largest_error:.1%}",
        f"{trials.rank_correlation:.3f}",
        f"{trials.dense.miss:+.1%}",
    )


def _cells(trial: Trial) -> tuple[str, ...]:
    disturbed = f" ({trial.disturbed} disturbed)" if trial.disturbed else ""
    predicted, measured = milliseconds(trial.predicted_ms), milliseconds(trial.measured_ms)
    return f"{trial.density:.0%}", predicted, measured, f"{trial.miss:+.1%}", f"{trial.spread:.0%}{disturbed}"
