"""The page of all results: every table and every figure, each with the file it comes from."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from monstera.measure import Comparison, Study
from monstera.report.planning import STUDY as PLANNING
from monstera.report.planning import planning_table
from monstera.report.predictions import predictions_table
from monstera.report.searches import search_table
from monstera.report.sources import Results
from monstera.report.studies import matrix, sweeps
from monstera.report.tables import Table, circumstances, comparison_table, markdown

PAGE = "docs/results.md"

_INTRODUCTION = """# Results

Made by `make results` from the files in `benchmarks/results/`; every number here comes from one of them.

Networks: *ms* is the median over rounds, *spread* the largest minus the smallest round. *against* is how many times
faster than that engine (the fastest of the others with dense weights in fp32, and OpenVINO left to choose its type):
the median of the ratios within each round. *of FMA peak* is the arithmetic of surviving weights per second, as a part
of what the cores reached in a probe in the same run; engines that need fewer multiplications than the textbook may
exceed 100%. *error* is the largest difference to torch's answer, relative to the largest output.

Weights: "4x1/16x1" is blocks of 4 filters that share their holes in convolutions, and of 16 rows in linear and
recurrent layers; the first convolution, depthwise convolutions and the classifier (the last linear layer of a network
with convolutions) stay dense. "uneven": the same, but some rows and channels keep more than others, more unlike each
other than in a trained network. "trained": the weights of a recipe. All others are random: those rows say how fast, not
how accurate.

Studies: a cell is the time in ms and, in brackets, the part of it that the machine cannot do without: the arithmetic of
surviving weights at the FMA peak, or, where that takes longer, reading them from the cache that holds them.
"""

_PREDICTIONS = """Every layer draws a pattern and a density of its own. *error* is that of the predicted time, relative
to the measured one; *dense* the same of the network without holes, with its sign. See [costs](search/costs.md).
"""

_PLANNED = """*reached* is the median of the ratios within each round, or the median time, of a race of all plans after
they were made; *while planning* what a plan was accepted by, after so many *plans* were tried; *off* is how much longer
a call takes than was asked for. *s* are the seconds that `monstera.plan` took; where no costs were known it measured
them first. See [plans by budget](search/planning.md).
"""
_SEARCHES = """Accuracies here chose plans, so they flatter what was chosen: those to report are of test data, after
training. See [mapping](search/mapping.md). """

_TITLES = {
    "scaling": "Density, batch, threads",
    "kernels": "Kernels",
    "ablation": "What each idea buys",
}


def results_page(results: Results, drawn: Collection[str]) -> str:
    """Return the Markdown of the page; `drawn` are the names of the figures that there are."""
    parts = [_INTRODUCTION]
    if results.comparisons:
        parts.append("## Networks\n")
        parts += [_figure(name) for name in drawn if name.startswith("networks-")]
        parts += [_compared(comparison, path, results) for path, comparison in results.comparisons.items()]
    for name, title in _TITLES.items():
        studies = results.studied(name)
        parts += [f"## {title}\n"] if studies else []
        parts += [part for path, study in studies.items() for part in _studied(study, path, results, drawn)]
    return "\n".join([*parts, *_predicted(results), *_planned(results), *_searched(results, drawn)])


def _predicted(results: Results) -> Iterator[str]:
    if not results.predictions:
        return
    yield "## Predictions\n"
    yield _section(predictions_table(results.predictions.values()), _PREDICTIONS)
    for path, trials in results.predictions.items():
        source = path.relative_to(results.root).as_posix()
        made = f"{trials.network}: {trials.machine.cpu}; `{trials.command}`; {trials.date}"
        yield f"{made}. Source: [`{source}`](../{source})\n"


def _planned(results: Results) -> Iterator[str]:
    studies = results.studied(PLANNING)
    if not studies:
        return
    yield f"## Plans by budget\n\n{_PLANNED}"
    yield from (_section(planning_table(study), _where(study, path, results)) for path, study in studies.items())


def _searched(results: Results, drawn: Collection[str]) -> Iterator[str]:
    if not results.searches:
        return
    yield "## Searches\n"
    for path, found in results.searches.items():
        source, stem = path.relative_to(results.root).as_posix(), path.name.removesuffix(".pareto.json")
        yield from (_figure(name) for name in drawn if name.startswith(f"{stem}-"))
        yield _section(search_table(found), f"{_SEARCHES}Source: [`{source}`](../{source})\n")


def _compared(comparison: Comparison, path: Path, results: Results) -> str:
    return _section(comparison_table(comparison), _where(comparison, path, results))


def _studied(study: Study, path: Path, results: Results, drawn: Collection[str]) -> Iterator[str]:
    yield from (_figure(name) for name in drawn if name.startswith(f"{path.stem}-"))
    yield from (_section(matrix(study, sweep), "") for sweep in sweeps(study))
    yield _where(study, path, results)


def _section(table: Table, footer: str) -> str:
    return f"**{table.title}**\n\n{markdown(table)}" + (f"\n{footer}" if footer else "")


def _where(result: Comparison | Study, path: Path, results: Results) -> str:
    source = path.relative_to(results.root).as_posix()
    return f"{circumstances(result)}. Source: [`{source}`](../{source})\n"


def _figure(name: str) -> str:
    return f"![{name.removesuffix('.svg')}](figures/{name})\n"
