"""Connections that have become another protocol's (RFC 9110 7.8): bytes, both ways, as long as the rules let them.

Neither the parsers nor the pool see such a connection again.  It may be silent for as long as it likes: a WebSocket is,
for hours.  A peer that is gone is found by TCP's own probes, and one that takes nothing by what waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mtlsd.identity import Identity
from mtlsd.keepalive import probe_often
from mtlsd.routing.rules import Target
from mtlsd.web.patience import Patience

#: Why a client's connection, for a canonical path, to a server may not go on; ``None``: it may.
Objection: TypeAlias = Callable[[Identity, bytes, Target], str | None]


class Upgrades:
    """Every upgraded connection: a change of the rules, or of a client's groups, finds it here."""

    def __init__(self) -> None:
        self._open: set[Upgraded] = set()
        self._log = Logger()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, upgraded: Upgraded) -> None:
        """Keep *upgraded*."""
        self._open.add(upgraded)

    def remove(self, upgraded: Upgraded) -> None:
        """Let go of *upgraded*."""
        self._open.discard(upgraded)

    def reconsider(self, objection: Objection, changed: frozenset[str] | None = None) -> None:
        """Cut what *objection* has something against.

        *changed* are the fingerprints of the clients in question; ``None``: the rules have changed, so it is all of them.
        """
        for upgraded in list(self._open):
            if changed is None or upgraded.fingerprint in changed:
                try:
                    upgraded.reconsider(objection)
                except Exception:
                    # What stands behind one connection must not keep the others open.
                    self._log.failure("a connection could not be reconsidered [{connection}]", connection=upgraded.connection_id)


class Upgraded:
    """One connection of a client and one to a backend, which have become one.

    When one side ends, the other gets all that has come from it and is ended too (RFC 9110 9.3.6 has it so for tunnels).
    """

    _log = Logger()

    def __init__(
        self, request: Any, path: bytes, target: Target, *, patience: Patience, idle_timeout: float, upgrades: Upgrades
    ) -> None:
        """*request* is the exchange that has led to it, *path* its canonical path; *patience* is of its own.

        *idle_timeout* is how long, in seconds, the backend may take nothing while there is something for it, and how long
        one side may be silent when the other has ended.
        """
        self.fingerprint: str = request.identity.certificate.fingerprint
        self.connection_id: str = request.gate.connection_id
        self._request = request
        self._gate = request.gate
        self._path = path
        self._target = target
        self._patience = patience
        self._idle_timeout = idle_timeout
        self._upgrades = upgrades
        self._is_over = False
        #: Whether one side has ended: the other one is not to take for ever.
        self.is_half = False
        self.client = _ClientEnd(self)
        self.backend = _BackendEnd(self)
        self.client.other, self.backend.other = self.backend, self.client

    def begin(self, connection: Any, from_client: bytes, from_backend: bytes) -> None:
        """Join the two: *connection* is the backend's, the bytes are what either side has sent already."""
        self._upgrades.add(self)
        self._gate.hand_over(self.client)
        connection.hand_over(self.backend)
        # While nobody knew whose the client's bytes would be, no more than a first piece of them was read.
        self.backend.resumeProducing()
        if from_backend:
            self.backend.dataReceived(from_backend)
        if from_client:
            self.client.dataReceived(from_client)

    def reconsider(self, objection: Objection) -> None:
        """Ask who the client is, now, and whether it may still be here; cut where the answer is no."""
        identity = self._gate.authorize()
        if identity is None:
            # The connection has been cut.
            return
        why = objection(identity, self._path, self._target)
        if why is not None:
            self.cut(f"it is no longer allowed: {why}")

    def cut(self, why: str) -> None:
        """End both at once: not a byte more goes either way."""
        if self._is_over:
            return
        self._log.warn(
            "{client} {method} {path}: {target}: cut, {why} [{connection}]",
            client=self._request.identity.client,
            method=self._request.method.decode("ascii"),
            path=self._path.decode("ascii")[:200],
            target=self._target,
            why=why,
            connection=self.connection_id,
        )
        self._end()
        self._gate.abortConnection()
        self.backend.transport.abortConnection()

    # From its ends.

    def sent_to_client(self, size: int) -> None:
        """So many bytes go to the client."""
        self._request.sentLength += size

    def full(self) -> None:
        """The backend has enough of the client's bytes for now."""
        self._patience.wait(self._idle_timeout, self._is_not_taken)

    def moved(self) -> None:
        """Bytes go."""
        if self.is_half:
            self._patience.wait(self._idle_timeout, self._is_left)
        else:
            self._patience.rest()

    def no_more(self, end: _End) -> None:
        """One side sends nothing more."""
        if end.other.is_done:
            self.finish()
            return
        self.is_half = True
        self.moved()
        end.other.release()
        end.other.transport.loseWriteConnection()

    def lost(self, end: _End) -> None:
        """One side is gone."""
        if self._is_over:
            # The other is gone too, or was closed together with this one.
            if end is self.backend:
                self._patience.end()
            return
        self._end()
        if end is self.client:
            # The client's transport has deadlines of its own for what it does not take.
            self._patience.wait(self._idle_timeout, self.backend.transport.abortConnection)
        # Last: the other may be gone before this returns.
        end.other.close()

    def finish(self) -> None:
        """End both in good order: all that has come is delivered."""
        self.client.close()
        self.backend.close()

    # Its own.

    def _is_not_taken(self) -> None:
        self.cut("it takes nothing")

    def _is_left(self) -> None:
        self.cut("one side has ended, and the other is silent")

    def _end(self) -> None:
        self._is_over = True
        self._patience.end()
        self._upgrades.remove(self)
        self._request.site.log(self._request)


@implementer(IHalfCloseableProtocol, IPushProducer)
class _End(Protocol):
    """One side.  To its transport it is the producer of what is sent there: the other side, which it slows down."""

    transport: Any
    other: _End

    def __init__(self, upgraded: Upgraded) -> None:
        self._upgraded = upgraded
        self._produces = False
        #: Whether nothing more comes from here.
        self.is_done = False

    def connectionMade(self) -> None:
        self._produces = True
        self.transport.registerProducer(self, True)
        if hasattr(self.transport, "setTcpKeepAlive"):
            # Nothing else finds a peer that is silent because it is gone.
            self.transport.setTcpKeepAlive(True)

    def dataReceived(self, data: bytes) -> None:
        self.other.transport.write(data)
        if self._upgraded.is_half:
            self._upgraded.moved()

    def readConnectionLost(self) -> None:
        """Nothing more comes: in good order, so that something may still be sent."""
        self.is_done = True
        self._upgraded.no_more(self)

    def writeConnectionLost(self) -> None:
        """The peer has been told that nothing more comes."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_done = True
        self._upgraded.lost(self)

    def release(self) -> None:
        """Nothing more is sent here."""
        if self._produces:
            self._produces = False
            self.transport.unregisterProducer()

    def close(self) -> None:
        """Close, when all is sent."""
        self.release()
        self.transport.loseConnection()

    # IPushProducer.

    def pauseProducing(self) -> None:
        self.other.transport.pauseProducing()

    def resumeProducing(self) -> None:
        # A transport that has read the end of its stream would read it again.
        if not self.other.is_done:
            self.other.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The transport is gone, and connectionLost comes next."""


class _ClientEnd(_End):
    def finish_up(self) -> None:
        """End, for the service is shutting down: there is no word for that in a protocol that nobody here knows."""
        self._upgraded.finish()


class _BackendEnd(_End):
    def connectionMade(self) -> None:
        super().connectionMade()
        if hasattr(self.transport, "setTcpKeepAlive"):
            probe_often(self.transport.getHandle())

    def dataReceived(self, data: bytes) -> None:
        self._upgraded.sent_to_client(len(data))
        super().dataReceived(data)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self._upgraded.full()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self._upgraded.moved()
