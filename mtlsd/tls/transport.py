"""TLS as a Twisted transport: an OpenSSL ``Connection`` that is handed to it, and nothing between the two.

Reading, writing, producers, half-close, close and abort; which descriptor the Connection works on is for a subclass to
know (:mod:`mtlsd.tls.port`), so that tests drive all of this in memory, with a Clock.

It sends at once and asks the poller only for what the socket did not take.  Reading is one record at a time, straight
from the descriptor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, cast

from OpenSSL import SSL, crypto
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
    IPullProducer,
)
from twisted.python.failure import Failure

from mtlsd.tls.connection import RECORD, Connection
from mtlsd.tls.farewell import Farewells
from mtlsd.tls.stall import Stall
from mtlsd.tls.wire import GONE, Phase, Wire

# To look an enumeration's member up is dearer than all else that is done for a record.
_OPEN = Phase.OPEN
#: As twisted.internet.protocol.connectionDone: making one anew for each connection is dear.
_DONE = Failure(ConnectionDone())
#: Bytes that TCP sends without having heard of the peer (RFC 6928).
_FIRST_WINDOW = 10 * 1460
#: Full records that are read in one go before others get their turn.
_RECORDS_AT_ONCE = 8
#: Pieces that are asked of a pull producer in one go before others get their turn.
_PULLS_AT_ONCE = 4
#: Bytes that are given to OpenSSL in one go: some 0.3 ms of work, in which nobody else is served.
SEND_LIMIT = 256 * 1024


class TLSTransport(Wire):
    """One TLS connection.  What it needs of its descriptor is what :class:`~mtlsd.tls.wire.Wire` leaves open."""

    SEND_LIMIT = SEND_LIMIT

    def __init__(self, connection: Connection, protocol: IProtocol, reactor: Any, farewells: Farewells) -> None:
        """*connection* is made of a context that has ``MODE_ENABLE_PARTIAL_WRITE`` cleared; it is put in accept state.

        With that mode a call would send one record, and a megabyte would be 64 calls.
        """
        super().__init__(reactor)
        connection.set_accept_state()
        self._connection: Connection = connection
        self.protocol: Any = protocol
        self._farewells = farewells
        self._paused = False
        self._peer_is_done = False
        self._peer_is_silent = False
        self._read_wants_write = False
        self._write_wants_read = False
        self._broken: Exception | None = None
        # Made for the first that has to wait for room: most never do.
        self._stall: Stall | None = None
        self.connected = 1

    # From the reactor.

    def doRead(self) -> None:
        """Read: the poller says that the descriptor has something."""
        if self._phase is _OPEN:
            if self._write_wants_read:
                self._write_wants_read = False
                self.startWriting()
            self._receive()
        elif self._phase is Phase.HANDSHAKE:
            # The tickets, the answer to a request that came with the last of the handshake, and the close after it: each is a
            # packet of its own otherwise, and a packet is dearer than all that is written for it here.
            self._cork()
            try:
                self._shake_hands()
            finally:
                self._uncork()
        elif self._phase is Phase.FAREWELL and self._discard() is None:
            self.connectionLost(_DONE)

    def doWrite(self) -> Any:
        """Write: the poller says that the descriptor takes something.  Returns why the connection is lost, or ``None``."""
        self._begin_to_write()
        try:
            if self._phase is _OPEN:
                # OpenSSL calls the kernel for each record; as many as there is room for become one packet.
                self._cork()
                try:
                    return self._write_on()
                finally:
                    self._uncork()
            self.stopWriting()
            if self._phase is Phase.HANDSHAKE:
                self._shake_hands()
        finally:
            self._end_to_write()
        return None

    def _write_on(self) -> Any:
        if self._read_wants_write:
            self._read_wants_write = False
            if not self._paused:
                # Else it has time until somebody wants to read again: what is there lies with the socket or is pending.
                self._receive()
            if not self._is_open():
                return None
        if self._stall is not None:
            self._stall.moved()
        why = super().doWrite()
        for _ in range(_PULLS_AT_ONCE - 1):
            if why is not None or not self._wants_to_pull():
                break
            cast(IPullProducer, self.producer).resumeProducing()
        if why is None and self._wants_to_pull():
            self.startWriting()
        if self._write_wants_read:
            self.stopWriting()
        if self._read_wants_write:
            # Again: that there is nothing to write is no reason not to wait for room.
            self.startWriting()
        return why

    def writeSomeData(self, data: Any) -> Any:
        """Give bytes to OpenSSL.  Returns how many it took (0: the socket is full), or why the connection is lost."""
        if self._broken is not None:
            return self._broken
        if not len(data):
            return 0
        try:
            # OpenSSL wants the same bytes again after it has refused some, at the same place of the stream: what is
            # in the buffer only ever grows at its end.
            if type(data) is bytes and len(data) <= SEND_LIMIT:
                return self._connection.send_bytes(data)
            return self._connection.send(memoryview(data)[:SEND_LIMIT])
        except SSL.WantWriteError:
            return 0
        except SSL.WantReadError:
            self._write_wants_read = True
            return 0
        except SSL.Error as error:
            self._broken = ConnectionLost() if isinstance(error, SSL.SysCallError | SSL.ZeroReturnError) else error
            return self._broken

    def readConnectionLost(self, reason: Failure) -> None:
        """The peer hung up: the poller saw it before we read it."""
        self.connectionLost(reason if self._phase is Phase.FAREWELL else Failure(ConnectionLost()))

    def connectionLost(self, reason: Failure) -> None:
        """Let go of everything, and tell the protocol if it has not been told."""
        if self._phase is Phase.LOST:
            return
        # While there still is a descriptor: without one the reactor goes through all it has to find out whose it was.
        self._unwatch()
        self._phase = Phase.LOST
        self._forget_the_time()
        try:
            super().connectionLost(reason)
        finally:
            # Whatever a producer does when it is stopped.
            self._close_wire(orderly=reason.check(ConnectionAborted) is None)
            self._tell_protocol(reason)

    # From the protocol: ITransport, IConsumer, IPushProducer.

    def write(self, data: bytes) -> None:
        """Send *data*, now where the socket takes it."""
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if not data or not self._may_write():
            return
        if self._phase is _OPEN and not self.dataBuffer and not self._tempDataLen:
            sent = self.writeSomeData(data)
            if sent == len(data):
                if self.producer is not None and not self.streamingProducer:
                    # A pull producer gives its next piece when the poller says so, which a peer that takes nothing puts off.
                    self._wait_for_room()
                return
            if not isinstance(sent, Exception) and sent:
                data = data[sent:]
        self._tempDataBuffer.append(data)
        self._tempDataLen += len(data)
        self._wait_for_room()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send several pieces, as one."""
        self.write(b"".join(iovec))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let *producer* give what is sent.  One that is asked, and had nothing to write the first time, is asked again."""
        super().registerProducer(producer, streaming)
        if self._wants_to_pull():
            self._wait_for_room()

    def loseConnection(self) -> None:
        """Close when all is sent: close_notify, then wait for the peer to hang up, ``close_timeout`` seconds at most.

        The wait lets a peer that still sends read the last answer: to close a socket with unread bytes in it is to
        reset the connection, and what was sent may be lost with it.
        """
        if not self.connected or self.disconnecting:
            return
        if self._phase is Phase.HANDSHAKE:
            if self._is_buffering():
                self.disconnecting = 1
            else:
                self.abortConnection()
            return
        self.disconnecting = 1
        if self.producer is None and not self._is_buffering():
            self._say_farewell()
        else:
            self.stopReading()
            self.startWriting()

    def hang_up(self) -> None:
        """Close when all is sent, as :meth:`loseConnection`, without the wait: the peer has said that it sends nothing more.

        Where it has sent something all the same, the wait is for its own good, and takes place.
        """
        self._peer_is_silent = True
        self.loseConnection()

    def loseWriteConnection(self) -> None:
        """Send close_notify when all is sent, and go on reading (RFC 8446 6.1)."""
        if self._may_write():
            super().loseWriteConnection()

    def abortConnection(self) -> None:
        """Close at once, with a reset, dropping what waits to be sent.  The protocol hears of it a little later."""
        if self._phase in GONE:
            return
        self._unwatch()
        self._phase = Phase.ABORTED
        self.disconnecting = 1
        self._forget_the_time()
        self._close_wire(orderly=False)
        # Not callLater: that goes by the wall clock, and whoever sets it back would keep the protocol waiting.
        self.reactor.callFromThread(self.connectionLost, Failure(ConnectionAborted()))

    def pauseProducing(self) -> None:
        self._paused = True
        self.stopReading()

    def resumeProducing(self) -> None:
        if not self.connected or self.disconnecting or self._phase is Phase.ABORTED:
            return
        self._paused = False
        if self._peer_is_done:
            return
        self.startReading()
        if self._phase is _OPEN and self._connection.pending():
            # It is in OpenSSL already, so the poller says nothing of it.
            self.reactor.callFromThread(self._receive_pending)

    # From the protocol: what TLS and TCP know.

    def getHandle(self) -> SSL.Connection:
        """Return the OpenSSL connection."""
        return self._connection

    def getPeerCertificate(self) -> crypto.X509 | None:
        return self._connection.get_peer_certificate()

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """The ALPN name, or ``None``."""
        return self._connection.get_alpn_proto_negotiated() or None

    def logPrefix(self) -> str:
        return "TLS"

    # Its own.

    def _shake_hands(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.WantWriteError:
            self.startWriting()
            return
        except SSL.Error as error:
            self._fail(error)
            return
        self._phase = Phase.OPEN
        if IHandshakeListener.providedBy(self.protocol):
            self.protocol.handshakeCompleted()
        if self._phase is not _OPEN:
            return
        if self._is_buffering() or self._writeDisconnecting:
            self.startWriting()
        if not self._paused and not self.disconnecting:
            # What follows the handshake is often there already.
            self._receive()

    def _receive(self) -> None:
        for _ in range(_RECORDS_AT_ONCE):
            try:
                data = self._connection.recv_record()
            except SSL.WantReadError:
                return
            except SSL.WantWriteError:
                self._read_wants_write = True
                self.startWriting()
                return
            except SSL.ZeroReturnError:
                self._peer_closed()
                return
            except SSL.Error as error:
                self._fail(error)
                return
            self.protocol.dataReceived(data)
            # After a record that is not full there is hardly another one, and asking for it costs an exception.
            if len(data) < RECORD or self._paused or self._phase is not _OPEN or self.disconnecting:
                return

    def _receive_pending(self) -> None:
        if self._phase is _OPEN and not self._paused and not self.disconnecting and self._connection.pending():
            self._receive()

    def _peer_closed(self) -> None:
        """The peer sent close_notify."""
        self._peer_is_done = True
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.stopReading()
            self.protocol.readConnectionLost()
            if self._writeDisconnected and self._phase is _OPEN:
                self.connectionLost(_DONE)
        elif self._is_buffering():
            # It gets what is there.  Whoever would make more of it is told, or would be waited for.
            producer, self.producer = self.producer, None
            if producer is not None:
                producer.stopProducing()
            self.loseConnection()
        else:
            self.disconnecting = 1
            self._say_farewell()

    def _fail(self, error: SSL.Error) -> None:
        """The peer hung up without a word, or broke the protocol (OpenSSL has sent its alert)."""
        if isinstance(error, SSL.SysCallError):
            self.connectionLost(Failure(ConnectionLost()))
            return
        # The protocol has nothing more to say; but the peer should be able to read the alert.
        self._enter_farewell()
        self._end_of_writing()
        self._tell_protocol(Failure(error))

    def _say_farewell(self) -> None:
        self.stopWriting()
        try:
            if not self._writeDisconnected:
                # Where it has been said already, OpenSSL would look for the peer's answer, and take its silence for an error.
                self._connection.shutdown()
        except SSL.WantWriteError:
            self._wait_for_room()
            return
        except SSL.Error:
            # There is nobody left to say it to.
            self._peer_is_done = True
        if self._peer_is_done or (self._peer_is_silent and self._nothing_is_left()):
            self.connectionLost(_DONE)
            return
        self._enter_farewell()
        self._end_of_writing()

    def _nothing_is_left(self) -> bool:
        """Tell whether a close now is no reset, and leaves nothing to the kernel that a revocation could still stop.

        What has come can only be the peer's own close_notify; what has gone out and fits into the first window is on its way.
        """
        return self._untaken_by_peer() <= _FIRST_WINDOW and (not self._discard() or not self._discard())

    def _enter_farewell(self) -> None:
        self._phase = Phase.FAREWELL
        self._forget_the_time()
        self.disconnecting = 1
        self.stopWriting()
        self.startReading()
        self._farewells.begin(self)

    def _tell_protocol(self, reason: Failure) -> None:
        producer, self.producer = self.producer, None
        protocol, self.protocol = self.protocol, None
        try:
            if producer is not None:
                producer.stopProducing()
        finally:
            if protocol is not None:
                try:
                    protocol.connectionLost(reason)
                finally:
                    # A Connection and its app_data are a cycle: left alone, their memory waits for the collector.
                    self._connection.set_app_data(None)

    def _forget_the_time(self) -> None:
        if self._stall is not None:
            self._stall.end()
            self._stall = None
        self._farewells.end(self)

    # Writing.

    def _may_write(self) -> bool:
        return not self._writeDisconnecting and (self._phase is _OPEN or self._phase is Phase.HANDSHAKE)

    def _is_buffering(self) -> bool:
        return bool(self.dataBuffer or self._tempDataLen)

    def _wants_to_pull(self) -> bool:
        return (
            self.producer is not None
            and not self.streamingProducer
            and self._phase is _OPEN
            and not self._is_buffering()
            and self._broken is None
        )

    def _wait_for_room(self) -> None:
        if self._stall is None:
            self._stall = Stall(self._farewells, self._untaken_by_peer, self._is_waited_for, self.abortConnection)
        self._stall.watch()
        self._maybePauseProducer()
        if self._phase is not Phase.HANDSHAKE:
            self.startWriting()

    def _is_waited_for(self) -> bool:
        """Tell whether the peer has something to take."""
        return self._phase is _OPEN and bool(self._is_buffering() or self.disconnecting or self._wants_to_pull())

    def _postLoseConnection(self) -> None:
        self._say_farewell()

    def _closeWriteConnection(self) -> Any:
        # Where it cannot be sent, the next read will tell.
        with contextlib.suppress(SSL.Error):
            self._connection.shutdown()
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.writeConnectionLost()
        return ConnectionDone() if self._peer_is_done and self._phase is _OPEN else None
