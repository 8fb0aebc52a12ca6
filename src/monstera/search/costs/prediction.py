"""`predict`: what a plan would give, said in advance: time, work, memory and energy, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from torch import nn

from monstera.compiler.memory import place
from monstera.compiler.program import Program
from monstera.compiler.targets import target_named
from monstera.measure.answers import Inputs
from monstera.runtime.tensors import data_size
from monstera.search.costs.costing import costs_of
from monstera.search.costs.display import frameless
from monstera.search.costs.energy import CACHE_BYTES, Energy, energy_of
from monstera.search.costs.network import NetworkCosts
from monstera.search.costs.subject import Subject, subject_of
from monstera.sparsity import Entry, Plan


@dataclass(frozen=True, slots=True)
class LayerPrediction:
    """One weight: what the plan asks, predicted milliseconds without and with it, multiply-accumulates of both."""

    weight: str
    planned: str
    dense_ms: float
    ms: float
    dense_macs: int
    macs: int

    @property
    def speedup(self) -> float:
        """Dense time by time under the plan."""
        return self.dense_ms / self.ms


@dataclass(frozen=True, slots=True)
class Prediction:
    """A network under a plan, without compiling it. Prints as a table.

    Attributes:
        layers: those with weights, in the order in which they run.
        rest_ms: what is none of these.
        dense_macs, macs: of the layers and of products without weights; taps that meet only padding are left out of
            the surviving ones.
        dense_weight_bytes, weight_bytes: constants of the program: weights, indices, biases and tables.
        arena_bytes: the peak of all planes together.
        energy: by counting, under the assumptions of `monstera.search.costs.energy`.
    """

    layers: tuple[LayerPrediction, ...]
    rest_ms: float
    dense_macs: int
    macs: int
    dense_weight_bytes: int
    weight_bytes: int
    arena_bytes: int
    energy: Energy
    machine: str

    @property
    def dense_ms(self) -> float:
        """A call without holes."""
        return sum(layer.dense_ms for layer in self.layers) + self.rest_ms

    @property
    def ms(self) -> float:
        """A call under the plan."""
        return sum(layer.ms for layer in self.layers) + self.rest_ms

    @property
    def speedup(self) -> float:
        """Of the whole network."""
        return self.dense_ms / self.ms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = frameless(f"Predicted ms a layer on {self.machine}", "layer")
        table.add_column("plan", overflow="fold")
        for column in ("dense\nms", "ms", "times\nfaster", "dense\nMMAC", "MMAC"):
            table.add_column(column, justify="right")
        for p in self.layers:
            numbers = f"{p.dense_ms:.3f}", f"{p.ms:.3f}", f"{p.speedup:.2f}"
            table.add_row(p.weight, p.planned or "dense", *numbers, *_millions(p.dense_macs, p.macs))
        table.add_row("the rest", "", f"{self.rest_ms:.3f}", f"{self.rest_ms:.3f}", "", "", "")
        table.add_section()
        numbers = f"{self.dense_ms:.3f}", f"{self.ms:.3f}", f"{self.speedup:.2f}"
        table.add_row("whole network", "", *numbers, *_millions(self.dense_macs, self.macs))
        yield table
        yield (
            f"weights {self.weight_bytes / 1e6:.2f} MB of {self.dense_weight_bytes / 1e6:.2f} MB dense, planes "
            f"{self.arena_bytes / 1e6:.2f} MB at the peak, about {self.energy.total_mj:.2f} mJ a call (45 nm figures, "
            f"{CACHE_BYTES >> 20} MiB of cache)"
        )

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as text:
            console.print(self)
        return text.get()


def predict(
    model: nn.Module, example: Inputs, plan: Mapping[str, Entry] | Plan, costs: NetworkCosts | None = None
) -> Prediction:
    """Predict what an engine of the model under a plan would take. Nothing is compiled; the model is not modified.

    Holes are chosen by magnitude in a copy, and its program is planned, which gives work and memory; times are those
    of `costs`.

    Args:
        model, example: as for `monstera.compile`.
        plan: the holes.
        costs: of this model (`costs_of`); without them its layers are measured here, on one thread.

    Raises:
        PlanError: the plan does not fit the model.
        ValueError: the costs are of another network, or of this one called with other shapes.
        CostTableError: a pattern was not measured, and there is too little to predict it from.
        UnsupportedError, BuildError: as for `costs_of`.
    """
    plan = Plan(plan)
    plan.check(model)
    if costs is None:
        costs = costs_of(model, example, patterns=tuple(dict.fromkeys(entry.pattern for entry in plan.values())))
    subject = subject_of(model, example, costs.threads)
    _check_same(subject, costs)
    target = target_named(costs.machine.target)
    dense = subject.program(subject.imported(Plan()), target)
    sparse = subject.program(subject.imported(plan), target)
    return _prediction(subject, costs, plan, dense, sparse)


def _check_same(subject: Subject, costs: NetworkCosts) -> None:
    if costs.weights != tuple(subject.views):
        raise ValueError(f"the costs are of another network, with the weights {', '.join(costs.weights)}")
    if other := [name for name, signature in subject.signatures.items() if costs.layers[name].signature != signature]:
        raise ValueError(
            f"the costs are of another network, or of this one called with other shapes: {other[0]} is another layer "
            "there; use costs_of(model, example) of this model and example"
        )


def _prediction(subject: Subject, costs: NetworkCosts, plan: Plan, dense: Program, sparse: Program) -> Prediction:
    before, after = _macs(dense), _macs(sparse)
    layers = tuple(
        LayerPrediction(
            name,
            str(plan[name]) if name in plan else "",
            costs.layer_ms(name),
            costs.layer_ms(name, plan.get(name)),
            before.get(name, 0),
            after.get(name, 0),
        )
        for name in subject.views
    )
    macs, weight_bytes, arena = sum(after.values()), data_size(sparse.tables), 4 * place(sparse).size
    planes = sum(signature.plane_bytes for signature in subject.signatures.values())
    return Prediction(
        layers=layers,
        rest_ms=costs.rest_ms,
        dense_macs=sum(before.values()),
        macs=macs,
        dense_weight_bytes=data_size(dense.tables),
        weight_bytes=weight_bytes,
        arena_bytes=arena,
        energy=energy_of(macs, weight_bytes, planes, arena),
        machine=costs.machine.cpu,
    )


def _macs(program: Program) -> dict[str, int]:
    """Surviving multiply-accumulates by layer."""
    sums: dict[str, int] = {}
    for step in program.steps:
        sums[step.layer] = sums.get(step.layer, 0) + step.work.macs
    return sums


def _millions(*macs: int) -> list[str]:
    return [f"{n / 1e6:.2f}" for n in macs]
