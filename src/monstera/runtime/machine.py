"""What this machine is and can do, as far as compiled code cares."""

from __future__ import annotations

import platform
import sys
from functools import lru_cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_SPELLINGS = {"arm64": "aarch64", "amd64": "x86_64"}


def architecture() -> str:
    """The processor's architecture, in one spelling: "x86_64", "aarch64", or what the system calls it."""
    name = platform.machine().lower()
    return _SPELLINGS.get(name, name)


def here() -> str:
    """What libraries built on this machine run on: "linux-x86_64" for instance."""
    return f"{sys.platform}-{architecture()}"


@lru_cache(maxsize=1)
def cpu_features() -> frozenset[str]:
    """Instruction sets of this processor as Linux names them; empty where Linux does not say."""
    if not _CPUINFO.exists():
        return frozenset()
    with _CPUINFO.open() as lines:
        # All processors of a machine say the same, and on large machines the file is slow to read.
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() in {"flags", "Features"}:
                return frozenset(value.split())
    return frozenset()


def shortfall(platform_name: str, features: tuple[str, ...]) -> str:
    """What this machine lacks for code that needs a platform and features, for an error; empty if it runs here."""
    if platform_name != here():
        return f"it needs {platform_name} and this machine is {here()}"
    if missing := sorted(set(features) - cpu_features()):
        return f"this processor lacks {', '.join(missing)}"
    return ""
