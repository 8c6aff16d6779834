"""The verb that makes the operator's folder and the server's pairs: ``init``."""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import click

from mtlsd.cli.group import DONE, complain
from mtlsd.cli.shared import certs as certs_option
from mtlsd.cli.shared import checked, now
from mtlsd.durations import read_duration
from mtlsd.errors import CertificateError
from mtlsd.keys import MOST_DAYS, Hosts, read_host
from mtlsd.registry.founding import found
from mtlsd.registry.nextpair import MARGIN, NEXT, Waiting, prepare, read_moment, waiting
from mtlsd.text import days_left, printable

_LOOPBACK = ("127.0.0.1", "::1")


@click.command(
    short_help="Make the folder and the server's own pair, or the next.",
    epilog="Example: mtlsd init --name www.example.org --name 192.0.2.7",
)
@click.option(
    "--name",
    "names",
    metavar="HOST",
    multiple=True,
    callback=checked(read_host),
    help="A host name or address of the server; may be repeated.",
)
@click.option(
    "--days", type=click.IntRange(1, MOST_DAYS), default=825, show_default=True, help="How long the certificate is good."
)
@click.option("--renew", is_flag=True, help="Prepare the server's next pair, for clients to learn before it is used.")
@click.option(
    "--in",
    "wait",
    metavar="TIME",
    callback=checked(read_duration),
    help="With --renew: use it after this time; default: 30d, or a week before the present one ends.",
)
@click.option(
    "--from", "moment", metavar="DATE", callback=checked(read_moment), help="With --renew: use it from this date on, UTC."
)
@click.option("--again", is_flag=True, help="With --renew: in the place of one that waits already.")
@certs_option
def init(
    names: tuple[str, ...],
    days: int,
    renew: bool,
    wait: timedelta | None,
    moment: datetime | None,
    again: bool,
    certs: Path,
) -> int:
    """Make the folder and the server's own pair, unless they are there; with --renew, the server's next pair.

    The certificate is good for localhost, this host's name, the loopback addresses and each HOST; the next one for what the
    present one is, and for each HOST.
    """
    if not renew and (again or moment is not None or wait is not None):
        raise click.UsageError("--in, --from and --again go with --renew")
    if moment is not None and wait is not None:
        raise click.UsageError("--in or --from, not both")
    if renew:
        _tell_of_next(certs, prepare(certs, names, now, moment if wait is None else now() + wait, days, again=again))
        return DONE
    founded = found(certs, names, _own_hosts(), now, days)
    for made in founded.made:
        click.echo(f"made {printable(str(certs) if made == '.' else str(certs / made))}")
    certificate = founded.certificate
    if not founded.made:
        click.echo(f"{printable(str(certs))} is ready; nothing had to be made")
    click.echo(f"the server's certificate: {certificate.fingerprint}")
    click.echo(f"good for {_shown(founded.hosts)}, until {certificate.not_after:%Y-%m-%d}")
    try:
        upcoming = waiting(certs)
    except CertificateError as error:
        upcoming = None
        complain(f"warning: {error}: put it right, or mtlsd init --renew --again makes another in its place")
    else:
        if founded.problem is not None:
            complain(f"warning: {founded.problem}: put it right, or mtlsd init --renew --again makes another in its place")
    if upcoming is not None:
        click.echo(f"the next one: {upcoming.certificate.fingerprint}, used from {_moment(upcoming.since)} on")
    elif certificate.not_after < now():
        complain("the server's certificate has expired: mtlsd init --renew makes another")
    return DONE


def _tell_of_next(certs: Path, upcoming: Waiting) -> None:
    click.echo(f"made {printable(str(certs / NEXT))}")
    click.echo(f"the server's next certificate: {upcoming.certificate.fingerprint}")
    click.echo(f"good for {_shown(upcoming.hosts)}, until {upcoming.certificate.not_after:%Y-%m-%d}")
    left = upcoming.since - now()
    if left <= timedelta():
        click.echo("used from now on")
        complain("warning: clients that know the present one alone have to be given this one, or join anew")
        return
    click.echo(f"used from {_moment(upcoming.since)} on; until then clients learn it with mtlsd renew or mtlsd trust --refresh")
    if left < MARGIN:
        complain(f"warning: {days_left(left)}: who does not learn it in time has to be given it, or to join anew")


def _shown(hosts: Hosts) -> str:
    return ", ".join([*hosts.names, *hosts.addresses]) or hosts.common_name or "no host"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _own_hosts() -> list[str]:
    hosts = ["localhost"]
    for name in (socket.gethostname(), socket.getfqdn()):
        # A name that no certificate can hold, or that a resolver made of an address, is no name to be reached by.
        with suppress(ValueError):
            host = read_host(name)
            if not host.endswith(".arpa"):
                hosts.append(host)
    return list(dict.fromkeys([*hosts, *_LOOPBACK]))
