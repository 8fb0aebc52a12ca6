"""How well fast evaluation ranks schemes: `python recipes/npas/fidelity.py`, after `monstera npas` with the same file.

Ten schemes of the search, evenly spread over their ranks by fast accuracy, are trained like finalists, but for the
teacher and the choice of a method, and judged on the same held-out pictures. Written: both accuracies of each, and
Spearman's correlation of their ranks. Schemes that have been trained are not trained again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from monstera.measure import write_json
from monstera.measure.peers import torch_threads
from monstera.recipe.npas import prepared, run_npas
from monstera.search.npas import Evaluated
from monstera.search.npas.candidate import build
from monstera.search.npas.records import read_record
from monstera.training import accuracy, train

HERE = Path(__file__).parent


def main(
    config: Annotated[Path, typer.Argument(help="The file that NPAS was run with.")] = HERE / "fashion_mnist.yaml",
    output: Annotated[Path, typer.Option(help="The result file.")] = HERE / "results" / "fidelity.json",
    count: Annotated[int, typer.Option(min=3, help="How many schemes are trained.")] = 10,
) -> None:
    """Compare ranks by fast evaluation with ranks after longer training."""
    console = Console()
    things, found = prepared(config), run_npas(config, console=console)
    folder = Path(things.config.output) / "fidelity"
    rows = []
    for one in spread(found.searched.evaluated, count):

        def longer(one: Evaluated = one) -> float:
            model, plan = build(found.base, one.scheme, found.inherited)
            with torch_threads(things.settings.threads):
                made = train(model, plan, things.split.train, things.settings.full)
                return accuracy(made, things.split.held_out.batches())

        trained = read_record(folder / f"{one.scheme.digest}.json", longer)
        rows.append({"scheme": one.scheme.to_json(), "fast": one.outcome.accuracy, "longer": trained})
        console.print(f"{one.scheme.digest}: fast {one.outcome.accuracy:.2%}, longer {trained:.2%}")
    found_rank = spearman([row["fast"] for row in rows], [row["longer"] for row in rows])
    write_json({"config": config.name, "spearman": found_rank, "schemes": rows}, output)
    console.print(f"rank correlation {found_rank:.3f}")


def spread(evaluated: tuple[Evaluated, ...], count: int) -> list[Evaluated]:
    """So many of them, evenly spread over their ranks by accuracy, the first and the last among them."""
    ranked = sorted(evaluated, key=lambda one: (one.outcome.accuracy, one.scheme.digest))
    places = np.unique(np.linspace(0, len(ranked) - 1, count).round().astype(int))
    return [ranked[place] for place in places]


def spearman(one: list[float], other: list[float]) -> float:
    """The correlation of ranks; equal values share the mean of theirs."""
    ranks = [[sum(w < v for w in values) + sum(w == v for w in values) / 2 for v in values] for values in (one, other)]
    return float(np.corrcoef(np.array(ranks)).flat[1])


if __name__ == "__main__":
    typer.run(main)
