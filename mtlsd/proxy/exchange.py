"""One request that is passed on, and its answer."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mtlsd.identity import Identity
from mtlsd.proxy.backend import Backend, BackendConnection, Backends
from mtlsd.proxy.forwarded import end_to_end, of_message, protocols_asked_for, request_head
from mtlsd.proxy.response import Head
from mtlsd.proxy.trailers import Trailers
from mtlsd.proxy.upgraded import Upgraded
from mtlsd.routing.rules import Route, Upstream
from mtlsd.web.claims import claim_lines
from mtlsd.web.interfaces import SERVER
from mtlsd.web.message import Message
from mtlsd.web.patience import Patience

_FORBIDDEN, _BAD_GATEWAY, _UNAVAILABLE, _TIMEOUT = 403, 502, 503, 504
#: RFC 9110 9.2.2: asked twice, they do what they do when they are asked once.
_IDEMPOTENT = (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE")
#: RFC 9110 9.2.1: they do nothing, so that two servers may be asked.
_SAFE = (b"GET", b"HEAD", b"OPTIONS")
_EARLY_HINTS, _NO_CONTENT = 103, 204


@implementer(IPushProducer)
class Exchange:
    """A request on its way to a backend, and the answer on its way back, piece by piece.

    To the channel it is a request and the producer of an answer; to the connection to the backend it is who waits.
    """

    _log = Logger()

    # How each begins: to set them at each request is a tenth of what there is to do for one.
    code = sentLength = 0
    startedWriting = False
    _connection: BackendConnection | None = None
    _is_pooled = _is_retried = _is_over = False
    _body_is_whole = _body_has_begun = False
    _is_chunked = False
    #: The client takes no more of the answer, for now.
    _is_held_up = False

    def __init__(
        self,
        channel: Any,
        message: Message,
        identity: Identity,
        path: bytes,
        route: Route,
        upstream: Upstream,
        backends: Backends,
    ) -> None:
        """*path* is canonical; *route* leads to *upstream*."""
        self.channel = channel
        self.site = channel.site
        self.gate = channel.gate
        self.identity = identity
        # What the access log asks for.
        self.method, self.clientproto = message.method, message.version
        _, mark, query = message.target.partition(b"?")
        self.uri = path + mark + query

        self._message = message
        self._path = path
        self._route = route
        self._upstream = upstream
        self._backends = backends
        self._candidates: list[Backend] = []
        self._protocols = protocols_asked_for(message) if upstream.upgrade else ()
        plain = message.headers.plain
        self._trailers = Trailers(message, route.strip) if b"Trailer" in plain or b"TE" in plain else None
        # Trailers have their place behind chunks, if there is no content in these.
        self._has_body = (
            not message.complete or bool(message.pieces) or (self._trailers is not None and self._trailers.are_announced)
        )
        self._waiting_body: list[bytes] = []

    def begin(self) -> None:
        """Send the request on its way."""
        self._candidates = self._backends.in_turn(self._upstream.targets)
        self._next()

    def getHeader(self, name: bytes) -> bytes | None:
        """Return a header of the request, for the access log."""
        values = self._message.headers.getRawHeaders(name)
        return None if not values else values[-1]

    # From the channel: the request.

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the request's body has come."""
        if self._is_over:
            return
        if self._connection is None:
            self._waiting_body.append(data)
        else:
            self._send(self._connection, data)

    def requestReceived(self, method: bytes, target: bytes, version: bytes) -> None:
        """All of the request has come."""
        self._body_is_whole = True
        if self._connection is not None:
            self._finish_request(self._connection)

    def drop(self) -> None:
        """The request will never be complete."""
        self._is_over = True
        self._let_go()

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone."""
        if not self._is_over:
            self.drop()
            self.site.log(self)

    # From the channel: the answer's producer.

    def pauseProducing(self) -> None:
        self._is_held_up = True
        if self._connection is not None:
            self._connection.hold()

    def resumeProducing(self) -> None:
        self._is_held_up = False
        if self._connection is not None:
            self._connection.go_on()
            self._wait_for_more()

    def stopProducing(self) -> None:
        """The client's connection is gone; connectionLost comes next."""

    # From the backend.

    def hold_upload(self) -> None:
        """It takes no more of the body, for now."""
        self._wait_for_more()
        self.channel.hold_body()

    def release_upload(self, connection: BackendConnection) -> None:
        """It takes the body again."""
        if not self.startedWriting:
            connection.patience.rest()
        self.channel.release_body()

    def interim(self, head: Head) -> None:
        """A 1xx has come.  100 is between us and the backend; hints are the client's."""
        if head.status == _EARLY_HINTS and self.clientproto == b"HTTP/1.1":
            headers = end_to_end(head.headers.plain)
            # RFC 9110 8.6: whoever believes it takes the head of the answer for a body.
            headers.pop(b"Content-Length", None)
            self.channel.write_interim(head.status, headers)

    def answered(self, head: Head, body: bytes) -> None:
        """All of the answer has come, in one piece: nobody need be slowed down, or waited for."""
        channel = self.channel
        self._connection = None
        self._is_over = True
        self.sentLength = len(body)
        self._begin_answer(head)
        if self._is_chunked:
            end = self._end()
            body = b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end
        if body:
            channel.write(body)
        self.site.log(self)
        channel.requestDone(self)

    def responded(self, head: Head) -> None:
        """The head of the answer has come."""
        channel = self.channel
        if not self._body_is_whole:
            # An answer before the end of the question: what is left of that has nobody to go to.
            channel.persistent = False
            channel.release_body()
        channel.registerProducer(self, True)
        self._begin_answer(head)
        self._wait_for_more()

    def body(self, data: bytes) -> None:
        """A part of the answer's body has come."""
        self.sentLength += len(data)
        self._wait_for_more()
        self.channel.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def ended(self) -> None:
        """The answer is complete."""
        self._connection = None
        self._is_over = True
        if self._is_chunked:
            self.channel.write(self._end())
        self.site.log(self)
        self.channel.unregisterProducer()
        self.channel.requestDone(self)

    def switched(self, connection: BackendConnection, head: Head, behind: bytes) -> None:
        """The backend has taken up the protocol that was asked for: from here on there are bytes, both ways.

        Not before: to a backend that does not, the client's first bytes are a request (CVE-2025-64763 is that, in Envoy).
        """
        self._connection = None
        backend = self._candidates[0]
        if self.channel.is_finishing:
            connection.close()
            self._say(backend, "the service is shutting down")
            self._fail(_UNAVAILABLE)
            return
        router, identity = self.site.router, self.gate.authorize()
        if identity is None:
            # The connection has been cut.
            connection.close()
            return
        # It is the rules that are in force now which count from here on, and nobody asks them again until they change.
        why = router.objection(identity, self._path, backend.target)
        if why is not None:
            connection.close()
            self._say(backend, f"it is no longer allowed: {why}")
            self._fail(_FORBIDDEN)
            return
        upgraded = Upgraded(
            self,
            self._path,
            backend.target,
            patience=Patience(backend.deadlines),
            idle_timeout=self._upstream.idle_timeout,
            upgrades=self._backends.upgrades,
        )
        protocol = head.headers.plain[b"Upgrade"]
        headers = {b"Connection": [b"Upgrade"], b"Upgrade": protocol, **end_to_end(head.headers.plain), b"Server": [SERVER]}
        self.code, self.startedWriting, self._is_over = head.status, True, True
        channel, self.channel = self.channel, None
        channel.write_interim(head.status, headers)
        upgraded.begin(connection, channel.hand_over(), behind)

    def broken(self, why: str, *, answered: bool) -> None:
        """The connection to the backend broke, or what came on it is no answer."""
        connection, self._connection = self._connection, None
        backend = self._candidates[0] if self._candidates else None
        if backend is not None and not answered and not self._is_pooled:
            self._hold_against(backend, why)
        if answered:
            self._say(backend, why)
            self._is_over = True
            self.site.log(self)
            # What went out so far must not look like the whole.
            self.gate.abortConnection()
        elif connection is not None and self._may_be_asked_again(connection):
            self._is_retried = True
            if self._is_pooled:
                # It was kept too long: the backend had closed it when the request was on its way.
                self._connect()
            else:
                # The backend itself may have ended, with what it was at.
                self._candidates.pop(0)
                self._next()
        else:
            self._say(backend, why)
            self._fail(_BAD_GATEWAY)

    # Its own.

    def _end(self) -> bytes:
        """Return what comes behind the chunks of the answer."""
        return b"0\r\n\r\n" if self._trailers is None else self._trailers.end_of_answer()

    def _begin_answer(self, head: Head) -> None:
        headers = end_to_end(head.headers.plain)
        if head.status == _NO_CONTENT:
            # RFC 9110 8.6: not even 0.
            headers.pop(b"Content-Length", None)
        if head.length is None and self.clientproto == b"HTTP/1.1" and self.method != b"HEAD":
            self._is_chunked = True
            headers[b"Transfer-Encoding"] = [b"chunked"]
            if self._trailers is not None:
                headers.update(self._trailers.responded(head))
        self.code = head.status
        self.startedWriting = True
        self.channel.write_head(self.clientproto, b"%d" % head.status, head.reason, headers)

    def _next(self) -> None:
        backend = self._candidates[0]
        connection = backend.idle()
        if connection is None:
            self._connect()
        else:
            self._is_pooled = True
            self._ask(connection)

    def _connect(self) -> None:
        self._is_pooled = False
        if self._has_body and not self._message.complete:
            # Nobody takes the rest of it yet.
            self.channel.hold_body()
        self._candidates[0].connect(self._upstream.connect_timeout, self._connected, self._unreachable)

    def _connected(self, connection: BackendConnection) -> None:
        if self._is_over:
            connection.close()
        else:
            self._ask(connection)

    def _unreachable(self, why: str) -> None:
        backend = self._candidates.pop(0)
        self._hold_against(backend, why)
        if self._is_over:
            return
        if self._candidates and (not self._is_retried or self.method in _SAFE):
            # Nothing was sent, so any request may try the next; on a kept connection that broke, it was.
            self._next()
            return
        self._say(backend, why)
        self._fail(_UNAVAILABLE)

    def _ask(self, connection: BackendConnection) -> None:
        message, gate = self._message, self.gate
        self._connection = connection
        target = self.uri
        hosts = message.headers.plain.get(b"Host")
        host = hosts[-1] if hosts else None
        added = claim_lines(self.identity, gate.certificate(), gate.peer[0], host)
        if host is None:
            # HTTP/1.0 knows of none, and HTTP/1.1 does not go without (RFC 9112 3.2).
            added = b"Host: %b\r\n%b" % (self._candidates[0].target.authority.encode("ascii"), added)
        if self._upstream.strip_prefix and self._route.path:
            target = self._route.below(self._path) + target[len(self._path) :]
            if not target.startswith(b"/"):
                target = b"/" + target
        if self._trailers is not None and not self._protocols:
            added += self._trailers.lines()
            connection.is_last = self._trailers.are_announced
        length = message.length if self._has_body else 0
        head = request_head(self.method, target, of_message(message, self._route.strip), length, added, self._protocols)
        connection.ask(head, self, is_head=self.method == b"HEAD", is_whole=not self._has_body, protocols=self._protocols)
        if self._has_body:
            connection.transport.registerProducer(_Upload(self, connection), True)
            waiting, self._waiting_body = self._waiting_body, []
            for data in waiting:
                self._send(connection, data)
            self.channel.release_body()
        if self._body_is_whole:
            self._finish_request(connection)

    def _send(self, connection: BackendConnection, data: bytes) -> None:
        self._body_has_begun = True
        connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._message.length is None else data)

    def _finish_request(self, connection: BackendConnection) -> None:
        if connection.is_asked:
            # A second last chunk would be the beginning of somebody else's request.
            return
        connection.is_asked = True
        if self._has_body:
            if self._message.length is None:
                if self._trailers is not None and self._message.trailers is not None:
                    # They are a part of what is sent once.
                    self._body_has_begun = True
                connection.transport.write(b"0\r\n\r\n" if self._trailers is None else self._trailers.end_of_request())
            connection.transport.unregisterProducer()
            # It may have been held by a backend that is slow, and will not say any more that there is room.
            self.channel.release_body()
        if self.startedWriting:
            self._wait_for_more()
        else:
            connection.patience.wait(self._upstream.response_timeout, self._late)

    def _wait_for_more(self) -> None:
        # It is not the backend's fault where the client takes nothing.
        if self._connection is not None and not self._is_held_up:
            self._connection.patience.wait(self._upstream.idle_timeout, self._late)

    def _late(self) -> None:
        backend = self._candidates[0]
        self._let_go()
        if self.startedWriting:
            self._say(backend, "it stopped in the middle of an answer")
            self._is_over = True
            self.site.log(self)
            self.gate.abortConnection()
        else:
            why = "it does not answer"
            self._hold_against(backend, why)
            self._say(backend, why)
            self._fail(_TIMEOUT)

    def _hold_against(self, backend: Backend, why: str) -> None:
        """Have others asked before *backend*, for now.  Where it is the only one there is nothing to choose."""
        if len(self._upstream.targets) > 1:
            backend.is_down(why)

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.let_go()

    def _may_be_asked_again(self, connection: BackendConnection) -> bool:
        # One that has said something, if only half a head, was not closed yet: it may have done what it was asked to.
        if self._is_retried or self._body_has_begun or not connection.is_silent:
            return False
        if self._is_pooled:
            return self.method in _IDEMPOTENT
        # A fresh one: the server was there, and may have done it before it went.
        return len(self._candidates) > 1 and self.method in _SAFE

    def _say(self, backend: Backend | None, why: str) -> None:
        self._log.warn(
            "{client} {method} {path}: {target}: {why} [{connection}]",
            client=self.identity.client,
            method=self.method.decode("ascii"),
            path=self.uri.decode("ascii")[:200],
            target=backend.target if backend is not None else self._upstream,
            why=why,
            connection=self.gate.connection_id,
        )

    def _fail(self, status: int) -> None:
        self._is_over = True
        self.code, self.startedWriting = status, True
        self.channel.fail(self, status)


@implementer(IPushProducer)
class _Upload:
    """The client, as the producer of a request's body for the backend: what a slow backend slows down."""

    def __init__(self, exchange: Exchange, connection: BackendConnection) -> None:
        self._exchange = exchange
        self._connection = connection

    def pauseProducing(self) -> None:
        self._exchange.hold_upload()

    def resumeProducing(self) -> None:
        self._exchange.release_upload(self._connection)

    def stopProducing(self) -> None:
        """The backend is gone, and the exchange hears of it."""
