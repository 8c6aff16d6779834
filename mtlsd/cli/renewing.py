"""The verb of a client that looks after itself: ``renew``."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtlsd.cli.clientfolders import at_option, dir_option, host_argument, known_folder
from mtlsd.cli.group import DONE, REFUSED, complain
from mtlsd.cli.shared import duration, homely, now
from mtlsd.cli.trusting import keep_up
from mtlsd.errors import MtlsdError
from mtlsd.keys import MOST_DAYS
from mtlsd.text import printable

if TYPE_CHECKING:
    from mtlsd.clientpairs import ClientPairs
    from mtlsd.enrol.renewer import Renewal


@click.command(
    short_help="Renew this client's certificate.",
    epilog="Example: mtlsd renew www.example.org --if-expiring 30d --then 'systemctl restart agent'",
)
@host_argument
@dir_option
@at_option
@click.option(
    "--days", type=click.IntRange(1, MOST_DAYS), default=365, show_default=True, help="How long the new certificate is good."
)
@duration("--if-expiring", "Do not renew, and do not speak of it, unless it ends within")
@click.option(
    "--then",
    "then",
    metavar="COMMAND",
    help="Give the shell this command, once the new pair is in use, or another certificate of the server's is trusted.",
)
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
    the same command again.  The old certificate stays good for a while, for whatever has not been restarted.  The server is also
    asked for its own next certificate, as by mtlsd trust --refresh.
    """
    # Here, for OpenSSL takes a while to load.
    from mtlsd.clientfolder import ClientFolder
    from mtlsd.clientpairs import ClientPairs
    from mtlsd.enrol import renewer

    mine = ClientFolder(known_folder(host, folder))
    pairs = ClientPairs(mine)
    refusal: MtlsdError | None = None
    try:
        found = renewer.renew(mine, pairs, renewer.server_of(mine, at), now(), days, if_expiring)
    except (renewer.NotRenewed, renewer.NotNow) as error:
        # It knows this client all the same, which is not to lose the server as well.
        found, refusal = None, error
    if found is not None:
        done = "had renewed" if found.before else "renewed"
        click.echo(f"{done} the certificate of {found.who.client}, good until {found.certificate.not_after:%Y-%m-%d}")
        click.echo(printable(f"it is in {homely(mine.path)}, as before"))
    keep_up(mine, pairs, at)
    status = DONE if found is None and not pairs.has_learned else _finish(pairs, then, found)
    if refusal is not None:
        raise refusal
    return status


def _finish(pairs: ClientPairs, then: str | None, found: Renewal | None) -> int:
    """Tell whoever uses the pair, and say that all is done.  Once, however many come by the clock while the command takes its time."""
    with pairs.locked():
        if then is not None and (pairs.is_under_way or pairs.has_learned):
            status = subprocess.run(["/bin/sh", "-c", then], check=False).returncode  # noqa: S603 (given to be run)
            if status:
                done = "the server's next certificate is known" if found is None else "the certificate is renewed"
                complain(f"{then}: status {status}; {done}; the same command again tries this once more")
                return REFUSED
        if found is not None:
            pairs.finish()
        pairs.told()
    return DONE
