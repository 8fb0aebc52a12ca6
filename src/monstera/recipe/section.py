"""What all sections of a recipe share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
# More than any machine has end the process without a word.
Threads: TypeAlias = Annotated[int, Field(ge=1, le=1024)]
Unit: TypeAlias = Annotated[float, Field(gt=0, le=1)]
# What torch.manual_seed takes, from 0.
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
# Forms of a field are told apart first, so that one problem is told once; their tags in <> are left out there.


class Section(BaseModel):
    """Unknown fields are refused, as a misspelt one would else be a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    # Fields younger than committed results and checkpoints: not written while they have their default, so that those
    # stay results and checkpoints of their recipes.
    young: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_young_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        silent = {name for name in self.young if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in dump(self).items() if name not in silent}
