"""How long a transport waits for its peer: to take what was sent, and to hang up when all is said."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from mtlsd.deadlines import Deadline, Deadlines

if TYPE_CHECKING:
    from mtlsd.tls.transport import TLSTransport


class Farewells:
    """The connections that are only waiting for their peer to hang up, each for ``close_timeout`` seconds at most.

    They cost a descriptor each and no longer count as handshakes or clients, so there is room for *most* of them:
    whoever comes after that has the one that has waited longest closed.
    """

    def __init__(self, deadlines: Deadlines, *, write_timeout: float, close_timeout: float, most: int = 1024) -> None:
        self.write_timeout = write_timeout
        self._close_timeout = close_timeout
        self._most = most
        self._deadlines = deadlines
        self._waiting: OrderedDict[TLSTransport, Deadline] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def seconds(self) -> float:
        """Return the time of the monotonic clock."""
        return self._deadlines.seconds()

    def set(self, due_in: float, expire: Callable[[], object]) -> Deadline:
        """Set a deadline."""
        return self._deadlines.set(due_in, expire)

    def begin(self, transport: TLSTransport) -> None:
        """Let *transport* wait."""
        if len(self._waiting) >= self._most:
            next(iter(self._waiting)).abortConnection()
        self._waiting[transport] = self._deadlines.set(self._close_timeout, transport.abortConnection)

    def end(self, transport: TLSTransport) -> None:
        """Let go of *transport*; one that does not wait is ignored."""
        deadline = self._waiting.pop(transport, None)
        if deadline is not None:
            deadline.cancel()
