"""What the weights of a result take on disk, in every storage form, indices and signs included."""

from __future__ import annotations

from typing import Any

from torch import nn

from monstera.sparsity import Plan
from monstera.sparsity.storage import StorageTable, storage_table


def stored_bytes(model: nn.Module, plan: Plan) -> dict[str, Any]:
    """Account the parameters of a network: `forms` those in the plan, `rest` all others, `dense` all without holes.

    A form that one of the planned weights cannot have is left out. Blocks are of 4 filters (see `storage_table`).
    """
    planned = plan.weights(model)
    # Adding 0 turns minus zeros, which no form takes for holes, into zeros.
    tables = [storage_table(weight.detach().add(0.0).contiguous().numpy()) for weight in planned.values()]
    all_bytes = sum(parameter.nbytes for parameter in model.parameters())
    return {
        "dense": all_bytes,
        "rest": all_bytes - sum(weight.nbytes for weight in planned.values()),
        "forms": {
            form.form: {key: sum(getattr(table[form.form], key) for table in tables) for key in ("values", "index")}
            for form in tables[0].forms
            if all(_has(table, form.form) for table in tables)
        },
    }


def _has(table: StorageTable, form: str) -> bool:
    return not table[form].refused
