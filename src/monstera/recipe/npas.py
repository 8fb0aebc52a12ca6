"""NPAS from a YAML file: a network of the zoo, a data set, and how the three phases are run."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt
from rich.console import Console
from torch import nn

from monstera.measure import write_json
from monstera.measure.peers import torch_threads
from monstera.recipe.errors import RecipeError
from monstera.recipe.reading import checked, read_fields, replaced
from monstera.recipe.running import own_command
from monstera.recipe.schema import Data, Fraction, Network, PatternName, Recipe, Seed, Threads, Unit
from monstera.search.npas.evaluation import FastTraining
from monstera.search.npas.run import Found, npas
from monstera.search.npas.scheme import DENSITIES, FILTERS, PATTERNS
from monstera.search.npas.search import SearchSettings
from monstera.search.npas.settings import NpasSettings, Split
from monstera.search.npas.training import METHODS, Examples, Training, train
from monstera.sparsity import Plan
from monstera.sparsity.errors import suggestion
from monstera.sparsity.files import write_atomically
from monstera.zoo import network
from monstera.zoo.data import Pictures, PictureSet, data_set, held_out


class _Section(BaseModel):
    model_config = Recipe.model_config


class TrainingSection(_Section):
    """See `monstera.search.npas.training.Training`."""

    epochs: PositiveInt
    lr: PositiveFloat
    batch_size: int = Field(128, ge=2)
    weight_decay: float = Field(5e-4, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    flip: bool = False
    temperature: PositiveFloat = 4.0
    distillation: Fraction = 0.9


class FastSection(_Section):
    """See `monstera.search.npas.evaluation.FastTraining`."""

    epochs: int = Field(1, ge=1, le=2)
    lr: PositiveFloat
    batch_size: int = Field(128, ge=2)


class SearchSection(_Section):
    """See `monstera.search.npas.SearchSettings`."""

    evaluations: PositiveInt = 60
    batch: PositiveInt = 4
    pool: PositiveInt = 200
    neighbours: int = Field(default=0, ge=0)
    warm_start: int = Field(default=12, ge=0)
    screening: bool = True
    anchors: PositiveInt = 2
    anchors_every: int = Field(default=5, ge=0)
    initial: Fraction = 0.5
    seed: Seed = 0


class Baseline(_Section):
    """The base network with the same holes everywhere; null instead is the base network as it is."""

    pattern: PatternName
    density: Unit


class Npas(_Section):
    """A whole run; `output` is its folder, `result` a file with what it found. See `monstera.search.npas.NpasSettings`.

    Without a `network.checkpoint` the network is first trained as `pretraining` says, and kept in the folder.
    `data.held_out` training pictures judge candidates; finalists are tested on the test pictures.
    """

    network: Network
    data: Data
    pretraining: TrainingSection | None = None
    tune: TrainingSection
    fast: FastSection
    short: TrainingSection
    full: TrainingSection
    search: SearchSection = SearchSection()
    subset: PositiveInt = 5000
    budget: PositiveFloat
    cost: Literal["ms", "macs"] = "ms"
    filters: tuple[str, ...] = FILTERS
    patterns: tuple[PatternName, ...] = PATTERNS
    densities: tuple[Unit, ...] = DENSITIES
    expansion: PositiveInt = 2
    inherited_from: PositiveInt = 64
    least_saving: float = 0.02
    methods: tuple[str, ...] = Field(("asp", "gradual", "admm", "reweighted"), min_length=1)
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1)
    baselines: dict[str, Baseline | None] = {}
    threads: Threads = 1
    output: str
    result: str

    def settings(self) -> NpasSettings:
        """The same as the search room takes it.

        Raises:
            ValueError: numbers that do not go together.
        """
        training = {name: Training(**getattr(self, name).model_dump()) for name in ("tune", "short", "full")}
        same = ("subset", "budget", "cost", "filters", "patterns", "densities", "expansion", "inherited_from")
        return NpasSettings(
            **training,
            fast=FastTraining(**self.fast.model_dump()),
            search=SearchSettings(**self.search.model_dump()),
            **{name: getattr(self, name) for name in (*same, "least_saving", "methods", "seeds", "threads")},
            baselines={name: one and (one.pattern, one.density) for name, one in self.baselines.items()},
        )


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
        console=console,
    )
    written = make_npas_result(found, things.config, command or own_command())
    write_json(written, Path(things.config.result))
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
        "plan": {name: str(entry) for name, entry in found.plan.items()},
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
    if not config.data.held_out:
        problems.append("data.held_out: expected training pictures to judge candidates by, got none")
    try:
        settings = config.settings()
    except ValueError as error:
        raise RecipeError(os.fspath(path), [*problems, str(error)]) from None
    if problems:
        raise RecipeError(os.fspath(path), problems)
    split = _split(config, data_set(config.data.name, data))
    with torch_threads(config.threads):
        model = _pretrained(config, split.train, console or Console())
    return Prepared(config, model, split, settings)


def _split(config: Npas, pictures: PictureSet) -> Split:
    mean, std = (
        torch.tensor(values).view(-1, 1, 1)
        for values in (config.data.mean or pictures.mean, config.data.std or pictures.std)
    )

    def examples(some: Pictures) -> Examples:
        return Examples((some.images.float() / 255 - mean) / std, some.labels)

    train_on, judged = held_out(pictures.train, config.data.held_out)
    return Split(examples(train_on), examples(judged), examples(pictures.test))


def _pretrained(config: Npas, examples: Examples, console: Console) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network(config.network.name, **config.network.options)
    kept = Path(config.network.checkpoint or Path(config.output) / "pretrained.safetensors")
    if config.pretraining is not None and not kept.is_file():
        console.print(f"training {config.network.name} for {config.pretraining.epochs} epochs", soft_wrap=True)
        model = train(model, Plan(), examples, Training(**config.pretraining.model_dump()))
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        write_atomically(kept, safetensors.torch.save(state))
    model.load_state_dict(safetensors.torch.load_file(kept))
    return model.eval()
