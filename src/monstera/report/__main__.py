"""`python -m monstera.report README.md` writes the committed results into the README."""

from __future__ import annotations

import sys

from monstera.report.readme import rewrite


def main(arguments: list[str]) -> int:
    """Rewrite every README named; return the exit code."""
    if not arguments:
        print("usage: python -m monstera.report README.md", file=sys.stderr)
        return 2
    try:
        for path in arguments:
            print(f"{path}: {'written' if rewrite(path) else 'up to date'}")
    except (OSError, ValueError) as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
