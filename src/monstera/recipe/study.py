"""Studies: one recipe in many variants and densities, written down once, so that methods can be compared."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from monstera.recipe.errors import RecipeError
from monstera.recipe.reading import checked, read_fields, replaced
from monstera.recipe.schema import Recipe
from monstera.recipe.section import Seed, Unit

DENSE = "dense"
Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


Densities: TypeAlias = Annotated[
    Annotated[tuple[Unit, ...], Tag("<plain>")] | Annotated[dict[Unit, tuple[Seed, ...]], Tag("<seeds>")],
    Discriminator(lambda value: "<seeds>" if isinstance(value, dict) else "<plain>"),
]


class Variant(BaseModel):
    """A row of the study: `set` replaces fields of the recipe, nested ones by dotted names.

    Its own densities may have seeds of their own: `{0.25: [0, 1, 2], 0.5: [0]}`. `tries` has values for one more field;
    trials decide which of them the finals take.
    """

    model_config = Recipe.model_config

    set: dict[str, Any] = {}
    densities: Annotated[Densities, Field(min_length=1)] | None = None
    tries: dict[str, tuple[Any, ...]] = Field({}, max_length=1)


class Study(BaseModel):
    """A base recipe and its variants. Every variant is run at every density, or at densities of its own.

    A plan by rules or of a file has densities of its own, whatever those of the study or the variant are.

    With `dense`, a network without holes is trained first, with these fields of the recipe replaced, and all variants
    start from it; where the recipe's plan cannot have density 1, as N:M cannot, they give it another. `trials` are the
    fields replaced while values are tried; a `plan.density` there means that the value chosen at that density serves
    all others.
    """

    model_config = Recipe.model_config

    name: Name
    recipe: dict[str, Any]
    dense: dict[str, Any] | None = None
    densities: tuple[Unit, ...] = Field(min_length=1)
    trials: dict[str, Any] = {}
    variants: dict[Name, Variant] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_fair(self) -> Study:
        counts = {name: len(values) for name, v in self.variants.items() for values in v.tries.values()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"variants: expected as many tries for each variant that has any, got {counts}")
        if counts and not self.trials.get("data.held_out"):
            raise ValueError("trials: values are chosen on held-out training pictures; set data.held_out")
        if wrong := [name for name, variant in self.variants.items() if "plan.density" in variant.set]:
            raise ValueError(f"variants.{wrong[0]}.set.plan.density: a variant has its density by `densities`")
        if DENSE in self.variants:
            raise ValueError(f"variants: {DENSE!r} is the network that the others start from; use another name")
        return self

    def cells(self, only: Iterable[str] = ()) -> list[tuple[str, Variant, float]]:
        """Every variant at each of its densities, or those of the variants named in `only`.

        Raises:
            ValueError: there is no such variant.
        """
        wanted = set(only) or self.variants.keys()
        if unknown := sorted(wanted - self.variants.keys()):
            raise ValueError(f"no variant is called {unknown[0]!r}; known: {', '.join(self.variants)}")
        rows = ((name, variant) for name, variant in self.variants.items() if name in wanted)
        return [(name, variant, d) for name, variant in rows for d in variant.densities or self.densities]

    def tried_at(self, variant: str, density: float) -> str:
        """Name the choice of a value that serves a variant at this density."""
        return f"{variant}-{self.trials.get('plan.density', density):g}"


@dataclass(frozen=True, slots=True)
class Cell:
    """A recipe of a study: a variant at a density, with the value of the field that is tried or was chosen, if any."""

    variant: str
    density: float
    values: Mapping[str, Any]
    recipe: Recipe

    def facts(self, study: Study) -> dict[str, Any]:
        """What the result file says of its place in the study."""
        return {
            "study": study.name,
            "variant": self.variant,
            "density": self.density,
            "values": dict(self.values),
        }


def read_study(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Study:
    """Read a study and check the fields of all recipes in it; `overrides` replaces fields, such as `recipe.epochs`.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: it is not YAML, or fields of the study or of one of its recipes are wrong; all of them are named.
    """
    study = checked(Study, replaced(read_fields(path), overrides or {}), os.fspath(path))
    drafts = [*_trials(study, path, ())]
    # What is chosen later is one of the tries.
    firsts = {study.tried_at(n, d): values[0] for n, v, d in study.cells() for values in v.tries.values()}
    _checked(path, [*drafts, *_finals(study, path, firsts, ())])
    return study


def trials(study: Study, path: str | os.PathLike[str], only: Iterable[str] = ()) -> list[Cell]:
    """Return a cell for each value to be tried, each once; first the dense network that they start from.

    Raises:
        ValueError: `only` names no variant.
    """
    return _checked(path, _trials(study, path, only))


def finals(
    study: Study, path: str | os.PathLike[str], chosen: Mapping[str, Any], only: Iterable[str] = ()
) -> list[Cell]:
    """Return a cell for each variant and density; first the dense network that they start from.

    Args:
        chosen: a value for each name that `Study.tried_at` gives.

    Raises:
        ValueError: `only` names no variant, or `chosen` lacks a value or has one that is not among the tries.
    """
    return _checked(path, _finals(study, path, chosen, only))


@dataclass(frozen=True, slots=True)
class _Draft:
    """A cell whose recipe has not been checked."""

    variant: str
    density: float
    values: Mapping[str, Any]
    fields: dict[str, Any]


def _trials(study: Study, path: str | os.PathLike[str], only: Iterable[str]) -> Iterator[_Draft]:
    tried = [cell for cell in study.cells(only) if cell[1].tries]
    if not tried:
        return
    folder = _beside(path) / "trials"
    dense = f"{study.name}-{DENSE}-trial"
    start = yield from _dense(study, dense, folder, study.trials)
    for name, variant, density in tried:
        for field, values in variant.tries.items():
            for index, value in enumerate(values):
                title = f"{study.name}-{study.tried_at(name, density)}-trial{index}"
                fields = {**start, **variant.set, **study.trials, field: value}
                at = study.trials.get("plan.density", density)
                yield _Draft(name, at, {field: value}, _recipe(study, fields, at, title, folder))


def _finals(
    study: Study, path: str | os.PathLike[str], chosen: Mapping[str, Any], only: Iterable[str]
) -> Iterator[_Draft]:
    folder = _beside(path) / "results"
    start = yield from _dense(study, f"{study.name}-{DENSE}", folder, {})
    for name, variant, density in study.cells(only):
        best = {field: _chosen(study, name, density, values, chosen) for field, values in variant.tries.items()}
        seeds = {"seeds": variant.densities[density]} if isinstance(variant.densities, dict) else {}
        fields = {**start, **variant.set, **best, **seeds}
        recipe = _recipe(study, fields, density, f"{study.name}-{name}-{density:g}", folder)
        yield _Draft(name, density, best, recipe)


def _dense(
    study: Study, title: str, folder: Path, fields: Mapping[str, Any]
) -> Generator[_Draft, None, dict[str, str]]:
    """Yield the dense network, if there is to be one, and return the fields by which others start from it."""
    if study.dense is None:
        return {}
    # A plan of density 1 has no holes, so that the method does nothing.
    recipe = _recipe(study, {**fields, **study.dense, "method": {"name": "gradual"}}, 1.0, title, folder)
    yield _Draft(DENSE, 1.0, {}, recipe)
    return {"network.checkpoint": str(folder / f"{title}.safetensors")}


def _recipe(study: Study, fields: Mapping[str, Any], density: float, title: str, folder: Path) -> dict[str, Any]:
    own = {field: value for field, value in fields.items() if field != "plan.density"}
    recipe = replaced(study.recipe, {**own, "name": title, "output": str(folder / f"{title}.json")})
    plan = recipe.get("plan", {})
    # Last, so that a plan which was replaced as a whole has it too. Rules and files have densities of their own.
    if isinstance(plan, dict) and not plan.keys() & {"rules", "file"}:
        recipe["plan"] = {**plan, "density": density}
    return recipe


def _chosen(study: Study, name: str, density: float, values: tuple[Any, ...], chosen: Mapping[str, Any]) -> Any:
    key = study.tried_at(name, density)
    if key in chosen and chosen[key] in values:
        return chosen[key]
    got = f"{chosen[key]!r}, which is not among the tries {list(values)}" if key in chosen else "nothing"
    raise ValueError(f"{study.name}: chosen for {key}: {got}; run the stages trials and choose first")


def _beside(path: str | os.PathLike[str]) -> Path:
    # Relative, as a result file says nothing of the machine that it was made on.
    return Path(os.path.relpath(Path(path).parent))


def _checked(path: str | os.PathLike[str], drafts: Iterable[_Draft]) -> list[Cell]:
    """Check the recipes; cells of one name are one."""
    cells: dict[str, Cell] = {}
    problems: dict[str, None] = {}
    for draft in drafts:
        try:
            recipe = checked(Recipe, draft.fields, os.fspath(path))
        except RecipeError as error:
            problems |= {f"variants.{draft.variant}: {problem}": None for problem in error.problems}
        else:
            cells[recipe.name] = Cell(draft.variant, draft.density, draft.values, recipe)
    if problems:
        raise RecipeError(os.fspath(path), problems)
    return list(cells.values())
