"""One look at the operator's folder: ``authorized/`` and ``revoked/``, and what follows from them.

No Twisted in here: a scan runs off the reactor's thread.  It opens and reads only what has changed since the look
before; everything else, down to the single Authorization, is the same object again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from mtlsd.errors import FolderError
from mtlsd.identity import Certificate, is_client_name
from mtlsd.registry.claims import Outcome, amended, combined
from mtlsd.registry.clients import SETTLE, Client, Reading, believed, gone, stepped
from mtlsd.registry.folder import File, Unsafe, folder_warning, is_young, opened_folder
from mtlsd.registry.listing import AUTHORIZED, REVOKED, UNKNOWN, Mark, clients_of, listed, looked_up, marks
from mtlsd.registry.problems import Problem, Severity
from mtlsd.registry.reader import Reader, leaves_in, terms_in
from mtlsd.registry.records import Snapshot, Tombstone
from mtlsd.registry.terms import Terms
from mtlsd.registry.tombstone import fingerprint_in, read_tombstone
from mtlsd.text import printable

# Files that are opened and read before any of them is parsed.  Going to and fro between the kernel and the parsers for
# each single file makes the first look at 100,000 take a quarter longer.
_BATCH = 64
# A client to be looked at: its name, its state before, and the signatures of its two files (None: as it was).
_Todo: TypeAlias = tuple[str, Client | None, bytes | None, bytes | None]
_Leaves: TypeAlias = Reading[tuple[Certificate, ...]]
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

    #: When it was made, in seconds of the monotonic clock: all that it says of what is to settle counts from here.
    at: float
    outcome: Outcome
    problems: tuple[Problem, ...]
    changed: frozenset[str]
    again_in: float | None
    unsure: bool
    server_uid: int
    marks: tuple[Mark, Mark]
    clients: Mapping[str, Client] = field(repr=False)
    stones: Mapping[str, Stone] = field(repr=False)
    # The clients that the next look has to see in any case, and what was passed over.
    restless: frozenset[str] = field(repr=False)
    ignored: tuple[Problem, ...] = field(repr=False)
    # What is wrong with which client, and the clients in whose file is a certificate that they do not claim: it is not in
    # force, or not yet.  A look at few of many clients must not cost a walk through all.
    troubled: Mapping[str, tuple[Problem, ...]] = field(repr=False)
    unclaimed: frozenset[str] = field(repr=False)

    @property
    def snapshot(self) -> Snapshot:
        return self.outcome.snapshot

    @cached_property
    def holders(self) -> Mapping[str, Sequence[str]]:
        """The clients whose files hold a certificate, in force or not, by its fingerprint."""
        found: dict[str, list[str]] = {}
        for name, client in self.clients.items():
            for leaf in client.pem.content or ():
                found.setdefault(leaf.fingerprint, []).append(name)
        return found

    def holders_of(self, fingerprint: str) -> Sequence[str]:
        """Return the same for one certificate, at the cost of a hash lookup: the snapshot is the index.

        Whoever claims a certificate is found there, unless several do; who holds it without a claim is among the few.
        """
        if self.outcome.contested:
            return sorted(self.holders.get(fingerprint, ()))
        claim = self.snapshot.authorized.get(fingerprint)
        likely = self.unclaimed if claim is None else self.unclaimed | {claim.client}
        return sorted(name for name in likely if fingerprint in self.clients[name].held)


def scan(
    folder: Path,
    previous: Scan | None,
    *,
    server_uid: int,
    monotonic: float,
    wall: Callable[[], float] = time.time,
    names: frozenset[str] | None = None,
) -> Scan:
    """Look at *folder* (the one with ``authorized/`` and ``revoked/`` in it) and return what is in force now.

    *monotonic* is seconds of one monotonic clock, *wall* gives seconds since 1970.  *names* narrows the look to these
    files of ``authorized/``, and to what had not settled before: for who knows that nothing else has changed there, as
    with 100,000 clients a whole look takes a second.  Where a narrow look would not do, it is a whole one.  Where it is the
    first, it sees these files alone: for who asks nothing about other clients.  Raises
    :exc:`~mtlsd.errors.FolderError` at the first look (*previous* is ``None``) where the folder is missing, unreadable
    or not safe to use; later that is a problem of the scan, and what was known before stays.
    """
    return _Look(folder, previous, server_uid, monotonic, wall, names).result()


class _Look:
    """One scan while it runs: what it was given, and what it has noticed so far."""

    def __init__(
        self,
        folder: Path,
        previous: Scan | None,
        server_uid: int,
        now: float,
        wall: Callable[[], float],
        names: frozenset[str] | None,
    ) -> None:
        self._folder = folder
        self._before = previous
        # What one user was refused may be fine for another: after a change of user everything is read again.
        self._same_user = previous is not None and previous.server_uid == server_uid
        self._server_uid = server_uid
        self._now = now
        self._wall = wall
        self._reader = Reader(server_uid, wall)
        self._shown = printable(str(folder))
        self._problems: list[Problem] = []
        self._again: list[float] = []
        self._unsure = False
        self._changed = previous is None
        # The clients of a narrow look, those that this look has concerned, and those that the next one has to see again.
        self._narrow = clients_of(names) if names is not None and (self._same_user or previous is None) else None
        self._touched: set[str] = set()
        self._restless: set[str] = set()
        self._links: set[str] = set()
        self._passed_over: list[Problem] = []

    def result(self) -> Scan:
        # The marks come first: what happens while we look is then a change to whoever compares them.
        seen = marks(self._folder)
        self._unsure = any(mark is not None and is_young(mark[3] / 1e9, self._wall()) for mark in seen)
        with ExitStack() as stack:
            # First who is authorized, then who is revoked: of two changes in between, the revocation is seen.
            authorized = self._listing(stack, AUTHORIZED)
            revoked = self._listing(stack, REVOKED)
            stones = self._stones(revoked)
            tombstones = self._tombstones(stones)
            clients = self._clients(authorized, tombstones)
        outcome, changed = self._outcome(clients, tombstones)
        troubled = self._troubled(clients)
        self._problems += [stone.problem for stone in stones.values() if stone.problem]
        return Scan(
            at=self._now,
            outcome=outcome,
            problems=(*self._problems, *chain.from_iterable(troubled.values()), *self._passed_over, *outcome.problems),
            changed=changed,
            again_in=min(self._again, default=None),
            unsure=self._unsure or self._reader.unsure,
            server_uid=self._server_uid,
            marks=seen,
            clients=clients,
            stones=stones,
            restless=frozenset(self._restless),
            ignored=tuple(self._passed_over),
            troubled=troubled,
            unclaimed=self._unclaimed(clients),
        )

    def _outcome(self, clients: Mapping[str, Client], tombstones: Mapping[str, Tombstone]) -> tuple[Outcome, frozenset[str]]:
        """Return what the claims come to, and the fingerprints whose standing differs from the look before."""
        before = self._before
        if before is None:
            outcome = combined(clients, tombstones, Snapshot())
            return outcome, Snapshot().differs(outcome.snapshot)
        if not self._changed:
            return before.outcome, frozenset()
        if self._narrow is not None and not before.outcome.contested:
            few = amended(before.snapshot, before.clients, clients, self._touched, tombstones)
            if few is not None:
                snapshot, changed = few
                return Outcome(snapshot) if changed else before.outcome, changed
        outcome = combined(clients, tombstones, before.snapshot)
        changed = before.snapshot.differs(outcome.snapshot)
        return outcome if changed else replace(outcome, snapshot=before.snapshot), changed

    def _listing(self, stack: ExitStack, name: str) -> tuple[int, dict[str, bytes]] | None:
        """Open a folder of ours and list it: each name with its signature.  ``None``: what was known before stays."""
        path = self._shown
        try:
            certs, _ = stack.enter_context(opened_folder(str(self._folder)))
            path = f"{self._shown}/{name}"
            descriptor, status = stack.enter_context(opened_folder(name, inside=certs))
            narrow = self._narrowed(status) if name == AUTHORIZED else None
            listing = listed(descriptor) if narrow is None else looked_up(descriptor, narrow)
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
        # What is there now has not been seen, though its time stamps have: look again soon.
        self._unsure = True
        self._problems.append(Problem(path, f"{why}; until then, what was known before stays in force"))

    def _clients(self, listing: tuple[int, dict[str, bytes]] | None, tombstones: Mapping[str, Tombstone]) -> Mapping[str, Client]:
        old = self._before.clients if self._before else {}
        if listing is None:
            return old
        folder, files = listing
        if self._narrow is not None and self._before is not None:
            self._passed_over += self._before.ignored
        there, todo = self._sorted_out(files, old)
        fresh: dict[str, Client] = {}
        for start in range(0, len(todo), _BATCH):
            self._read_clients(folder, todo[start : start + _BATCH], fresh, tombstones)
        over = []
        for name in (old.keys() if self._narrow is None else self._narrow & old.keys()) - there:
            client = self._stepped(name, old[name], gone(), old[name].toml, tombstones)
            if client.claims:
                fresh[name] = client
            else:
                over.append(name)
        if not fresh and not over:
            return old
        # One copy, and each in its place: taken out and put in again, it would leave a hole, and a dictionary with holes is
        # copied six times as slowly.
        clients = dict(old)
        clients.update(fresh)
        for name in over:
            del clients[name]
        return clients

    def _sorted_out(self, files: Mapping[str, bytes], old: Mapping[str, Client]) -> tuple[set[str], list[_Todo]]:
        """Return which clients have a PEM file, and which of them have to be looked at."""
        there: set[str] = set()
        todo: list[_Todo] = []
        for file, signature in files.items():
            if not file.endswith(".pem"):
                if not file.endswith(".toml"):
                    self._ignored(AUTHORIZED, file, "ignored, only NAME.pem is read", Severity.WARNING)
                continue
            name = file[:-4]
            terms_signature = files.get(name + ".toml", b"")
            if UNKNOWN in (signature, terms_signature):
                self._links.add(name)
            before = old.get(name)
            if before is None and not is_client_name(name):
                self._ignored(
                    AUTHORIZED, file, "refused: a client's name is up to 64 letters, digits and . _ @ -", Severity.ERROR
                )
                continue
            there.add(name)
            same_pem = same_toml = False
            if before is not None and self._same_user:
                same_pem, same_toml = before.pem.signature == signature, before.toml.signature == terms_signature
                if same_pem and same_toml and before.settled:
                    continue
            todo.append((name, before, None if same_pem else signature, None if same_toml else terms_signature))
        return there, todo

    def _read_clients(
        self, folder: int, batch: list[_Todo], clients: dict[str, Client], tombstones: Mapping[str, Tombstone]
    ) -> None:
        fetched = [
            (name, before, self._fetched_pem(folder, name, before, pem), self._fetched_toml(folder, name, before, toml))
            for name, before, pem, toml in batch
        ]
        for name, before, pem_found, toml_found in fetched:
            pem_read = pem_found if isinstance(pem_found, Reading) else self._reader.parsed(pem_found, leaves_in)
            toml_read = toml_found if isinstance(toml_found, Reading) else self._reader.parsed(toml_found, terms_in)
            clients[name] = self._stepped(name, before, pem_read, toml_read, tombstones)

    def _stepped(
        self,
        name: str,
        before: Client | None,
        pem: _Leaves,
        toml: Reading[Terms],
        tombstones: Mapping[str, Tombstone],
    ) -> Client:
        client = stepped(name, f"{self._shown}/{AUTHORIZED}/{name}.pem", before, pem, toml, self._now, tombstones)
        self._touched.add(name)
        if not client.settled or pem.signature is None or toml.signature is None or name in self._links:
            self._restless.add(name)
        if before is None or client.claims is not before.claims or client.going != before.going:
            self._changed = True
        again = client.again_in(self._now)
        if again is not None:
            self._again.append(again)
        return client

    def _fetched_pem(self, folder: int, name: str, before: Client | None, listed: bytes | None) -> File | _Leaves:
        if listed is None and before is not None:
            return before.pem
        return self._reader.fetched(folder, name + ".pem", listed or UNKNOWN, (), link=())

    def _fetched_toml(self, folder: int, name: str, before: Client | None, listed: bytes | None) -> File | Reading[Terms]:
        if listed is None and before is not None:
            return before.toml
        if not listed:
            return _NO_TERMS
        # Of terms that have gone astray nobody knows what they were: a retirement, maybe.
        return self._reader.fetched(folder, name + ".toml", listed, Terms(), link=None)

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
        if stones == old:
            return old
        self._changed = True
        return stones

    def _tombstones(self, stones: Mapping[str, Stone]) -> Mapping[str, Tombstone]:
        """Return the tombstones by fingerprint: the same object, where nothing has changed."""
        if self._before is not None and stones is self._before.stones:
            return self._before.snapshot.tombstones
        return {stone.tombstone.fingerprint: stone.tombstone for stone in stones.values()}

    def _troubled(self, clients: Mapping[str, Client]) -> dict[str, tuple[Problem, ...]]:
        before = self._before.troubled if self._before else {}
        troubled = {name: problems for name, problems in before.items() if name not in self._touched}
        troubled.update((name, clients[name].problems) for name in self._touched & clients.keys() if clients[name].problems)
        return troubled

    def _unclaimed(self, clients: Mapping[str, Client]) -> frozenset[str]:
        found = {name for name in self._touched & clients.keys() if not clients[name].claims_all}
        return frozenset(found | (self._before.unclaimed - self._touched) if self._before else found)

    def _stone(self, folder: int, file: str, signature: bytes, fingerprint: str) -> Stone:
        bare = Tombstone(fingerprint)
        found = self._reader.fetched(folder, file, signature, bare, link=bare)
        reading = (
            found
            if isinstance(found, Reading)
            else self._reader.parsed(found, lambda data: (read_tombstone(fingerprint, data), ()))
        )
        problem = None
        if reading.error is not None:
            shown = f"{self._shown}/{REVOKED}/{printable(file)}"
            problem = Problem(shown, f"{reading.error}; it revokes by its name all the same", Severity.WARNING)
        return Stone(reading.signature, reading.content or bare, problem)

    def _ignored(self, folder: str, file: str, why: str, severity: Severity) -> None:
        kept = self._passed_over if folder == AUTHORIZED else self._problems
        kept.append(Problem(f"{self._shown}/{folder}/{printable(file)}", why, severity))

    def _narrowed(self, status: os.stat_result) -> frozenset[str] | None:
        """Return the clients of a narrow look; ``None``, for good, where it has to be a whole one."""
        if self._narrow is not None and self._before is not None:
            mark = self._before.marks[0]
            same_folder = mark is not None and mark[:2] == (status.st_dev, status.st_ino)
            self._narrow = self._narrow | self._before.restless if same_folder else None
        return self._narrow
