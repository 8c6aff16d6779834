"""The writer of the invites, and of the join that uses one up."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from mtlsd.audit.events import Event, Kind
from mtlsd.enrol.invitation import SECRET
from mtlsd.enrol.invite import INVITES, Invite, all_in, digest_of, file_of, is_withdrawn, opened_invites, safely_read
from mtlsd.errors import FolderError, MtlsdError, NotFound, Refused
from mtlsd.identity import GRANT_DIGITS, Certificate, Tls, is_client_name
from mtlsd.policy import LIMITS, Limits
from mtlsd.registry.atomic import Folder, Transaction, failing_whole
from mtlsd.registry.blocks import pem_of
from mtlsd.registry.folder import Unsafe, read_file
from mtlsd.registry.listing import AUTHORIZED, files_of
from mtlsd.registry.lock import likely_server
from mtlsd.registry.promise import promised
from mtlsd.registry.room import Change, Room, in_ledger, looked_at
from mtlsd.registry.store import Store
from mtlsd.registry.terms import GROUP_NAME, Terms
from mtlsd.text import printable

#: How long an invite is good unless it is said, and how long it can be.
LIFETIME, LONGEST_LIFETIME = timedelta(hours=1), timedelta(days=30)

_PUBLIC, _PRIVATE = 0o644, 0o600


class NotInvited(Refused):
    """A join was refused.  The text is why, for the operator: whoever asks is told nothing but that."""


@dataclass(frozen=True, slots=True)
class Invited:
    """An invite that was made, its secret, and what the operator should know."""

    invite: Invite
    secret: bytes
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrival:
    """Who asks to join: the certificate (DER) whose key was proven, and the connection, for the ledger."""

    der: bytes
    connection: str | None = None
    listener: str | None = None
    peer: tuple[str, int] | None = None
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """A join that stands: with which groups, what the ledger has of it, and ``problems`` that came after it."""

    invite: Invite
    groups: tuple[str, ...]
    event: Event
    problems: tuple[str, ...] = ()


class Invites(Store):
    """The writer of the folder, where invites are concerned.  Each method is one change, whole or not at all."""

    def invite(self, name: str, groups: Sequence[str] = (), lifetime: timedelta = LIFETIME, *, again: bool = False) -> Invited:
        """Invite somebody to join as *name*.  *again* drops the invites of that name that are still open."""
        if not is_client_name(name):
            raise Refused(
                f"{printable(name)!r} is no client's name: up to 64 letters, digits and . _ @ -, a letter or digit first"
            )
        for group in groups:
            if not GROUP_NAME.match(group):
                raise Refused(f"{printable(group)!r} is no group's name: letters, digits, dots, dashes and underscores")
        if not timedelta() < lifetime <= LONGEST_LIFETIME:
            raise Refused(f"an invite is good for {LONGEST_LIFETIME.days} days at most")
        secret = secrets.token_bytes(SECRET)
        now = self._now()
        invite = Invite(digest_of(secret), name, tuple(dict.fromkeys(groups)), now, now + lifetime, self._actor)
        with self._invited(name) as room:
            if room.authorized.has(f"{name}.pem"):
                raise Refused(f"the name {name} is taken, by {room.shown(name)}")
            if not room.root.has(INVITES):
                with failing_whole(self._folder / INVITES), Transaction() as steps:
                    steps.make_folder(room.root, INVITES, 0o700)
            with self._opened(room) as invites:
                known, problems = self._swept(room, invites)
                old = [one for one in known if one.name == name]
                if old and not again:
                    raise Refused(f"{name} is invited already, until {_shown(old[0].expires)}: --again drops that invite")
                with failing_whole(self._folder / INVITES), Transaction() as steps:
                    for one in old:
                        self._drop_terms(room, one)
                        steps.remove(invites, one.file)
                    notes = self._terms_of_name(room, invite)
                    steps.place(invites, steps.stage(invites, invite.text(), _PRIVATE), invite.file)
            problems += in_ledger(self._folder, room.root, [self._told(Kind.INVITED, invite)])
        return Invited(invite, secret, tuple(notes), tuple(problems))

    def uninvite(self, name: str) -> Change:
        """Take the invites of *name* back."""
        with self._invited(name) as room, self._opened(room) as invites:
            known, problems = self._swept(room, invites)
            old = [one for one in known if one.name == name]
            if not old:
                raise NotFound(f"{printable(name)} is not invited: mtlsd invites lists who is")
            with failing_whole(self._folder / INVITES), Transaction() as steps:
                for one in old:
                    self._drop_terms(room, one)
                    steps.remove(invites, one.file)
            problems += in_ledger(self._folder, room.root, [self._told(Kind.UNINVITED, one) for one in old])
        return Change(name, (), (f"{name} is not invited any more",), tuple(problems))

    def join(self, secret: bytes, arrival: Arrival, longest: timedelta = timedelta.max, limits: Limits = LIMITS) -> Joined:
        """Authorize the certificate of *arrival* under the name of the invite whose secret this is.

        It may end *longest* from now at the latest, and its key is within *limits*.

        The rename of ``NAME.pem`` is the commit.  Before it the invite is as good as ever, after it dead, and what is
        still to be done then is to remove the file.  Raises :exc:`NotInvited`, and
        :exc:`~mtlsd.errors.FolderError` where the folder cannot be read or written.
        """
        digest = digest_of(secret)
        leaf = Certificate.from_der(arrival.der)
        try:
            # Which files have to be looked at is known from the invite, which is read again under the lock.
            with opened_invites(self._folder, likely_server(self._folder)) as descriptor:
                name = self._found(descriptor, digest).name
            with self._changing(partial(self._look, name)) as room, self._opened(room) as invites:
                invite = self._found(invites.descriptor, digest)
                return self._joined(room, invites, invite, leaf, arrival, partial(self._insist, leaf, longest, limits))
        except (FileNotFoundError, NotFound):
            raise NotInvited("there is no such invite") from None

    def _joined(
        self, room: Room, invites: Folder, invite: Invite, leaf: Certificate, arrival: Arrival, insist: Callable[[], None]
    ) -> Joined:
        name = invite.name
        if room.authorized.has(f"{name}.pem"):
            raise NotInvited(f"invite {invite.id}: the name {name} is taken")
        if is_withdrawn(invite, room.seen.snapshot.tombstones.values()):
            raise NotInvited(f"invite {invite.id}: {name} was revoked after it was made")
        try:
            terms, text = self._terms_to_come(room, invite)
            self._check(room, leaf, arrival.der, name, terms, again=False)
            insist()
        except Refused as error:
            raise NotInvited(f"invite {invite.id}: {error}") from error
        event = self._told(Kind.JOINED, invite, arrival, leaf)
        with promised(room.root, event):
            with failing_whole(self._folder / AUTHORIZED / f"{name}.pem"), Transaction() as steps:
                # The room on the disk is taken first: from here on little can fail.
                staged = None if text is None else steps.stage(room.authorized, text, _PUBLIC)
                certificate = steps.stage(room.authorized, pem_of(arrival.der), _PUBLIC)
                if staged is not None:
                    steps.place(room.authorized, staged, f"{name}.toml")
                steps.place(room.authorized, certificate, f"{name}.pem")
            problems = self._used_up(invites, invite)
            problems += in_ledger(self._folder, room.root, [event])
        return Joined(invite, terms.groups, event, tuple(problems))

    def sweep(self) -> tuple[str, ...]:
        """Remove what is dead or has expired; return what cannot be read.

        For a server that starts: a kill leaves the file of an invite that is used up, which is dead only as long as its name is
        taken.
        """
        with suppress(NotFound), self._changing() as room, self._opened(room) as invites:
            return tuple(self._swept(room, invites)[1])
        return ()

    # What the changes are made of.

    def _invited(self, name: str) -> AbstractContextManager[Room]:
        """Give the room for a change of the invites of *name*.  It lets nobody in, so other clients' files are not read."""
        return self._changing(lambda: looked_at(self._folder, files_of(name)))

    @contextmanager
    def _opened(self, room: Room) -> Iterator[Folder]:
        """Open the folder of the invites, outside of any transaction in it: what that takes back, it does with this."""
        try:
            with opened_invites(self._folder, likely_server(self._folder), room.root.descriptor):
                invites = Folder(INVITES, self._system, room.root)
        except FileNotFoundError:
            raise NotFound("nobody is invited") from None
        try:
            yield invites
        finally:
            invites.close()

    def _found(self, invites: int, digest: str) -> Invite:
        """Return the invite that is meant, if it is still good.  Without the lock that is a first guess."""
        try:
            invite = safely_read(invites, file_of(digest), likely_server(self._folder))
        except FileNotFoundError:
            raise NotInvited("there is no such invite") from None
        except (MtlsdError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise FolderError(printable(f"{self._folder / INVITES / file_of(digest)}: {why}")) from error
        if not hmac.compare_digest(invite.digest, digest):
            raise NotInvited("there is no such invite")
        if self._now() >= invite.expires:
            raise NotInvited(f"invite {invite.id}: it has expired")
        return invite

    def _insist(self, leaf: Certificate, longest: timedelta, limits: Limits) -> None:
        """Refuse a certificate that the operator does not want to come in by an invite, be it as good as any."""
        short = leaf.fingerprint[:GRANT_DIGITS]
        if not limits.sound(leaf.key):
            raise Refused(f"certificate {short} has a key ({leaf.key.label}) that enrol_keys does not allow")
        if leaf.not_after - self._now() > longest:
            raise Refused(f"certificate {short} ends later than renew_longest allows")

    def _swept(self, room: Room, invites: Folder) -> tuple[list[Invite], list[str]]:
        """Remove what is dead or has expired; return what is left, and what cannot be read."""
        invites.sweep()
        found, problems = all_in(self._folder, invites.descriptor, likely_server(self._folder))
        left, stones = [], room.seen.snapshot.tombstones.values()
        for invite in found:
            if not room.authorized.has(f"{invite.name}.pem"):
                if self._now() < invite.expires and not is_withdrawn(invite, stones):
                    left.append(invite)
                    continue
                self._drop_terms(room, invite)
            # One that cannot be removed is as dead as before; whoever comes after this tries again.
            with suppress(OSError):
                invites.system.unlink(invite.file, invites.descriptor)
        return left, problems

    def _used_up(self, invites: Folder, invite: Invite) -> list[str]:
        try:
            # Without waiting for the disk: should it come back, it is dead.
            invites.system.unlink(invite.file, invites.descriptor)
        except OSError as error:
            path = printable(str(self._folder / INVITES / invite.file))
            return [f"{path}: cannot be removed: {error.strerror}; it is dead all the same"]
        return []

    def _terms_of_name(self, room: Room, invite: Invite) -> list[str]:
        """Refuse an invite whose groups would meet other terms; return what the operator should know of those that are there."""
        if invite.groups and room.authorized.has(f"{invite.name}.toml"):
            raise Refused(
                printable(
                    f"{self._folder / AUTHORIZED / invite.name}.toml is there already: "
                    "write the groups into it and leave --group out, or remove it"
                )
            )
        return room.terms(invite.name)[1]

    def _terms_to_come(self, room: Room, invite: Invite) -> tuple[Terms, bytes | None]:
        """Return the terms of a join, and the text that is still to be written for them."""
        text = invite.terms()
        if text is None:
            return room.terms(invite.name)[0], None
        if not room.authorized.has(f"{invite.name}.toml"):
            return Terms(invite.groups), text
        if self._raw_terms(room, invite) != text:
            raise Refused(f"{invite.name}.toml has come in between")
        # This very invite's: a join was killed between this file and the certificate.
        return Terms(invite.groups), None

    def _drop_terms(self, room: Room, invite: Invite) -> None:
        """Remove the terms that a join left which was killed before its commit: nobody else may get these groups."""
        text = invite.terms()
        if text is not None and not room.authorized.has(f"{invite.name}.pem") and self._raw_terms(room, invite) == text:
            with suppress(OSError):
                room.authorized.system.unlink(f"{invite.name}.toml", room.authorized.descriptor)

    def _raw_terms(self, room: Room, invite: Invite) -> bytes | None:
        with suppress(Unsafe, OSError):
            file = f"{invite.name}.toml"
            return read_file(room.authorized.descriptor, file, server_uid=room.seen.server_uid, wall=time.time).data
        return None

    def _told(self, kind: Kind, invite: Invite, arrival: Arrival | None = None, leaf: Certificate | None = None) -> Event:
        words = f"invite {invite.id}"
        if kind is Kind.INVITED:
            words += f", until {_shown(invite.expires)}"
        if invite.groups and kind is not Kind.UNINVITED:
            words += f", groups {', '.join(invite.groups)}"
        event = Event(time=self._now(), event=kind, client=invite.name, detail=words, actor=self._actor)
        if arrival is None or leaf is None:
            return event
        return event._replace(
            connection=arrival.connection,
            listener=arrival.listener,
            fingerprint=leaf.fingerprint,
            subject=leaf.subject,
            not_after=leaf.not_after,
            peer=arrival.peer,
            tls=arrival.tls,
            actor=invite.actor,
        )


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
