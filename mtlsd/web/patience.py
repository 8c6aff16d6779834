"""How long a connection waits for its client: one deadline at a time, and next to no work for each request."""

from __future__ import annotations

from collections.abc import Callable

from mtlsd.deadlines import Deadline, Deadlines


class Patience:
    """What a connection waits for, and until when.

    A request on a connection that is kept alive ends one wait and begins another.  So the deadline that is set stays
    where the new wait ends later, and looks again when it comes; it is set anew only for a wait that ends earlier.
    """

    __slots__ = ("_deadline", "_deadlines", "_due", "_expire")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._deadline: Deadline | None = None
        self._expire: Callable[[], object] | None = None
        self._due = 0.0

    def seconds(self) -> float:
        """Return the time of the monotonic clock."""
        return self._deadlines.seconds()

    def wait(self, seconds: float, expire: Callable[[], object], *, anew: bool = True) -> None:
        """Call *expire* in *seconds*, instead of what was waited for.

        Without *anew*, a wait for the very same thing goes on: a byte more of it does not put it off.
        """
        if not anew and self._expire == expire:
            return
        self._expire = expire
        self._due = self._deadlines.seconds() + seconds
        if self._deadline is not None and self._deadline.due > self._due:
            self._deadline.cancel()
            self._deadline = None
        if self._deadline is None:
            self._deadline = self._deadlines.set(seconds, self._is_due)

    def rest(self) -> None:
        """Wait for nothing, for now."""
        self._expire = None

    def end(self) -> None:
        """Wait for nothing any more."""
        self._expire = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_due(self) -> None:
        self._deadline = None
        expire, left = self._expire, self._due - self._deadlines.seconds()
        if expire is None:
            return
        if left > 0:
            self._deadline = self._deadlines.set(left, self._is_due)
        else:
            self._expire = None
            expire()


class BodyPace:
    """Whether the body of a request comes in fast enough.

    It is late when no byte has come for *timeout* seconds, and when fewer than *min_rate* bytes a second have come over
    that time.
    """

    __slots__ = ("_came", "_counted", "_last", "_late", "_min_rate", "_patience", "_since", "_timeout")

    def __init__(self, patience: Patience, timeout: float, min_rate: float, late: Callable[[], object]) -> None:
        self._patience = patience
        self._timeout = timeout
        self._min_rate = min_rate
        self._late = late
        self._came = self._counted = 0
        self._since = self._last = 0.0

    def begin(self) -> None:
        """The body begins."""
        self._came = self._counted = 0
        self._since = self._last = self._patience.seconds()
        self._patience.wait(self._timeout, self._look)

    def came(self, size: int) -> None:
        """So many bytes of it have come in all."""
        self._came = size
        self._last = self._patience.seconds()

    def _look(self) -> None:
        now = self._patience.seconds()
        if now - self._last >= self._timeout:
            self._late()
            return
        if now - self._since >= self._timeout:
            if self._came - self._counted < self._min_rate * (now - self._since):
                self._late()
                return
            self._counted, self._since = self._came, now
        self._patience.wait(min(self._last, self._since) + self._timeout - now, self._look)
