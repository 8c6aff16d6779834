"""A peer that takes nothing of what waits for it."""

from __future__ import annotations

from collections.abc import Callable

from mtlsd.deadlines import Deadline
from mtlsd.tls.farewell import Farewells


class Stall:
    """Watches one peer while there is something that it has not taken; cuts it off after ``write_timeout`` seconds of nothing.

    The poller calls only when a third of the kernel's buffer is free, which a slow peer may take long for: so what lies there
    is looked at too.
    """

    __slots__ = ("_cut", "_deadline", "_farewells", "_is_waited_for", "_moved", "_untaken", "_untaken_by_peer")

    def __init__(
        self,
        farewells: Farewells,
        untaken_by_peer: Callable[[], int],
        is_waited_for: Callable[[], bool],
        cut: Callable[[], object],
    ) -> None:
        """*untaken_by_peer* are the bytes in the kernel; *is_waited_for* tells whether there is still something to take.

        *cut* ends the connection.
        """
        self._farewells = farewells
        self._untaken_by_peer = untaken_by_peer
        self._is_waited_for = is_waited_for
        self._cut = cut
        self._untaken = 0
        self._moved = 0.0
        self._deadline: Deadline | None = None

    def watch(self) -> None:
        """Something waits from now on, if nothing did before."""
        if self._deadline is None:
            self._moved, self._untaken = self._farewells.seconds(), self._untaken_by_peer()
            self._set(self._farewells.write_timeout)

    def moved(self) -> None:
        """The peer takes some more."""
        self._moved = self._farewells.seconds()

    def end(self) -> None:
        """Watch no more."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _set(self, seconds: float) -> None:
        self._deadline = self._farewells.set(seconds, self._look)

    def _look(self) -> None:
        self._deadline = None
        if not self._is_waited_for():
            return
        untaken, before = self._untaken_by_peer(), self._untaken
        self._untaken = untaken
        left = self._moved + self._farewells.write_timeout - self._farewells.seconds()
        if left <= 0 and 0 < untaken < before:
            left = self._farewells.write_timeout
        if left <= 0:
            self._cut()
        else:
            self._set(left)
