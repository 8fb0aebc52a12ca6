"""When a method does what: at a fraction of its steps, or in rounds and stages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from monstera.sparsity import Entry, Plan


@dataclass(frozen=True, slots=True)
class Timeline:
    """When what happens, in optimizer steps.

    Stage i of round r runs from `rounds[r][i]` to `rounds[r][i + 1]`, and at the last of these the weights harden. The
    round goes on, under fixed masks, until the next one begins.

    Raises:
        ValueError: an interval is not positive, or a stage or what follows hardening would have no step.
    """

    rounds: tuple[tuple[int, ...], ...]
    update_every: int

    def __post_init__(self) -> None:
        if self.update_every < 1:
            raise ValueError(f"update_every: expected at least 1 step, got {self.update_every}")
        if any(start >= end for start, end in pairwise(step for bounds in self.rounds for step in bounds)):
            raise ValueError(
                "each stage needs at least one step before hardening, and each round one more before the next; "
                f"got bounds {self.rounds}"
            )

    @property
    def starts(self) -> tuple[int, ...]:
        """After how many steps each round begins."""
        return tuple(bounds[0] for bounds in self.rounds)

    def round(self, step: int) -> int:
        """Which round the step belongs to that is taken when `step` steps are done."""
        return sum(start <= step for start in self.starts) - 1

    def harden_step(self, step: int) -> int:
        """After how many steps the weights are projected for good in the round that `step` is in."""
        return self.rounds[self.round(step)][-1]

    def stage(self, step: int) -> int:
        """Which rho holds for the step that is taken when `step` steps are done; in tuning the last."""
        bounds = self.rounds[self.round(step)]
        return sum(start <= step for start in bounds[:-1]) - 1

    def updates(self, step: int) -> bool:
        """Whether Z and U are updated when `step` steps are done (at the start of a stage they are made anew)."""
        start = self.rounds[self.round(step)][self.stage(step)]
        return step > start and (step - start) % self.update_every == 0

    def target(self, plan: Plan, step: int) -> Plan:
        """What the round that `step` is in prunes to: the plan itself in the last one.

        In round r of n an entry of density d keeps `d ** (r / n)`, so that each takes the same part of what is left.
        """
        part = (self.round(step) + 1) / len(self.rounds)
        if part == 1:  # to the last bit
            return plan
        ways = {name: _way(entry.density, part) for name, entry in plan.items()}
        return Plan({name: Entry(e.pattern, e.pattern.partway(e.density, ways[name])) for name, e in plan.items()})


def timeline(steps: int, rounds: int, stages: int, update_every: int | None, harden_at: float) -> Timeline:
    """Cut `steps` in equal rounds, and the first `harden_at` of each in equal stages.

    By default each stage has five updates of Z and U.

    Raises:
        ValueError: no round, no stage, or `harden_at` is outside (0, 1); see also `Timeline`.
    """
    for name, count in (("rounds", rounds), ("rho", stages)):
        if count < 1:
            raise ValueError(f"{name}: expected one or more, got {count}")
    starts = [round(r * steps / rounds) for r in range(rounds + 1)]
    bounds = []
    for start, end in pairwise(starts):
        length = step_at(harden_at, end - start, "harden_at")
        bounds.append(tuple(start + round(i * length / stages) for i in range(stages + 1)))
    shortest = min(b[-1] - b[0] for b in bounds)
    return Timeline(tuple(bounds), max(1, shortest // stages // 5) if update_every is None else update_every)


def step_at(part: float, steps: int, name: str) -> int:
    """The optimizer step, at least the first, after which a part of `steps` is done.

    Raises:
        ValueError: the part is not between 0 and 1.
    """
    if not 0 < part < 1:
        raise ValueError(f"{name}: expected a fraction of the steps between 0 and 1, got {part}")
    return max(1, round(part * steps))


def _way(density: float, part: float) -> float:
    """How far from dense to `density` the density `density ** part` is."""
    return 1.0 if density == 1 else (1 - density**part) / (1 - density)
