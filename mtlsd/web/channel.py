"""HTTP/1.1 on an authenticated transport, with deadlines that no byte puts off.

Answers go out in the order of the requests, and no more is read ahead than one piece.  Each phase has a deadline of
its own (:mod:`mtlsd.web.patience`); what a client does not take, and how long a close may last, is the transport's
affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import REQUEST_TIMEOUT, RESPONSES
from zope.interface import implementer

from mtlsd.web.answering import Answering
from mtlsd.web.interfaces import IAuthenticatedTransport
from mtlsd.web.message import Message
from mtlsd.web.parser import BAD_REQUEST, CONTENT_TOO_LARGE, Refusal, RequestParser
from mtlsd.web.patience import BodyPace, Patience
from mtlsd.web.request import Request

if TYPE_CHECKING:
    from mtlsd.web.site import Site


@implementer(IPushProducer)
class Channel(Answering):
    """One connection's requests.  Its transport is an :class:`~mtlsd.web.interfaces.IAuthenticatedTransport`."""

    _log = Logger()

    def __init__(self, site: Site) -> None:
        self.site = site
        self.factory = site
        self._parser = RequestParser(site.settings.max_head, site.names, site.heads)
        self._messages = self._parser.messages
        self._patience = Patience(site.deadlines)
        # How fast a body comes in: made for the first that does not come with its head.
        self._pace: BodyPace | None = None
        # The request whose body comes in, or that is being answered; which of the two, ``_is_handling`` tells.
        self._request: Any = None
        self._is_handling = False
        # By the client, which then sends nothing more (RFC 9112 9.6).
        self._is_asked_to_close = False
        self._refusal: Refusal | None = None
        self._is_advancing = False
        self._is_paused = False
        # Whoever takes the request's body has enough of it for now.
        self._is_held = False
        # The client waits for a word before it sends a body, which is said when there is somebody to take that.
        self._owes_continue = False
        self._finishing = False
        # Bytes of the request's body that have come, and that may; 0: any number.
        self._taken = self._most = 0

    @property
    def gate(self) -> IAuthenticatedTransport:
        """The client's transport."""
        return cast(IAuthenticatedTransport, self.transport)

    # From the transport.

    def connectionMade(self) -> None:
        """Begin.  Raises :exc:`TypeError` on a transport that cannot say who its peer is: nothing is ever read from it."""
        transport = self.transport
        if not IAuthenticatedTransport.providedBy(transport):
            transport.loseConnection()
            raise TypeError(f"mtlsd's site serves authenticated clients only, not {transport!r}")
        self._is_over = False
        self._peer, self._host = self.gate.getPeer(), self.gate.getHost()
        self.transport.registerProducer(self, True)
        self._patience.wait(self.site.settings.idle_timeout, self.loseConnection)

    def dataReceived(self, data: bytes) -> None:
        if self._is_over or self._refusal is not None:
            return
        try:
            self._parser.feed(data)
        except Refusal as refusal:
            self._refusal = refusal
        self._advance()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_over = True
        self._patience.end()
        self._parser.end()
        # Each holds this channel: a refusal does by the way it came.
        self._pace = self._refusal = None
        self._messages.clear()
        request, self._request = self._request, None
        if request is not None:
            request.connectionLost(reason)

    # IPushProducer, for the transport: what a slow reader slows down.

    def pauseProducing(self) -> None:
        """The transport's buffer is full: neither the answer under way nor the next one is to write."""
        self._is_blocked = True
        if self._producer is not None:
            self._producer.pauseProducing()
        elif not self._is_handling:
            self._pause_reading()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty."""
        self._is_blocked = False
        if self._producer is not None:
            self._producer.resumeProducing()
        self._advance()

    def stopProducing(self) -> None:
        """The connection is gone, or the client has said that it goes; :meth:`connectionLost` comes next, or soon."""
        if self._producer is None:
            return
        self._producer.stopProducing()
        request, self._request = self._request, None
        self._is_over = True
        if request is not None:
            request.connectionLost(connectionDone)

    # From the request.

    def requestDone(self, request: Any) -> None:
        """The answer to *request* is complete."""
        self.flush()
        if request is not self._request:
            return
        self._request = None
        # Whoever held its body is gone with it.
        self._is_handling = self._is_answering = self._owes_continue = self._is_held = False
        if not self.persistent:
            self._close(self.gate.hang_up if self._is_asked_to_close else self.gate.loseConnection)
        else:
            self._advance()

    def hold_body(self) -> None:
        """Let no more of the request's body come, for now: it is not the client that is slow."""
        self._is_held = True
        self._pause_reading()
        if not self._is_handling:
            self._patience.rest()

    def release_body(self) -> None:
        """Let the rest of the request's body come: it has somebody to go to."""
        if not self._is_held and not self._owes_continue:
            return
        self._is_held = False
        if self._is_over:
            return
        if not self._is_handling and self._messages:
            if self._owes_continue:
                self._owes_continue = False
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._begin_body()
        self._advance()

    def hand_over(self) -> bytes:
        """Let go of the connection, which is another protocol's from here on.  Returns what has come of that already."""
        self._request = None
        self._is_over = True
        self._patience.end()
        self.transport.unregisterProducer()
        return self._parser.behind

    def fail(self, request: Any, status: int) -> None:
        """Answer *request*, of whose answer nothing has gone out, in one plain line."""
        if request is not self._request or self._is_over:
            return
        if not self._is_handling:
            # The rest of its body has nobody to go to.
            self.persistent = False
        is_head = request.method == b"HEAD"
        request.sentLength = self.write_line(request.clientproto, status, RESPONSES[status].lower(), is_head=is_head)
        self.site.log(request)
        self.requestDone(request)

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return self._host

    def isSecure(self) -> bool:
        """Whether the client came through TLS: always, for there is no other way here."""
        return True

    def loseConnection(self) -> None:
        """Close, when what was written has been taken."""
        if not self._is_over:
            self._close(self.gate.loseConnection)

    def _close(self, close: Callable[[], None]) -> None:
        self.flush()
        self._is_over = True
        self._patience.end()
        self._messages.clear()
        if not self._pulls:
            self.transport.unregisterProducer()
        close()

    def abortConnection(self) -> None:
        """Close at once."""
        self.gate.abortConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # twisted.web's Request calls this for a form that it cannot read.
        self.refuse(BAD_REQUEST, "bad request")

    # From whoever owns the channel.

    @property
    def is_finishing(self) -> bool:
        """Whether the service is shutting down."""
        return self._finishing

    def finish_up(self) -> None:
        """End soon, for the service is shutting down: at once where nothing is asked, otherwise after the next answer."""
        self._finishing = True
        if self._request is not None:
            self.persistent = False
        elif not self._parser.in_head:
            self.loseConnection()

    def refuse(self, status: int, text: str) -> None:
        """Answer what is no request, in one plain line, and close.  Says nothing to a peer that is no longer authorized."""
        if self._is_over:
            return
        identity = self.gate.authorize()
        if identity is None:
            # The connection has been cut.
            self._is_over = True
            return
        if self._is_answering:
            # The head of another answer went out; what is there of it must not look like the whole.
            self.gate.abortConnection()
            return
        self.persistent = False
        length = self.write_line(b"HTTP/1.1", status, text.encode())
        if self.site.access_log is not None:
            self.site.access_log.refused(self.gate, identity, status, length)
        self.loseConnection()

    # Its own.

    def _advance(self) -> None:
        """Go on with what has come in, as far as it goes."""
        if self._is_advancing:
            return
        self._is_advancing = True
        messages = self._messages
        try:
            while messages and not self._is_handling and not self._is_blocked and not self._is_over:
                if (self._request is not None or self._begin(messages[0])) and self._take_body(messages[0]):
                    self._handle(messages.pop(0))
                elif self._request is not None:
                    break
        except Exception:
            # Twisted's parsing of a body has its own bugs (`Content-Type: x/y; a*` is an IndexError), and a transport
            # is not the place to find out.
            self._log.failure("a request could not be read [{connection}]", connection=self.gate.connection_id)
            self.gate.abortConnection()
        finally:
            self._is_advancing = False
        if not self._is_over:
            self._rest()

    def _rest(self) -> None:
        """Nothing can be done before something else happens: see that it does, and in time."""
        messages, settings = self._messages, self.site.settings
        if self._request is None and not messages:
            # The parser has read all there is: the next byte begins a request, or goes on with one.
            if self._refusal is not None:
                self.refuse(self._refusal.status, self._refusal.text)
                return
            if self._parser.in_head:
                self._patience.wait(settings.head_timeout, self._head_is_late, anew=False)
            elif self._finishing:
                self.loseConnection()
                return
            else:
                self._patience.wait(settings.idle_timeout, self.loseConnection, anew=False)
        # Read on only where what has come in already is being dealt with.
        ahead = len(messages) - (self._request is not None and not self._is_handling)
        if ahead > 0 or self._is_held or (self._is_blocked and not self._is_handling) or self._parser.behind:
            self._pause_reading()
        elif self._is_paused:
            self._is_paused = False
            self.transport.resumeProducing()

    def _begin(self, message: Message) -> bool:
        """The head of a request is there, and it is its turn.  False where it is refused for its head."""
        self._patience.rest()
        site = self.site
        self.persistent = message.keep_alive and not self._finishing
        self._is_asked_to_close = not message.keep_alive and not self._parser.upgraded
        self._taken = 0
        most = self._most = 0 if message.length == 0 else site.largest_body(message.target)
        if most and (message.length or 0) > most:
            self.refuse(CONTENT_TOO_LARGE, "request body too large")
            return False
        if self._refusal is not None and not message.complete:
            # Its body is broken already: nobody need hear of it.
            self.refuse(self._refusal.status, self._refusal.text)
            return False
        if site.router is not None and site.router.has_upstreams:
            identity = self.gate.authorize()
            if identity is None:
                # The connection has been cut.
                self._is_over = True
                return False
            exchange = site.router.exchange(self, message, identity)
            if exchange is not None:
                self._request = exchange
                if not message.complete:
                    self._owes_continue = not message.pieces and self._expects_continue(message)
                    self._begin_body()
                exchange.begin()
                return self._request is exchange
        if site.router is not None and not message.complete and not self._is_wanted(message):
            return False
        request = self._request = site.requestFactory(self)
        request.requestHeaders = message.headers_of_its_own()
        # A small one is kept in memory, also where nobody knows yet how small.
        request.gotLength(most or None if message.length is None else message.length)
        if b"Cookie" in message.headers.plain:
            request.parseCookies()
        if not message.complete:
            if self._expects_continue(message):
                # A byte of an answer, before Request.process has asked who is to get it.
                if self.gate.authorize() is None:
                    self._is_over = True
                    return False
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._begin_body()
        return True

    def _is_wanted(self, message: Message) -> bool:
        """Let a body come in only where the rules will not refuse its request.  False where the connection has been cut."""
        identity = self.gate.authorize()
        if identity is None:
            self._is_over = True
            return False
        if self.site.router is not None and self.site.router.turns_away(message, identity):
            # Answered as if there were none, and the connection closed after it.
            message.pieces, message.length, message.complete = [], 0, True
            self.persistent = False
        return True

    def _begin_body(self) -> None:
        """From here on a body has to come, and fast enough."""
        if self._pace is None:
            settings = self.site.settings
            self._pace = BodyPace(self._patience, settings.body_timeout, settings.min_rate, self._body_is_late)
        self._pace.begin()

    def _take_body(self, message: Message) -> bool:
        """Hand on what has come of the body.  True when that is all of it."""
        if message.pieces:
            pieces, message.pieces = message.pieces, []
            for piece in pieces:
                self._taken += len(piece)
                if self._most and self._taken > self._most:
                    self._drop_request()
                    self.refuse(CONTENT_TOO_LARGE, "request body too large")
                    return False
                self._request.handleContentChunk(piece)
            if self._pace is not None:
                self._pace.came(self._taken)
        if self._request is None:
            return False
        if message.complete:
            return True
        if self._refusal is not None:
            self._drop_request()
            self.refuse(self._refusal.status, self._refusal.text)
        return False

    def _handle(self, message: Message) -> None:
        """The whole of a request is there: have it answered."""
        self._patience.rest()
        self._is_handling = True
        self._request.requestReceived(message.method, message.target, message.version)

    def _expects_continue(self, message: Message) -> bool:
        if message.version != b"HTTP/1.1":
            return False
        return any(value.lower() == b"100-continue" for value in message.headers.plain.get(b"Expect", ()))

    def _drop_request(self) -> None:
        """Forget a request whose body will never be complete."""
        request, self._request = self._request, None
        request.drop()

    def _pause_reading(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pauseProducing()

    def _head_is_late(self) -> None:
        self.refuse(REQUEST_TIMEOUT, "request head too slow")

    def _body_is_late(self) -> None:
        self._drop_request()
        self.refuse(REQUEST_TIMEOUT, "request body too slow")


__all__ = ["Channel", "Request"]
