"""The client's side of a join: docs/protocol.md.

The pair is on the disk before the secret is sent, so that an answer that gets lost loses nothing: whoever comes back with the
pair finds out whether it is in.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from mtlsd.client import Connection, NotSpoken, Pair, Rejected, Server, ServerError, Who, WrongServer, whoami
from mtlsd.clientfolder import ClientFolder
from mtlsd.enrol.exchange import FAILED, LATER, LONGEST_ANSWER, answer_in, request_with
from mtlsd.enrol.invitation import Invitation
from mtlsd.errors import FolderError, MtlsdError, Refused
from mtlsd.identity import Certificate
from mtlsd.keys import new_client_pair
from mtlsd.protocols import JOIN
from mtlsd.text import printable


class NotJoined(Refused):
    """The server has said no; nothing has changed on either side."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a join has come to; ``before``: it had taken place before, and was only finished now."""

    who: Who
    certificate: Certificate
    before: bool


def join(invitation: Invitation, folder: ClientFolder, now: datetime, days: int) -> Membership:
    """Join, or finish a join that was interrupted: with the pair in *folder*, or with one that is made there.

    *now* is aware; *days* is how long a new certificate is good.  Raises :exc:`~mtlsd.errors.MtlsdError` with one line.  A
    folder that was made for a join that has certainly not taken place is removed again.
    """
    server = Server(invitation.host, invitation.port, frozenset({invitation.fingerprint}))
    found = folder.pair()
    if found is not None:
        pair, certificate = found
        _insist_that_it_is_ours(folder, certificate, invitation, now)
        try:
            who = whoami(server, pair)
        except Rejected:
            # Not yet: the join was interrupted before it took place.
            pass
        else:
            return _finished(folder, server, pair, who, invitation, certificate, before=True)
    else:
        made = new_client_pair(invitation.name, now, days)
        folder.put_pair(made)
        pair, certificate = Pair(made.key_pem, made.certificate_pem), Certificate.from_der(made.der)
    try:
        connection = _connected(server, pair)
        with connection:
            folder.put_server(connection.certificate)
            # From here on it may have taken place, whatever becomes of the connection.
            heard = _asked(connection, invitation)
    except NotJoined:
        if found is None:
            folder.forget()
            raise
        # What used the invite up may be this pair's own join, which was still under way a moment ago.
        with suppress(ServerError):
            return _finished(folder, server, pair, whoami(server, pair), invitation, certificate, before=True)
        raise
    try:
        who = whoami(server, pair)
    except ServerError as error:
        if heard:
            raise
        raise ServerError(
            f"{server.endpoint}: the connection broke before the answer came: run the same command again"
        ) from error
    return _finished(folder, server, pair, who, invitation, certificate, before=False)


def _connected(server: Server, pair: Pair) -> Connection:
    """Connect for the exchange.  Whatever goes wrong here, the secret was not sent: that is :exc:`NotJoined`."""
    try:
        return Connection(server, pair, JOIN)
    except NotSpoken as error:
        raise NotJoined(
            f"{server.endpoint}: nobody can join there now: the invite has expired or was used, or enrol is off: ask for a new invite"
        ) from error
    except (WrongServer, ServerError) as error:
        raise NotJoined(str(error)) from error


def _asked(connection: Connection, invitation: Invitation) -> bool:
    """Send the secret.  True: the server says yes; False: it has not said anything.  Raises :exc:`NotJoined`."""
    where = invitation.endpoint
    try:
        connection.send(request_with(invitation.secret))
        line = connection.line(LONGEST_ANSWER)
    except Rejected as error:
        if error.alert:
            # It came instead of the end of the handshake, so the secret was not looked at.
            raise NotJoined(f"{error}: is the clock right, and is the key a new one?") from error
        return False
    except ServerError:
        return False
    if not line:
        return False
    told = answer_in(line)
    if told is None:
        raise ServerError(f"{where}: what it answers is no answer to a join")
    said = told.get("error")
    if said is None:
        return True
    if said == LATER:
        raise NotJoined(f"{where}: too many failed joins came from this address: try again in a minute")
    if said == FAILED:
        raise NotJoined(f"{where}: the server could not write: tell whoever looks after it; the invite is as good as before")
    raise NotJoined(
        f"{where}: the invite is not good: it was used, has expired or was taken back (ask for a new one), or this certificate may not "
        "come in: the server's log says which"
    )


def _finished(
    folder: ClientFolder,
    server: Server,
    pair: Pair,
    who: Who,
    invitation: Invitation,
    certificate: Certificate,
    *,
    before: bool,
) -> Membership:
    if who.client != invitation.name or who.fingerprint != certificate.fingerprint:
        raise MtlsdError(f"{server.endpoint}: it knows this certificate as {who.client}, not as {invitation.name}")
    return settled(folder, server, pair, Membership(who, certificate, before))


def settled(folder: ClientFolder, server: Server, pair: Pair, membership: Membership) -> Membership:
    """Put beside a pair that *server* lets in what is still missing: the server's certificate, where it is, curl's configuration."""
    if not folder.server_fingerprints():
        with Connection(server, pair) as connection:
            folder.put_server(connection.certificate)
    folder.put_endpoint(server.endpoint)
    folder.put_curl()
    return membership


def _insist_that_it_is_ours(folder: ClientFolder, certificate: Certificate, invitation: Invitation, now: datetime) -> None:
    """Refuse a folder that holds the pair of another client, or of another server."""
    known = folder.server_fingerprints()
    if certificate.subject != f"CN={invitation.name}" or (known and invitation.fingerprint not in known):
        raise FolderError(
            printable(f"{folder.path} holds another pair ({certificate.subject}) already: give another folder with --dir")
        )
    if certificate.not_after < now:
        raise FolderError(printable(f"{folder.certificate} has expired: move {folder.path} away, or give another with --dir"))
