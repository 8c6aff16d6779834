"""A WSGI application's thread, which makes no more of an answer than its client takes.

An application knows nothing of connections: it makes the next piece whenever it may go on.  So its thread waits while
the connection is full, and is woken when there is room, or when there is nobody left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

from twisted.internet.interfaces import IPushProducer
from twisted.internet.threads import blockingCallFromThread
from zope.interface import implementer

Environ: TypeAlias = dict[str, Any]
WsgiApplication: TypeAlias = Callable[[Environ, Any], Iterable[bytes]]

#: Bytes of an answer that go out unwatched: most are over by then, and need not ask the reactor once more.
_UNWATCHED = 64 * 1024


class Flag(Protocol):
    """What is used of a :class:`threading.Event`."""

    def set(self) -> object: ...
    def clear(self) -> object: ...
    def wait(self) -> object: ...


class _Gone(ConnectionAbortedError):
    """Nobody is there to write to."""


@implementer(IPushProducer)
class Taker:
    """The client of one answer, as the application's thread sees it: whether it takes more, and whether it is there."""

    def __init__(self, reactor: Any, request: Any, room: Flag) -> None:
        """*room* is what the application's thread waits for."""
        self.is_gone = False
        self._reactor = reactor
        self._request = request
        self._room = room
        self._taken = 0
        self._is_watched = False
        room.set()
        request.notifyFinish().addBoth(self._over)

    # In the reactor's thread.

    def pauseProducing(self) -> None:
        """The connection is full."""
        if not self.is_gone:
            self._room.clear()

    def resumeProducing(self) -> None:
        """There is room again."""
        self._room.set()

    def stopProducing(self) -> None:
        """There is nobody left: whoever waits need not wait any longer."""
        self.is_gone = True
        self._room.set()

    def _over(self, result: object) -> None:
        self.stopProducing()

    def _watch(self) -> None:
        if not self.is_gone:
            self._is_watched = True
            self._request.registerProducer(self, True)

    def _let_go(self) -> None:
        # Of a request that is over, there is nothing left to be let go.
        if not self.is_gone:
            self._request.unregisterProducer()

    # In the application's thread.

    def gave(self, size: int) -> None:
        """So many bytes were written: wait until more may be."""
        self._taken += size
        if not self._is_watched and self._taken > _UNWATCHED:
            blockingCallFromThread(self._reactor, self._watch)
        self._room.wait()

    def let_go(self) -> None:
        """The application has ended.  Before the request does: twisted.web wants its producer gone by then."""
        if self._is_watched:
            self._reactor.callFromThread(self._let_go)


def paced(application: WsgiApplication, taker: Taker) -> WsgiApplication:
    """Return *application* at the pace of *taker*.  ``close`` of what it returns is called, whatever happens (PEP 3333)."""

    def answer(environ: Environ, start_response: Any) -> Iterable[bytes]:
        answer = _Answer(start_response, taker)
        try:
            answer.take(application(environ, answer.start))
        except _Gone:
            pass
        finally:
            taker.let_go()
        # It is all written.
        return ()

    return answer


class _Answer:
    """What an application has said so far, in its thread."""

    def __init__(self, start_response: Any, taker: Taker) -> None:
        self._start_response = start_response
        self._taker = taker
        self._send: Callable[[bytes], object] | None = None

    def start(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        """The start_response that the application calls."""
        self._send = self._start_response(status, headers, exc_info)
        return self.write

    def write(self, data: bytes) -> None:
        """Send *data*, and wait until more may be.  Raises where there is nobody to send it to."""
        if not isinstance(data, bytes):
            # Here, where the head has not gone out for it.
            raise TypeError(f"an application has to write bytes, not {type(data).__name__}")
        if self._taker.is_gone:
            raise _Gone("the client has gone")
        # It returns when the reactor has taken the piece, so no more than one waits there.
        self._started()(data)
        self._taker.gave(len(data))

    def take(self, pieces: Iterable[bytes]) -> None:
        """Write all that the application has returned."""
        try:
            for piece in pieces:
                if piece:
                    self.write(piece)
                if self._taker.is_gone:
                    return
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        self._started()

    def _started(self) -> Callable[[bytes], object]:
        if self._send is None:
            raise AssertionError("an application has to call start_response before it answers")
        return self._send
