"""Which certificates a server shows, now and next, as it tells its clients itself: docs/protocol.md.

It is asked on a connection on which it has proven a certificate that is trusted already.  What it says then takes the place of
what is trusted, as a whole; where any of it is not as it should be, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from mtlsd.client import Answer, Connection, Server, ServerError, is_verified
from mtlsd.clientfolder import ClientFolder
from mtlsd.clientpairs import ClientPairs
from mtlsd.enrol.renewer import server_of
from mtlsd.errors import CertificateError, FolderError
from mtlsd.identity import GRANT_DIGITS, Certificate, fingerprint_of
from mtlsd.keys import hosts_in
from mtlsd.policy import LIMITS
from mtlsd.registry.pem import certificates_in
from mtlsd.text import printable

PATH = "/.mtlsd/server"
#: Bytes of an answer: two certificates as large as any may be, twice over.
LARGEST = 1 << 16
_MOST = 2


class NotTold(ServerError):
    """The server does not tell: it is older than that."""


class NotTaken(ServerError):
    """What the server tells is not as it should be; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate of the server's (DER), and from when on it is shown; ``None``: it is now."""

    der: bytes
    begins: datetime | None

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.der)


@dataclass(frozen=True, slots=True)
class News:
    """What has come of asking: certificates that are trusted from now on, and the fingerprints of those that are no more."""

    learned: tuple[Shown, ...]
    forgotten: tuple[str, ...]


def refresh(folder: ClientFolder, pairs: ClientPairs, now: datetime, at: tuple[str, int] | None = None) -> News:
    """Ask the server of a client's folder, and trust from then on exactly what it has told.  *now* is aware.

    *at* is where it is, if that is to be another place than is known.  Raises :exc:`NotTold`, :exc:`NotTaken`, or another
    :exc:`~mtlsd.errors.MtlsdError`, with one line; then what is trusted is the same as before.
    """
    with pairs.locked():
        server, known = server_of(folder, at), folder.server_certificates()
        found = folder.pair()
        if found is None:
            raise FolderError(printable(f"{folder.path}: there is no pair: mtlsd join makes one"))
        usual = folder.endpoint()
        hosts = (server.host, *(() if usual is None else usual[:1]))
        with Connection(server, found[0]) as connection:
            shown = told_in(connection.ask(PATH), server, fingerprint_of(connection.certificate), hosts, now)
        ders = [one.der for one in shown]
        if set(ders) - set(known):
            pairs.learn()
        if set(ders) != set(known):
            folder.replace_server(ders)
    return News(
        tuple(one for one in shown if one.der not in known),
        tuple(sorted(server.fingerprints - {one.fingerprint for one in shown})),
    )


def told_in(answer: Answer, server: Server, proven: str, hosts: Collection[str], now: datetime) -> tuple[Shown, ...]:
    """Return what *server* has told, if all of it is as it should be: on a connection where it has *proven* a certificate.

    What is new has to name one of *hosts*, for other programs compare names.  What is trusted already is not judged again: it
    gains nothing by being told.  Raises :exc:`NotTold`, :exc:`NotTaken` or :exc:`~mtlsd.client.ServerError`.
    """
    if answer.status == 404:
        raise NotTold(f"{server.endpoint}: it does not tell its next certificate (an older mtlsd)")
    if answer.status != 200:
        raise ServerError(f"{server.endpoint}: asked for its next certificate, it answers {answer.status}")
    try:
        shown = _read(answer)
        if proven not in {one.fingerprint for one in shown}:
            raise ValueError("the one that it has shown just now is not among them")
        for one in shown:
            if one.fingerprint not in server.fingerprints:
                _insist_that_it_is_fit(one, hosts, now)
        _insist_that_they_are_told_apart(shown, now)
    except (ValueError, CertificateError) as error:
        raise NotTaken(
            printable(f"{server.endpoint}: what it tells of its certificates is not right, and nothing was changed: {error}")
        ) from error
    return shown


def _read(answer: Answer) -> tuple[Shown, ...]:
    if len(answer.body) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    try:
        entries = answer.told()["certificates"]
        if not isinstance(entries, list):
            raise TypeError
        told = [(entry["certificate"].encode("ascii"), entry["fingerprint"], entry["from"]) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is in no form that is known here") from error
    if not 1 <= len(told) <= _MOST:
        raise ValueError(f"it names {len(told)} certificates, and not one or two")
    shown = tuple(_shown(*one, is_first=number == 0) for number, one in enumerate(told))
    if len({one.der for one in shown}) != len(shown):
        raise ValueError("it names the same certificate twice")
    return shown


def _shown(pem: bytes, fingerprint: object, begins: object, *, is_first: bool) -> Shown:
    found = certificates_in(pem)
    if len(found.certificates) != 1 or found.has_private_key:
        raise ValueError("it does not give one certificate each, and nothing else")
    if fingerprint != found.leaves[0].fingerprint:
        raise ValueError("a fingerprint is another certificate's")
    return Shown(found.certificates[0], _time(begins, is_first=is_first))


def _time(text: object, *, is_first: bool) -> datetime | None:
    if is_first and text is None:
        return None
    if not is_first and isinstance(text, str):
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            if time.tzinfo is not None:
                return time
    raise ValueError("it does not say from when on its next certificate is used, or says it of the present one")


def _insist_that_it_is_fit(one: Shown, hosts: Collection[str], now: datetime) -> None:
    leaf, names = Certificate.from_der(one.der), hosts_in(one.der)
    which = f"{'its next' if one.begins else 'the present'} certificate {leaf.fingerprint[:GRANT_DIGITS]}"
    if leaf.size > LIMITS.certificate:
        raise ValueError(f"{which} is too large")
    if not LIMITS.sound(leaf.key):
        raise ValueError(f"{which} has a key that is too weak, or of a kind that is not used")
    if leaf.not_after < now:
        raise ValueError(f"{which} has ended")
    if one.begins is not None and not leaf.not_before <= one.begins <= leaf.not_after:
        raise ValueError(f"{which} is not valid at the time from which it is used")
    if not any(map(names.covers, hosts)):
        raise ValueError(f"{which} does not name {' or '.join(dict.fromkeys(hosts))}")


def _insist_that_they_are_told_apart(shown: Collection[Shown], now: datetime) -> None:
    """Refuse certificates of which a program that trusts all of them would refuse one that it does not refuse alone.

    OpenSSL, as Python has it, looks for what a certificate may be by its subject, and of several takes the one that ends last.
    """
    ders = [one.der for one in shown]
    for one in shown:
        at = one.begins or now
        if is_verified(one.der, [one.der], at) and not is_verified(one.der, ders, at):
            raise ValueError("programs that trust both certificates could not tell them apart: they have the same subject")
