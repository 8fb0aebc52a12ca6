"""Times networks against their peers: `python benchmarks/networks.py resnet50`, or `make bench-networks` for all.

The peers run the dense network; Monstera runs it dense, with every pattern at every density asked for, and with trained
weights where a file has them. "4x1/16x1" is blocks of four filters in convolutions and of sixteen rows in linear and
recurrent layers; the first convolution, depthwise convolutions and the classifier (the last linear layer of a network
with convolutions) stay dense. Uneven masks have the same densities, but rows of blocks and channels differ as in
trained networks (see `monstera.measure.uneven_scores`). All other weights are random but not degenerate (see
`monstera.zoo.randomize_`), so nothing is said about accuracy. All engines sit in one process and take turns, and each
has to give the right answer before it is timed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from monstera import measure, zoo
from monstera.compiler import BuildError, UnsupportedError
from monstera.compiler.tuning import Effort
from monstera.report import circumstances, comparison_table, terminal

RESULTS = Path(__file__).parent / "results"
PATTERNS, DENSITIES, UNEVEN = ["4x1/16x1", "unstructured=0.1"], [0.25, 0.1], [0.1]
GUESTS = [name for name, peer in measure.PEERS.items() if peer.guest]


def main(
    name: Annotated[str, typer.Argument(metavar="NETWORK", help=f"One of {', '.join(zoo.NETWORKS)}.")],
    patterns: Annotated[
        list[str], typer.Option("--pattern", help="CONV or CONV/LINEAR, and =DENSITY; repeatable.")
    ] = PATTERNS,
    densities: Annotated[list[float], typer.Option("--density", help="Kept fraction; repeatable.")] = DENSITIES,
    uneven: Annotated[list[float], typer.Option(help="Density of uneven masks; 1 for none; repeatable.")] = UNEVEN,
    trained: Annotated[list[Path] | None, typer.Option(help="Safetensors of trained weights; repeatable.")] = None,
    peers: Annotated[list[str], typer.Option("--peer", help="Engine to compare with; repeatable.")] = GUESTS,
    threads: Annotated[int, typer.Option(help="Threads, and cores the process is kept on.")] = 1,
    shape: Annotated[
        str, typer.Option("--input", help="CxHxW, CxTxHxW, TxF or a context; the usual size if left out.")
    ] = "",
    batch: Annotated[int, typer.Option(help="Pictures, clips or sequences a call.")] = 1,
    tune: Annotated[Effort, typer.Option(help="Effort of Monstera's tuner, as for monstera.compile.")] = "fast",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds, at least 3.")] = 5,
    round_s: Annotated[float, typer.Option("--seconds", help="Seconds an engine has in a round.")] = 0.3,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = RESULTS,
) -> None:
    """Time NETWORK against its peers and write the result as JSON."""
    # In a log there is no window to fit into.
    console = Console(width=None if sys.stdout.isatty() else 140)
    measure.pin(threads)
    size = measure.input_size(name, shape)
    ways = measure.holes(patterns, densities, [density for density in uneven if density < 1])
    engines = [measure.peer(peer) for peer in peers]
    with console.status("making the networks") as status, torch.random.fork_rng():
        torch.manual_seed(0)
        pictures, example = measure.example(name, size, 2), measure.example(name, size, batch)
        ours = measure.monstera(tune)
        entries = contestants(name, pictures, ways, engines, ours) + learned(name, trained or [], ours)
        result = measure.compare(
            name, entries, example, threads=threads, rounds=rounds, round_s=round_s, on_step=status.update
        )
    path = out / f"{name}-{'x'.join(map(str, size))}-b{batch}-t{threads}-{result.machine.instructions}.json"
    result = replace(result, tune=tune)
    measure.write(result, path)
    console.print(terminal(comparison_table(result)))
    console.print(circumstances(result), style="dim")
    console.print(f"written to {path}", style="dim")


def contestants(
    name: str,
    pictures: Tensor | tuple[Tensor, ...],
    ways: list[measure.Holes],
    peers: list[measure.Peer],
    ours: measure.Peer,
) -> list[measure.Entry]:
    """Return the entries to measure: every peer on the dense network, Monstera on it and on each sparse copy."""
    dense = measure.dense_network(name, pictures)
    sparse = [(measure.sparse_copy(dense, way, pictures), str(way)) for way in ways]
    return [
        *(measure.Entry(peer, dense) for peer in (*peers, ours)),
        *(measure.Entry(ours, model, weights) for model, weights in sparse),
    ]


def learned(name: str, files: list[Path], ours: measure.Peer) -> list[measure.Entry]:
    """Return an entry of Monstera for each file of trained weights."""
    return [measure.Entry(ours, measure.trained_network(name, file), f"trained, {file.stem}") for file in files]


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, OSError, UnsupportedError, BuildError) as reason:
        sys.exit(f"error: {reason}")
