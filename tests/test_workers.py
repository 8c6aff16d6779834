"""Work beside the reactor."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.workers import Workers


class Reactor:
    """Does what comes from threads when it is told to."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def callFromThread(self, function: Callable[..., object], *arguments: object) -> None:
        self.calls.put(lambda: function(*arguments))

    def turn(self) -> None:
        """Wait for one call, and do it."""
        self.calls.get(timeout=30)()


class Something:
    """What a look has made, for instance."""


class WorkersTests(SynchronousTestCase):
    """A scan runs beside the reactor, and its end is told in the reactor's thread."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.workers = Workers(cast(IReactorFromThreads, self.reactor))

    def ran(self, work: Callable[[], object]) -> Deferred[object]:
        result = self.workers.run(work)
        self.assertFalse(result.called)
        self.reactor.turn()
        return result

    def test_result(self) -> None:
        """No change of the folder would ever be taken up."""
        self.assertEqual(self.successResultOf(self.ran(lambda: 5)), 5)

    def test_failure(self) -> None:
        """A scan that fails would be waited for, for ever; and its thread would be gone for the next."""

        def broken() -> int:
            raise SystemExit("broken")

        self.failureResultOf(self.ran(broken), SystemExit)
        self.assertEqual(self.successResultOf(self.ran(lambda: 5)), 5)

    def test_daemon(self) -> None:
        """A scan that hangs in a dead network file system would keep a stopped service for ever."""
        self.assertTrue(self.successResultOf(self.ran(lambda: threading.current_thread().daemon)))

    def test_no_thread_for_each(self) -> None:
        """Each change would hold the reactor until the system has let another thread run."""
        first = self.successResultOf(self.ran(threading.get_ident))
        nested: list[Deferred[object]] = []
        # What follows from a work has its thread too.
        result = self.workers.run(threading.get_ident)
        result.addCallback(lambda _: nested.append(self.workers.run(threading.get_ident)))
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(self.successResultOf(nested[0]), first)

    def test_one_that_hangs(self) -> None:
        """A knock that cannot be written, for the disk hangs, would keep everybody from being revoked."""
        hangs = threading.Event()
        self.addCleanup(hangs.set)
        stuck = self.workers.run(lambda: hangs.wait(30))
        self.assertEqual(self.successResultOf(self.ran(lambda: 5)), 5)
        self.assertNoResult(stuck)

    def test_nothing_is_kept(self) -> None:
        """The look before the last would stay in memory, all of it."""
        made = self.ran(Something)
        found = weakref.ref(cast(Something, self.successResultOf(made)))
        self.successResultOf(self.ran(lambda: None))
        del made
        gc.collect()
        self.assertIsNone(found())
