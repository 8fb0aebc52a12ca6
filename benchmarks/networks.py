"""Times one network against its peers: `python benchmarks/networks.py resnet50 --pattern 4x1 --density 0.25`.

The peers run the dense network; Monstera runs it dense and with every pattern and density asked for. The weights are
random but not degenerate (see `monstera.zoo.randomize_`), so nothing is said about accuracy. All engines sit in one
process and take turns, and each has to give the right answer before it is timed. The result is written as JSON.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn

from monstera import measure, zoo
from monstera.pruning import prune
from monstera.report import circumstances, comparison_table, terminal
from monstera.sparsity import Entry, NOfM, Plan, pattern

RESULTS = Path(__file__).parent / "results"
PATTERNS, DENSITIES = ["4x1"], [0.25, 0.1]
GUESTS = [name for name, peer in measure.PEERS.items() if peer.guest]
_CIFAR = {"resnet20", "resnet32", "resnet56"}


def main(
    name: Annotated[str, typer.Argument(metavar="NETWORK", help=f"One of {', '.join(zoo.NETWORKS)}.")],
    patterns: Annotated[list[str], typer.Option("--pattern", help="Shape of the holes; repeatable.")] = PATTERNS,
    densities: Annotated[list[float], typer.Option("--density", help="Kept fraction; repeatable.")] = DENSITIES,
    peers: Annotated[list[str], typer.Option("--peer", help="Engine to compare with; repeatable.")] = GUESTS,
    threads: Annotated[int, typer.Option(help="Threads, and cores the process is kept on.")] = 1,
    shape: Annotated[str, typer.Option("--input", help="CxHxW; the network's usual size if left out.")] = "",
    batch: Annotated[int, typer.Option(help="Pictures a call.")] = 1,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds, at least 3.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = RESULTS,
) -> None:
    """Time NETWORK against its peers and write the result as JSON."""
    # In a log there is no window to fit into.
    console = Console(width=None if sys.stdout.isatty() else 140)
    measure.pin(threads)
    size = input_size(name, shape)
    with console.status("making the networks") as status, torch.random.fork_rng():
        torch.manual_seed(0)
        entries = networks(name, size, patterns, densities, [measure.peer(peer) for peer in peers])
        example = torch.randn(batch, *size)
        result = measure.compare(name, entries, example, threads=threads, rounds=rounds, on_step=status.update)
    path = out / f"{name}-{'x'.join(map(str, size))}-b{batch}-t{threads}.json"
    measure.write(result, path)
    console.print(terminal(comparison_table(result)))
    console.print(circumstances(result), style="dim")
    console.print(f"written to {path}", style="dim")


def networks(
    name: str, size: tuple[int, ...], patterns: list[str], densities: list[float], peers: list[measure.Peer]
) -> list[measure.Entry]:
    """Return the entries to measure: every peer on the dense network, Monstera on it and on each sparse copy."""
    pictures = torch.randn(2, *size)
    dense = zoo.randomize_(zoo.network(name), pictures).eval()
    entries = [measure.Entry(peer, dense) for peer in peers]
    entries.append(measure.Entry(measure.MONSTERA, dense))
    for holes in asked(patterns, densities):
        sparse = sparse_copy(dense, holes, pictures)
        entries.append(measure.Entry(measure.MONSTERA, sparse, str(holes)))
    return entries


def asked(patterns: list[str], densities: list[float]) -> list[Entry]:
    """Return every pattern with every density; an N:M pattern knows its own."""
    fixed = [Entry(name) for name in patterns if isinstance(pattern(name).scope, NOfM)]
    free = [name for name in patterns if not isinstance(pattern(name).scope, NOfM)]
    return fixed + [Entry(name, density) for name in free for density in densities]


def sparse_copy(dense: nn.Module, holes: Entry, pictures: torch.Tensor) -> nn.Module:
    """Return a pruned copy of `dense`, calibrated so that its activations do not fade towards denormal numbers."""
    sparse = copy.deepcopy(dense)
    prune(sparse, Plan.uniform(sparse, holes.pattern, holes.density))
    return zoo.calibrate_(sparse, pictures)


def input_size(name: str, shape: str) -> tuple[int, ...]:
    """Return channels, height and width from text like 3x224x224, or the usual ones of the network.

    Raises:
        typer.BadParameter: the text is something else.
    """
    if not shape:
        return (1, 8, 8) if name == "digits_cnn" else (3, 32, 32) if name in _CIFAR else (3, 224, 224)
    parts = shape.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise typer.BadParameter(f"expected CxHxW such as 3x224x224, got {shape!r}")
    return tuple(map(int, parts))


if __name__ == "__main__":
    try:
        typer.run(main)
    except ValueError as reason:
        sys.exit(f"error: {reason}")
