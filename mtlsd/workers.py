"""Work that may block, beside the reactor's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

_T = TypeVar("_T")
_Work: TypeAlias = tuple[Callable[[], Any], Deferred[Any]]


class Workers:
    """Threads that do not keep the process from ending, as many as there is work at once.  Methods belong to the reactor's thread.

    The reactor's own pool waits for its threads at the end: one that hangs in a dead network file system would keep a
    stopped service for ever.  A thread stays for the work that comes next: starting one holds the reactor until the system
    has let it run, which on a busy machine has taken more than a tenth of a second.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._idle: list[SimpleQueue[_Work]] = []

    def run(self, work: Callable[[], _T]) -> Deferred[_T]:
        """Run *work* in a thread; the Deferred fires in the reactor's."""
        result: Deferred[_T] = Deferred()
        (self._idle.pop() if self._idle else self._started()).put((work, result))
        return result

    def _started(self) -> SimpleQueue[_Work]:
        inbox: SimpleQueue[_Work] = SimpleQueue()
        threading.Thread(target=self._work, args=(inbox,), name="mtlsd-worker", daemon=True).start()
        return inbox

    def _work(self, inbox: SimpleQueue[_Work]) -> None:
        while True:
            work, result = inbox.get()
            try:
                outcome: object = work()
            except BaseException:
                outcome = Failure()
            self._reactor.callFromThread(self._done, inbox, result, outcome)
            # What the last work has made must not live until the next: a look at 100,000 clients, perhaps.
            del work, result, outcome

    def _done(self, inbox: SimpleQueue[_Work], result: Deferred[Any], outcome: object) -> None:
        # Idle before it is told: what follows from it is often more work.
        self._idle.append(inbox)
        # A failure goes the other way by itself.
        result.callback(outcome)
