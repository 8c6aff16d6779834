"""The verbs of the ``mtlsd`` command."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import timedelta
from pathlib import Path

import click

from mtlsd import __version__
from mtlsd.applications import looked_over, missing_files
from mtlsd.cli.adopting import adopt
from mtlsd.cli.bundles import export, import_
from mtlsd.cli.enrolment import approve, dismiss, pending
from mtlsd.cli.founding import init
from mtlsd.cli.group import DONE, REFUSED, OneLineGroup, complain
from mtlsd.cli.history import history
from mtlsd.cli.invitations import invite, invites, uninvite
from mtlsd.cli.joining import join
from mtlsd.cli.renewing import renew
from mtlsd.cli.shared import again as _again
from mtlsd.cli.shared import as_json as _json
from mtlsd.cli.shared import certs as _certs
from mtlsd.cli.shared import checked as _checked
from mtlsd.cli.shared import duration, width
from mtlsd.cli.shared import now as _now
from mtlsd.cli.shared import report as _report
from mtlsd.cli.shared import store as _store
from mtlsd.cli.tables import clients_json, clients_table, explanation_text
from mtlsd.cli.trusting import trust
from mtlsd.clientpair import made_and_authorized
from mtlsd.config import Config, ConfigError, read
from mtlsd.errors import CertificateError, FolderError, MtlsdError
from mtlsd.explain import explained
from mtlsd.identity import LOOKUP_DIGITS, parse_fingerprint
from mtlsd.keys import MOST_DAYS
from mtlsd.registry.nextpair import certificate_at, files_in_force
from mtlsd.registry.pem import PemFile, certificates_in
from mtlsd.registry.problems import Severity
from mtlsd.registry.room import ending, in_force, looked_at, overruled
from mtlsd.registry.waiting import is_waiting
from mtlsd.text import printable

_PORT = 9443
_LARGEST = 1 << 20

_certs_or_configured = click.option(
    "--certs",
    metavar="DIR",
    type=click.Path(readable=False, path_type=Path),
    help="Folder of the authorized clients; default: what the configuration says, or certs.",
)


@click.group(
    cls=OneLineGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="The first steps: mtlsd init; twistd -n mtlsd --port 9443; mtlsd new alice --out alice",
)
@click.version_option(__version__, prog_name="mtlsd", message="%(prog)s %(version)s")
@click.pass_context
def mtlsd(context: click.Context) -> None:
    """Who may come through the door: authorized_keys for HTTPS.

    Every change is in force within a second; the server need not be restarted.
    """
    if context.invoked_subcommand is None:
        context.fail(f"which verb? {', '.join(mtlsd.list_commands(context))}")


@mtlsd.command(short_help="Make a client's pair and authorize it.", epilog="Example: mtlsd new alice --out alice")
@click.argument("name")
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(readable=False, path_type=Path),
    help="Where the pair goes; made if missing.",
)
@click.option(
    "--days", type=click.IntRange(1, MOST_DAYS), default=365, show_default=True, help="How long the certificate is good."
)
@click.option("--add", is_flag=True, help="A further certificate for a client that there is.")
@_certs
def new(name: str, out: Path, days: int, add: bool, certs: Path) -> int:
    """Make a client's pair, NAMEKey.pem and NAMECrt.pem, and authorize it.

    A key is best made where it is used: see mtlsd authorize.
    """
    pair = made_and_authorized(_store(certs), name, out, _now(), days, add=add)
    click.echo(f"made {printable(str(pair.key))} and {printable(str(pair.certificate))}")
    status = _report("authorized", pair.change)
    command, host = ["curl"], "localhost"
    try:
        _, in_force_now = files_in_force(certs, _now())
        host = certificate_at(in_force_now)[1].best()
        command += ["--cacert", str(in_force_now)]
    except FileNotFoundError:
        pass
    except CertificateError as error:
        complain(error)
    command += ["--cert", str(pair.certificate), "--key", str(pair.key), f"https://{host}:{_PORT}/hello"]
    click.echo(printable(shlex.join(command)))
    return status


@mtlsd.command(
    short_help="Authorize a certificate that a client made.", epilog="Example: mtlsd authorize clientCrt.pem --name alice"
)
@click.argument("file", metavar="CERT.pem")
@click.option("--name", required=True, help="The client's name: letters, digits and . _ @ -")
@click.option("--add", is_flag=True, help="A further certificate for a client that there is.")
@click.option("--all", "every", is_flag=True, help="Authorize each of the certificates in the file.")
@_again
@_certs
def authorize(file: str, name: str, add: bool, every: bool, again: bool, certs: Path) -> int:
    """Authorize a certificate that a client made; - reads standard input.

    Only the certificate is needed; its key stays with the client.
    """
    found = _read_pem(file)
    count = len(found.certificates)
    if count > 1 and not every:
        raise MtlsdError(
            f"{_shown(file)} holds {count} certificates: --all authorizes each of them as {name}; of a chain, only the first belongs here"
        )
    change = _store(certs).authorize(found.certificates, name, add=add, again=again)
    if found.has_private_key:
        complain(
            f"{_shown(file)} holds a private key too: it was not copied; keep it with the client, and send only the certificate"
        )
    return _report("authorized", change)


@mtlsd.command(short_help="List who is authorized.", epilog="Example: mtlsd clients --expiring 30d")
@duration("--expiring", "Only certificates that end within this time or have ended, the next to end first")
@_json
@_certs
def clients(expiring: timedelta | None, as_json: bool, certs: Path) -> int:
    """List who is authorized: name, fingerprint, kind of key, expiry.

    Expiry is when the client is shut out: grace and retirement (NAME.toml) count.
    """
    seen = looked_at(certs)
    for problem in [*(problem.text for problem in seen.problems), *overruled(seen)]:
        complain(problem)
    authorizations = in_force(seen.snapshot)
    if expiring is not None:
        authorizations = ending(authorizations, _now() + expiring)
    if as_json:
        click.echo(json.dumps(clients_json(authorizations, certs, _now()), indent=2))
    elif authorizations:
        click.echo(clients_table(authorizations, _now(), width()))
    elif expiring is None:
        complain(
            "no clients yet: mtlsd new NAME --out DIR makes the first, mtlsd authorize CERT.pem --name NAME takes one that is made"
        )
    return DONE


@mtlsd.command(short_help="Shut a client out, now and for good.", epilog="Example: mtlsd revoke alice --reason 'laptop lost'")
@click.argument("name", required=False)
@click.option(
    "--fingerprint",
    metavar="F",
    callback=_checked(lambda text: parse_fingerprint(text, LOOKUP_DIGITS)),
    help="Revoke one certificate: 8 digits or more of its fingerprint; all 64 also revoke one that nobody holds yet.",
)
@click.option("--only", is_flag=True, help="With --fingerprint: not what was renewed from it.")
@click.option("--reason", metavar="TEXT", help="Why; kept in the tombstone and the ledger.")
@_certs
@click.pass_context
def revoke(context: click.Context, name: str | None, fingerprint: str | None, only: bool, reason: str | None, certs: Path) -> int:
    """Shut a client out, now and for good: all its certificates, or one and what was renewed from it.

    Its live connections are cut, and a tombstone wins over whatever authorizes it later.
    """
    if (name is None) == (fingerprint is None):
        context.fail("give either NAME or --fingerprint F")
    if only and name is not None:
        context.fail("--only goes with --fingerprint: NAME is all its certificates")
    store = _store(certs)
    if name is not None:
        return _report("revoked", store.revoke(name, reason))
    return _report("revoked", store.revoke_fingerprint(fingerprint or "", reason, only=only))


@mtlsd.command(short_help="Would this certificate get in?  If not, why?", epilog="Example: mtlsd explain clientCrt.pem")
@click.argument("file", metavar="CERT.pem")
@_json
@_certs
def explain(file: str, as_json: bool, certs: Path) -> int:
    """Would the server let this certificate in?  If not: why, and what to do; - reads standard input.

    The exit status is 0 for yes and 1 for no.  Of several certificates, the first is the client's own.
    """
    leaf = _read_pem(file).leaves[0]
    seen = looked_at(certs)
    explanation = explained(leaf, seen.snapshot, _now(), kept=is_waiting(certs, leaf.fingerprint))
    if not explanation.accepted:
        # The reason may be a file that cannot be read.
        for problem in seen.problems:
            if problem.severity is Severity.ERROR:
                complain(problem.text)
    click.echo(json.dumps(explanation.as_dict(), indent=2) if as_json else explanation_text(explanation))
    return DONE if explanation.accepted else REFUSED


@mtlsd.command(short_help="Is this configuration right?  If not, what is wrong?", epilog="Example: mtlsd check mtlsd.toml")
@click.argument("file", metavar="CONFIG.toml", type=click.Path(readable=False, path_type=Path))
@_certs_or_configured
def check(file: Path, certs: Path | None) -> int:
    """Look a configuration file over: every mistake at once, each with its place.

    What it names is looked for as the server does it: files and folders are looked at, modules are imported.
    """
    # Here, for OpenSSL takes a while to load.
    from mtlsd.preflight import unfit_pair

    mistakes: list[str] = []
    config: Config | None
    try:
        config = looked_over(file, imports=True)
    except ConfigError as error:
        config, mistakes = error.seen, list(error.mistakes)
    if config is not None:
        missing = missing_files(config.server)
        mistakes += missing or unfit_pair(config)
    for mistake in mistakes:
        complain(f"{file}: {mistake}")
    if config is None:
        return REFUSED
    if certs is None and any(mistake.startswith("server.certs:") for mistake in mistakes):
        # Who is known stands in a folder of which nobody knows which it is.
        return REFUSED
    try:
        known = looked_at(certs or _certs_of(config)).snapshot.clients()
    except FolderError as error:
        complain(f"warning: {error}")
    else:
        for unknown in config.unknown(known):
            complain(f"warning: {file}: {unknown}")
    if not mistakes:
        routes, groups = len(config.rules.routes), len(config.rules.groups)
        click.echo(printable(f"{file} is right: {_count(routes, 'route')}, {_count(groups, 'group')}"))
    return REFUSED if mistakes else DONE


@mtlsd.command(
    short_help="Where does a request go, and may it?",
    epilog="Example: mtlsd route --config mtlsd.toml --client alice GET /admin/users",
)
@click.argument("method")
@click.argument("path")
@click.option(
    "--config",
    metavar="FILE",
    required=True,
    type=click.Path(readable=False, path_type=Path),
    help="The configuration file.",
)
@click.option("--client", metavar="NAME", required=True, help="Who asks.")
@_json
@_certs_or_configured
def route(method: str, path: str, config: Path, client: str, as_json: bool, certs: Path | None) -> int:
    """Tell which route a client's request takes, whether it is allowed, why, and where it goes: as the server does it.

    The exit status is 0 for allowed and 1 for not.
    """
    # Here: it brings twisted.web, and a tenth of a second, which no other verb has any use for.
    from mtlsd.rehearsal import rehearsed

    configured = read(config)
    snapshot = looked_at(certs or _certs_of(configured)).snapshot
    held = [
        found
        for found in in_force(snapshot)
        if found.client == client and explained(found.certificate, snapshot, _now()).accepted
    ]
    groups = tuple(dict.fromkeys(group for found in held for group in found.groups)) if held else None
    answer = rehearsed(configured, client, groups, method, path)
    click.echo(json.dumps(answer.as_dict(), indent=2) if as_json else printable(answer.as_text()))
    return DONE if answer.allowed else REFUSED


def _certs_of(config: Config) -> Path:
    certs = config.server.get("certs")
    return certs if isinstance(certs, Path) else Path("certs")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _read_pem(file: str) -> PemFile:
    """Read the certificates of a file, or of standard input for ``-``.  There is at least one."""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with open(file, "rb") as stream:
                data = stream.read(_LARGEST + 1)
    except OSError as error:
        raise CertificateError(f"{_shown(file)}: cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise CertificateError(f"{_shown(file)}: it is larger than 1 MiB, so it is no certificate")
    try:
        found = certificates_in(data)
    except CertificateError as error:
        raise CertificateError(f"{_shown(file)}: {error}") from error
    if not found.certificates:
        raise CertificateError(f"{_shown(file)}: there is no certificate in it")
    return found


def _shown(file: str) -> str:
    return "standard input" if file == "-" else printable(file)


for _verb in (adopt, approve, dismiss, export, history, import_, init, invite, invites, join, pending, renew, trust, uninvite):
    mtlsd.add_command(_verb)
