"""`python -m monstera.report README.md` writes the committed results into the README and the docs beside it."""

from __future__ import annotations

import sys

from monstera.report.readme import rewrite


def main(arguments: list[str]) -> int:
    """Rewrite every README named, with its page of results and its figures; return the exit code."""
    if not arguments:
        print("usage: python -m monstera.report README.md", file=sys.stderr)
        return 2
    try:
        for path in arguments:
            changed = rewrite(path)
            print("\n".join(f"{file}: {'written' if file.exists() else 'deleted'}" for file in changed) or "up to date")
    except (OSError, ValueError) as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
