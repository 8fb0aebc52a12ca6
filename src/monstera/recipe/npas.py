"""NPAS from a YAML file: what it names is read and checked, the phases are run, and what was found is written."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich.console import Console
from torch import nn

from monstera.measure import write_json
from monstera.measure.peers import torch_threads
from monstera.recipe.errors import RecipeError
from monstera.recipe.ingredients import read_start, unwritable
from monstera.recipe.npas_schema import Npas
from monstera.recipe.reading import checked, read_fields, replaced
from monstera.recipe.running import own_command
from monstera.recipe.schema import Network
from monstera.search.differences import differences
from monstera.search.npas.checks import check, check_reach
from monstera.search.npas.records import read_record
from monstera.search.npas.run import Found, npas
from monstera.search.npas.settings import NpasSettings, Rival, Split
from monstera.search.pareto import plan_to_json, write_pareto
from monstera.sparsity import Plan
from monstera.sparsity.errors import suggestion
from monstera.sparsity.files import write_tensors
from monstera.training import METHODS, Examples, Training, train
from monstera.zoo import network
from monstera.zoo.data import Pictures, PictureSet, data_set, held_out


def run_npas(
    path: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    data: str | os.PathLike[str] | None = None,
    workers: int = 1,
    measure_again: bool = False,
    command: str | None = None,
    console: Console | None = None,
) -> Found:
    """Run NPAS as a YAML file says; what is in its folder is not done again (see `monstera.search.npas.run.npas`).

    Args:
        overrides: fields to replace, nested ones by dotted names: `{"search.evaluations": 20}`.
        data: the data folder, see `monstera.zoo.data.data_root`.
        workers: processes that evaluate at once, see `monstera.search.npas.run.npas`.
        measure_again: measure the latencies of the finalists anew.
        command: what the result file gives as the command; default this process's own.

    Raises:
        RecipeError: fields are missing, unknown or out of bounds, or do not go together; all of them are named.
        DataMissingError: the data set is not there.
        GoalError: the budget is out of reach, whatever is trained.
        ValueError: the folder is of another run.
    """
    things = prepared(path, overrides=overrides, data=data, console=console)
    console = console or Console()
    found = npas(
        things.model,
        things.split,
        things.settings,
        things.config.output,
        workers=workers,
        measure_again=measure_again,
        rivals=things.rivals,
        console=console,
    )
    written = make_npas_result(found, things.config, command or own_command())
    config, result = things.config, Path(things.config.result)
    write_json(written, result)
    # Beside it what can be had, as searches for plans write it, so that the same code draws both.
    pareto = found.searched.pareto(config.network.name, found.base.space, config.threads)
    write_pareto(pareto, result.with_suffix(".pareto.json"))
    for name, row in written["against"].items():
        more, faster = row["accuracy_points"], row["times_faster"]
        console.print(f"against {name}: {more:+.2f} points of accuracy, {faster:.2f} times as fast", soft_wrap=True)
    return found


def make_npas_result(found: Found, config: Npas, command: str) -> dict[str, Any]:
    """Put together what the result file says: what was asked, all schemes evaluated, the finalists, how they compare.

    `against` has for each other finalist by how much the network found is more accurate (means over seeds, percentage
    points) and faster (medians of interleaved rounds), and whether it is both.
    """
    ms = {row["weights"]: statistics.median(row["timing"]["rounds_ms"]) for row in found.result["latency"]["rows"]}
    accuracy = {name: record["accuracy_mean"] for name, record in found.result["phase3"].items()}
    against = {}
    for name in accuracy.keys() - {"npas"}:
        more, faster = 100 * (accuracy["npas"] - accuracy[name]), ms[name] / ms["npas"]
        against[name] = {"accuracy_points": more, "times_faster": faster, "dominated": more > 0 and faster > 1}
    return {
        **found.result,
        "command": command,
        "config": config.model_dump(mode="json"),
        "scheme": found.scheme.to_json(),
        "plan": plan_to_json(found.plan),
        "evaluated": [
            {"scheme": e.scheme.to_json(), **asdict(e.outcome), "reward": e.reward} for e in found.searched.evaluated
        ],
        "against": dict(sorted(against.items())),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What NPAS starts from: what was asked for, a trained network, examples and settings."""

    config: Npas
    model: nn.Module
    split: Split
    settings: NpasSettings
    rivals: Mapping[str, Rival]


def prepared(
    path: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    data: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> Prepared:
    """Read a YAML file and what it names; the network is trained if that has not been done.

    Args:
        overrides, data: see `run_npas`.

    Raises:
        RecipeError, DataMissingError: as for `run_npas`.
    """
    config = checked(Npas, replaced(read_fields(path), overrides or {}), os.fspath(path))
    problems = [f"methods: {name!r}: {suggestion(name, METHODS)}" for name in config.methods if name not in METHODS]
    if (config.network.checkpoint is None) == (config.pretraining is None):
        problems.append("pretraining: expected this or a network.checkpoint to start from, not both")
    if config.rivals and config.pretraining is None:
        problems.append("rivals: expected the pretraining by which they are trained, got none")
    problems += [f"output: {problem}" for problem in unwritable(Path(config.output) / "run.json")]
    problems += [f"result: {problem}" for problem in unwritable(Path(config.result))]
    start = None
    try:
        start = read_start(config.network.checkpoint, data)
    except (OSError, ValueError) as error:
        problems.append(f"network.checkpoint: {error}")
    if not config.data.held_out:
        problems.append("data.held_out: expected training pictures to judge candidates by, got none")
    try:
        settings = config.settings()
    except ValueError as error:
        raise RecipeError(os.fspath(path), [*problems, str(error)]) from None
    if problems:
        raise RecipeError(os.fspath(path), problems)
    split = _split(config, data_set(config.data.name, data))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network(config.network.name, **config.network.options)
        others = {name: network(one.name, **one.options).eval() for name, one in config.rivals.items()}
    rivals = {n: Rival(others[one.of], one.holes) for n, one in config.baselines.items() if one and one.of}
    try:
        check(model, split, settings, rivals)
        if start is not None:
            model.load_state_dict(start)
    except (ValueError, RuntimeError) as error:
        raise RecipeError(os.fspath(path), [str(error)]) from None
    console = console or Console()
    if config.pretraining is not None:
        if not (Path(config.output) / "pretrained.safetensors").is_file():
            check_reach(model, split.train.images[:1], settings)
        with torch_threads(config.threads):
            _pretrain(config, config.network, "pretrained", model, split.train, console)
            for name, one in config.rivals.items():
                _pretrain(config, one, f"pretrained-{name}", others[name], split.train, console)
    return Prepared(config, model.eval(), split, settings, rivals)


def _split(config: Npas, pictures: PictureSet) -> Split:
    mean, std = (
        torch.tensor(values).view(-1, 1, 1)
        for values in (config.data.mean or pictures.mean, config.data.std or pictures.std)
    )

    def examples(some: Pictures) -> Examples:
        return Examples((some.images.float() / 255 - mean) / std, some.labels)

    train_on, judged = held_out(pictures.train, config.data.held_out)
    return Split(examples(train_on), examples(judged), examples(pictures.test))


def _pretrain(config: Npas, one: Network, title: str, model: nn.Module, examples: Examples, console: Console) -> None:
    """Give a network of the file the weights that the folder has by this title, or train it now.

    Raises:
        ValueError: the folder has weights that were trained otherwise.
    """
    assert config.pretraining is not None
    folder = Path(config.output)
    kept, record = folder / f"{title}.safetensors", folder / f"{title}.json"
    asked = {
        "network": one.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json"),
        "pretraining": config.pretraining.model_dump(mode="json"),
    }
    if not kept.is_file():
        console.print(f"{title}: training {one.name} for {config.pretraining.epochs} epochs", soft_wrap=True)
        made = train(model, Plan(), examples, Training(**config.pretraining.model_dump()))
        write_json(asked, record)
        write_tensors(made.state_dict(), kept)
    if told := differences(read_record(record, lambda: asked), asked):
        raise ValueError(f"{kept}: trained otherwise ({told}); give another output")
    model.load_state_dict(safetensors.torch.load_file(kept))
