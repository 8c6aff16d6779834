"""The verb of whoever was invited: ``join``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtlsd.cli.clientfolders import new_folder
from mtlsd.cli.group import DONE
from mtlsd.cli.shared import homely, now
from mtlsd.cli.trusting import keep_up
from mtlsd.enrol.invitation import LONGEST, read_invitation
from mtlsd.errors import FolderError, Refused
from mtlsd.keys import MOST_DAYS
from mtlsd.text import printable

if TYPE_CHECKING:
    from mtlsd.clientfolder import ClientFolder
    from mtlsd.enrol.joiner import Membership


@click.command(
    short_help="Join a server, with the line that it was invited with.",
    epilog="Example: mtlsd join mtlsd://www.example.org:9443/bob/…",
)
@click.argument("line", nargs=-1, required=True, metavar="LINE...")
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    type=click.Path(readable=False, path_type=Path),
    help="Where the pair goes; default: ~/.config/mtlsd/HOST.",
)
@click.option(
    "--days", type=click.IntRange(1, MOST_DAYS), default=365, show_default=True, help="How long the certificate is good."
)
@click.option(
    "--p12",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),
    help="Also write the pair as PKCS #12, for a browser; its password is asked for.",
)
@click.option(
    "--p12-password-file",
    metavar="F",
    type=click.Path(readable=False, path_type=Path),
    help="Where the password for --p12 is, in the first line.",
)
def join(line: tuple[str, ...], folder: Path | None, days: int, p12: Path | None, p12_password_file: Path | None) -> int:
    """Join a server: make a pair here, prove it, and learn the server.

    LINE is what mtlsd invite has printed; it may be broken up, and - reads it from standard input.  The private key stays in
    this folder.  A join that was interrupted is finished by giving the same command again.
    """
    # Here, for OpenSSL takes a while to load.
    from mtlsd.clientfolder import ClientFolder
    from mtlsd.clientpairs import ClientPairs
    from mtlsd.enrol import joiner
    from mtlsd.pkcs12 import Bundle

    if p12_password_file is not None and p12 is None:
        raise click.UsageError("--p12-password-file wants --p12")
    piped = sys.stdin.buffer.read(LONGEST).decode("utf-8", "replace") if line == ("-",) else None
    invitation = read_invitation(" ".join(line)[:LONGEST] if piped is None else piped)
    bundle = None if p12 is None else Bundle(p12, _password(p12, p12_password_file))
    mine = ClientFolder(new_folder(invitation.host, folder))
    found = joiner.join(invitation, mine, now(), days)
    groups = f", in {', '.join(found.who.groups)}" if found.who.groups else ""
    click.echo(f"{'you had joined' if found.before else 'joined'} {invitation.endpoint} as {found.who.client}{groups}")
    pairs = ClientPairs(mine)
    keep_up(mine, pairs)
    # Nobody uses it yet.
    pairs.told()
    if bundle is not None:
        pair = mine.pair()
        if pair is None:
            raise Refused(f"{mine.path} has gone")
        bundle.write(pair[0].key_pem, pair[0].certificate_pem, invitation.name)
        click.echo(printable(f"for a browser: {p12}; delete it when it has been imported, for the key is in it"))
    tell(mine, invitation.endpoint, found)
    return DONE


def tell(mine: ClientFolder, endpoint: str, found: Membership) -> None:
    """Say what is where, and how to go on."""
    from mtlsd.clientfolder import CERTIFICATE, KEY, SERVER

    click.echo(printable(f"the key stays in {homely(mine.key)}"))
    click.echo(f"the certificate is good until {found.certificate.not_after:%Y-%m-%d}")
    url = f"https://{endpoint}{found.who.pages}/hello"
    mine_is = f"mine = {str(mine.path) + os.sep!r}"
    for title, lines in (
        ("curl", [f"curl --config {homely(mine.curl)} {url}"]),
        (
            "Python, with requests",
            [
                mine_is,
                f"requests.get({url!r}, verify=mine + {SERVER!r},",
                f"             cert=(mine + {CERTIFICATE!r}, mine + {KEY!r}))",
            ],
        ),
        (
            "Python, with httpx",
            [
                mine_is,
                f"context = ssl.create_default_context(cafile=mine + {SERVER!r})",
                f"context.load_cert_chain(mine + {CERTIFICATE!r}, mine + {KEY!r})",
                f"httpx.get({url!r}, verify=context)",
            ],
        ),
    ):
        click.echo(f"\n{title}:")
        for text in lines:
            click.echo(printable(f"    {text}"))


def _password(p12: Path, file: Path | None) -> bytes:
    """Return the password for a PKCS #12 file, before anything is done that cannot be done twice."""
    if os.path.lexists(p12):
        raise FolderError(printable(f"{p12}: it is there already: move it away, or give another --p12"))
    if file is None:
        asked: str = click.prompt(f"Password for {printable(str(p12))}", hide_input=True, confirmation_prompt=True, err=True)
        text = asked
    else:
        try:
            text = file.read_text("utf-8").split("\n", 1)[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise FolderError(printable(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'not text'}")) from error
    if not text:
        raise Refused("the password is empty, and the key would be open to whoever has the file")
    return text.encode()
