"""The writer: the only code that changes who is authorized in the operator's folder.

Every change holds the folder's lock, looks at the folder as it is, checks, and then takes steps in an order in which
a kill between any two of them lets nobody in who was not meant to be: what grants comes last, what revokes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from mtlsd.audit.events import Event, Kind, certificate_fields
from mtlsd.errors import FolderError, MtlsdError, NotFound, Refused
from mtlsd.identity import (
    FINGERPRINT_DIGITS,
    GRANT_DIGITS,
    LOOKUP_DIGITS,
    Certificate,
    is_client_name,
    parse_fingerprint,
    public_key_sha256,
)
from mtlsd.policy import Denied, Reason, decide
from mtlsd.registry.admission import Admission, Judgement, Outcome
from mtlsd.registry.atomic import Folder, System, Transaction, failing_whole
from mtlsd.registry.bundle import Offer
from mtlsd.registry.dismissal import note
from mtlsd.registry.knock import Knock, file_of
from mtlsd.registry.listing import AUTHORIZED, PENDING, REVOKED, Mark, files_of
from mtlsd.registry.lock import locked, missing, unlocked
from mtlsd.registry.promise import fulfil
from mtlsd.registry.records import Authorization, Tombstone
from mtlsd.registry.room import Burial, Change, Room, in_ledger, looked_at
from mtlsd.registry.scan import Scan
from mtlsd.registry.terms import Terms
from mtlsd.registry.waiting import fingerprints, opened, read_all, read_one, unusable, why_not
from mtlsd.text import printable

_WHY = {
    Reason.EXPIRED: "it has expired: make a new one",
    Reason.WEAK_KEY: "its key is too weak, or of a kind that is not used: mtlsd new NAME --out DIR makes a good one",
    Reason.TOO_LARGE: "it is too large",
}


class Store:
    """Changes who is authorized.  Each method is one change: it happens whole, or it raises and nothing has changed.

    They raise :exc:`~mtlsd.errors.Refused` for what must not be, :exc:`~mtlsd.errors.NotFound` for what is not there,
    and :exc:`~mtlsd.errors.FolderError` where the folder cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        now: Callable[[], datetime],
        actor: str,
        system: System | None = None,
        look: Callable[[frozenset[str]], Scan] | None = None,
    ) -> None:
        """*now* returns an aware time; *actor* is the login user, for the ledger; *system* makes the system calls.

        *look* returns what stands in the folder, for whoever knows all of it but these files of ``authorized/``: a whole
        look at 100,000 clients, which is what there is without it, takes seconds.
        """
        self._folder = folder
        self._now = now
        self._actor = actor
        self._system = system or System()
        self._narrow = look
        # The folders as this writer has left them, with nothing to sweep.
        self._clean: dict[str, Mark] = {}

    def authorize(self, ders: Sequence[bytes], name: str, *, add: bool = False, again: bool = False) -> Change:
        """Authorize certificates (DER) as client *name*.

        *add* is needed where the client has others already, *again* for what was revoked: a certificate with a
        tombstone, or another one with its key.
        """
        leaves = {leaf.fingerprint: (leaf, der) for leaf, der in ((Certificate.from_der(der), der) for der in ders)}
        if not leaves:
            raise Refused("there is no certificate to authorize")
        with self._changing() as room:
            return self._granted(room, leaves, name, Kind.AUTHORIZED, add=add, again=again)

    def approve(self, digits: str, name: str, *, add: bool = False, again: bool = False, dry: bool = False) -> Change:
        """Authorize a certificate that stands in ``pending/``: by its fingerprint, or by 16 digits or more that fit no other.

        The same checks, and the same change, as those of :meth:`authorize`; what is claimed of it counts for nothing.
        *dry* checks and changes nothing.  Raises :exc:`ValueError` for what is no fingerprint.
        """
        digits = parse_fingerprint(digits, GRANT_DIGITS)
        with self._changing() as room:
            knock = self._sought(room.root, digits)
            if knock is None:
                if any(held.startswith(digits) for held in room.clients_content(name)):
                    # What a kill has left: it was authorized, and nobody was told.
                    return Change(name, (), (f"certificate {digits[:GRANT_DIGITS]} stands in {room.shown(name)} already",))
                raise NotFound(f"no certificate that begins with {digits} has knocked: mtlsd pending lists those that have")
            leaves = {knock.certificate.fingerprint: (knock.certificate, knock.der)}
            return self._granted(room, leaves, name, Kind.APPROVED, add=add, again=again, dry=dry)

    def dismiss(self, digits: str) -> Change:
        """Remove one certificate from ``pending/``, by 8 digits or more that fit no other, whatever its file holds.

        It may knock again: to shut one out for good, revoke its fingerprint.  Raises :exc:`ValueError` for what is none.
        """
        digits = parse_fingerprint(digits, LOOKUP_DIGITS)
        with self._pending() as (root, pending):
            found = _fitting(fingerprints(pending), digits)
            if found is None:
                raise NotFound(f"no certificate that begins with {digits} has knocked: mtlsd pending lists those that have")
            return self._dismissed(root, pending, [found])

    def dismiss_all(self, which: Callable[[Knock], bool], network: str | None = None) -> Change:
        """Remove from ``pending/`` every certificate of which *which* says so.

        *network*: that is all from there; so the server is told to let go of those too that have no file yet.
        """
        if not (self._folder / PENDING).exists():
            return Change(None)
        with self._pending() as (root, pending):
            if network is not None:
                # Where that cannot be written, the files go all the same.
                with suppress(OSError):
                    note(pending, network, self._now())
            seen = read_all(pending, str(self._folder / PENDING))
            gone = self._dismissed(root, pending, [knock.certificate.fingerprint for knock in seen.knocks if which(knock)])
            return replace(gone, problems=(*seen.problems, *gone.problems))

    def catch_up(self) -> None:
        """Write to the ledger what a kill has kept from it, as every change does.  Raises :exc:`~mtlsd.errors.MtlsdError`."""
        with self._changing(lambda: looked_at(self._folder, frozenset())):
            pass

    def admit(self, offers: Sequence[Offer], *, add: bool = False, dry_run: bool = False) -> Admission:
        """Authorize many certificates, each under its name: all that may be, in one change, with one look at the folder.

        What is refused (as :meth:`authorize` would) is named in the answer, and the others come in; an error of the
        disk takes all of it back.  A kill in the middle leaves some in, each of them whole: the same once more takes in
        the rest.  *add* is needed for further certificates of clients that there are; what was revoked is refused.
        *dry_run* gives the same answers, and changes nothing.
        """
        with self._changing(dry_run=dry_run) as room:

            def check(leaf: Certificate, der: bytes, name: str, terms: Terms) -> list[str]:
                return self._check(room, leaf, der, name, terms, again=False)

            judgement = Judgement(room, add, check)
            answers = tuple(judgement.of(offers))
            if dry_run or not judgement.texts:
                return Admission(answers)
            with failing_whole(self._folder / AUTHORIZED), Transaction() as steps:
                room.write_all(steps, judgement.texts)
            events = [
                room.event(Kind.AUTHORIZED, answer.client, answer.offer.leaf, "imported")
                for answer in answers
                if answer.outcome is Outcome.AUTHORIZED and answer.offer.leaf is not None
            ]
            return Admission(answers, tuple(in_ledger(self._folder, room.root, events)))

    def revoke(self, name: str, reason: str | None = None) -> Change:
        """Revoke all certificates of client *name*, and remove its files.  *reason* goes into the tombstones."""
        with self._changing() as room:
            if not is_client_name(name) or not room.authorized.has(f"{name}.pem"):
                if is_client_name(name) and any(stone.client == name for stone in room.seen.snapshot.tombstones.values()):
                    return Change(name, (), (f"{name} is revoked already",))
                raise NotFound(f"there is no client {printable(name)!r}: mtlsd clients lists them")
            burials, notes = room.holdings(name)
            room.buried(burials, name, reason)
            problems = room.removed(name)
            if not burials and not problems:
                notes.append(f"removed {room.shown(name)}")
            # All of them, also where a tombstone was there: the command that made it may have been killed before this.
            return room.recorded(Kind.REVOKED_CLIENT, name, burials, notes, problems, reason, always=True)

    def revoke_fingerprint(self, digits: str, reason: str | None = None, *, only: bool = False) -> Change:
        """Revoke one certificate, and (unless *only*) what was renewed from it: by its fingerprint, or by 8 digits or more of
        it that fit no other.

        All 64 digits revoke a certificate that nobody holds yet.  Raises :exc:`ValueError` for what is no fingerprint.
        """
        digits = parse_fingerprint(digits, LOOKUP_DIGITS)
        with self._changing() as room:
            holders = {fingerprint: names for fingerprint, names in room.seen.holders.items() if fingerprint.startswith(digits)}
            # One that has ended may have been taken out of its client's file, where what was renewed from it still stands.
            heirs = {} if only else room.heirs(digits)
            dead = [fingerprint for fingerprint in room.seen.snapshot.tombstones if fingerprint.startswith(digits)]
            fitting = sorted(holders.keys() | heirs.keys() | set(dead))
            if len(fitting) > 1:
                raise Refused(_ambiguous(digits, fitting))
            if not fitting and len(digits) < FINGERPRINT_DIGITS:
                raise NotFound(f"no certificate begins with {digits}: to revoke one that nobody holds, give all 64 digits")
            fingerprint = fitting[0] if fitting else digits
            gone = {fingerprint}
            names = set(holders.get(fingerprint, ()))
            for name, others in heirs.get(fingerprint, {}).items():
                if others - room.seen.snapshot.tombstones.keys() or others & room.clients_content(name):
                    gone |= others
                    names.add(name)
            if dead and not names:
                return Change(None, (), (f"certificate {fingerprint[:GRANT_DIGITS]} is revoked already",))
            return self._shut_out(room, fingerprint, gone, sorted(names), reason, only)

    def _shut_out(self, room: Room, first: str, gone: set[str], names: list[str], reason: str | None, only: bool) -> Change:
        """Revoke *first*, and with it the others that are *gone*, which stand in the files of *names*."""
        held = {one.fingerprint: one for name in names for one in room.holdings(name)[0] if one.fingerprint in gone}
        burials = [held.get(one, Burial(one)) for one in (first, *sorted(gone - {first}))]
        room.buried(burials, names[0] if names else None, reason)
        # What says so goes last: a kill before it leaves what the same command, given again, finishes.
        problems = [problem for name in names for problem in room.cut(name, gone)]
        if not only:
            problems += [
                f"{room.shown(name)}: its terms cannot be read, so what was renewed from {first[:GRANT_DIGITS]} is not known: "
                f"mtlsd revoke {name} shuts out all"
                for name in names
                if not room.knows_terms(name)
            ]
        notes = [] if names else [f"nobody held {first[:GRANT_DIGITS]}: it will not get in"]
        notes += [f"certificate {one[:GRANT_DIGITS]} goes too: it was renewed from it" for one in sorted(gone - {first})]
        return room.recorded(Kind.REVOKED_CLIENT, names[0] if names else None, burials, notes, problems, reason)

    def _granted(
        self,
        room: Room,
        leaves: Mapping[str, tuple[Certificate, bytes]],
        name: str,
        kind: Kind,
        *,
        add: bool,
        again: bool,
        dry: bool = False,
    ) -> Change:
        """Check certificates, by fingerprint, and authorize them as client *name*, unless *dry*."""
        if not is_client_name(name):
            raise Refused(
                f"{printable(name)!r} is no client's name: up to 64 letters, digits and . _ @ -, a letter or digit first"
            )
        terms, notes = room.terms(name)
        for leaf, der in leaves.values():
            notes += self._check(room, leaf, der, name, terms, again)
        held = room.clients_content(name)
        fresh = [der for fingerprint, (_, der) in leaves.items() if fingerprint not in held]
        stones = [file for file, stone in room.seen.stones.items() if stone.tombstone.fingerprint in leaves]
        text = room.text_with(name, fresh, add) if fresh else None
        if dry or not (fresh or stones or kind is Kind.APPROVED):
            return Change(name, (), tuple(notes))
        with (
            _perhaps_opened(room.root) as pending,
            failing_whole(self._folder / AUTHORIZED / f"{name}.pem"),
            Transaction() as steps,
        ):
            # The PEM before the tombstone: a kill in between leaves it revoked.  The other way round it would be
            # in force wherever somebody had put it by hand.
            if text is not None:
                room.write(steps, f"{name}.pem", text)
            for file in stones:
                steps.remove(room.revoked, file)
            # Last: as long as it is there, the same command given again finishes what a kill left.
            for fingerprint in leaves:
                # The server may have been quicker: it removes what has become known.
                with suppress(FileNotFoundError):
                    if pending is not None:
                        steps.remove(pending, file_of(fingerprint))
        granted = [
            leaf
            for leaf, der in leaves.values()
            if der in fresh or leaf.fingerprint in room.seen.snapshot.tombstones or kind is Kind.APPROVED
        ]
        return room.recorded(kind, name, granted, notes, [], "again" if stones else None)

    def _sought(self, root: Folder, digits: str) -> Knock | None:
        """Return the certificate in ``pending/`` that *digits* mean; ``None``: there is none."""
        try:
            with opened(root) as pending:
                pending.sweep()
                found = _fitting(fingerprints(pending), digits)
                return None if found is None else read_one(pending, found)
        except FileNotFoundError:
            return None
        except Refused:
            raise
        except OSError as error:
            raise unusable(self._folder, error) from error
        except MtlsdError as error:
            path = printable(str(self._folder / PENDING))
            raise Refused(f"{path}: the file of {digits[:GRANT_DIGITS]} is not to be trusted: {why_not(error)}") from error

    def _dismissed(self, root: Folder, pending: Folder, gone: Sequence[str]) -> Change:
        events, problems = [], []
        for fingerprint in gone:
            leaf = None
            # Whatever is in it: the ledger tells what can be read.
            with suppress(MtlsdError, OSError):
                leaf = read_one(pending, fingerprint).certificate
            try:
                pending.system.unlink(file_of(fingerprint), pending.descriptor)
            except FileNotFoundError:
                continue
            except OSError as error:
                path = printable(str(self._folder / PENDING / file_of(fingerprint)))
                problems.append(f"{path}: cannot be removed: {error.strerror}")
                break
            _, subject, not_after = certificate_fields(leaf)
            events.append(
                Event(
                    time=self._now(),
                    event=Kind.DISMISSED,
                    fingerprint=fingerprint,
                    subject=subject,
                    not_after=not_after,
                    actor=self._actor,
                )
            )
        problems += in_ledger(self._folder, root, events)
        return Change(None, tuple(event.fingerprint or "" for event in events), (), tuple(problems))

    def _check(self, room: Room, leaf: Certificate, der: bytes, name: str, terms: Terms, again: bool) -> list[str]:
        """Refuse a certificate that must not be authorized; return what the operator should know of one that may."""
        short, snapshot = leaf.fingerprint[:GRANT_DIGITS], room.seen.snapshot
        ends = terms.ends(leaf.fingerprint, leaf.not_after)
        decision = decide(leaf, Authorization(name, leaf, ends), self._now())
        notes = []
        if isinstance(decision, Denied):
            if decision.reason is not Reason.NOT_YET_VALID:
                raise Refused(f"certificate {short}: {_WHY[decision.reason]}")
            notes.append(f"certificate {short} is not valid before {leaf.not_before:%Y-%m-%d %H:%M} UTC")
        if leaf.fingerprint in snapshot.tombstones:
            if not again:
                raise Refused(
                    f"certificate {short} is revoked{_told(snapshot.tombstones[leaf.fingerprint])}: --again lets it in all the same"
                )
        elif not again and leaf.fingerprint not in room.clients_content(name):
            key = public_key_sha256(der)
            twin = snapshot.buried_keys.get(key)
            if twin is not None:
                raise Refused(
                    f"certificate {short} has the key of {twin.fingerprint[:GRANT_DIGITS]}, which is revoked{_told(twin)}: "
                    "make a new key, or say --again"
                )
        others = [client for client in room.seen.holders_of(leaf.fingerprint) if client != name]
        if others:
            raise Refused(f"certificate {short} is in {room.shown(others[0])} already, and one certificate is one client")
        if leaf.fingerprint in room.clients_content(name):
            notes.append(f"certificate {short} stands in {room.shown(name)} already")
        return notes

    def _look(self, name: str | None = None) -> Scan:
        """Return what stands in the folder, its lock held, for a change of client *name* alone, or of any."""
        return looked_at(self._folder) if self._narrow is None or name is None else self._narrow(files_of(name))

    @contextmanager
    def _pending(self) -> Iterator[tuple[Folder, Folder]]:
        with locked(self._folder, self._system) as root:
            try:
                with opened(root) as pending:
                    pending.sweep()
                    yield root, pending
            except FileNotFoundError:
                raise NotFound(printable(f"nobody has knocked: there is no {self._folder / PENDING}")) from None
            except OSError as error:
                raise unusable(self._folder, error) from error

    @contextmanager
    def _changing(self, look: Callable[[], Scan] | None = None, *, dry_run: bool = False) -> Iterator[Room]:
        """Give the room for a change, with what *look* sees (without it: everything).

        *dry_run*: for a look, without the lock, in which nothing may be changed.
        """
        with (unlocked if dry_run else locked)(self._folder, self._system) as root:
            folders: list[Folder] = []
            try:
                for part in (AUTHORIZED, REVOKED):
                    try:
                        folders.append(Folder(part, self._system, root))
                        if not dry_run:
                            self._sweep(part, folders[-1])
                    except FileNotFoundError:
                        raise missing(self._folder, part) from None
                    except OSError as error:
                        raise FolderError(
                            printable(f"{self._folder / part}: the folder cannot be used: {error.strerror}")
                        ) from error
                seen = self._look() if look is None else look()
                room = Room(self._folder, root, folders[0], folders[1], seen, self._now, self._actor)
                if not dry_run:
                    fulfil(room)
                yield room
                if not dry_run:
                    self._clean = {part: folder.mark() for part, folder in zip((AUTHORIZED, REVOKED), folders, strict=True)}
            finally:
                for folder in folders:
                    folder.close()

    def _sweep(self, part: str, folder: Folder) -> None:
        """Remove what a killed writer has left, unless nobody but this one has changed the folder since it looked last.

        To list 20,000 clients for each that joins would take longer than the rest of it.
        """
        if self._clean.get(part) != folder.mark():
            folder.sweep()


@contextmanager
def _perhaps_opened(root: Folder) -> Iterator[Folder | None]:
    """Open ``pending/``; ``None`` where there is none that can be used, for then nobody can be approved from it either."""
    with ExitStack() as stack:
        pending = None
        with suppress(OSError):
            pending = stack.enter_context(opened(root))
            pending.sweep()
        yield pending


def _fitting(known: Sequence[str], digits: str) -> str | None:
    """Return the fingerprint that *digits* mean, ``None`` for none.  Raises :exc:`~mtlsd.errors.Refused` for several."""
    fitting = [one for one in known if one.startswith(digits)]
    if len(fitting) > 1:
        raise Refused(_ambiguous(digits, fitting))
    return fitting[0] if fitting else None


def _ambiguous(digits: str, fitting: Sequence[str]) -> str:
    # Where so many digits are not enough, the reader has to see where they differ.
    shown = GRANT_DIGITS if len(digits) < GRANT_DIGITS else FINGERPRINT_DIGITS
    some = ", ".join(one[:shown] for one in fitting[:3]) + (", …" if len(fitting) > 3 else "")
    return f"{digits} fits {len(fitting)} certificates ({some}): give more of its digits"


def _told(stone: Tombstone) -> str:
    return (f" (as {stone.client})" if stone.client else "") + (f" since {stone.time}" if stone.time else "")
