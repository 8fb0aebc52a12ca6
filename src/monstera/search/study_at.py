"""Where a study is kept, and by what it is known again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Signs:
    """Signs of life: one every `every_s` seconds; a trial that gave none for `grace_s` is given up for dead.

    Raises:
        ValueError: no whole seconds from 1, or less grace than two signs.
    """

    every_s: int = 10
    grace_s: int = 60

    def __post_init__(self) -> None:
        if self.every_s < 1 or self.grace_s < 2 * self.every_s:
            raise ValueError(f"signs of life: expected every_s from 1 and grace_s of twice that or more, got {self}")


@dataclass(frozen=True, slots=True)
class StudyAt:
    """A study in a database; who has the same place and name has the same study.

    Attributes:
        storage: path of an SQLite file, or the URL of any database that optuna knows.
        name: of the study; by default made from its settings.
        facts: plain values that say how plans are judged; a study is only gone on with if they are the same.
        signs: how soon a process is held for dead; default a minute without a sign of life.

    Raises:
        ValueError: no storage, an empty name, or facts that are no plain values.
    """

    storage: str = "runs/studies.db"
    name: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    signs: Signs = Signs()

    def __post_init__(self) -> None:
        if not self.storage or self.name == "":
            raise ValueError(
                f"a study needs a storage, and a name that is not empty, got {self.storage!r}, {self.name!r}"
            )
        try:
            json.dumps(dict(self.facts))
        except (TypeError, ValueError) as reason:
            raise ValueError(f"facts: expected plain values, as JSON has them, got {self.facts!r}: {reason}") from None
