"""The verbs for certificates that were shown and refused: ``pending``, ``approve``, ``dismiss``."""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import click

from mtlsd.cli.group import DONE, REFUSED, complain
from mtlsd.cli.shared import again as _again
from mtlsd.cli.shared import as_json as _json
from mtlsd.cli.shared import certs as _certs
from mtlsd.cli.shared import checked, duration, now, report, store, width
from mtlsd.cli.tables import knock_text, knocks_json, knocks_table
from mtlsd.identity import GRANT_DIGITS, LOOKUP_DIGITS, parse_fingerprint
from mtlsd.registry.knock import Knock
from mtlsd.registry.room import Change, looked_at
from mtlsd.registry.waiting import waiting

#: As many are seen at once.  Where there are more, most of them are nobody's.
_MANY = 20


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError("an address like 192.0.2.7, or a network like 2001:db8::/48, is wanted") from None


def _listed(certs: Path) -> list[Knock]:
    """Return who waits to be approved: who is known by now, or has ended, does not.  Tells of what is passed over."""
    seen, found, at = looked_at(certs), waiting(certs), now()
    for problem in found.problems:
        complain(problem)
    return [
        knock
        for knock in found.knocks
        if seen.snapshot.standing(knock.certificate.fingerprint) is None and at <= knock.certificate.not_after
    ]


@click.command(short_help="List who was refused and may be approved.", epilog="Example: mtlsd pending --json")
@_json
@_certs
def pending(as_json: bool, certs: Path) -> int:
    """List the certificates that were shown and refused because nobody knows them.

    Subject, address, times and count are claims: whoever knocked had proven nothing yet.
    """
    knocks = _listed(certs)
    if as_json:
        click.echo(json.dumps(knocks_json(knocks), indent=2))
    elif knocks:
        click.echo(knocks_table(knocks, width()))
        click.echo("These are claims (times in UTC).  Compare the fingerprint with the client's own.")
        click.echo("To let one in:  mtlsd approve FINGERPRINT --name NAME")
        if len(knocks) > _MANY:
            click.echo(f"{len(knocks):,} wait.  To drop many:  mtlsd dismiss --all-from ADDRESS, or --older-than 7d")
    else:
        complain("nobody waits: a certificate that the server refuses as unknown is listed here")
    return DONE


@click.command(short_help="Let in a certificate that was refused.", epilog="Example: mtlsd approve 3f9a1c02b7d4e611 --name alice")
@click.argument("fingerprint", callback=checked(partial(parse_fingerprint, minimum=GRANT_DIGITS)))
@click.option("--name", required=True, help="The client's name: letters, digits and . _ @ -")
@click.option("--add", is_flag=True, help="A further certificate for a client that there is.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_again
@_json
@_certs
@click.pass_context
def approve(
    context: click.Context, fingerprint: str, name: str, add: bool, yes: bool, again: bool, as_json: bool, certs: Path
) -> int:
    """Authorize a certificate that has knocked: see mtlsd pending; 16 digits or more of its fingerprint.

    Compare the whole fingerprint with the client's own.  Only who holds the key can come in with it.
    """
    change = partial(store(certs).approve, name=name, add=add, again=again)
    if yes:
        return _told("approved", change(fingerprint), as_json)
    if not _at_a_terminal():
        context.fail("there is no terminal to ask at: say --yes")
    # Checked before it is asked, and again after it: the operator may take an hour to answer.
    ahead = change(fingerprint, dry=True)
    asked = [knock for knock in waiting(certs).knocks if knock.certificate.fingerprint.startswith(fingerprint)]
    if not asked:
        return _told("approved", ahead, as_json)
    click.echo(knock_text(asked[0]), err=True)
    for note in ahead.notes:
        click.echo(note, err=True)
    if not click.confirm(f"let it in as {name}?", err=True):
        complain("nothing was changed")
        return REFUSED
    return _told("approved", change(asked[0].certificate.fingerprint), as_json)


@click.command(
    short_help="Take a refused certificate off the list.",
    epilog="Example: mtlsd dismiss --all-from 192.0.2.7, mtlsd dismiss --older-than 7d",
)
@click.argument("fingerprint", required=False, callback=checked(partial(parse_fingerprint, minimum=LOOKUP_DIGITS)))
@click.option(
    "--all-from", "network", metavar="ADDRESS", callback=checked(_network), help="All that came from an address, or a network."
)
@duration("--older-than", "All that have not knocked for so long")
@_json
@_certs
@click.pass_context
def dismiss(
    context: click.Context, fingerprint: str | None, network: str | None, older_than: timedelta | None, as_json: bool, certs: Path
) -> int:
    """Take certificates off the list of those that may be approved.

    They may knock again; mtlsd revoke --fingerprint, with all 64 digits, shuts one out for good.
    """
    if [fingerprint, network, older_than].count(None) != 2:
        context.fail("give one of FINGERPRINT, --all-from ADDRESS and --older-than TIME")
    if fingerprint is not None:
        return _told("dismissed", store(certs).dismiss(fingerprint), as_json)
    which = _from(network) if network else _silent_for(older_than or timedelta())
    return _told("dismissed", store(certs).dismiss_all(which, network), as_json)


def _from(text: str) -> Callable[[Knock], bool]:
    network = ipaddress.ip_network(text)
    return lambda knock: ipaddress.ip_address(knock.address) in network


def _silent_for(age: timedelta) -> Callable[[Knock], bool]:
    since = now() - age
    return lambda knock: knock.last < since


def _told(done: str, change: Change, as_json: bool) -> int:
    if not as_json:
        if not change.fingerprints and not change.notes and not change.problems:
            click.echo(f"nothing was {done}")
        return report(done, change)
    for problem in change.problems:
        complain(problem)
    told = {"client": change.client, "fingerprints": list(change.fingerprints), "notes": list(change.notes)}
    click.echo(json.dumps(told, indent=2))
    return REFUSED if change.problems else DONE
