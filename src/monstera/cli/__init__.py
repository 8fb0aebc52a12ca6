"""The command line: parses, calls, prints. Each module holds the commands of one purpose."""

# In the order in which `monstera --help` lists the commands.
from monstera.cli import demo, training, choosing, programs  # isort: skip
from monstera.cli.app import app

__all__ = ["app", "choosing", "demo", "main", "programs", "training"]


def main() -> None:
    """Run the command line."""
    app()
