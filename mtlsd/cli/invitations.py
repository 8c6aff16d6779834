"""The verbs of whoever invites: ``invite``, ``invites``, ``uninvite``."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import click

from mtlsd import config as configuration
from mtlsd.cli.group import DONE, REFUSED, complain
from mtlsd.cli.shared import as_json as json_option
from mtlsd.cli.shared import certs as certs_option
from mtlsd.cli.shared import checked, login_user, now, width
from mtlsd.cli.tables import invites_table
from mtlsd.durations import read_duration
from mtlsd.enrol.invitation import Invitation
from mtlsd.enrol.invite import standing
from mtlsd.enrol.invites import Invites
from mtlsd.errors import Refused
from mtlsd.keys import Hosts, read_endpoint
from mtlsd.registry.nextpair import certificate_at, files_in_force
from mtlsd.registry.room import looked_at
from mtlsd.settings import load
from mtlsd.text import printable

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@click.command(short_help="Invite a client to join, with one line.", epilog="Example: mtlsd invite bob --group ops --for 1h")
@click.argument("name")
@click.option("--group", "groups", metavar="G", multiple=True, help="A group that it will be in; may be repeated.")
@click.option(
    "--for",
    "lifetime",
    metavar="TIME",
    callback=checked(read_duration),
    default="1h",
    show_default=True,
    help="How long the invite is good: 1d, 1h, 30m or 45s.",
)
@click.option(
    "--at",
    "at",
    metavar="HOST:PORT",
    callback=checked(read_endpoint),
    help="Where the client reaches the server; default: `public` in the configuration, or a name in the server's certificate.",
)
@click.option("--again", is_flag=True, help="Drop an invite of this name that is still open.")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),
    help="The server's configuration file.",
)
@certs_option
@click.pass_context
def invite(
    context: click.Context,
    name: str,
    groups: tuple[str, ...],
    lifetime: timedelta,
    at: tuple[str, int] | None,
    again: bool,
    config_file: Path | None,
    certs: Path,
) -> int:
    """Invite a client to join as NAME.  Prints the line that joins it, which works once.

    Whoever has the line gets in under this name, so send it by a way that only the right one reads.  The server takes it while
    it runs with `enrol` on.
    """
    settings = load({}, {} if config_file is None else configuration.read(config_file).server)
    if config_file is None or context.get_parameter_source("certs") is not click.core.ParameterSource.DEFAULT:
        settings = replace(settings, certs=certs)
    try:
        here = settings.cert_path if settings.next_pair is None else files_in_force(settings.certs, now())[1]
        certificate, hosts = certificate_at(here)
    except FileNotFoundError:
        raise Refused(f"{settings.cert_path} is missing: mtlsd init makes the server's pair") from None
    host, port = at or (read_endpoint(settings.public) if settings.public else (_likely(hosts), settings.port))
    if not hosts.covers(host):
        known = ", ".join([*hosts.names, *hosts.addresses]) or "no host"
        raise Refused(f"the server's certificate does not name {host}, so no client would trust it: it names {known}")
    if certificate.not_after < now():
        raise Refused(f"{settings.cert_path} has expired, so no client would trust the server")
    made = Invites(settings.certs, now, login_user()).invite(name, groups, lifetime, again=again)
    invitation = Invitation(host, port, name, certificate.fingerprint, made.secret)
    click.echo(f"mtlsd join {invitation.line()}")
    # Not with the line: that is made to be sent, or to be piped into `mtlsd join -`.
    click.echo(f"valid until {_time(made.invite.expires)}, once", err=True)
    if at is None and config_file is None:
        # Whoever has not said where it is may have a server with another port.
        click.echo(f"the server is taken to be at {invitation.endpoint}; --at HOST:PORT says otherwise", err=True)
    for note in made.notes:
        click.echo(printable(note), err=True)
    if not (config_file is None or settings.enrol):
        complain(f"{config_file}: enrol is off, so nobody can join: enrol = true under [server] turns it on")
    for problem in made.problems:
        complain(problem)
    return REFUSED if made.problems else DONE


@click.command(short_help="List who is invited.", epilog="Example: mtlsd invites --json")
@json_option
@certs_option
def invites(as_json: bool, certs: Path) -> int:
    """List the invites that are open: name, groups, until when, and who made them."""
    found, problems = standing(certs, now(), looked_at(certs).snapshot.tombstones.values())
    for problem in problems:
        complain(problem)
    if as_json:
        click.echo(json.dumps([one.as_dict() for one in found], indent=2))
    elif found:
        click.echo(invites_table(found, width()))
    else:
        complain("nobody is invited: mtlsd invite NAME invites somebody")
    return DONE


@click.command(short_help="Take an invite back.", epilog="Example: mtlsd uninvite bob")
@click.argument("name")
@certs_option
def uninvite(name: str, certs: Path) -> int:
    """Take the invite of NAME back: its line works no more.

    Who has joined already is shut out with mtlsd revoke.
    """
    change = Invites(certs, now, login_user()).uninvite(name)
    for note in change.notes:
        click.echo(note)
    for problem in change.problems:
        complain(problem)
    return REFUSED if change.problems else DONE


def _likely(hosts: Hosts) -> str:
    """Return the host by which a client most likely reaches the server: what `mtlsd init --name` was given comes last."""
    names = [name for name in hosts.names if not name.startswith("*.") and name not in _LOOPBACK]
    addresses = [address for address in hosts.addresses if not ip_address(address).is_loopback]
    return (names or addresses or [hosts.best().strip("[]")])[-1]


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
