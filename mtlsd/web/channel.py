"""HTTP/1.1 on an authenticated transport, with deadlines that no byte puts off.

Twisted's own timeout starts anew with every byte and stops while a request is handled, so a head that drips and a
close that is never answered would be open for ever (field note 16).  Ours are absolute.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, cast

from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http_headers import Headers

from mtlsd.deadlines import Deadline
from mtlsd.web.interfaces import IAuthenticatedTransport
from mtlsd.web.request import Request

if TYPE_CHECKING:
    from mtlsd.web.site import Site

#: What is sent in every answer.  No version: whoever knows it knows what to try.
SERVER = b"mtlsd"

#: RFC 6585 5; Twisted does not know it.
HEAD_TOO_LARGE = 431
_REASONS = {HEAD_TOO_LARGE: b"Request Header Fields Too Large", http.REQUEST_TIMEOUT: b"Request Timeout"}

#: More digits than any length has.  int() raises past 4,300 (CVE-2020-10735), and not where Twisted expects it.
_LENGTH_DIGITS = 18


class Phase(Enum):
    """What a channel waits for."""

    #: The first byte of the next request.
    IDLE = auto()
    #: The rest of a request's head.
    HEAD = auto()
    #: The request's body, or whoever answers it.
    BUSY = auto()
    #: The peer, to take what was written; then the connection is closed.
    FLUSHING = auto()
    #: The connection, to go away.
    CLOSING = auto()
    #: Nothing: there is no connection, or not yet.
    GONE = auto()


class Channel(http.HTTPChannel):
    """One connection's requests.  Its transport is an :class:`~mtlsd.web.interfaces.IAuthenticatedTransport`."""

    site: Site
    requests: list[Request]
    _log = Logger()
    _phase = Phase.GONE
    _deadline: Deadline | None = None
    _finishing = False

    @property
    def gate(self) -> IAuthenticatedTransport:
        """The client's transport."""
        return cast(IAuthenticatedTransport, self.transport)

    # From the transport.

    def connectionMade(self) -> None:
        """Begin.  Raises :exc:`TypeError` on a transport that cannot say who its peer is: nothing is ever read from it."""
        if not IAuthenticatedTransport.providedBy(self.transport):
            self.gate.loseConnection()
            raise TypeError(f"mtlsd's site serves authenticated clients only, not {self.transport!r}")
        self.MAX_LENGTH = self.totalHeadersSize = self.site.settings.max_head
        super().connectionMade()
        self._enter(Phase.IDLE)

    def dataReceived(self, data: bytes) -> None:
        if self._phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        elif self._is_over():
            return
        try:
            super().dataReceived(data)
        except Exception:
            # Twisted's parsing of a body has its own bugs (`Content-Type: x/y; a*` is an IndexError), and a transport
            # is not the place to find out.
            self._log.failure("a request could not be read [{connection}]", connection=self.gate.connection_id)
            self.gate.abortConnection()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._phase is Phase.FLUSHING:
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._enter(Phase.GONE)
        self.clearLineBuffer()
        super().connectionLost(reason)

    # From the parser.

    def allHeadersReceived(self) -> None:
        self._enter(Phase.BUSY)
        hosts = self.requests[-1].requestHeaders.getRawHeaders(b"Host", ())
        if len(hosts) > 1 or (not hosts and self._version == b"HTTP/1.1"):
            # RFC 9112 3.2: two readers of such a request would disagree on whom it is for.
            self._respondToBadRequestAndDisconnect()
            return
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        if not self._is_over():
            super().allContentReceived()

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(HEAD_TOO_LARGE, "request head too large")

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        return not self._finishing and bool(super().checkPersistence(request, version))

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        if header == b"Content-Length" and len(data) > _LENGTH_DIGITS:
            return bool(self._failChooseTransferDecoder())
        return bool(super()._maybeChooseTransferDecoder(header, data))

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self.refuse(HEAD_TOO_LARGE, "request head too large")
        else:
            self.refuse(http.BAD_REQUEST, "bad request")

    def _send100Continue(self) -> None:
        # A byte of an answer, before Request.process has asked who is to get it.
        if self.gate.authorize() is not None:
            super()._send100Continue()

    # From the request.

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Send the head of an answer, with what belongs to every answer."""
        headers.setRawHeaders(b"Server", [SERVER])
        if not self.persistent:
            headers.setRawHeaders(b"Connection", [b"close"])
        super().writeHeaders(version, code, reason, headers)

    def requestDone(self, request: Request) -> None:
        if self._phase is Phase.BUSY and self.persistent:
            # What a client sent ahead has begun already; its bytes are parsed within the call below.
            self._enter(Phase.HEAD if self._buffer or any(self._dataBuffer) else Phase.IDLE)
        super().requestDone(request)

    def isSecure(self) -> bool:
        return IAuthenticatedTransport.providedBy(self.transport)

    def loseConnection(self) -> None:
        """Close, when what was written has been taken.

        While a full buffer waits for a slow reader there is no deadline yet: a large answer to a request with
        ``Connection: close`` must not end in the middle.
        """
        if self._is_over():
            return
        self.clearLineBuffer()
        if self._waitingForTransport:
            self._enter(Phase.FLUSHING)
        else:
            self._close()

    # From whoever owns the channel.

    def finish_up(self) -> None:
        """End soon, for the service is shutting down: at once where nothing is asked, otherwise after the next answer."""
        self._finishing = True
        if self._phase is Phase.IDLE:
            self.loseConnection()
        elif self._phase is Phase.BUSY:
            self.persistent = False

    def refuse(self, status: int, text: str) -> None:
        """Answer what is no request, in one plain line, and close.  Says nothing to a peer that is no longer authorized."""
        if self._is_over():
            return
        identity = self.gate.authorize()
        if identity is None:
            # The connection has been cut; what was read before that is not parsed any further.
            self.clearLineBuffer()
            self._enter(Phase.GONE)
            return
        body = text.encode() + b"\n"
        self.persistent = False
        headers = Headers()
        headers.setRawHeaders(b"Date", [http.datetimeToString()])
        headers.setRawHeaders(b"Content-Type", [b"text/plain; charset=utf-8"])
        headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        self.writeHeaders(b"HTTP/1.1", b"%d" % status, _REASONS.get(status) or http.RESPONSES[status], headers)
        self.write(body)
        if self.site.access_log is not None:
            self.site.access_log.refused(self.gate, identity, status, len(body))
        self.loseConnection()

    # Its own.

    def _is_over(self) -> bool:
        return self._phase in (Phase.FLUSHING, Phase.CLOSING, Phase.GONE)

    def _enter(self, phase: Phase) -> None:
        """Change to *phase*: the deadline of the last one is off, and its own begins."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._phase = phase
        deadlines, settings = self.site.deadlines, self.site.settings
        if phase is Phase.IDLE:
            self._deadline = deadlines.set(settings.idle_timeout, self.loseConnection)
        elif phase is Phase.HEAD:
            self._deadline = deadlines.set(settings.head_timeout, self._head_is_late)
        elif phase is Phase.CLOSING:
            self._deadline = deadlines.set(settings.close_timeout, self._close_is_late)

    def _head_is_late(self) -> None:
        self.refuse(http.REQUEST_TIMEOUT, "request head too slow")

    def _close(self) -> None:
        self._enter(Phase.CLOSING)
        super().loseConnection()

    def _close_is_late(self) -> None:
        self.gate.abortConnection()
