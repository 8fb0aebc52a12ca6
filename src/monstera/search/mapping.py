"""Search for a plan: which holes in which layer are most accurate within a budget of time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from monstera.search.controller import Reinforce
from monstera.search.cost import Costs
from monstera.search.goal import Goal, GoalError
from monstera.search.objective import Objective
from monstera.search.searched import SearchResult, Tried
from monstera.search.space import Space
from monstera.search.study_at import StudyAt
from monstera.search.workers import LOOK_S, Crew, Evaluate, Here, Processes, RayWorkers, Work
from monstera.sparsity import Plan
from monstera.sparsity.files import tensors_digest

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

    from monstera.search.studies import Kept


def search_plan(
    model: nn.Module,
    costs: Costs,
    evaluate: Evaluate,
    objective: Objective,
    *,
    space: Space | None = None,
    sampler: str | Reinforce = "rl",
    trials: int = 60,
    first: Sequence[Plan] = (),
    seed: int = 0,
    study: StudyAt = StudyAt(),  # noqa: B008 (frozen)
    workers: int | Literal["ray"] = 1,
    threads: int = 1,
    on_trial: Callable[[Tried], None] | None = None,
) -> SearchResult:
    """Search for the plan of the best reward, in a study that is kept: called again it goes on where it was.

    Nothing that is completed is lost or done twice, however this process or its workers end, and exactly so many trials
    are completed. Other processes may call this for the same study, here or elsewhere, and share the work.

    Args:
        model: read only.
        costs: what plans take.
        evaluate: the accuracy of a network with the holes of a plan, such as a `FastAccuracy`. It must not see test
            data, as the search picks what is best by it. For other processes it is pickled, with the model.
        objective: what is good; its budget is milliseconds of a call.
        space: what may be chosen; default `Space.of(model, costs)`.
        sampler: "rl", an LSTM that learns by REINFORCE, or how it does; or "tpe", "evolution" or "random" of optuna.
        trials: how many are completed in all; give more to go on with a study.
        first: plans to try before any others, such as one by rules.
        study: where it is kept.
        workers: evaluations at once, each in a process of its own if there are several; or "ray" for a Ray cluster.
        threads: of torch, for each evaluation.
        on_trial: called with each trial that is completed here.

    Raises:
        ImportError: optuna is not installed, or Ray, if it is asked for.
        GoalError: no plan of the space is within the budget.
        ValueError: the study was made with other settings or costs, `first` is not in the space, or a number is out of
            bounds.
        Exception: what `evaluate` raised; its trial has failed, all others are kept.
    """
    if trials < 1 or (workers != "ray" and workers < 1) or threads < 1:
        raise ValueError(f"expected 1 or more, got trials {trials}, workers {workers}, threads {threads}")
    space, how = space or Space.of(model, costs), Reinforce() if sampler == "rl" else sampler
    _refuse_out_of_reach(space, costs, objective)
    kept = _kept(study, model, costs, objective, space, how, seed)
    kept.queue([space.params(space.point(plan)) for plan in first])
    run = _Run(kept, space, costs, objective, on_trial)
    crew = _crew(Work(model, evaluate, threads), workers)
    try:
        with kept.signs_of_life():
            run.drive(crew, trials)
    finally:
        crew.close()
    tried = tuple(run.tried(trial) for trial in kept.completed())
    return SearchResult(kept.name, _named(how), seed, objective, costs.dense_ms, tried, dict(study.facts))


class _Run:
    """One process at work on a study."""

    def __init__(
        self,
        kept: Kept,
        space: Space,
        costs: Costs,
        objective: Objective,
        on_trial: Callable[[Tried], None] | None,
    ) -> None:
        self.kept, self.space, self.costs, self.objective, self.on_trial = kept, space, costs, objective, on_trial
        self.flight: dict[int, Trial] = {}

    def drive(self, crew: Crew, total: int) -> None:
        """Keep the crew busy until `total` trials are completed, here or elsewhere."""
        try:
            while self._fill(crew, total) or len(self.kept.completed()) < total:
                answer = crew.next(LOOK_S) if self.flight else self._wait()
                if answer is None:
                    continue
                number, value = answer
                trial = self.flight.pop(number)
                if isinstance(value, Exception):
                    self.kept.fail(trial)
                    raise value
                self._complete(trial, value, None)
        finally:
            for trial in self.flight.values():
                self.kept.give_back(trial)

    def tried(self, trial: FrozenTrial) -> Tried:
        """A completed trial in our words."""
        if trial.value is None or trial.datetime_start is None or trial.datetime_complete is None:
            raise ValueError(f"trial {trial.number} of study {self.kept.name!r} is not completed")
        attributes = trial.user_attrs
        return Tried(
            number=trial.number,
            plan=self.space.plan(self.space.point_of(trial.params)),
            accuracy=attributes["accuracy"],
            ms=attributes["ms"],
            reward=trial.value,
            seconds=(trial.datetime_complete - trial.datetime_start).total_seconds(),
            same_as=attributes.get("same_as"),
        )

    def _fill(self, crew: Crew, total: int) -> bool:
        """Give the crew as many trials as it can take; return whether it has any."""
        while len(self.flight) < crew.size and (trial := self.kept.take(total)) is not None:
            # Also where the point is given, so that samplers know the trial as one of theirs.
            _ = trial.relative_params
            for name, labels in self.space.choices.items():
                trial.suggest_categorical(name, labels)
            known = self._known(trial.params)
            if known is not None:
                self._complete(trial, known.user_attrs["accuracy"], known.number)
                continue
            self.flight[trial.number] = trial
            crew.submit(trial.number, self.space.plan(self.space.point_of(trial.params)))
        return bool(self.flight)

    def _known(self, params: Mapping[str, Any]) -> FrozenTrial | None:
        """The first completed trial of the same plan: evaluation gives the same, so it is not done again."""
        return next((t for t in self.kept.completed() if t.params == params), None)

    def _complete(self, trial: Trial, accuracy: float, same_as: int | None) -> None:
        ms = self.costs.network_ms(self.space.plan(self.space.point_of(trial.params)))
        facts = {"accuracy": accuracy, "ms": ms} | ({} if same_as is None else {"same_as": same_as})
        if not self.kept.complete(trial, self.objective.reward(accuracy, ms), facts) or self.on_trial is None:
            return
        self.on_trial(next(self.tried(t) for t in self.kept.completed() if t.number == trial.number))

    def _wait(self) -> None:
        """Wait for other processes, which have all trials that are left."""
        time.sleep(LOOK_S)


def _crew(work: Work, workers: int | Literal["ray"]) -> Crew:
    if workers == "ray":
        return RayWorkers(work)
    return Here(work) if workers == 1 else Processes(work, workers)


def _refuse_out_of_reach(space: Space, costs: Costs, objective: Objective) -> None:
    least_ms = costs.network_ms(space.plan(space.fastest(costs)))
    if not objective.feasible(least_ms):
        best = Goal(latency_ms=objective.budget).within_reach(least_ms)
        raise GoalError(
            f"budget: {objective.budget:.4g} ms were asked for, but the fastest plan of the space takes {least_ms:.4g}"
            f"; ask for {best:g} or more, or allow lower densities",
            best,
        )


# ---- the study ------------------------------------------------------------------------------------------------------


def _kept(
    study: StudyAt,
    model: nn.Module,
    costs: Costs,
    objective: Objective,
    space: Space,
    how: str | Reinforce,
    seed: int,
) -> Kept:
    """The study in its database, begun or gone on with."""
    need_optuna()
    from monstera.search.samplers import make_sampler
    from monstera.search.studies import Kept, storage_url

    settings = {
        "space": space.fingerprint,
        "weights": tensors_digest(model.state_dict())[:16],
        "objective": asdict(objective),
        "sampler": _named(how),
        "seed": seed,
        "reinforce": asdict(how) if isinstance(how, Reinforce) else None,
        "facts": dict(study.facts),
    }
    name = study.name or f"{_named(how)}-{hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]}"
    # Not in the name: a study that was begun with other costs is refused, not begun anew without a word.
    settings["costs"] = _priced(space, costs)
    return Kept(storage_url(study.storage), name, make_sampler(how, space, seed), settings, study.signs)


def _named(how: str | Reinforce) -> str:
    return "rl" if isinstance(how, Reinforce) else how


def _priced(space: Space, costs: Costs) -> dict[str, str]:
    """Name the costs, to four digits: what is looked up on another machine may differ in the last."""
    rows = [
        [f"{costs.layer_ms(name, space.actions[action]):.4g}" for action in space.allowed(place)]
        for place, name in enumerate(space.weights)
    ]
    return {"dense_ms": f"{costs.dense_ms:.4g}", "layers": hashlib.sha256(repr(rows).encode()).hexdigest()[:16]}


def need_optuna() -> None:
    """Raise an ImportError that says what to install where optuna is not."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ImportError("a search needs optuna: pip install 'monstera[search]'") from None
