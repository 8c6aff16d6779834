"""The heartbeat: what has to be looked at once a second, whatever happens to the wall clock.

Not ``LoopingCall``: the reactor's clock is the wall clock, so when that is set back by an hour, every delayed call is
an hour late, and with it every deadline and every look at the folder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger


class Heartbeat:
    """Calls what was added, in the reactor's thread, once every *interval* seconds of the monotonic clock.

    A small thread keeps the time: waiting on a :class:`threading.Event` is monotonic.  It touches nothing but
    ``callFromThread``, and never has more than one beat waiting there, so a reactor that was busy for a minute finds
    one beat afterwards, not sixty.
    """

    def __init__(
        self, reactor: IReactorFromThreads, seconds: Callable[[], float] = time.monotonic, interval: float = 1.0
    ) -> None:
        """*seconds* is a monotonic clock: it judges what is wanted less often than at every beat."""
        self._reactor = reactor
        self._seconds = seconds
        self._interval = interval
        self._callbacks: list[_Callback] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting = False
        self._log = Logger()

    def add(self, callback: Callable[[], object], every: float = 0.0) -> None:
        """Have *callback* called at every beat or, with *every*, when that many seconds have passed since its last call."""
        self._callbacks.append(_Callback(callback, every, self._seconds()))

    def start(self) -> None:
        """Begin to beat; the first beat comes after one interval.  Does nothing where it beats already.

        Not before ``startService``: twistd forks first, and a thread does not live through that.
        """
        if self._thread is None:
            self._stop = threading.Event()
            self._waiting = False
            # Daemon: an interpreter that ends without stop() does not hang on it.
            self._thread = threading.Thread(target=self._keep_time, args=(self._stop,), name="heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End: the thread is gone when this returns, and no beat comes after it."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def beat(self) -> None:
        """Beat once.  A callback that raises is logged, and the others are called."""
        now = self._seconds()
        for callback in tuple(self._callbacks):
            try:
                callback.beat(now)
            except Exception:
                self._log.failure("a heartbeat's callback failed")

    def _keep_time(self, stop: threading.Event) -> None:
        while not stop.wait(self._interval):
            if not self._waiting:
                self._waiting = True
                self._reactor.callFromThread(self._beat_in_reactor, stop)

    def _beat_in_reactor(self, stop: threading.Event) -> None:
        # Cleared first: a beat that comes in while this one is at work is not lost.
        self._waiting = False
        if not stop.is_set():
            self.beat()


class _Callback:
    """One callback, and when it was last called."""

    __slots__ = ("_call", "_every", "_last")

    def __init__(self, call: Callable[[], object], every: float, now: float) -> None:
        self._call = call
        self._every = every
        self._last = now

    def beat(self, now: float) -> None:
        if now - self._last >= self._every:
            self._last = now
            self._call()
