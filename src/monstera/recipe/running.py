"""Run a recipe from its YAML file to its result file."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from rich.console import Console
from torch import nn

from monstera.measure.peers import torch_threads
from monstera.recipe.display import shown
from monstera.recipe.ingredients import Ingredients, gather, laid_out, make_network
from monstera.recipe.latency import measure_latency
from monstera.recipe.logs import Logging
from monstera.recipe.plans import holes_in_words
from monstera.recipe.reading import fingerprint, read_recipe
from monstera.recipe.result import make_result, read_result, refuse_other, sha256, write_result
from monstera.recipe.schema import Recipe
from monstera.recipe.storage import stored_bytes
from monstera.recipe.training import train_seed
from monstera.sparsity.files import write_tensors
from monstera.training import accuracy


def run(
    path: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    data: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] = "runs",
    latency: bool = True,
    measure_only: bool = False,
    fresh: bool = False,
    log_every: int = 10,
    tensorboard: bool = False,
    layers: bool = False,
    command: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run a recipe: train every seed, prune, test, measure, and write the result file and the first seed's weights.

    An interrupted run goes on from its last checkpoint, with the same result. Nothing is trained before the whole
    recipe has been checked.

    Args:
        overrides: fields to replace, nested ones by dotted names: `{"epochs": 1, "data.held_out": 5000}`.
        data: the data folder, see `monstera.zoo.data.data_root`.
        runs: the folder for checkpoints; a recipe has its own folder there, by its name.
        latency: measure torch, ONNX Runtime and Monstera at the end.
        measure_only: train nothing; add the latency to the result file that is there.
        fresh: throw the recipe's checkpoints and logs away first.
        log_every: steps between two lines of the log, JSON lines beside the checkpoint.
        tensorboard: write curves for TensorBoard beside the checkpoint, too.
        layers: show the density of every layer, which the logs have in any case.
        command: what the result file gives as the command; default this process's own.

    Returns:
        What was written to the result file.

    Raises:
        RecipeError: the recipe cannot be run; every field that is wrong is named.
        CheckpointError: a checkpoint is damaged or of another recipe.
        ImportError: TensorBoard is asked for and not installed.
    """
    logging = Logging(log_every, tensorboard)
    recipe = read_recipe(path, overrides)
    console = console or Console()
    things = gather(recipe, os.fspath(path), data)
    if measure_only:
        return measure_again(recipe, things, console)
    folder = Path(runs) / recipe.name
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    return train_all(recipe, things, folder, console, logging=logging, layers=layers, latency=latency, command=command)


def train_all(
    recipe: Recipe,
    things: Ingredients,
    folder: Path,
    console: Console,
    *,
    logging: Logging | None = None,
    layers: bool = False,
    latency: bool = False,
    command: str | None = None,
    cell: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train the seeds of a checked recipe, with checkpoints in `folder`, and write its files as `run` does.

    Args:
        logging: what the logs beside the checkpoints get; by default what `run` gives them.
        layers: show the density of every layer.
        cell: what the result file says of its place in a study.
    """
    with torch_threads(recipe.threads):
        trained = []
        for seed in recipe.seeds:
            with shown(console, f"{recipe.name}, seed {seed}", layers) as show:
                trained.append(train_seed(recipe, seed, things, folder / f"seed-{seed}.pt", show, logging or Logging()))
            accuracy = trained[-1].record["accuracy"]
            console.print(f"{recipe.name}, seed {seed}: accuracy {accuracy:.2%}", soft_wrap=True)
        dense = _dense_accuracy(recipe, things)
    result = make_result(recipe, things, dense, [t.record for t in trained], command or own_command())
    result |= {"cell": dict(cell)} if cell else {}
    if things.pivoting:
        result["pivoting"] = {"kept_before": things.pivoting.before, "kept_after": things.pivoting.after}
    result["storage"] = stored_bytes(trained[0].model, things.plan)
    result["weights"] = _save_weights(recipe, trained[0].model)
    if latency:
        result["latency"] = _measure(recipe, things, trained[0].model, console)
    write_result(result, Path(recipe.output))
    console.print(_summary(result), soft_wrap=True)
    return result


def measure_again(recipe: Recipe, things: Ingredients, console: Console) -> dict[str, Any]:
    """Add the latency to a recipe's result file, from the weights beside it.

    Raises:
        FileNotFoundError: there is no result, or no weights.
        ValueError: the result is that of another recipe, or the weights are not those of the result.
    """
    result, weights = read_result(Path(recipe.output)), weights_path(recipe)
    refuse_other(result, recipe)
    if sha256(weights) != result["weights"]["sha256"]:
        raise ValueError(f"{weights}: not the weights that {recipe.output} was made with; run the recipe again")
    model = laid_out(make_network(recipe, things.start, seed=0), channels_last=False)
    model.load_state_dict(safetensors.torch.load_file(weights))
    with torch_threads(recipe.threads):
        result["latency"] = _measure(recipe, things, model, console)
    write_result(result, Path(recipe.output))
    return result


def weights_path(recipe: Recipe) -> Path:
    """Where the first seed's sparse weights go: beside the result file."""
    return Path(recipe.output).with_suffix(".safetensors")


def own_command() -> str:
    """The command of this process, as a result file gives it."""
    # Where the program was installed says nothing to other people.
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _dense_accuracy(recipe: Recipe, things: Ingredients) -> float | None:
    if things.start is None:
        return None
    model, there = make_network(recipe, things.start, seed=0).to(recipe.device), things.on(recipe.device)
    return accuracy(model, there.batches(there.test))


def _save_weights(recipe: Recipe, model: nn.Module) -> dict[str, Any]:
    path = weights_path(recipe)
    write_tensors(model.state_dict(), path, {"fingerprint": fingerprint(recipe)})
    return {"file": path.name, "seed": recipe.seeds[0], "sha256": sha256(path)}


def _measure(recipe: Recipe, things: Ingredients, sparse: nn.Module, console: Console) -> dict[str, Any]:
    example = things.normalised(things.test.images[: recipe.latency.batch]).contiguous()
    dense = make_network(recipe, things.start, recipe.seeds[0])
    dense, sparse = (laid_out(model, channels_last=False).eval() for model in (dense, sparse))
    holes = holes_in_words(recipe.plan, things.plan)
    return measure_latency(recipe, holes, dense, sparse, example, lambda text: console.print(text, soft_wrap=True))


def _summary(result: Mapping[str, Any]) -> str:
    accuracy = result["accuracy"]
    dense = "" if accuracy["dense"] is None else f"dense {accuracy['dense']:.2%}, "
    spread = "" if accuracy["sparse_std"] is None else f" (std {accuracy['sparse_std']:.2%})"
    density = result["density"]["planned_weights"]
    return f"{dense}sparse {accuracy['sparse_mean']:.2%}{spread} at density {density:.3f}, {accuracy['tested_on']}"
