"""`load`: an artifact as it is, or built anew from its graph. Here, above both, the runtime meets the compiler."""

from __future__ import annotations

import os

from monstera import runtime
from monstera.runtime import ArtifactError, Engine


def load(path: str | os.PathLike[str], *, sha256: str | None = None, rebuild: bool = False) -> Engine:
    """Load an engine that `Engine.save` wrote. Needs neither torch nor a compiler, unless it is to be built anew.

    An artifact is executable code: load only what you trust, or say by its digest which file you trust, or have the
    code generated and built anew from the graph that the artifact holds (see `docs/artifact.md`).

    Args:
        sha256: the digest that the artifact must have: what `Engine.digest` and `monstera inspect` say.
        rebuild: use neither the library nor the packed weights of the file. Takes torch and a C compiler.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: not an artifact, damaged, of another version, another one than expected, made for another
            machine, or with a graph that is none; or it is to be built anew and the compiler cannot be imported.
        BuildError: it is to be built anew, and there is no C compiler.
        ValueError: `sha256` is not 64 hexadecimal digits.
    """
    if not rebuild:
        return runtime.load(path, sha256=sha256)
    opened = runtime.open_here(path, sha256)
    try:
        from monstera.compiler.stored import rebuilt
    except ImportError as error:
        raise ArtifactError(
            f"{opened.where}: rebuild=True generates the code anew, which takes Monstera's compiler and with it torch; "
            f"it cannot be imported here ({error}): install torch, or load the artifact as it is if you trust it"
        ) from error
    return rebuilt(opened)
