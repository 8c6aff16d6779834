"""The verb of a client that keeps up with its server's certificates: ``trust``; and the same on the side of other verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtlsd.audit.events import rfc3339
from mtlsd.cli.clientfolders import at_option, dir_option, host_argument, known_folder
from mtlsd.cli.group import DONE, complain
from mtlsd.cli.shared import as_json as _json
from mtlsd.cli.shared import now, width
from mtlsd.cli.tables import trusted_json, trusted_table
from mtlsd.errors import FolderError, MtlsdError
from mtlsd.identity import GRANT_DIGITS
from mtlsd.text import printable

if TYPE_CHECKING:
    from mtlsd.clientfolder import ClientFolder
    from mtlsd.clientpairs import ClientPairs
    from mtlsd.enrol.trust import News


@click.command(
    short_help="Which certificates of the server this client trusts.",
    epilog="Example: mtlsd trust www.example.org --refresh",
)
@host_argument
@dir_option
@at_option
@click.option("--refresh", is_flag=True, help="Ask the server first, which certificate it shows next.")
@_json
def trust(host: str | None, folder: Path | None, at: tuple[str, int] | None, refresh: bool, as_json: bool) -> int:
    """List the certificates of the server that are trusted here: the one that it shows, and the next one, where that is known.

    HOST is the server that was joined; where there is one only, it need not be given.  mtlsd renew asks the server too, each time.
    """
    # Here, for OpenSSL takes a while to load.
    from mtlsd.clientfolder import ClientFolder
    from mtlsd.clientpairs import ClientPairs
    from mtlsd.enrol import trust as trusting

    if at is not None and not refresh:
        raise click.UsageError("--at wants --refresh")
    mine = ClientFolder(known_folder(host, folder))
    news = trusting.refresh(mine, ClientPairs(mine), now(), at) if refresh else trusting.News((), ())
    certificates = mine.server_certificates()
    if not certificates:
        raise FolderError(printable(f"{mine.server} is missing: without it nobody knows which server is the right one"))
    if as_json:
        learned = [
            {"fingerprint": one.fingerprint, "from": None if one.begins is None else rfc3339(one.begins)} for one in news.learned
        ]
        told = {"certificates": trusted_json(certificates), "learned": learned, "forgotten": list(news.forgotten)}
        click.echo(json.dumps(told, indent=2))
        return DONE
    if refresh and not _told(news):
        click.echo("nothing has changed")
    click.echo(trusted_table(certificates, now(), width()))
    return DONE


def keep_up(mine: ClientFolder, pairs: ClientPairs, at: tuple[str, int] | None = None) -> None:
    """Refresh what is trusted, on the side of another verb.

    Where that does not succeed it is a warning: what the verb itself has done is done.  A server that does not know of it is
    nothing to speak of.
    """
    from mtlsd.enrol import trust as trusting

    try:
        news = trusting.refresh(mine, pairs, now(), at)
    except trusting.NotTold:
        pass
    except MtlsdError as error:
        complain(f"the server's next certificate was not asked for, or not learned: {error}")
    else:
        _told(news)


def _told(news: News) -> bool:
    """Say what has changed, and return whether anything has."""
    for one in news.learned:
        since = "" if one.begins is None else f"from {one.begins:%Y-%m-%d} on "
        click.echo(f"learned: {since}the server shows {one.fingerprint[:GRANT_DIGITS]}")
    for fingerprint in news.forgotten:
        click.echo(f"forgotten: {fingerprint[:GRANT_DIGITS]}")
    return bool(news.learned or news.forgotten)
