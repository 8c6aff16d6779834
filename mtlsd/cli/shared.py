"""What several verbs of the command have in common: options, the clock, who gave the command, the terminal."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click

from mtlsd.cli.group import DONE, REFUSED, complain
from mtlsd.durations import read_duration
from mtlsd.identity import GRANT_DIGITS
from mtlsd.registry.room import Change
from mtlsd.registry.store import Store
from mtlsd.text import printable

T = TypeVar("T")
_Callback: TypeAlias = Callable[[click.Context, click.Parameter, Any], Any]

certs = click.option(
    "--certs",
    metavar="DIR",
    type=click.Path(readable=False, path_type=Path),
    default=Path("certs"),
    show_default=True,
    help="Folder of the server's pair and of the authorized clients.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
again = click.option("--again", is_flag=True, help="Let in what was revoked before.")


def checked(check: Callable[[str], object]) -> _Callback:
    """Return a click callback that reads an option, or each value of a repeated one, with *check*."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            return tuple(map(check, value)) if isinstance(value, tuple) else None if value is None else check(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from error

    return callback


def duration(name: str, help: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Return an option whose value is a length of time, as in a client's terms."""
    return click.option(name, metavar="TIME", callback=checked(read_duration), help=f"{help}: 30d, 12h, 30m or 45s.")


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


def store(folder: Path) -> Store:
    """Return the writer of *folder*."""
    return Store(folder, now, login_user())


def now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)


def width() -> int | None:
    """Return the characters of a line of the terminal, or ``None`` where the output is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def homely(path: Path) -> str:
    """Return a path as a person writes it, quoted for the shell where that is needed: with ``~`` for their home."""
    with suppress(RuntimeError, ValueError):
        return f"~/{shlex.quote(str(path.relative_to(Path.home())))}"
    return shlex.quote(str(path))


def login_user() -> str:
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
