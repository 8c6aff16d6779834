"""A request of an authorized client, and its errors in one plain line."""

from __future__ import annotations

from typing import Any, cast

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.error import UnsupportedMethod
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource

from mtlsd.identity import Identity
from mtlsd.web.interfaces import IAuthenticatedTransport

#: The methods of HTTP (RFC 9110 9.3, RFC 5789), in the order in which ``Allow`` names them.
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE")


class Request(server.Request):
    """A request whose peer was asked for before anything else.

    ``identity`` is who it is from, as the live registry had it when the request was complete; ``None`` before that.
    """

    identity: Identity | None = None
    _log = Logger()

    @property
    def gate(self) -> IAuthenticatedTransport:
        """The client's transport; stays readable when the request is over."""
        return cast(IAuthenticatedTransport, self.transport)

    def process(self) -> None:
        """Answer, where the peer is still authorized; otherwise the connection is cut and no byte goes out."""
        self.identity = self.gate.authorize()
        if self.identity is None:
            return
        if self.path == b"*":
            self._about_the_server()
        else:
            super().process()

    def render(self, resrc: IResource) -> None:
        """Render a resource; what it refuses is refused in one plain line."""
        try:
            body = resrc.render(self)
        except UnsupportedMethod as error:
            allowed = error.allowedMethods
            if self.method == b"HEAD" and b"GET" in allowed:
                # Twisted makes a HEAD from the GET of such a resource (RFC 9110 9.3.2).
                super().render(resrc)
            elif self.method in METHODS or self.method in allowed:
                self.setHeader(b"Allow", b", ".join(_in_order(allowed)))
                self.answer(http.NOT_ALLOWED, "method not allowed")
            else:
                self.answer(http.NOT_IMPLEMENTED, "no such method")
            return
        if body is server.NOT_DONE_YET:
            return
        if not isinstance(body, bytes):
            raise TypeError(f"{resrc!r} rendered {type(body).__name__}, not bytes")
        self.setHeader(b"Content-Length", b"%d" % len(body))
        # To HEAD, write() sends the head alone.
        self.write(body)
        self.finish()

    def answer(self, status: int, text: str) -> None:
        """Finish with an error: *status* and one line of plain text."""
        self.setResponseCode(status)
        self.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        body = text.encode() + b"\n"
        self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        self.finish()

    def processingFailed(self, reason: Failure) -> Failure:
        """Answer 500 without any detail: those go to the log, where the connection's id finds them."""
        connection = self.gate.connection_id
        self._log.failure("a request failed [{connection}]", failure=reason, connection=connection)
        if self.finished or self._disconnected:
            return reason
        if self.startedWriting:
            # Too late for another status, and what went out so far must not look like the whole.
            self.gate.abortConnection()
            return reason
        # Nothing of the answer that failed: a cookie, a validator or an encoding would speak of something else.
        self.responseHeaders = Headers()
        self.setHeader(b"Date", http.datetimeToString())
        self.cookies = []
        self.etag = self.lastModified = self._encoder = None
        self._inFakeHead = False
        self.answer(http.INTERNAL_SERVER_ERROR, f"internal error {connection}")
        return reason

    def connectionLost(self, reason: Failure) -> None:
        """Let go.  An answer that was cut short has its line in the access log all the same."""
        super().connectionLost(reason)
        if self.site is not None:
            self.site.log(self)

    def _about_the_server(self) -> None:
        # OPTIONS * asks about the server, not about a resource (RFC 9110 9.3.7).
        self.setHeader(b"Date", http.datetimeToString())
        if self.method == b"OPTIONS":
            self.setHeader(b"Content-Length", b"0")
            self.finish()
            return
        self.setHeader(b"Allow", b"OPTIONS")
        self.answer(http.NOT_ALLOWED, "method not allowed")


def identity(request: IRequest) -> Identity:
    """Return who a request is from: for any resource that mtlsd serves.

    Raises :exc:`TypeError` for a request that did not come in through mtlsd's front door.  Fails closed: there is no
    answer that means "nobody".
    """
    found: Any = request.identity if isinstance(request, Request) else None
    if not isinstance(found, Identity):
        raise TypeError(f"this request did not come through mtlsd's front door, so nobody can say who it is from: {request!r}")
    return found


def _in_order(methods: Any) -> list[bytes]:
    known = [method for method in METHODS if method in methods]
    return known + sorted(method for method in methods if method not in METHODS)
