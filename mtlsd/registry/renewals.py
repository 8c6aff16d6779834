"""The writer of renewals: a client's next certificate comes in, and its last one goes.

``NAME.toml`` is written first, then ``NAME.pem``: the rename of that is the commit.  A kill before it leaves a line that tells of
a certificate which nobody has authorized, and a kill after it leaves both in force.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from mtlsd.audit.events import Event, Kind, rfc3339
from mtlsd.errors import CertificateError, Refused, SettingsError
from mtlsd.identity import GRANT_DIGITS, Certificate, Tls, fingerprint_of, public_key_sha256
from mtlsd.policy import Allowed, decide
from mtlsd.registry.atomic import Transaction, failing_whole
from mtlsd.registry.blocks import without_block
from mtlsd.registry.folder import MOST_BYTES
from mtlsd.registry.listing import AUTHORIZED
from mtlsd.registry.pem import certificates_in
from mtlsd.registry.promise import promised
from mtlsd.registry.records import Authorization
from mtlsd.registry.room import Room, in_ledger
from mtlsd.registry.store import Store
from mtlsd.registry.terms import Terms
from mtlsd.registry.termtext import checked, with_renewal, with_retirement, without

#: Live certificates that a client may have, the new one among them.
MOST_LIVE = 2
#: Certificates before a live one that are remembered, so that revoking one of them revokes it too.
GENERATIONS = 50
#: Retired certificates that stay in their client's file until their own end.  Once out of it they are a stranger's, and who
#: shows one is refused as unknown, not as expired.
MOST_RETIRED = 8


class Why(StrEnum):
    """Why a renewal was refused."""

    NOT_AUTHORIZED = "not-authorized"
    NOT_PROVEN = "not-proven"
    TOO_MANY = "too-many"
    TOO_OFTEN = "too-often"
    TOO_LONG = "too-long"
    SAME_KEY = "same-key"
    UNFIT = "unfit"
    KIND = "kind"


class NotRenewed(Refused):
    """A renewal was refused: ``why``, and more about it for the operator."""

    def __init__(self, why: Why, text: str) -> None:
        super().__init__(text)
        self.why = why


@dataclass(frozen=True, slots=True)
class Origin:
    """The connection on which a client asked, for the ledger."""

    connection: str | None = None
    peer: tuple[str, int] | None = None
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Renewed:
    """A renewal that stands: until when the old certificate is good (aware, UTC), and ``problems`` that came after it.

    ``event`` is what the ledger has of it, or ``None`` where it stood already.
    """

    client: str
    fingerprint: str
    old: str
    old_until: datetime
    event: Event | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retired:
    """The end of an old certificate that was set: what the ledger has of it, and ``problems`` that came after it."""

    event: Event
    problems: tuple[str, ...] = ()


class Renewals(Store):
    """The writer of the folder, where renewals are concerned.  Each method is one change, whole or not at all."""

    def renew(self, name: str, old: str, der: bytes, longest: timedelta, origin: Origin | None = None) -> Renewed:
        """Authorize a certificate (DER) under the *name* whose certificate of fingerprint *old* asks for it.

        It may end *longest* from now at the latest.  The same once more gives the same answer, and changes nothing.  Raises
        :exc:`NotRenewed`, :exc:`~mtlsd.errors.CertificateError` for what is no certificate, and other
        :exc:`~mtlsd.errors.MtlsdError` where the client's files cannot be read or written.
        """
        leaf, key = Certificate.from_der(der), public_key_sha256(der)
        with self._changing_client(name) as room:
            terms = room.terms(name)[0]
            ders = {fingerprint_of(one): one for one in certificates_in(room.raw(name)).certificates}
            until = self._until(room, name, old, terms)
            if leaf.fingerprint in ders and terms.renewed.get(leaf.fingerprint) == old:
                return Renewed(name, leaf.fingerprint, old, until)
            self._insist_on_room(room, name, terms)
            self._insist_on_fitness(room, name, leaf, der, terms, longest)
            if any(public_key_sha256(other) == key for other in ders.values()):
                raise NotRenewed(Why.SAME_KEY, f"the key of {leaf.fingerprint[:GRANT_DIGITS]} is that of a certificate before it")
            event = self._told(Kind.RENEWED, name, leaf, f"renewed from {old}", origin)
            with promised(room.root, event):
                self._write(room, name, old, leaf, der, terms, ders)
                problems = in_ledger(self._folder, room.root, [event])
            return Renewed(name, leaf.fingerprint, old, until, event, tuple(problems))

    def retire(self, name: str, new: str, grace: timedelta) -> Retired | None:
        """Set the end of what the certificate *new* (fingerprint) was renewed from: *grace* from now.

        ``None``: there is nothing to do (any more).  Raises :exc:`~mtlsd.errors.MtlsdError` where it cannot be done.
        """
        with self._changing_client(name) as room:
            terms = room.terms(name)[0]
            held = _held(room, name)
            leaf = held.get(terms.renewed.get(new, ""))
            if leaf is None or new not in held or leaf.fingerprint in terms.retire:
                return None
            at = (self._now() + grace).replace(microsecond=0)
            wanted = replace(terms, retire=MappingProxyType({**terms.retire, leaf.fingerprint: at}))
            text = self._terms_text(room, name, with_retirement(room.content(f"{name}.toml"), leaf.fingerprint, at), wanted)
            with failing_whole(self._folder / AUTHORIZED / f"{name}.toml"), Transaction() as steps:
                room.write(steps, f"{name}.toml", text)
            event = self._told(Kind.RETIRED, name, leaf, f"renewed as {new}, ends at {rfc3339(at)}")
            return Retired(event, tuple(in_ledger(self._folder, room.root, [event])))

    # What the changes are made of.

    def _changing_client(self, name: str) -> AbstractContextManager[Room]:
        return self._changing(partial(self._look, name))

    def _until(self, room: Room, name: str, old: str, terms: Terms) -> datetime:
        """Return until when the old certificate is good; refuse where it is not, now: by what stands in the files."""
        leaf = _held(room, name).get(old)
        if leaf is not None:
            standing = room.seen.snapshot.standing(old)
            if isinstance(standing, Authorization) and standing.client == name:
                ends = terms.ends(old, leaf.not_after)
                if isinstance(decide(leaf, replace(standing, certificate=leaf, ends=ends), self._now()), Allowed):
                    return ends
        raise NotRenewed(Why.NOT_AUTHORIZED, f"certificate {old[:GRANT_DIGITS]} is not authorized as {name} any more")

    def _insist_on_room(self, room: Room, name: str, terms: Terms) -> None:
        now, stones = self._now(), room.seen.snapshot.tombstones
        live = [
            one
            for fingerprint, one in _held(room, name).items()
            if fingerprint not in stones and now <= terms.ends(fingerprint, one.not_after)
        ]
        if len(live) >= MOST_LIVE:
            raise NotRenewed(Why.TOO_MANY, f"{name} has {len(live)} live certificates already")

    def _insist_on_fitness(self, room: Room, name: str, leaf: Certificate, der: bytes, terms: Terms, longest: timedelta) -> None:
        try:
            self._check(room, leaf, der, name, terms, again=False)
        except Refused as error:
            raise NotRenewed(Why.UNFIT, str(error)) from error
        short, now = leaf.fingerprint[:GRANT_DIGITS], self._now()
        if leaf.fingerprint in room.clients_content(name):
            raise NotRenewed(Why.UNFIT, f"certificate {short} stands in {room.shown(name)} already")
        if now < leaf.not_before:
            raise NotRenewed(Why.UNFIT, f"certificate {short} is not valid yet")
        if leaf.not_after - now > longest:
            raise NotRenewed(Why.TOO_LONG, f"certificate {short} ends later than renew_longest allows")

    def _write(
        self, room: Room, name: str, old: str, leaf: Certificate, der: bytes, terms: Terms, ders: dict[str, bytes]
    ) -> None:
        now = self._now()
        replaced = set(terms.renewed.values())
        # Only what is no more in the other file: a retirement that went before its certificate would let that in again.
        over: AbstractSet[str] = {
            fingerprint for fingerprint in terms.retire if fingerprint in replaced and fingerprint not in ders
        }
        renewed = {**terms.renewed, leaf.fingerprint: old}
        lost = renewed.keys() - _ancestry(renewed, [*ders, leaf.fingerprint])
        # A kill before the commit leaves the line, for the same certificate to come once more.
        data, _, _ = without(room.content(f"{name}.toml"), {leaf.fingerprint}, frozenset())
        data = with_renewal(data, leaf.fingerprint, old)
        data, forgotten, over = without(data, lost, over)
        wanted = replace(
            terms,
            renewed=MappingProxyType({new: of for new, of in renewed.items() if new not in forgotten}),
            retire=MappingProxyType({one: at for one, at in terms.retire.items() if one not in over}),
        )
        toml = self._terms_text(room, name, data, wanted)
        pem = room.text_with(name, [der], add=True)
        try:
            for fingerprint in _outlived(_held(room, name), terms, now) - {old}:
                pem = without_block(pem, ders[fingerprint])
        except CertificateError as error:
            raise Refused(f"{room.shown(name)}: {error}") from error
        with failing_whole(self._folder / AUTHORIZED / f"{name}.pem"), Transaction() as steps:
            room.write(steps, f"{name}.toml", toml)
            room.write(steps, f"{name}.pem", pem)

    def _terms_text(self, room: Room, name: str, data: bytes, wanted: Terms) -> bytes:
        path = room.shown(name).removesuffix(".pem") + ".toml"
        try:
            text = checked(data, wanted)
        except SettingsError as error:
            raise Refused(f"{path}: {error}") from error
        if len(text) > MOST_BYTES:
            raise Refused(f"{path}: it would be larger than 1 MiB")
        return text

    def _told(self, kind: Kind, name: str, leaf: Certificate, detail: str, origin: Origin | None = None) -> Event:
        origin = origin or Origin()
        return Event(
            time=self._now(),
            event=kind,
            connection=origin.connection,
            client=name,
            fingerprint=leaf.fingerprint,
            subject=leaf.subject,
            not_after=leaf.not_after,
            peer=origin.peer,
            tls=origin.tls,
            detail=detail,
            actor=self._actor,
        )


def _held(room: Room, name: str) -> dict[str, Certificate]:
    """Return the certificates in the file of a client, in its order."""
    client = room.seen.clients.get(name)
    return {leaf.fingerprint: leaf for leaf in (client and client.pem.content) or ()}


def _outlived(held: dict[str, Certificate], terms: Terms, now: datetime) -> set[str]:
    """Return what was renewed, is retired, and need not stand in the client's file any longer."""
    replaced = set(terms.renewed.values())
    retired = [one for one in held.values() if one.fingerprint in replaced and terms.retire.get(one.fingerprint, now) < now]
    last = sorted(retired, key=lambda one: terms.retire[one.fingerprint])[-MOST_RETIRED:]
    return {one.fingerprint for one in retired if one not in last or one.not_after < now}


def _ancestry(renewed: dict[str, str], live: list[str]) -> set[str]:
    """Return what is to be remembered of *renewed*, where these certificates are left."""
    kept: set[str] = set()
    for one in live:
        new = one
        for _ in range(GENERATIONS):
            if new not in renewed or new in kept:
                break
            kept.add(new)
            new = renewed[new]
    return kept
