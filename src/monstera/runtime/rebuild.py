"""Builds an engine anew from the graph that an artifact holds, so that its code need not be trusted.

The one place where the runtime asks the compiler for something, and only when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monstera.runtime.artifact import GRAPH, PARAMS, Opened
from monstera.runtime.manifest import ArtifactError

if TYPE_CHECKING:
    from monstera.runtime.engine import Engine


def rebuilt(opened: Opened) -> Engine:
    """Return a new engine for an artifact's graph; its library, its C source and its packed weights are not read.

    Raises:
        ArtifactError: the graph is none, or the compiler cannot be imported.
        BuildError: the C compiler is missing or failed.
    """
    try:
        from monstera.compiler.stored import rebuild
    except ImportError as error:
        raise ArtifactError(
            f"{opened.where}: rebuild=True generates the code anew, which takes Monstera's compiler and with it torch; "
            f"it cannot be imported here ({error}): install torch, or load the artifact as it is if you trust it"
        ) from error
    return rebuild(opened.manifest, opened.read(GRAPH).tobytes(), opened.read(PARAMS), opened.where)
