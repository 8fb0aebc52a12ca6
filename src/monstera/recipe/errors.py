"""What can be wrong with a recipe."""

from __future__ import annotations

from collections.abc import Iterable


class RecipeError(ValueError):
    """A recipe cannot be run; `problems` lists everything that is wrong, each beginning with the field's name."""

    def __init__(self, where: str, problems: Iterable[str]) -> None:
        self.where, self.problems = where, tuple(problems)
        count = len(self.problems)
        head = f"{where}: {count} problem{'s' * (count != 1)}, nothing was trained:"
        super().__init__("\n  - ".join([head, *self.problems]))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.where, self.problems)
