"""Builds C into a shared library with the compiler at hand, and keeps it by the hash of everything that went in."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from monstera.compiler.targets import Target, crosses, platform_of
from monstera.runtime import architecture

# No -ffast-math: it would switch denormals off for the whole process at load, and NaN must stay NaN.
# -ffp-contract=fast because strict C standards turn multiply-adds off silently.
# -g0 because the ziglang wheel would write down the folder it builds in, and the same input gives the same bytes.
_CODE = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno")
_LIBRARY = ("-fPIC", "-shared", "-fvisibility=hidden", "-g0", "-w")
# The oldest C library that crossed artifacts run with: that of the wheels of numpy and torch.
_GLIBC = "2.28"

# For the tests, which look for errors in the C: `$MONSTERA_SANITIZE` names sanitizers, such as "address,undefined".
# Not optimised, as instrumented code takes minutes to; the first error ends the process.
_SANITIZED = ("-O0", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")

_ZIG = (sys.executable, "-m", "ziglang", "cc")


class BuildError(RuntimeError):
    """The C compiler is missing or failed, or its result cannot be kept."""


def code_flags(target: Target) -> tuple[str, ...]:
    """How the C of a target is compiled, as gcc and clang spell it: speed and meaning, without what makes a library."""
    return (*_CODE, *target.flags)


def sanitizer_flags() -> tuple[str, ...]:
    """What `$MONSTERA_SANITIZE` adds to the flags; nothing unless it is set."""
    asked = os.environ.get("MONSTERA_SANITIZE")
    return (*_SANITIZED, f"-fsanitize={asked}") if asked else ()


def compiler_command(target: Target | None = None) -> list[str]:
    """The C compiler: `$CC`, else gcc, clang or cc, else the ziglang wheel; always the wheel for another architecture.

    Raises:
        BuildError: there is none; says how to get one.
    """
    if target and crosses(target):
        return _crossing(target)
    if asked := os.environ.get("CC"):
        command = shlex.split(asked)
        if not command or shutil.which(command[0]) is None:
            raise BuildError(f"$CC is {asked!r}, but there is no such program; unset it or name a C compiler")
        return command
    for name in ("gcc", "clang", "cc"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return list(_ZIG)
    raise BuildError(
        "no C compiler found: looked for $CC, gcc, clang, cc and the ziglang wheel; "
        "install one (Debian: `apt install gcc`) or run `pip install 'monstera[zig]'`"
    )


def _crossing(target: Target) -> list[str]:
    if not importlib.util.find_spec("ziglang"):
        raise BuildError(
            f"building for {target.name} ({platform_of(target)}) on {architecture()} takes the ziglang wheel, "
            "whose compiler brings the C library along: run `pip install 'monstera[zig]'`"
        )
    return [*_ZIG, "-target", f"{target.architecture}-linux-gnu.{_GLIBC}"]


@lru_cache(maxsize=8)
def compiler_version(command: tuple[str, ...]) -> str:
    """First line of what the compiler says of itself."""
    try:
        answer = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"the C compiler {shlex.join(command)} does not answer --version: {error}") from error
    return answer.stdout.splitlines()[0].strip() if answer.stdout else "unknown"


def cache_folder() -> Path:
    """Where built libraries are kept: `$MONSTERA_CACHE`, else the user's cache folder."""
    if asked := os.environ.get("MONSTERA_CACHE"):
        return Path(asked)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "monstera"


def build(source: str, target: Target) -> Path:
    """Return the shared library of a C source for a target, built now or taken from the cache.

    Raises:
        BuildError: no compiler, the compiler failed (its first lines are shown), or the cache cannot be written.
    """
    command = compiler_command(target)
    flags = (*_CODE, *_dialect(command, target.flags), *_LIBRARY, *sanitizer_flags())
    # Machines of several kinds may share a cache, and one compiler builds for several platforms.
    recipe = "\0".join([source, platform_of(target), compiler_version(tuple(command)), *flags])
    library = cache_folder() / f"{hashlib.sha256(recipe.encode()).hexdigest()[:32]}.so"
    if library.exists():
        return library
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            _compile(command, flags, source, Path(folder))
            os.replace(Path(folder) / "net.so", library)
    except OSError as error:
        raise BuildError(
            f"cannot write to the cache {library.parent}: {error.strerror or error}; "
            "set MONSTERA_CACHE to a folder that can be written"
        ) from error
    return library


def _dialect(command: list[str], flags: tuple[str, ...]) -> tuple[str, ...]:
    """Flags as the compiler spells them: zig reads a dash in the name of a processor as "without"."""
    zig = any(Path(word).name in ("zig", "ziglang") for word in command)
    return tuple("-" + f[1:].replace("-", "_") if zig else f for f in flags)


def _compile(command: list[str], flags: tuple[str, ...], source: str, folder: Path) -> None:
    (folder / "net.c").write_text(source)
    line = [*command, *flags, "-o", "net.so", "net.c", "-lm", "-lpthread"]
    try:
        answer = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"the C compiler {shlex.join(command)} cannot be started: {error}") from error
    if answer.returncode:
        lines = [s for s in answer.stderr.splitlines() if "error" in s][:5] or answer.stderr.splitlines()[:5]
        raise BuildError(f"the C compiler failed ({shlex.join(line)}):\n" + "\n".join(lines))
