"""The operator's folder while its lock is held: what stands in it, and the steps that a change is made of."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mtlsd.audit.events import Event, Kind, certificate_fields, rfc3339
from mtlsd.errors import CertificateError, Refused, SettingsError
from mtlsd.identity import GRANT_DIGITS, Certificate, public_key_sha256
from mtlsd.registry import ledger
from mtlsd.registry.atomic import Folder, Transaction, failing_whole
from mtlsd.registry.blocks import salvaged, with_blocks, without_block
from mtlsd.registry.folder import MOST_BYTES, Unsafe, read_file
from mtlsd.registry.listing import AUTHORIZED, REVOKED
from mtlsd.registry.lock import likely_server, missing
from mtlsd.registry.problems import Severity
from mtlsd.registry.records import Authorization, Snapshot
from mtlsd.registry.scan import Scan, scan
from mtlsd.registry.terms import Terms, read_terms
from mtlsd.text import printable

_PUBLIC = 0o644


@dataclass(frozen=True, slots=True)
class Change:
    """What a command has changed.

    ``fingerprints`` are those whose standing it changed (none: everything was as asked for already); ``notes`` are
    sentences for the operator; ``problems`` tell what went wrong after the change, which stands all the same.
    """

    client: str | None
    fingerprints: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Burial:
    """One certificate to be revoked; ``leaf`` and ``key`` are ``None`` where only its fingerprint is known."""

    fingerprint: str
    leaf: Certificate | None = None
    key: str | None = None


def looked_at(folder: Path, names: frozenset[str] | None = None) -> Scan:
    """Return what stands in *folder* now, as a server that starts would see it.

    *names*: as if there were only these files in ``authorized/``.  Raises :exc:`~mtlsd.errors.FolderError`.
    """
    user = likely_server(folder)
    # Whatever else is wrong with the folder (no permission, say), the scan tells.
    with suppress(PermissionError):
        if AUTHORIZED not in os.listdir(folder):
            raise missing(folder, AUTHORIZED)
    return scan(folder, None, server_uid=user, monotonic=time.monotonic(), names=names)


def in_force(snapshot: Snapshot) -> list[Authorization]:
    """Return every authorization that no tombstone overrules, by name."""
    live = [one for fingerprint, one in snapshot.authorized.items() if fingerprint not in snapshot.tombstones]
    return sorted(live, key=lambda one: (one.client, one.certificate.not_after))


def ending(authorizations: Iterable[Authorization], by: datetime) -> list[Authorization]:
    """Return those that have ended by that time, the next to end first: grace and retirement count.

    Not those that have been replaced: their client has gone on to the next.
    """
    return sorted((one for one in authorizations if one.ends <= by and not one.replaced), key=lambda one: one.ends)


def overruled(seen: Scan) -> list[str]:
    """Return a sentence for each certificate that stands in a file in vain, for it is revoked."""
    return [
        f"{one.file}: certificate {fingerprint[:GRANT_DIGITS]} is revoked, so it does not count: take it out, or mtlsd revoke {one.client}"
        for fingerprint, one in seen.snapshot.authorized.items()
        if fingerprint in seen.snapshot.tombstones
    ]


def in_ledger(folder: Path, root: Folder, events: Sequence[Event]) -> list[str]:
    """Write the ledger of a change that stands; tell what goes wrong.  *root* is the open *folder*, its lock held."""
    try:
        ledger.append(root, events)
    except OSError as error:
        path = printable(str(folder / ledger.LEDGER))
        return [f"{path}: cannot be written: {error.strerror}; the change stands, but it is not recorded"]
    return []


@dataclass(frozen=True, slots=True)
class Room:
    """The folder while its lock is held (or, for who only looks, without it): what stands in it, and the steps of a change."""

    folder: Path
    root: Folder
    authorized: Folder
    revoked: Folder
    seen: Scan
    now: Callable[[], datetime]
    actor: str

    def shown(self, name: str) -> str:
        return printable(str(self.folder / AUTHORIZED / f"{name}.pem"))

    def clients_content(self, name: str) -> frozenset[str]:
        """Return the fingerprints in the file of a client, whether they are in force or not."""
        client = self.seen.clients.get(name)
        return client.held if client else frozenset()

    def clients_error(self, name: str) -> str | None:
        """Return what keeps the file of a client from being read, if anything does."""
        client = self.seen.clients.get(name)
        return client.pem.error if client else None

    def terms(self, name: str) -> tuple[Terms, list[str]]:
        """Return the terms under which certificates of *name* come, refusing a client whose files are not in order."""
        client = self.seen.clients.get(name)
        broken = [problem.text for problem in (client.problems if client else ()) if problem.severity is Severity.ERROR]
        if broken:
            raise Refused(f"{broken[0]}; put it right, or mtlsd revoke {name}")
        if client is not None and client.toml.content is not None and client.pem.content:
            return client.toml.content, []
        # No certificate yet, but perhaps terms: the operator writes them first.
        path = printable(str(self.folder / AUTHORIZED / f"{name}.toml"))
        try:
            file = read_file(self.authorized.descriptor, f"{name}.toml", server_uid=self.seen.server_uid, wall=time.time)
            terms = read_terms(file.data)
        except FileNotFoundError:
            return Terms(), []
        except OSError as error:
            raise Refused(f"{path}: cannot be read: {error.strerror}") from error
        except (Unsafe, SettingsError) as error:
            raise Refused(f"{path}: {error}") from error
        return terms, [
            f"{path} is in force for {name}" + (f", with its groups: {', '.join(terms.groups)}" if terms.groups else "")
        ]

    def knows_terms(self, name: str) -> bool:
        """Tell whether the terms of a client can be read (or there are none)."""
        client = self.seen.clients.get(name)
        return client is None or client.toml.content is not None

    def heirs(self, digits: str) -> dict[str, dict[str, frozenset[str]]]:
        """Return, for each certificate that begins with *digits* and was renewed: by client, what was renewed from it."""
        found: dict[str, dict[str, frozenset[str]]] = {}
        for name, client in self.seen.clients.items():
            terms = client.toml.content or Terms()
            for old in set(terms.renewed.values()):
                if old.startswith(digits):
                    found.setdefault(old, {})[name] = terms.heirs(old)
        return found

    def text_with(self, name: str, ders: list[bytes], add: bool) -> bytes:
        """Return the text of the client's file with *ders* in it."""
        if not self.authorized.has(f"{name}.pem"):
            data = b""
        elif self.clients_content(name) and not add:
            raise Refused(f"the name {name} is taken, by {self.shown(name)}: --add authorizes a further certificate under it")
        else:
            data = self.raw(name)
        try:
            text = with_blocks(data, ders)
        except CertificateError as error:
            raise Refused(f"{self.shown(name)}: {error}") from error
        if len(text) > MOST_BYTES:
            raise Refused(f"{self.shown(name)}: it would be larger than 1 MiB")
        return text

    def raw(self, name: str) -> bytes:
        """Return what stands in the file of a client: see :meth:`content`."""
        return self.content(f"{name}.pem")

    def content(self, name: str) -> bytes:
        """Return what stands in a file of ``authorized/``, trusted or not; nothing where a link leads out or it is no file."""
        with suppress(Unsafe, OSError):
            return read_file(self.authorized.descriptor, name, server_uid=self.seen.server_uid, wall=time.time).data
        with suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=self.authorized.descriptor), "rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return file.read(MOST_BYTES)
        return b""

    def write(self, steps: Transaction, file: str, text: bytes) -> None:
        """Make a file in ``authorized/``, or put *text* in its place."""
        staged = steps.stage(self.authorized, text, _PUBLIC)
        if self.authorized.has(file):
            steps.replace(self.authorized, staged, file, steps.stage(self.authorized, self.content(file), _PUBLIC))
        else:
            steps.place(self.authorized, staged, file)

    def write_all(self, steps: Transaction, texts: Mapping[str, bytes]) -> None:
        """Make the PEM files of many clients, by name, or put these texts in their place.

        All are on the disk before the first has its name, and the folder is waited for once: not once for each.
        """
        staged = []
        for name, text in texts.items():
            before = self.raw(name) if self.authorized.has(f"{name}.pem") else None
            kept = None if before is None else steps.stage(self.authorized, before, _PUBLIC)
            staged.append((f"{name}.pem", steps.stage(self.authorized, text, _PUBLIC), kept))
        for file, fresh, kept in staged:
            if kept is None:
                steps.place(self.authorized, fresh, file, sync=False)
            else:
                steps.replace(self.authorized, fresh, file, kept, sync=False)
        self.authorized.sync()

    def holdings(self, name: str) -> tuple[list[Burial], list[str]]:
        """Return every certificate in the client's file that can be read, and what the operator should know."""
        ders, unreadable = salvaged(self.raw(name))
        burials, notes = {}, []
        trusted = self.clients_content(name)
        for der in ders:
            leaf = Certificate.from_der(der)
            standing = self.seen.snapshot.authorized.get(leaf.fingerprint)
            if leaf.fingerprint not in trusted and standing is not None and standing.client != name:
                # Whoever may write to a file that is refused must not get others revoked with it.
                notes.append(
                    f"certificate {leaf.fingerprint[:GRANT_DIGITS]} was in it too, but it is {standing.client}'s and stays"
                )
                continue
            try:
                key = public_key_sha256(der)
            except CertificateError:
                key = None
            burials[leaf.fingerprint] = Burial(leaf.fingerprint, leaf, key)
        if unreadable or (not ders and self.clients_error(name)):
            notes.append(f"{self.shown(name)} could not be read whole: what could not be read has no tombstone")
        return list(burials.values()), notes

    def buried(self, burials: Sequence[Burial], name: str | None, reason: str | None) -> None:
        """Write the tombstones that are not there yet, all or none."""
        fresh = [burial for burial in burials if burial.fingerprint not in self.seen.snapshot.tombstones]
        hint = f"; to shut {name} out at once, remove {self.shown(name)}" if name else ""
        with failing_whole(self.folder / REVOKED, hint), Transaction() as steps:
            staged = [
                (steps.stage(self.revoked, self.epitaph(burial, name, reason), _PUBLIC), f"{burial.fingerprint}.json")
                for burial in fresh
            ]
            # The room on the disk is taken: from here on little can fail.
            for temporary, file in staged:
                steps.place(self.revoked, temporary, file)

    def epitaph(self, burial: Burial, name: str | None, reason: str | None) -> bytes:
        told = {"time": rfc3339(self.now()), "name": name, "key_sha256": burial.key, "reason": reason}
        return json.dumps(told, ensure_ascii=True).encode("ascii") + b"\n"

    def removed(self, name: str) -> list[str]:
        """Remove a client's files.  The tombstones stand, so what goes wrong is told, not taken back."""
        try:
            with Transaction() as steps:
                # The terms first.  As long as the PEM is there the name is taken, so nobody new gets what is left of
                # the old one's groups; and the same command, given again, finishes what a kill left.
                for file in (f"{name}.toml", f"{name}.pem"):
                    if self.authorized.has(file):
                        steps.remove(self.authorized, file)
        except OSError as error:
            return [f"{self.shown(name)}: cannot be removed: {error.strerror}; its tombstones keep it out: remove it by hand"]
        return []

    def cut(self, name: str, gone: AbstractSet[str]) -> list[str]:
        """Remove certificates of a client, and the client's files with the last.  Tells what goes wrong."""
        if self.clients_content(name) <= gone:
            return self.removed(name)
        text = self.raw(name)
        ders = [der for der in salvaged(text)[0] if Certificate.from_der(der).fingerprint in gone]
        try:
            for der in ders:
                text = without_block(text, der)
            with Transaction() as steps:
                self.write(steps, f"{name}.pem", text)
        except (CertificateError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            return [f"{self.shown(name)}: cannot be changed: {why}; the tombstone keeps the certificate out"]
        return []

    def recorded(
        self,
        kind: Kind,
        name: str | None,
        what: Sequence[Burial | Certificate],
        notes: Sequence[str],
        problems: Sequence[str],
        detail: str | None,
        always: bool = False,
    ) -> Change:
        """Write the ledger, and say what has changed.  *always*: also where there is no certificate to name."""
        events = [self.event(kind, name, one, detail) for one in what]
        if always and not events:
            events.append(Event(time=self.now(), event=kind, client=name, detail=detail, actor=self.actor))
        problems = [*problems, *in_ledger(self.folder, self.root, events)]
        return Change(name, tuple(one.fingerprint for one in what), tuple(notes), tuple(problems))

    def event(self, kind: Kind, name: str | None, one: Burial | Certificate, detail: str | None) -> Event:
        """Return the event of a change of one certificate."""
        _, subject, not_after = certificate_fields(one.leaf if isinstance(one, Burial) else one)
        return Event(
            time=self.now(),
            event=kind,
            client=name,
            fingerprint=one.fingerprint,
            subject=subject,
            not_after=not_after,
            detail=detail,
            actor=self.actor,
        )
