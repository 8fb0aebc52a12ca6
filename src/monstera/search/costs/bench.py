"""Measures what a table lacks of a network: the network itself is the test bench (decision 0012).

First it runs dense. Then come rounds: in each of them every layer has other holes, so that a layer meets the caches as
its neighbours leave them in a plan of many densities, and layers that are alike share the work.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from monstera.compiler.targets import Target
from monstera.measure.answers import Inputs
from monstera.measure.peak import Pace
from monstera.measure.peers.peer import as_numpy
from monstera.runtime import Engine
from monstera.search.costs.price import price_of
from monstera.search.costs.signature import Signature
from monstera.search.costs.subject import Subject
from monstera.search.costs.table import CostTable, Point, Rest
from monstera.sparsity import Entry, Pattern, Plan, WeightView

# No round begins after this; what is missing then is measured by the next call, and predicted meanwhile.
LIMIT_S = 120.0
# How long the runs of one turn take together, about, how many there are at least and at most, and how many turns.
_TURN_S, _FEWEST, _MOST = 0.15, 3, 60
_TURNS = 5
# Many layers that are alike would be done in a round or two, and each of their times would be that of one place.
_LEAST_ROUNDS = 4

Asked = Mapping[str, tuple[Entry, ...]]
"""For every weight the holes whose time is wanted."""


@dataclass(slots=True)
class _Samples:
    """Everything measured so far, and the table that follows from it and from what was known."""

    known: CostTable
    layers: dict[Signature, dict[tuple[str, float], list[Point]]] = field(default_factory=dict)
    rests: list[Rest] = field(default_factory=list)

    def add(self, signature: Signature, point: Point) -> None:
        self.layers.setdefault(signature, {}).setdefault((point.pattern, point.density), []).append(point)

    def table(self, fingerprint: str) -> CostTable:
        table = self.known
        for signature, points in self.layers.items():
            table = table.with_points(signature, map(_mean, points.values()))
        ms = float(np.median([rest.ms for rest in self.rests]))
        return table.with_rest(fingerprint, Rest(ms, self.rests[0].bytes, self.rests[0].macs))


@dataclass(frozen=True, slots=True)
class _Look:
    """Milliseconds of an engine: its steps, a run of all of them, and a call, which is a run and what is around it."""

    steps: np.ndarray
    run: float
    call: float


def asked_of(subject: Subject, patterns: Sequence[Pattern], densities: Sequence[float]) -> Asked:
    """The holes that are feasible in each weight; none in those that multiply nothing, such as tables to look up in.

    N:M patterns have their own density; others cannot have all.
    """
    return {
        name: tuple(e for p in patterns for e in _entries(view, p, densities)) if subject.signatures[name].macs else ()
        for name, view in subject.views.items()
    }


def lacking(subject: Subject, asked: Asked, table: CostTable) -> dict[Signature, list[Entry]]:
    """What the table has not of all that is asked for, by layer; layers that lack nothing are left out."""
    found: dict[Signature, list[Entry]] = {}
    for name, entries in asked.items():
        signature = subject.signatures[name]
        missing = [e for e in entries if table.point(signature, e.pattern.name, e.density) is None]
        if missing:
            found[signature] = missing
    return found


def is_dense_known(subject: Subject, table: CostTable) -> bool:
    """Whether the table has the network without holes, layers and rest."""
    layers = all(table.point(signature) for signature in subject.signatures.values())
    return layers and subject.fingerprint in table.rests


def rounds_of(subject: Subject, asked: Asked, table: CostTable) -> list[Plan]:
    """The plans that measure what the table lacks, each with other holes in every layer; first none at all."""
    missing = lacking(subject, asked, table)
    alike: dict[Signature, list[str]] = {}
    for name in subject.views:
        alike.setdefault(subject.signatures[name], []).append(name)
    lists = {s: _shuffled(missing.get(s) or asked[names[0]], s.key) for s, names in alike.items()}
    count = max((max(-(-len(e) // len(alike[s])), min(len(e), _LEAST_ROUNDS)) for s, e in missing.items()), default=0)
    plans = [] if is_dense_known(subject, table) else [Plan()]
    for turn in range(count):
        chosen = {
            name: lists[s][(turn * len(names) + i) % len(lists[s])]
            for s, names in alike.items()
            for i, name in enumerate(names)
            if lists[s]
        }
        plans.append(Plan({name: chosen[name] for name in subject.views if name in chosen}))
    return plans


def measured(subject: Subject, asked: Asked, table: CostTable, target: Target) -> Iterator[CostTable]:
    """Measure, and yield the table after every round: whoever stops in between keeps what there is.

    Raises:
        UnsupportedError, BuildError: as for `monstera.compile`.
    """
    plans = rounds_of(subject, asked, table)
    pace = Pace(subject.threads, len(plans) * _TURNS * _TURN_S) if plans else None
    samples, begin = _Samples(table), time.perf_counter()
    for plan in plans:
        if pace is None or (samples.rests and time.perf_counter() - begin > LIMIT_S):
            return
        _measure(subject, plan, target, pace, samples)
        yield samples.table(subject.fingerprint)


def assigned(subject: Subject, layers: Sequence[str]) -> list[str]:
    """The weight that each step belongs to, by the name of its layer; "" for what is no layer with weights."""
    return [layer if layer in subject.views else "" for layer in layers]


def _measure(subject: Subject, plan: Plan, target: Target, pace: Pace, samples: _Samples) -> None:
    engine = subject.engine(subject.imported(plan, own=True), target)
    look = _calm(engine, subject.example, pace)
    # Steps that are timed one by one take a little longer, or shorter, than in a run that is not stopped.
    times = look.steps * look.run / look.steps.sum()
    layers = engine.manifest.layers
    sums = {name: [0.0, 0, 0] for name in ("", *subject.views)}
    for owner, ms, layer in zip(assigned(subject, [layer.layer for layer in layers]), times, layers, strict=True):
        for i, value in enumerate((float(ms), layer.macs, layer.bytes)):
            sums[owner][i] += value
    masks = plan.masks(subject.model)
    for name, view in subject.views.items():
        ms, macs, _ = sums[name]
        alive = _alive(view, masks.get(name))
        entry = plan.get(name)
        pattern, density = (entry.pattern.name, entry.density) if entry else ("", 1.0)
        # Not the bytes of its steps, which count planes in some kernels: the law compares with masks that never ran.
        price, stored = price_of(alive, subject.signatures[name], target)
        samples.add(subject.signatures[name], Point(pattern, density, max(ms, 1e-6), int(macs), stored, price))
    ms, macs, bytes_ = sums[""]
    around = max(0.0, look.call - look.run)
    samples.rests.append(Rest(ms + around, int(bytes_), int(macs)))


def _calm(engine: Engine, example: Inputs, pace: Pace) -> _Look:
    """The least of some short turns, so that some meet nobody; each is taken again where the machine disturbed it."""
    once_ms = engine.profile(rounds=1).ms
    rounds = int(np.clip(round(_TURN_S / (3e-3 * once_ms)), _FEWEST, _MOST))
    looks = [pace.undisturbed(lambda: _look(engine, example, rounds))[0] for _ in range(_TURNS)]
    steps = np.min([look.steps for look in looks], 0)
    return _Look(steps, min(look.run for look in looks), min(look.call for look in looks))


def _look(engine: Engine, example: Inputs, rounds: int) -> _Look:
    """Medians of so many runs."""
    args, kwargs = as_numpy(example)
    profile = engine.profile(*args, rounds=rounds, **kwargs)
    seconds = np.empty(rounds)
    for i in range(rounds):
        start = time.perf_counter()
        engine(*args, **kwargs)
        seconds[i] = time.perf_counter() - start
    return _Look(np.array([step.ms for step in profile.layers]), profile.ms, 1e3 * float(np.median(seconds)))


def _alive(view: WeightView, mask: object) -> np.ndarray:
    """`[slices, out, in * positions]`."""
    canonical = view.canonical() != 0 if mask is None else view.layout.to_canonical(mask)  # pyright: ignore
    return canonical.reshape(*canonical.shape[:2], -1).numpy()


def _mean(points: Sequence[Point]) -> Point:
    """Layers that are alike differ in their place: the mean keeps the sum over them."""
    first = points[0]
    means = [float(np.mean([getattr(p, name) for p in points])) for name in ("ms", "macs", "bytes", "price")]
    return Point(first.pattern, first.density, means[0], round(means[1]), round(means[2]), means[3])


def _entries(view: WeightView, pattern: Pattern, densities: Sequence[float]) -> Iterator[Entry]:
    shape, layout = view.weight.shape, view.layout
    if pattern.feasible(None, shape, layout):
        yield Entry(pattern)
        return
    yield from (Entry(pattern, d) for d in densities if d < 1 and pattern.feasible(d, shape, layout))


def _shuffled(entries: Sequence[Entry], seed: str) -> list[Entry]:
    shuffled = list(entries)
    random.Random(seed).shuffle(shuffled)
    return shuffled
