"""The ``mtlsd`` command: parses, calls, prints; decides nothing."""

from __future__ import annotations


def main() -> None:
    """Run the command and exit: 0 done (for ``explain``: accepted), 1 refused or not found, 2 wrong usage."""
    # Here, so that importing the package costs nothing.
    from mtlsd.cli.commands import mtlsd

    mtlsd(prog_name="mtlsd")
