"""Studies that are kept: who takes which trial, what becomes of one whose process died, and that none is one too many.

A trial is made waiting, and whoever sets it running has it. A process with trials gives signs of life; a trial without
them is failed, and its point queued again. The first so many trials that are not failed are those asked for: no others
are taken, so that as many are completed however many processes share the study, and however they end.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import (
    BaseStorage,
    RDBStorage,
    RetryHeartbeatStaleTrialCallback,
    fail_stale_trials,
    get_storage,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from monstera.locks import locked
from monstera.runtime.strict_json import encoded
from monstera.search.differences import differences
from monstera.search.study_at import Signs

_SQLITE = "sqlite:///"
# How long SQLite waits for another process to let go of the file.
_PATIENCE_S = 60.0
_SETTINGS = "monstera"


def storage_url(storage: str) -> str:
    """A URL as it is; a path of a file as the URL of an SQLite database."""
    return storage if "://" in storage else f"{_SQLITE}{Path(storage).absolute()}"


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A study in a database, as one of the processes that share it sees it.

    Raises:
        ValueError: `name` is there already, with other settings; each that differs is named.
    """

    url: str
    name: str
    sampler: BaseSampler
    settings: Mapping[str, Any]
    signs: Signs = field(default_factory=Signs)
    rows: RDBStorage = field(init=False)
    storage: BaseStorage = field(init=False)
    # Trials that this process runs now.
    running: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        if self.url.startswith(_SQLITE):
            Path(self.url.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        with self._alone(), _quiet():
            object.__setattr__(self, "rows", _open(self.url, self.signs))
            # What is finished does not change, and is read once.
            object.__setattr__(self, "storage", get_storage(self.rows))
            study = optuna.create_study(
                study_name=self.name, storage=self.storage, direction="maximize", load_if_exists=True
            )
            # As the database gives them back, where tuples are lists.
            asked = encoded(self.settings)
            known = study.user_attrs.get(_SETTINGS)
            if known is None:
                study.set_user_attr(_SETTINGS, asked)
        if known is not None and (told := differences(known, asked)):
            raise ValueError(f"study {self.name!r} was made otherwise: {told}; give another name or storage")

    # ---- trials -----------------------------------------------------------------------------------------------------

    def queue(self, params: Sequence[Mapping[str, str]]) -> None:
        """Let these parameters be tried before any others, each once however often it is asked for."""
        with self._alone(), _quiet():
            study = self._study()
            for wanted in params:
                study.enqueue_trial(dict(wanted), skip_if_exists=True)

    def take(self, total: int) -> Trial | None:
        """Take the next trial of the first `total` that are not failed, or None while there is none to take."""
        with self._alone(), _quiet():
            study = self._study()
            fail_stale_trials(study)
            while True:
                living = [trial for trial in self.trials() if trial.state != TrialState.FAIL][:total]
                due = next((trial for trial in living if trial.state == TrialState.WAITING), None)
                if due is None and len(living) == total:
                    return None
                if due is None:
                    study.enqueue_trial({})
                elif self._set_running(due):
                    return Trial(study, self._id(due))

    def give_back(self, trial: Trial) -> None:
        """Fail a trial that will not be finished here, and queue its point again, for anybody."""
        with self._alone(), _quiet():
            if self._finish(trial._trial_id, TrialState.FAIL):
                study = self._study()
                RetryHeartbeatStaleTrialCallback()(study, self.storage.get_trial(trial._trial_id))

    def fail(self, trial: Trial) -> None:
        """Fail a trial for good."""
        with self._alone():
            self._finish(trial._trial_id, TrialState.FAIL)

    def complete(self, trial: Trial, value: float, facts: Mapping[str, Any]) -> bool:
        """Write down what came out; False if the trial was given up for dead meanwhile, and is run again elsewhere."""
        try:
            # Alone, as another process might give it up for dead in between.
            with self._alone():
                for key, fact in facts.items():
                    trial.set_user_attr(key, fact)
                told = trial.study.tell(trial, value, skip_if_finished=True)
        except UpdateFinishedTrialError:
            return False
        finally:
            self.running.discard(trial._trial_id)
        return told.state == TrialState.COMPLETE

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return sorted(self._study().get_trials(deepcopy=False), key=lambda trial: trial.number)

    def completed(self) -> list[FrozenTrial]:
        """The completed trials, by number."""
        return [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]

    @contextmanager
    def signs_of_life(self) -> Iterator[None]:
        """Give signs of life for the running trials, from a thread."""
        over = threading.Event()

        def tell() -> None:
            while not over.wait(self.signs.every_s):
                for number in list(self.running):
                    try:
                        self.rows.record_heartbeat(number)
                    except StorageInternalError:  # the database is busy: the next sign may get through
                        break

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # ---- the database -----------------------------------------------------------------------------------------------

    def _study(self) -> Study:
        # A new one each time: a study remembers the trials that it has seen, and others write too.
        return optuna.load_study(study_name=self.name, storage=self.storage, sampler=self.sampler)

    def _id(self, trial: FrozenTrial) -> int:
        study = self.storage.get_study_id_from_name(self.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, trial.number)

    def _set_running(self, trial: FrozenTrial) -> bool:
        """Set a waiting trial running; False if another process was faster."""
        number = self._id(trial)
        # The sign comes first: a trial that runs without one could never be given up for dead.
        self.rows.record_heartbeat(number)
        try:
            mine = self.storage.set_trial_state_values(number, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False
        if mine:
            self.running.add(number)
        return mine

    def _finish(self, number: int, state: TrialState) -> bool:
        self.running.discard(number)
        try:
            return self.storage.set_trial_state_values(number, state)
        except UpdateFinishedTrialError:
            return False

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from taking trials. Servers lock rows for that, and SQLite ignores that they should."""
        if not self.url.startswith(_SQLITE):
            yield
            return
        with locked(Path(f"{self.url.removeprefix(_SQLITE)}.lock")):
            yield


def _open(url: str, signs: Signs) -> RDBStorage:
    return RDBStorage(
        url,
        engine_kwargs={"connect_args": {"timeout": _PATIENCE_S}} if url.startswith(_SQLITE) else None,
        heartbeat_interval=signs.every_s,
        grace_period=signs.grace_s,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Let optuna neither print what it does nor warn that heartbeats may change."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
