"""The verb of a client that looks after itself: ``renew``."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path

import click

from mtlsd.cli.group import DONE, REFUSED, complain
from mtlsd.cli.shared import checked, duration, homely, now
from mtlsd.errors import FolderError
from mtlsd.keys import MOST_DAYS, read_endpoint, read_host
from mtlsd.text import printable


@click.command(
    short_help="Renew this client's certificate.",
    epilog="Example: mtlsd renew www.example.org --if-expiring 30d --then 'systemctl restart agent'",
)
@click.argument("host", required=False, callback=checked(read_host))
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    type=click.Path(readable=False, path_type=Path),
    help="Where the pair is; default: ~/.config/mtlsd/HOST.",
)
@click.option(
    "--at", "at", metavar="HOST:PORT", callback=checked(read_endpoint), help="Where the server is; default: where it was joined."
)
@click.option(
    "--days", type=click.IntRange(1, MOST_DAYS), default=365, show_default=True, help="How long the new certificate is good."
)
@duration("--if-expiring", "Do nothing, and say nothing, unless it ends within")
@click.option("--then", "then", metavar="COMMAND", help="Give the shell this command, once the new pair is in use.")
def renew(
    host: str | None,
    folder: Path | None,
    at: tuple[str, int] | None,
    days: int,
    if_expiring: timedelta | None,
    then: str | None,
) -> int:
    """Renew this client's certificate: a new pair, which the present one lets in.

    HOST is the server that was joined; where there is one only, it need not be given.  What was interrupted is finished by giving
    the same command again.  The old certificate stays good for a while, for whatever has not been restarted.
    """
    # Here, for OpenSSL takes a while to load.
    from mtlsd.clientfolder import ClientFolder
    from mtlsd.clientpairs import ClientPairs
    from mtlsd.enrol import renewer

    mine = ClientFolder(_folder(host, folder))
    pairs = ClientPairs(mine)
    found = renewer.renew(mine, pairs, renewer.server_of(mine, at), now(), days, if_expiring)
    if found is None:
        return DONE
    done = "had renewed" if found.before else "renewed"
    click.echo(f"{done} the certificate of {found.who.client}, good until {found.certificate.not_after:%Y-%m-%d}")
    click.echo(printable(f"it is in {homely(mine.path)}, as before"))
    # Once, however many come by the clock while the command takes its time.
    with pairs.locked():
        if then is not None and pairs.is_under_way:
            status = subprocess.run(["/bin/sh", "-c", then], check=False).returncode  # noqa: S603 (given to be run)
            if status:
                complain(f"{then}: status {status}; the certificate is renewed; the same command again tries this once more")
                return REFUSED
        pairs.finish()
    return DONE


def _folder(host: str | None, folder: Path | None) -> Path:
    if folder is not None:
        if host is not None:
            raise click.UsageError("give either HOST or --dir")
        return folder
    from mtlsd.clientfolder import usual_folder
    from mtlsd.clientpairs import folders

    try:
        home = Path.home()
    except RuntimeError as error:
        raise FolderError("there is no home directory: give a folder with --dir") from error
    if host is not None:
        return usual_folder(host, os.environ, home)
    base = usual_folder("_", os.environ, home).parent
    known = folders(base)
    if not known:
        raise FolderError(printable(f"nothing was joined in {base}: give a folder with --dir"))
    if len(known) > 1:
        raise click.UsageError(printable(f"which server? {', '.join(known)}"))
    return base / known[0]
