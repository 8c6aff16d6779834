"""The client's side of a renewal: docs/protocol.md.

The next pair is on the disk before it is asked for, and the present one stays until the server has said yes.  So wherever this
is interrupted, the pair that is found in the folder is let in, and the same command once more brings it to its end.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from mtlsd.client import Answer, Connection, Pair, Rejected, Server, ServerError, Who, whoami
from mtlsd.clientfolder import ClientFolder
from mtlsd.clientpairs import ClientPairs
from mtlsd.errors import FolderError, Refused
from mtlsd.identity import Certificate
from mtlsd.keys import new_client_pair
from mtlsd.proof import LABEL, PATH, SIZE, signed, statement
from mtlsd.registry.pem import certificates_in
from mtlsd.text import printable, shortened

#: Of what a server says, so many characters are shown.
_LONGEST = 300
#: The status of the answer to a client that has as many certificates as it may have.
_TWO_ALREADY = 409


class NotRenewed(Refused):
    """The server has said no; the present pair is as good as before."""


class NotNow(ServerError):
    """The server has not said no for good: the same may be asked for again."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a renewal has come to: a new certificate is in use; ``before``: an earlier run had got it, and was interrupted."""

    who: Who
    certificate: Certificate
    before: bool


def server_of(folder: ClientFolder, at: tuple[str, int] | None = None) -> Server:
    """Return the server of a client's folder; *at* is where it is, if that is to be another place than is known."""
    fingerprints = folder.server_fingerprints()
    if not fingerprints:
        raise FolderError(printable(f"{folder.server} is missing: without it nobody knows which server is the right one"))
    where = at or folder.endpoint()
    if where is None:
        raise FolderError(printable(f"{folder.path} does not say where the server is: give --at HOST:PORT"))
    return Server(*where, fingerprints)


def renew(
    folder: ClientFolder, pairs: ClientPairs, server: Server, now: datetime, days: int, ahead: timedelta | None = None
) -> Renewal | None:
    """Renew the certificate in *folder*, or finish a renewal that was interrupted; the caller says when it is over (``finish``).

    ``None``: it does not end within *ahead*, and none was interrupted.  *now* is aware; *days* is how long a new certificate is
    good.  Raises :exc:`~mtlsd.errors.MtlsdError` with one line.
    """
    with pairs.locked():
        found = folder.pair()
        if found is None:
            raise FolderError(printable(f"{folder.path}: there is no pair: mtlsd join makes one"))
        present, certificate = found
        waiting = pairs.waiting()
        if not pairs.is_under_way and waiting is None and ahead is not None and certificate.not_after - now > ahead:
            return None
        try:
            who = whoami(server, present)
        except Rejected as error:
            return _found_again(pairs, server, error)
        if waiting is None and pairs.is_under_way:
            # The pair is the new one already; what uses it was perhaps not told.
            return Renewal(who, certificate, before=True)
        if waiting is not None and waiting[1].not_after - now < timedelta(days=1):
            pairs.drop()
            waiting = None
        made = waiting is None
        if waiting is None:
            fresh = new_client_pair(who.client, now, days)
            pairs.prepare(present, certificate, fresh)
            waiting = Pair(fresh.key_pem, fresh.certificate_pem), Certificate.from_der(fresh.der)
        answer = _asked(server, present, waiting[0])
        newer = _newer_here(pairs, server, certificate, waiting if made else None) if answer.status == _TWO_ALREADY else None
        if newer is not None:
            return newer
        _insist_on_yes(pairs, server, answer, who.client)
        pairs.commit()
        return _tried(pairs, server, certificate, *waiting)


def _asked(server: Server, present: Pair, new: Pair) -> Answer:
    with Connection(server, present) as connection:
        (der,) = certificates_in(new.certificate_pem).certificates
        signature = signed(new.key_pem, statement(connection.exporter(LABEL, SIZE), der))
        told = {"certificate": new.certificate_pem.decode("ascii"), "signature": base64.b64encode(signature).decode("ascii")}
        return connection.ask(PATH, "POST", json.dumps(told).encode("ascii"))


def _newer_here(
    pairs: ClientPairs, server: Server, present: Certificate, made: tuple[Pair, Certificate] | None
) -> Renewal | None:
    """Where the newer one of two that are let in is here, and was only never used, use that; *made* is one that was made in vain."""
    for name, pair, certificate in pairs.others():
        is_older = (certificate.not_before, certificate.not_after) <= (present.not_before, present.not_after)
        if is_older or (made is not None and certificate == made[1]):
            continue
        try:
            who = whoami(server, pair)
        except Rejected:
            continue
        if made is not None:
            pairs.drop()
        pairs.use(name)
        return Renewal(who, certificate, before=True)
    return None


def _insist_on_yes(pairs: ClientPairs, server: Server, answer: Answer, client: str) -> None:
    if answer.status == 200:
        return
    try:
        said = str(answer.told()["error"])
    except (ValueError, KeyError):
        said = f"it answers {answer.status}"
    if answer.status == 404:
        said = "it does not let clients renew (its setting renew is off)"
    if answer.status == _TWO_ALREADY:
        said = (
            "you have two certificates already: after a renewal the older one is good for a while yet, so there is nothing to do; "
            f"if it was not you, tell whoever looks after the server: mtlsd history {client}"
        )
    if answer.status == 429 or answer.status >= 500:
        # Not the certificate's fault: it may be asked for again.
        raise NotNow(f"{server.endpoint}: {shortened(printable(said), _LONGEST)}")
    pairs.drop()
    raise NotRenewed(f"{server.endpoint}: not renewed: {shortened(printable(said), _LONGEST)}")


def _tried(pairs: ClientPairs, server: Server, old: Certificate, new: Pair, certificate: Certificate) -> Renewal:
    """Use the new pair for the first time, and take the old one again where it is not let in after all."""
    try:
        who = whoami(server, new)
    except Rejected as error:
        if not error.alert:
            # It has not said no: it was restarted just now, perhaps.  Going back would leave two certificates that live, of
            # which the newer is never used; the same command again finishes this.
            raise
        for name, _, other in pairs.others():
            if other.fingerprint == old.fingerprint:
                pairs.use(name)
                pairs.finish()
        raise ServerError(f"{error}, although it said that it would: the old pair is in use again") from error
    return Renewal(who, certificate, before=False)


def _found_again(pairs: ClientPairs, server: Server, error: Rejected) -> Renewal:
    """The present pair is not let in: take another one that is here and is."""
    if not error.alert:
        # It has not said no.  The pair before is perhaps let in as well, but not for long.
        raise error
    for name, pair, certificate in pairs.others():
        try:
            who = whoami(server, pair)
        except Rejected:
            continue
        pairs.use(name)
        return Renewal(who, certificate, before=True)
    raise error
