"""The files of ``pending/``, as the server keeps them.  Runs off the reactor's thread; knows no Twisted.

The operator's lock is not held: what is written is a claim about itself, in a file of its own, and decides nothing.  So a
command that waits for its operator never holds the server up, and the server may own ``pending/`` where the rest is root's.
Each file appears whole (a rename); none is fsync'ed, for a crash loses nothing that the client does not bring again.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from mtlsd.enrol.book import Batch, Page
from mtlsd.registry.atomic import TEMPORARY, Folder, System, Transaction
from mtlsd.registry.dismissal import Dismissal, covered, taken
from mtlsd.registry.knock import file_of, written
from mtlsd.registry.listing import PENDING
from mtlsd.registry.waiting import Waiting, fingerprints, opened, read_all


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: the pages that were written where there was no file (``kept``), and of these, where there had
    been one (``again``); those that were not written (``left``); and, in words, why (``None``: nothing is wrong).

    ``there`` are the fingerprints of all files (``None``: nobody knows), and ``dismissed`` what a command has dismissed: pages of
    those are written no more.
    """

    kept: tuple[Page, ...] = ()
    again: tuple[Page, ...] = ()
    left: tuple[Page, ...] = ()
    problem: str | None = None
    there: frozenset[str] | None = None
    dismissed: tuple[Dismissal, ...] = ()


class PendingFolder:
    """``pending/`` below the operator's folder; made, 0700 and its owner's, where it is not there."""

    def __init__(self, folder: Path, system: System | None = None) -> None:
        self._folder = folder
        self._system = system or System()

    def load(self) -> Waiting:
        """Return what stands there, and clear away what a crash has left.  Raises :exc:`OSError` where it cannot be used."""
        with ExitStack() as stack:
            pending = self._opened(stack)
            if not os.access(PENDING, os.W_OK | os.X_OK, dir_fd=pending.root.descriptor, effective_ids=True):
                raise PermissionError(0, f"user {self._system.user()} may not write to it", PENDING)
            pending.sweep()
            taken(pending)
            return read_all(pending, str(self._folder / PENDING))

    def apply(self, batch: Batch) -> Outcome:
        """Do what *batch* says.  Never raises :exc:`OSError`: the outcome tells."""
        kept: list[Page] = []
        again: list[Page] = []
        left = list(batch.pages)
        missed: list[Page] = []
        dismissed: tuple[Dismissal, ...] = ()
        try:
            with ExitStack() as stack:
                pending = self._opened(stack)
                for fingerprint in batch.gone:
                    # One that cannot be removed is found again at the next start.
                    with suppress(OSError):
                        self._system.unlink(file_of(fingerprint), pending.descriptor)
                dismissed = taken(pending)
                left = [page for page in left if not covered(dismissed, page.address, page.last)]
                there = set(fingerprints(pending))
                while left:
                    page = left[0]
                    anew = page.fingerprint not in there
                    try:
                        _put(pending, file_of(page.fingerprint), _text(page, anew))
                    except FileNotFoundError:
                        # A command has swept our temporary file up: the next time, then.
                        missed.append(page)
                    else:
                        there.add(page.fingerprint)
                        if anew:
                            kept.append(page)
                            if not page.fresh:
                                again.append(page)
                    del left[0]
        except OSError as error:
            why = error.strerror or str(error)
            return Outcome(tuple(kept), tuple(again), (*missed, *left), why, dismissed=dismissed)
        return Outcome(tuple(kept), tuple(again), tuple(missed), None, frozenset(there), dismissed)

    def _opened(self, stack: ExitStack) -> Folder:
        root = Folder(str(self._folder), self._system)
        stack.callback(root.close)
        if not root.has(PENDING):
            # Somebody else may make it at the same moment.
            with suppress(FileExistsError), Transaction() as steps:
                steps.make_folder(root, PENDING, 0o700)
        return stack.enter_context(opened(root))


def _text(page: Page, anew: bool) -> bytes:
    if anew and not page.fresh:
        return written(page.der, page.address, page.since, page.last, page.untold)
    return written(page.der, page.address, page.first, page.last, page.count)


def _put(folder: Folder, name: str, data: bytes) -> None:
    """Write a file whole, in the place of whatever had this name.  Raises :exc:`OSError`; then nothing was changed."""
    system, temporary = folder.system, TEMPORARY + secrets.token_hex(8)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = system.open(temporary, flags, 0o600, folder.descriptor)
    try:
        try:
            taken = 0
            while taken < len(data):
                taken += system.write(descriptor, data[taken:])
            folder.own(descriptor)
        finally:
            os.close(descriptor)
        system.rename(temporary, name, folder.descriptor)
    except BaseException:
        with suppress(OSError):
            system.unlink(temporary, folder.descriptor)
        raise
