"""Which folder a verb at the client works on, and its options."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mtlsd.cli.shared import checked
from mtlsd.errors import FolderError
from mtlsd.keys import read_endpoint, read_host
from mtlsd.text import printable

host_argument = click.argument("host", required=False, callback=checked(read_host))
dir_option = click.option(
    "--dir",
    "folder",
    metavar="DIR",
    type=click.Path(readable=False, path_type=Path),
    help="Where the pair is; default: ~/.config/mtlsd/HOST.",
)
at_option = click.option(
    "--at", "at", metavar="HOST:PORT", callback=checked(read_endpoint), help="Where the server is; default: where it was joined."
)


def new_folder(host: str, given: Path | None) -> Path:
    """Return the folder for the server *host*, unless one was *given*."""
    from mtlsd.clientfolder import usual_folder

    return given or usual_folder(host, os.environ, _home())


def known_folder(host: str | None, given: Path | None) -> Path:
    """Return the folder that is there: the *given* one, that of *host*, or the only one."""
    if given is not None:
        if host is not None:
            raise click.UsageError("give either HOST or --dir")
        return given
    from mtlsd.clientfolder import usual_folder
    from mtlsd.clientpairs import folders

    if host is not None:
        return usual_folder(host, os.environ, _home())
    base = usual_folder("_", os.environ, _home()).parent
    known = folders(base)
    if not known:
        raise FolderError(printable(f"nothing was joined in {base}: give a folder with --dir"))
    if len(known) > 1:
        raise click.UsageError(printable(f"which server? {', '.join(known)}"))
    return base / known[0]


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise FolderError("there is no home directory: give a folder with --dir") from error
