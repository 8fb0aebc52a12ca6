"""Who proposes the next point: samplers of optuna by name, and our policy as one of them.

What each proposes depends on the seed, the number of the trial and the trials that are finished, and on nothing that a
process remembers: so a study may be killed and go on, and many processes may share one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from monstera.pruning.streams import stream
from monstera.search.controller import Learner, Reinforce
from monstera.search.space import Space

# Generations of fewer than optuna's 50, so that there are some in a hundred trials.
POPULATION = 12
SAMPLERS = ("rl", "tpe", "evolution", "random")


def make_sampler(how: str | Reinforce, space: Space, seed: int) -> BaseSampler:
    """Return a sampler: our policy for its settings, or optuna's TPE, NSGA-II or random search by name.

    Raises:
        ValueError: there is no such sampler.
    """
    if isinstance(how, Reinforce):
        return PolicySampler(space, how, seed)
    makers: dict[str, Callable[[int], BaseSampler]] = {
        # Trials that others run count as bad ones, so that two processes do not ask for the same.
        "tpe": lambda own: TPESampler(seed=own, constant_liar=True),
        "evolution": lambda own: NSGAIISampler(seed=own, population_size=POPULATION),
        "random": lambda own: RandomSampler(seed=own),
    }
    if how not in makers:
        raise ValueError(f"no sampler is called {how!r}; known: {', '.join(SAMPLERS)}")
    return _ByTrial(makers[how], seed)


@final
class PolicySampler(BaseSampler):
    """Our LSTM as a sampler of optuna. It learns from the finished trials of the study, wherever they were run.

    Batch `b` of `n` trials has the numbers from `b * n`, and is learned from when all before it are and none of it is
    still to run; failed trials teach nothing. With several workers the policy that draws a trial is therefore older by
    the batches that are still being run.
    """

    def __init__(self, space: Space, how: Reinforce, seed: int) -> None:
        self._space, self._how, self._seed = space, how, seed
        self._learner = Learner(space, how, seed)
        # Numbers of trials that the learner is done with.
        self._past = 0

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """All weights: they are drawn together."""
        return {name: CategoricalDistribution(labels) for name, labels in self._space.choices.items()}

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Learn from what is new, and draw a point."""
        self.learn_from(study.get_trials(deepcopy=False))
        point = self._learner.policy.sample(stream(self._seed, "point", trial.number))
        return self._space.params(point)

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Any:
        """Refuse what is no weight of the space.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{param_name}: the policy knows {', '.join(self._space.weights)}")

    def learn_from(self, trials: Sequence[FrozenTrial]) -> None:
        """Catch up with all batches whose trials, and those before, are finished."""
        by_number = {trial.number: trial for trial in trials}
        while True:
            batch = [by_number.get(number) for number in range(self._past, self._past + self._how.batch)]
            finished = [trial for trial in batch if trial is not None and trial.state.is_finished()]
            if len(finished) < self._how.batch:
                return
            done = [(t.params, t.value) for t in finished if t.state == TrialState.COMPLETE]
            known = [(self._space.point_of(params), value) for params, value in done if value is not None]
            if len(known) > 1:
                self._learner.learn([point for point, _ in known], [value for _, value in known])
            self._past += self._how.batch


@final
class _ByTrial(BaseSampler):
    """A sampler made anew for each trial, from the seed and the trial's number."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._now: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        # One and the same through all parameters of a trial, as each draws further numbers.
        if self._now is None or self._now[0] != trial.number:
            self._now = trial.number, self._make(stream(self._seed, "sampler", trial.number).initial_seed())
        return self._now[1]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._of(trial).after_trial(study, trial, state, values)
