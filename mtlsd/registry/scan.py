"""One look at the operator's folder: ``authorized/`` and ``revoked/``, and what follows from them.

No Twisted in here: a scan runs off the reactor's thread.  It opens and reads only what has changed since the look
before; everything else, down to the single Authorization, is the same object again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from mtlsd.errors import FolderError, MtlsdError
from mtlsd.identity import Certificate, is_client_name
from mtlsd.registry.clients import SETTLE, Client, Content, Reading, believed, gone, stepped
from mtlsd.registry.folder import Unsafe, folder_warning, is_young, opened_folder, read_file, signature_of
from mtlsd.registry.pem import certificates_in
from mtlsd.registry.problems import Problem, Severity
from mtlsd.registry.records import Authorization, Snapshot, Tombstone
from mtlsd.registry.terms import Terms, read_terms
from mtlsd.registry.tombstone import fingerprint_in, read_tombstone
from mtlsd.text import printable

AUTHORIZED = "authorized"
REVOKED = "revoked"

#: What a folder's own change shows in: device, inode, both times in nanoseconds; ``None`` while it is missing.
Mark: TypeAlias = tuple[int, int, int, int] | None
# Stands for a symlink, or for what cannot be stat'ed, in a listing.  No file has it, so such a name is looked at
# every time: a link can come to lead elsewhere without a change of its target.
_UNKNOWN = b"?"
_NO_TERMS: Reading[Terms] = Reading(b"", Terms())


@dataclass(frozen=True, slots=True)
class Stone:
    """A file in ``revoked/``.  ``since`` is when it went away, for one that is no longer there."""

    signature: bytes | None
    tombstone: Tombstone
    problem: Problem | None = None
    since: float | None = None


@dataclass(frozen=True)
class Scan:
    """What a look found.

    ``changed`` are the fingerprints whose standing differs from the look before; ``again_in`` is the seconds after
    which another look will tell more (``None``: it would not); ``unsure`` asks for another look soon, for a file was
    too young to tell it from a later state.  The rest is for the next look.
    """

    snapshot: Snapshot
    problems: tuple[Problem, ...]
    changed: frozenset[str]
    again_in: float | None
    unsure: bool
    server_uid: int
    marks: tuple[Mark, Mark]
    clients: Mapping[str, Client] = field(repr=False)
    stones: Mapping[str, Stone] = field(repr=False)
    doubled: tuple[Problem, ...] = field(repr=False)


def scan(
    folder: Path,
    previous: Scan | None,
    *,
    server_uid: int,
    monotonic: float,
    wall: Callable[[], float] = time.time,
) -> Scan:
    """Look at *folder* (the one with ``authorized/`` and ``revoked/`` in it) and return what is in force now.

    *monotonic* is seconds of one monotonic clock, *wall* gives seconds since 1970.  Raises
    :exc:`~mtlsd.errors.FolderError` at the first look (*previous* is ``None``) where the folder is missing, unreadable
    or not safe to use; later that is a problem of the scan, and what was known before stays.
    """
    return _Look(folder, previous, server_uid, monotonic, wall).result()


def marks(folder: Path) -> tuple[Mark, Mark]:
    """Return what shows whether ``authorized/`` and ``revoked/`` have changed.  Costs two calls of stat."""
    return _mark_at(folder / AUTHORIZED), _mark_at(folder / REVOKED)


class _Look:
    """One scan while it runs: what it was given, and what it has noticed so far."""

    def __init__(self, folder: Path, previous: Scan | None, server_uid: int, now: float, wall: Callable[[], float]) -> None:
        self._folder = folder
        self._before = previous
        # What one user was refused may be fine for another: after a change of user everything is read again.
        self._same_user = previous is not None and previous.server_uid == server_uid
        self._server_uid = server_uid
        self._now = now
        self._wall = wall
        self._shown = printable(str(folder))
        self._problems: list[Problem] = []
        self._again: list[float] = []
        self._unsure = False
        self._changed = previous is None

    def result(self) -> Scan:
        # The marks come first: what happens while we look is then a change to whoever compares them.
        seen = marks(self._folder)
        self._unsure = any(mark is not None and is_young(mark[3] / 1e9, self._wall()) for mark in seen)
        with ExitStack() as stack:
            # First who is authorized, then who is revoked: of two changes in between, the revocation is seen.
            authorized = self._listing(stack, AUTHORIZED)
            revoked = self._listing(stack, REVOKED)
            stones = self._stones(revoked)
            tombstones = {stone.tombstone.fingerprint: stone.tombstone for stone in stones.values()}
            clients = self._clients(authorized, tombstones)
        before = self._before
        if before is not None and not self._changed:
            snapshot, doubled = before.snapshot, before.doubled
        else:
            snapshot, doubled = _combined(clients, tombstones, before.snapshot if before else Snapshot())
        changed = (before.snapshot if before else Snapshot()).differs(snapshot) if self._changed else frozenset()
        if before is not None and not changed:
            snapshot = before.snapshot
        for client in clients.values():
            self._problems += client.problems
        self._problems += [stone.problem for stone in stones.values() if stone.problem]
        return Scan(
            snapshot=snapshot,
            problems=(*self._problems, *doubled),
            changed=changed,
            again_in=min(self._again, default=None),
            unsure=self._unsure,
            server_uid=self._server_uid,
            marks=seen,
            clients=clients,
            stones=stones,
            doubled=doubled,
        )

    def _listing(self, stack: ExitStack, name: str) -> tuple[int, dict[str, bytes]] | None:
        """Open a folder of ours and list it: each name with its signature.  ``None``: what was known before stays."""
        path = self._shown
        try:
            certs, _ = stack.enter_context(opened_folder(str(self._folder)))
            path = f"{self._shown}/{name}"
            descriptor, status = stack.enter_context(opened_folder(name, inside=certs))
            listing = _listed(descriptor)
        except FileNotFoundError:
            if name == REVOKED and not (self._before and self._before.stones):
                # Nobody has been revoked yet.
                return None
            self._keep(path, "the folder is missing; make it, or run mtlsd init")
        except OSError as error:
            self._keep(path, f"the folder cannot be read: {error.strerror}")
        except Unsafe as error:
            self._keep(path, str(error))
        else:
            warning = folder_warning(status, self._server_uid)
            if warning is not None:
                self._problems.append(Problem(path, warning, Severity.WARNING))
            return descriptor, listing
        return None

    def _keep(self, path: str, why: str) -> None:
        if self._before is None:
            raise FolderError(f"{path}: {why}")
        self._problems.append(Problem(path, f"{why}; until then, what was known before stays in force"))

    def _clients(self, listing: tuple[int, dict[str, bytes]] | None, tombstones: Mapping[str, Tombstone]) -> Mapping[str, Client]:
        old = self._before.clients if self._before else {}
        if listing is None:
            return old
        folder, files = listing
        clients: dict[str, Client] = {}
        for file, signature in files.items():
            if not file.endswith(".pem"):
                if not file.endswith(".toml"):
                    self._ignored(AUTHORIZED, file, "ignored, only NAME.pem is read", Severity.WARNING)
                continue
            name = file[:-4]
            terms_signature = files.get(name + ".toml", b"")
            before = old.get(name)
            if before is not None and self._same_user:
                same_pem = before.pem.signature == signature
                same_toml = before.toml.signature == terms_signature
                if same_pem and same_toml and before.settled:
                    clients[name] = before
                    continue
            else:
                same_pem = same_toml = False
                if not is_client_name(name):
                    self._ignored(
                        AUTHORIZED, file, "refused: a client's name is up to 64 letters, digits and . _ @ -", Severity.ERROR
                    )
                    continue
            pem = before.pem if before and same_pem else self._read_pem(folder, file, signature)
            toml = before.toml if before and same_toml else self._read_toml(folder, name + ".toml", terms_signature)
            clients[name] = self._stepped(name, before, pem, toml, tombstones)
        for name in old.keys() - clients.keys():
            client = self._stepped(name, old[name], gone(), old[name].toml, tombstones)
            if client.claims:
                clients[name] = client
        return clients

    def _stepped(
        self,
        name: str,
        before: Client | None,
        pem: Reading[tuple[Certificate, ...]],
        toml: Reading[Terms],
        tombstones: Mapping[str, Tombstone],
    ) -> Client:
        client = stepped(name, f"{self._shown}/{AUTHORIZED}/{name}.pem", before, pem, toml, self._now, tombstones)
        if before is None or client.claims is not before.claims or client.going != before.going:
            self._changed = True
        again = client.again_in(self._now)
        if again is not None:
            self._again.append(again)
        return client

    def _read_pem(self, folder: int, file: str, signature: bytes) -> Reading[tuple[Certificate, ...]]:
        def parse(data: bytes) -> tuple[tuple[Certificate, ...], str | None]:
            found = certificates_in(data)
            warning = "it holds a private key too, which belongs to its client alone: take it out, and make a new pair"
            return found.leaves, warning if found.has_private_key else None

        return self._read(folder, file, signature, (), parse)

    def _read_toml(self, folder: int, file: str, signature: bytes) -> Reading[Terms]:
        if not signature:
            return _NO_TERMS
        return self._read(folder, file, signature, _NO_TERMS.content, lambda data: (read_terms(data), None))

    def _read(
        self,
        folder: int,
        name: str,
        listed: bytes,
        absent: Content | None,
        parse: Callable[[bytes], tuple[Content, str | None]],
    ) -> Reading[Content]:
        """Read and parse one file.  Never raises: one file that is beyond us must not stop the revoking of others."""
        signature = None
        try:
            file = read_file(folder, name, server_uid=self._server_uid, wall=self._wall)
            signature = file.signature
            self._unsure = self._unsure or signature is None
            content, warning = parse(file.data)
        except FileNotFoundError:
            # It went away since it was listed, or it is a link to nothing.
            why = ("it is a symbolic link to a file that is not there",) if listed == _UNKNOWN else ()
            return Reading(None, absent, warnings=why)
        except Unsafe as error:
            return Reading(None, None, str(error), refused=True)
        except OSError as error:
            return Reading(None, None, f"cannot be read: {error.strerror}")
        except MtlsdError as error:
            return Reading(signature, None, f"damaged: {error}")
        except Exception as error:
            return Reading(signature, None, f"damaged: {type(error).__name__}")
        warnings = [] if warning is None else [warning]
        if file.group_writable:
            warnings.append("its group may write to it; chmod g-w")
        return Reading(signature, content, warnings=tuple(warnings))

    def _stones(self, listing: tuple[int, dict[str, bytes]] | None) -> Mapping[str, Stone]:
        old = self._before.stones if self._before else {}
        if listing is None:
            return old
        folder, files = listing
        stones: dict[str, Stone] = {}
        for file, signature in files.items():
            before = old.get(file)
            if before is not None and self._same_user and before.signature == signature and before.since is None:
                stones[file] = before
                continue
            fingerprint = fingerprint_in(file)
            if fingerprint is None:
                self._ignored(REVOKED, file, "ignored, only FINGERPRINT.json revokes", Severity.WARNING)
                continue
            stones[file] = self._stone(folder, file, signature, fingerprint)
        for file in old.keys() - stones.keys():
            # Believed as late as the loss of a certificate: a copy of the folder that removes a tombstone to write it
            # anew must not let anybody in.
            since = old[file].since
            since = self._now if since is None else since
            if not believed(since, self._now):
                stones[file] = replace(old[file], since=since)
                self._again.append(max(SETTLE - (self._now - since), 0.001))
        self._changed = self._changed or stones != old
        return stones

    def _stone(self, folder: int, file: str, signature: bytes, fingerprint: str) -> Stone:
        bare = Tombstone(fingerprint)
        reading = self._read(folder, file, signature, bare, lambda data: (read_tombstone(fingerprint, data), None))
        problem = None
        if reading.error is not None:
            shown = f"{self._shown}/{REVOKED}/{printable(file)}"
            problem = Problem(shown, f"{reading.error}; it revokes by its name all the same", Severity.WARNING)
        return Stone(reading.signature, reading.content or bare, problem)

    def _ignored(self, folder: str, file: str, why: str, severity: Severity) -> None:
        self._problems.append(Problem(f"{self._shown}/{folder}/{printable(file)}", why, severity))


def _listed(descriptor: int) -> dict[str, bytes]:
    listing: dict[str, bytes] = {}
    with os.scandir(descriptor) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            try:
                listing[name] = _UNKNOWN if entry.is_symlink() else signature_of(entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                # It went away between the two: not there.
                continue
    return listing


def _combined(
    clients: Mapping[str, Client], tombstones: Mapping[str, Tombstone], before: Snapshot
) -> tuple[Snapshot, tuple[Problem, ...]]:
    """Put together what all clients claim.  A certificate that two of them claim stays with the one who had it."""
    authorized: dict[str, Authorization] = {}
    contested: dict[str, list[Authorization]] = {}
    for client in clients.values():
        for claim in client.claims:
            fingerprint = claim.certificate.fingerprint
            first = authorized.setdefault(fingerprint, claim)
            if first is not claim:
                contested.setdefault(fingerprint, [first]).append(claim)
    problems: list[Problem] = []
    for fingerprint, claims in contested.items():
        holder = before.authorized.get(fingerprint)
        held = next((claim for claim in claims if holder is not None and claim.client == holder.client), None)
        if held is None:
            del authorized[fingerprint]
        else:
            authorized[fingerprint] = held
        # A file that is being renamed is under both names for a moment, and that is nobody's mistake.
        if not any(fingerprint in clients[claim.client].going for claim in claims):
            problems.append(_contest(sorted(claims, key=lambda claim: claim.client), fingerprint, held))
    return Snapshot(MappingProxyType(authorized), MappingProxyType(dict(tombstones))), tuple(problems)


def _contest(claims: list[Authorization], fingerprint: str, held: Authorization | None) -> Problem:
    others = ", ".join(claim.file for claim in claims[1:])
    follows = "it authorizes neither" if held is None else f"it stays with {held.client}, who had it first"
    return Problem(claims[0].file, f"certificate {fingerprint[:16]} is in {others} as well; {follows}: take it out of one")


def _mark_at(path: Path) -> Mark:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
