"""The pairs in a client's folder: the present one, the next one, and the one before.

    key.pem -> current/key.pem      pairs/0123456789abcdef/   a pair, named after its certificate
    cert.pem -> current/cert.pem    pairs/…
    current -> pairs/…              next -> pairs/…           where a renewal is under way

Two files cannot change at one moment, but one link can.  Whoever opens ``key.pem`` and ``cert.pem`` finds a pair that belongs
together, before the change and after it, and wherever this was killed: ``next`` becomes ``current`` by one rename.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mtlsd.client import Pair
from mtlsd.clientfolder import CERTIFICATE, KEY, ClientFolder, put_pair, sweep_pairs
from mtlsd.errors import FolderError, Refused
from mtlsd.identity import GRANT_DIGITS, Certificate
from mtlsd.keys import NewPair
from mtlsd.registry.atomic import TEMPORARY, Folder, System
from mtlsd.text import printable

PAIRS, CURRENT, NEXT = "pairs", "current", "next"
#: There from just before the change until whatever uses the pair has been told.
MARK = "renewing"
#: There from just before another certificate of the server's is trusted until whatever has read server.pem has been told.
LEARNED = "learned"
_LOCK = ".lock"


class ClientPairs:
    """The pairs in the folder of one client.  Methods raise :exc:`~mtlsd.errors.FolderError` with one line."""

    def __init__(self, folder: ClientFolder, system: System | None = None) -> None:
        self._folder = folder
        self._path = folder.path
        self._system = system or System()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from renewing, or from changing which server is trusted, here at the same time.  Raises :exc:`~mtlsd.errors.Refused` where somebody does."""
        with self._writing():
            descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(printable(f"{self._path}: another mtlsd renew or trust is at work here")) from None
            with self._writing():
                self._sweep()
            yield
        finally:
            os.close(descriptor)

    @property
    def is_under_way(self) -> bool:
        """Whether the pair was changed (or just not yet, where one is waiting), and nobody has said that all is done."""
        return (self._path / MARK).exists()

    @property
    def has_learned(self) -> bool:
        """Whether another certificate of the server's is trusted, and nobody has said that all who use it know."""
        return (self._path / LEARNED).exists()

    def learn(self) -> None:
        """Say that another certificate of the server's is about to be trusted."""
        with self._writing(), self._at_root() as root:
            self._mark(root, LEARNED)

    def told(self) -> None:
        """Say that all who use the server's certificates know."""
        with self._writing(), self._at_root() as root:
            self._unmark(root, LEARNED)

    def waiting(self) -> tuple[Pair, Certificate] | None:
        """Return the next pair, or ``None`` where there is none."""
        return None if self._target(NEXT) in (None, self._target(CURRENT)) else self._at(NEXT)

    def others(self) -> list[tuple[str, Pair, Certificate]]:
        """Return the pairs that are here beside the present one, each with its name, the newest first."""
        present = self._target(CURRENT)
        found = []
        with suppress(FileNotFoundError):
            for name in os.listdir(self._path / PAIRS):
                pair = None if name.startswith(TEMPORARY) or name == present else self._at(f"{PAIRS}/{name}")
                if pair is not None:
                    found.append((name, *pair))
        return sorted(found, key=lambda one: one[2].not_before, reverse=True)

    def prepare(self, present: Pair, certificate: Certificate, fresh: NewPair) -> None:
        """Put the next pair beside the present one.  On the disk when this returns."""
        name = Certificate.from_der(fresh.der).fingerprint[:GRANT_DIGITS]
        with self._writing(), self._opened() as (root, pairs):
            self._lay_out(root, pairs, present, certificate)
            self._put(pairs, name, fresh.key_pem, fresh.certificate_pem)
            self._link(root, f"{PAIRS}/{name}", NEXT)

    def commit(self) -> None:
        """Make the next pair the present one: one rename."""
        with self._writing(), self._opened() as (root, _):
            self._mark(root)
            self._system.rename(NEXT, CURRENT, root.descriptor)
            root.sync()

    def use(self, name: str) -> None:
        """Make another pair that is here the present one."""
        with self._writing(), self._opened() as (root, _):
            self._mark(root)
            self._link(root, f"{PAIRS}/{name}", CURRENT)
            if self._target(NEXT) == name:
                self._system.unlink(NEXT, root.descriptor)

    def drop(self) -> None:
        """Take the next pair away: it will never be let in."""
        name = self._target(NEXT)
        with self._writing(), self._opened() as (root, _):
            self._system.unlink(NEXT, root.descriptor)
            self._unmark(root)
            root.sync()
            if name is not None and name != self._target(CURRENT):
                shutil.rmtree(self._path / PAIRS / name, ignore_errors=True)

    def finish(self) -> None:
        """Say that the renewal is over, and remove what is neither the present pair nor the one before."""
        with self._writing(), self._opened() as (root, _):
            if self._target(NEXT) == self._target(CURRENT) is not None:
                self._system.unlink(NEXT, root.descriptor)
            self._unmark(root)
            root.sync()
        for name, _, _ in self.others()[1:]:
            shutil.rmtree(self._path / PAIRS / name, ignore_errors=True)

    def _lay_out(self, root: Folder, pairs: Folder, pair: Pair, certificate: Certificate) -> None:
        """Put links in the place of the present pair's files.  What they say is the same after each step."""
        name = certificate.fingerprint[:GRANT_DIGITS]
        self._put(pairs, name, pair.key_pem, pair.certificate_pem)
        if self._target(CURRENT) != name:
            self._link(root, f"{PAIRS}/{name}", CURRENT)
        for file in (KEY, CERTIFICATE):
            with suppress(OSError):
                if os.readlink(self._path / file) == f"{CURRENT}/{file}":
                    continue
            self._link(root, f"{CURRENT}/{file}", file)

    def _put(self, pairs: Folder, name: str, key_pem: bytes, certificate_pem: bytes) -> None:
        known = self._at(f"{PAIRS}/{name}")
        if known is None:
            put_pair(pairs, self._path / PAIRS, name, key_pem, certificate_pem)
        elif (known[0].key_pem, known[0].certificate_pem) != (key_pem, certificate_pem):
            raise FolderError(printable(f"{self._path / PAIRS / name} is there already, and holds another pair: move it away"))

    def _at(self, name: str) -> tuple[Pair, Certificate] | None:
        return ClientFolder(self._path / name).pair()

    def _target(self, link: str) -> str | None:
        """Return the name of the pair that a link leads to."""
        try:
            return os.readlink(self._path / link).removeprefix(f"{PAIRS}/")
        except OSError:
            return None

    def _link(self, root: Folder, target: str, name: str) -> None:
        aside = TEMPORARY + secrets.token_hex(8)
        self._system.symlink(target, aside, root.descriptor)
        try:
            self._system.rename(aside, name, root.descriptor)
        except OSError:
            with suppress(OSError):
                self._system.unlink(aside, root.descriptor)
            raise
        root.sync()

    def _mark(self, root: Folder, name: str = MARK) -> None:
        os.close(self._system.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, root.descriptor))
        root.sync()

    def _unmark(self, root: Folder, name: str = MARK) -> None:
        with suppress(FileNotFoundError):
            self._system.unlink(name, root.descriptor)

    def _sweep(self) -> None:
        """Remove what a kill has left.  Only for who holds the lock."""
        with ExitStack() as stack:
            root = Folder(str(self._path), self._system)
            stack.callback(root.close)
            # A join that is still writing here holds the folder itself, where that can be done (not on NFS).
            with suppress(OSError):
                fcntl.flock(root.descriptor, fcntl.LOCK_EX)
            root.sweep()
            if root.has(PAIRS):
                pairs = Folder(PAIRS, self._system, root)
                stack.callback(pairs.close)
                sweep_pairs(pairs)

    @contextmanager
    def _at_root(self) -> Iterator[Folder]:
        root = Folder(str(self._path), self._system)
        try:
            yield root
        finally:
            root.close()

    @contextmanager
    def _opened(self) -> Iterator[tuple[Folder, Folder]]:
        with self._at_root() as root:
            if not root.has(PAIRS):
                self._system.mkdir(PAIRS, 0o700, root.descriptor)
                root.sync()
            pairs = Folder(PAIRS, self._system, root)
            try:
                yield root, pairs
            finally:
                pairs.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FolderError(printable(f"{self._path}: cannot be written: {error.strerror}")) from error


def folders(base: Path) -> list[str]:
    """Return the names of the clients' folders in *base*, in order: one for each server."""
    with suppress(OSError):
        return sorted(path.name for path in base.iterdir() if (path / CERTIFICATE).exists())
    return []
