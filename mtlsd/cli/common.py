"""What several verbs of the command have in common: options, the store, and the report of a change."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mtlsd.cli.group import DONE, REFUSED, complain
from mtlsd.identity import GRANT_DIGITS
from mtlsd.registry.room import Change
from mtlsd.registry.store import Store
from mtlsd.text import printable

certs_option = click.option(
    "--certs",
    metavar="DIR",
    type=click.Path(readable=False, path_type=Path),
    default=Path("certs"),
    show_default=True,
    help="Folder of the server's pair and of the authorized clients.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
again_option = click.option("--again", is_flag=True, help="Let in what was revoked before.")


def checked(check: Callable[[str], str]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a click callback that reads an option, or each value of a repeated one, with *check*."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            return tuple(map(check, value)) if isinstance(value, tuple) else None if value is None else check(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from error

    return callback


def report(done: str, change: Change) -> int:
    """Say what a command has changed; return the exit status."""
    for fingerprint in change.fingerprints:
        whose = (
            f" as {change.client}"
            if change.client and done in ("authorized", "approved")
            else f", of {change.client}"
            if change.client
            else ""
        )
        click.echo(f"{done} {fingerprint[:GRANT_DIGITS]}{whose}")
    for note in change.notes:
        click.echo(note)
    for problem in change.problems:
        complain(problem)
    return REFUSED if change.problems else DONE


def store(certs: Path) -> Store:
    """Return the store of a folder, for whoever gives the command."""
    return Store(certs, now, _login_user())


def now() -> datetime:
    """Return the time, aware, UTC."""
    return datetime.now(UTC)


def _login_user() -> str:
    """Return who gave the command: the person at the terminal, also behind sudo."""
    with suppress(OSError):
        return printable(os.getlogin())
    user = os.environ.get("SUDO_USER")
    if os.geteuid() == 0 and user:
        return printable(user)
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
