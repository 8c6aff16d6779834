"""``mtlsd import`` and ``mtlsd export``: many clients at once."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mtlsd import bundlefiles
from mtlsd.cli import shared
from mtlsd.cli.group import DONE, REFUSED, complain
from mtlsd.identity import GRANT_DIGITS
from mtlsd.registry.admission import Admission, Answer, Outcome
from mtlsd.registry.room import looked_at, overruled
from mtlsd.text import printable


@click.command(
    "import",
    short_help="Authorize the clients of a bundle or a folder.",
    epilog="Example: mtlsd import clients.pem --dry-run",
)
@click.argument("path", metavar="FILE|FOLDER")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--add", is_flag=True, help="Further certificates for clients that there are, too.")
@shared.as_json
@shared.certs
def import_(path: str, dry_run: bool, add: bool, as_json: bool, certs: Path) -> int:
    """Authorize the clients of a bundle (many certificates in one file, as nginx has them), or of a folder of PEM files;
    - reads standard input.

    A client is named by the line "# name: NAME" before its certificate, by its file in a folder or, without either, by
    the certificate's common name: look that over first, for it is only what the client says.  What is authorized already
    is passed over.  What is refused is named, the others come in, and the exit status is 1.
    """
    bundle = bundlefiles.read(path)
    for warning in bundle.warnings:
        complain(f"warning: {warning}")
    for refused in bundle.refused:
        complain(refused)
    admission = shared.store(certs).admit(bundle.offers, add=add, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps([_as_dict(answer) for answer in admission.answers], indent=2))
    else:
        _print(admission, dry_run)
    for problem in admission.problems:
        complain(problem)
    return REFUSED if admission.problems or bundle.refused or admission.count(Outcome.REFUSED) else DONE


@click.command(short_help="Write a bundle of who is authorized.", epilog="Example: mtlsd export --out clients.pem")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),
    help="Where the bundle goes, put in place whole; default: standard output.",
)
@shared.certs
def export(out: Path | None, certs: Path) -> int:
    """Write a bundle of who is authorized, each certificate with a line "# name: NAME" before it.

    nginx (ssl_client_certificate) and mtlsd import read it.  Groups, terms and tombstones are not in it.
    """
    seen = looked_at(certs)
    for problem in [*(problem.text for problem in seen.problems), *overruled(seen)]:
        complain(problem)
    bundle = bundlefiles.exported(certs, seen, shared.now())
    for warning in bundle.warnings:
        complain(f"warning: {warning}")
    if out is None:
        click.echo(bundle.text, nl=False)
    else:
        bundlefiles.put(out, bundle.text)
        click.echo(f"{bundle.count:,} certificate{'' if bundle.count == 1 else 's'} in {printable(str(out))}")
    return DONE


def _print(admission: Admission, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for answer in admission.answers:
        short, notes = answer.offer.fingerprint[:GRANT_DIGITS], "; ".join(answer.notes)
        if answer.outcome is Outcome.REFUSED:
            complain(f"{answer.offer.place} ({answer.client}): {would}refused: {notes}")
        elif answer.outcome is Outcome.THERE:
            click.echo(f"passed over {short} of {answer.client}: {notes}")
        else:
            click.echo(f"{would}authorized {short} as {answer.client}" + (f": {notes}" if notes else ""))
    counts = (
        (Outcome.AUTHORIZED, f"{would}authorized"),
        (Outcome.THERE, "there already"),
        (Outcome.REFUSED, f"{would}refused"),
    )
    click.echo(", ".join(f"{admission.count(outcome):,} {words}" for outcome, words in counts))


def _as_dict(answer: Answer) -> dict[str, object]:
    """Return an object of ``mtlsd import --json``; its keys are a contract."""
    leaf = answer.offer.leaf
    return {
        "name": answer.client,
        "outcome": str(answer.outcome),
        "fingerprint": answer.offer.fingerprint,
        "subject": leaf.subject if leaf is not None else None,
        "place": answer.offer.place,
        "notes": list(answer.notes),
    }
