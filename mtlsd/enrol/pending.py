"""Keeps the certificates that were shown and refused, for the operator to approve: the book, its files, and the time.

The handshake only notes a knock in memory; all files are written off the reactor's thread, new ones within a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mtlsd.audit.events import Event, Kind
from mtlsd.audit.sinks import IAuditSink
from mtlsd.enrol.book import Batch, Book, Page
from mtlsd.enrol.files import Outcome, PendingFolder
from mtlsd.policy import approval
from mtlsd.registry.dismissal import covered
from mtlsd.registry.interfaces import IRegistry
from mtlsd.registry.listing import PENDING
from mtlsd.text import printable

#: Files that are written in one go.
AT_ONCE = 250
#: Seconds between two writes of what is only a count and a time.
REPEATED = 5.0
#: Seconds between two looks for what has ended, and between two tries where the folder cannot be written.
SELDOM = 60.0


class _InThread(Protocol):
    def __call__(self, work: Callable[[], Outcome], /) -> Deferred[Outcome]: ...


class Pending:
    """Who has knocked.  All methods belong to the reactor's thread; none of them raises, and :meth:`knock` never blocks.

    Where ``pending/`` cannot be written that is said once, knocks are noted in memory only, and :meth:`knock` says that
    they are not kept; once it can be, they are.
    """

    def __init__(
        self,
        folder: Path,
        *,
        registry: IRegistry,
        sink: IAuditSink,
        in_thread: _InThread,
        seconds: Callable[[], float],
        now: Callable[[], datetime],
        book: Book | None = None,
        files: PendingFolder | None = None,
    ) -> None:
        """*folder* is the operator's; *seconds* is a monotonic clock, *now* the wall clock (aware, UTC)."""
        self._shown = printable(str(folder / PENDING))
        self._files = files or PendingFolder(folder)
        # An empty one is false.
        self._book = Book() if book is None else book
        self._registry = registry
        self._sink = sink
        self._in_thread = in_thread
        self._seconds = seconds
        self._now = now
        self._log = Logger()
        self._problem: str | None = None
        self._loaded = self._running = False
        self._repeated = self._pruned = self._failed_at = seconds()
        registry.listen(self._known)

    def start(self) -> None:
        """Read what stands in the folder.  Before anybody can knock."""
        try:
            found = self._files.load()
        except OSError as error:
            self._report(error.strerror or str(error))
            return
        self._loaded = True
        for problem in found.problems:
            self._log.warn("{problem}", problem=problem)
        for knock in found.knocks:
            self._book.adopt(knock)
        self._known(frozenset(knock.certificate.fingerprint for knock in found.knocks))
        self._book.prune(self._now())

    def knock(self, verdict: Event, der: bytes) -> bool:
        """Note the refusal of an unknown certificate (DER).  True: it is kept, so that it can be approved."""
        return self._book.knock(verdict, der) and self._problem is None

    def beat(self) -> None:
        """Have written what is new.  To be called once a second by a monotonic clock."""
        now = self._seconds()
        if self._running or (self._problem is not None and now - self._failed_at < SELDOM):
            return
        look = now - self._pruned >= SELDOM
        if look:
            self._pruned = now
            self._book.prune(self._now())
        if not self._loaded:
            self.start()
            if not self._loaded:
                return
        batch = self._batch(now)
        # With nothing to write, now and then a look at what a command has removed: else that would keep its places.
        if batch or self._problem is not None or (look and len(self._book)):
            self._running = True
            running = maybeDeferred(self._in_thread, partial(self._files.apply, batch))
            running.addCallbacks(partial(self._take, batch), partial(self._failed, batch))
            running.addErrback(lambda failure: self._log.failure("what was kept was not taken note of", failure))

    def stop(self) -> None:
        """Write what is left, here and now, unless a write is under way that may never end."""
        if not self._running and self._problem is None:
            batch = self._book.take(len(self._book), repeated=True)
            self._take(batch, self._files.apply(batch))

    def _batch(self, now: float) -> Batch:
        repeated = now - self._repeated >= REPEATED
        if repeated:
            self._repeated = now
        return self._book.take(AT_ONCE, repeated=repeated, now=self._now())

    def _take(self, batch: Batch, outcome: Outcome) -> None:
        self._running = False
        self._book.put_back(outcome.left, batch.gone if outcome.problem is not None else ())
        for page in outcome.again:
            self._book.begun_again(page)
        if outcome.dismissed:
            self._book.dismiss(partial(covered, outcome.dismissed))
        if outcome.there is not None:
            self._book.missed(outcome.there)
        self._report(outcome.problem)
        for page in outcome.kept:
            self._sink.write(_pending(page))

    def _failed(self, batch: Batch, failure: Failure) -> None:
        self._running = False
        self._book.put_back(batch.pages, batch.gone)
        self._log.failure("writing {folder} failed", failure, folder=self._shown)
        self._report(type(failure.value).__name__)

    def _report(self, problem: str | None) -> None:
        if problem is not None:
            self._failed_at = self._seconds()
            if self._problem is None:
                self._log.error(
                    "{folder}: cannot be used: {why}; unknown certificates are refused as ever, but not kept until user {user} may write there",
                    user=os.geteuid(),
                    folder=self._shown,
                    why=problem,
                )
        elif self._problem is not None:
            self._log.info("{folder}: can be used again; unknown certificates are kept", folder=self._shown)
        self._problem = problem

    def _known(self, changed: frozenset[str]) -> None:
        """Let go of what was authorized or revoked."""
        for fingerprint in changed:
            if fingerprint in self._book and self._registry.standing(fingerprint) is not None:
                self._book.forget(fingerprint)


def _pending(page: Page) -> Event:
    return page.event._replace(event=Kind.PENDING, reason=None, remedy=approval(page.fingerprint))
