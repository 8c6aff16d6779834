"""The verb of a client that was approved, with a pair of its own: ``adopt``."""

from __future__ import annotations

from pathlib import Path

import click

from mtlsd.cli.clientfolders import new_folder
from mtlsd.cli.group import DONE
from mtlsd.cli.joining import tell
from mtlsd.cli.shared import checked
from mtlsd.cli.trusting import keep_up
from mtlsd.identity import parse_fingerprint
from mtlsd.keys import read_endpoint

_file = click.Path(readable=False, path_type=Path)


@click.command(
    short_help="Look after a pair that a server lets in already.",
    epilog="Example: mtlsd adopt www.example.org:9443 --cert clientCrt.pem --key clientKey.pem --cacert serverCrt.pem",
)
@click.argument("server", metavar="HOST:PORT", callback=checked(read_endpoint))
@click.option("--cert", metavar="FILE", required=True, type=_file, help="The client's certificate, PEM.")
@click.option("--key", metavar="FILE", required=True, type=_file, help="Its private key, PEM, not encrypted.")
@click.option("--cacert", metavar="FILE", type=_file, help="The server's own certificate, PEM.")
@click.option(
    "--fingerprint",
    metavar="F",
    callback=checked(parse_fingerprint),
    help="Instead of --cacert: the fingerprint of the server's certificate, all 64 digits.",
)
@click.option("--dir", "folder", metavar="DIR", type=_file, help="Where the pair goes; default: ~/.config/mtlsd/HOST.")
@click.pass_context
def adopt(
    context: click.Context,
    server: tuple[str, int],
    cert: Path,
    key: Path,
    cacert: Path | None,
    fingerprint: str | None,
    folder: Path | None,
) -> int:
    """Make a folder as mtlsd join makes one, from a pair that the server lets in already: for mtlsd renew to look after.

    The pair is copied.  From then on, use the one in the folder: the other is not renewed.
    """
    # Here, for OpenSSL takes a while to load.
    from mtlsd.client import Server
    from mtlsd.clientfolder import ClientFolder
    from mtlsd.clientpairs import ClientPairs
    from mtlsd.enrol import adopter

    if (cacert is None) == (fingerprint is None):
        context.fail("give either --cacert FILE or --fingerprint F: it is how the right server is known")
    known = Server(*server, frozenset({fingerprint or adopter.fingerprint_in(cacert or Path())}))
    mine = ClientFolder(new_folder(server[0], folder))
    found = adopter.adopt(known, adopter.read_pair(cert, key), mine)
    done = "you had adopted" if found.before else "adopted"
    click.echo(f"{done} the pair of {found.who.client}, for {known.endpoint}")
    pairs = ClientPairs(mine)
    keep_up(mine, pairs)
    # Nobody uses it yet.
    pairs.told()
    tell(mine, known.endpoint, found)
    return DONE
