"""Deadlines, judged by a monotonic clock and looked at once a beat.

Not ``callLater``: the reactor's clock is the wall clock, and every delayed call jumps when that is set.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from twisted.logger import Logger


class Deadline:
    """A moment by which something has to have happened."""

    __slots__ = ("_deadlines", "_expire", "due")

    def __init__(self, deadlines: Deadlines, due: float, expire: Callable[[], object]) -> None:
        self._deadlines = deadlines
        self._expire: Callable[[], object] | None = expire
        #: When it is due, in seconds of the monotonic clock.
        self.due = due

    @property
    def active(self) -> bool:
        """Whether it may still fire."""
        return self._expire is not None

    def cancel(self) -> None:
        """Call it off.  One that was called off, or has fired, is left alone."""
        if self._expire is not None:
            self._expire = None
            self._deadlines._called_off()

    def _fire(self) -> None:
        expire, self._expire = self._expire, None
        if expire is not None:
            expire()


class Deadlines:
    """Holds deadlines; setting one costs a heap push, calling one off next to nothing.

    What was called off stays in the heap until it is due, or until such make up most of it: memory stays in
    proportion to the deadlines that count.
    """

    #: Below this many entries a heap is not worth tidying.
    _TIDY_FROM = 256

    def __init__(self, seconds: Callable[[], float]) -> None:
        """*seconds* is a monotonic clock."""
        #: The monotonic clock.
        self.seconds = seconds
        self._heap: list[tuple[float, int, Deadline]] = []
        self._serial = 0
        self._off = 0
        self._log = Logger()

    def __len__(self) -> int:
        """Return how many may still fire."""
        return len(self._heap) - self._off

    def set(self, due_in: float, expire: Callable[[], object]) -> Deadline:
        """Call *expire* at the first beat that is *due_in* seconds from now, or later."""
        deadline = Deadline(self, self.seconds() + due_in, expire)
        self._serial += 1
        heapq.heappush(self._heap, (deadline.due, self._serial, deadline))
        return deadline

    def expire(self, most: int | None = None) -> bool:
        """Fire what is due, in the order of their times.  One that raises is logged, and the others fire.

        With *most*, no more than so many are fired; true is returned where some are left.

        What a callback sets is for the next beat, even where it is due at once: a deadline that sets itself again
        cannot hold the reactor.
        """
        now, last = self.seconds(), self._serial
        fired = 0
        while self._heap and self._heap[0][0] <= now and self._heap[0][1] <= last:
            if fired == most:
                return True
            deadline = heapq.heappop(self._heap)[2]
            if not deadline.active:
                self._off -= 1
                continue
            fired += 1
            try:
                deadline._fire()
            except Exception:
                self._log.failure("a deadline failed")
        return False

    def _called_off(self) -> None:
        self._off += 1
        if len(self._heap) >= self._TIDY_FROM and self._off * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2]._expire is not None]
            heapq.heapify(self._heap)
            self._off = 0
