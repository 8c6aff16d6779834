"""A request of an authorized client, and its errors in one plain line."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any, AnyStr, cast
from urllib.parse import unquote_to_bytes as unquote

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.error import UnsupportedMethod

# By name: the module twisted.web.http is a proxy for what is deprecated in it, and each look into it costs a microsecond.
from twisted.web.http import (
    INTERNAL_SERVER_ERROR,
    NO_BODY_CODES,
    NO_CONTENT,
    NOT_ALLOWED,
    NOT_IMPLEMENTED,
    NOT_MODIFIED,
    datetimeToString,
)
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, _IEncodingResource

from mtlsd.identity import Identity
from mtlsd.web.headers import PlainHeaders
from mtlsd.web.interfaces import IAuthenticatedTransport

#: The methods of HTTP (RFC 9110 9.3, RFC 5789), in the order in which ``Allow`` names them.
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE")

# RFC 9112 4: what a reason has; a line end in it would begin a header, or the body.
_NO_REASON = re.compile(rb"[^\t -~\x80-\xff]+")
#: Answers of these need no Content-Type.
_WITHOUT_TYPE = (NOT_MODIFIED, NO_CONTENT)
_NOTHING = [b"0"]


class Request(server.Request):
    """A request whose peer was asked for before anything else.

    ``identity`` is who it is from, as the live registry had it when the request was complete; ``None`` before that.
    """

    identity: Identity | None = None
    #: The bytes of the answer's body that its head has promised; ``None`` where it has promised none.
    promised: int | None = None
    channel: Any
    # Ours, which have a little more than twisted.web's.  (Declared, not cast: a cast is a call.)
    site: Any
    transport: Any
    content: Any
    requestHeaders: PlainHeaders
    responseHeaders: PlainHeaders
    _log = Logger()

    def __init__(self, channel: Any) -> None:
        """Make a request of *channel*.  It is twisted.web's own, at a third of its cost: nothing is asked for twice."""
        self.channel = channel
        self.transport = channel.transport
        self.site = channel.site
        self.client = channel.getPeer()
        self.host = channel.getHost()
        self.requestHeaders = PlainHeaders()
        self.responseHeaders = PlainHeaders()
        self.received_cookies = {}
        self.cookies = []
        self.notifications = []
        self.queued = False
        self._parsePOSTFormSubmission = channel.site._parsePOSTFormSubmission
        self._adapterCache = {}

    @property
    def gate(self) -> IAuthenticatedTransport:
        """The client's transport; stays readable when the request is over."""
        return cast(IAuthenticatedTransport, self.transport)

    def gotLength(self, length: int | None) -> None:
        """Make the place for the body of a request: *length* bytes, ``None`` where nobody knows."""
        if length == 0:
            self.content = BytesIO()
        else:
            super().gotLength(length)

    def drop(self) -> None:
        """Let go: the rest of the body will never come."""
        self.content.close()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The whole request is there: take apart what it asks for, and answer."""
        if b"?" in path or b"Content-Type" in self.requestHeaders.plain:
            super().requestReceived(command, path, version)
            return
        # No arguments and no form: nothing is left to be taken apart.
        self.content.seek(0)
        self.args = {}
        self.method, self.uri, self.path, self.clientproto = command, path, path, version
        self.process()

    def process(self) -> None:
        """Answer, where the peer is still authorized; otherwise the connection is cut and no byte goes out.

        What follows is twisted.web's own, without the two headers that the channel writes at less cost.
        """
        self.identity = self.transport.authorize()
        if self.identity is None:
            return
        if self.path == b"*":
            self._about_the_server()
            return
        self.prepath = []
        path = self.path[1:]
        self.postpath = [unquote(part) for part in path.split(b"/")] if b"%" in path else path.split(b"/")
        try:
            found = self.site.getResourceFor(self)
            if found is None:
                return
            if _IEncodingResource.providedBy(found):
                self._encoder = found.getEncoder(self)
            self.render(found)
        except BaseException:
            self.processingFailed(Failure())

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Set the status of the answer, and its reason.  Control characters in this become a space, as line ends in headers do."""
        super().setResponseCode(code, None if message is None else _NO_REASON.sub(b" ", message))

    def setHeader(self, name: AnyStr, value: AnyStr) -> None:
        """Set a header of the answer.  Line ends become spaces: twisted.web sees to that where there are any."""
        if type(name) is type(value) is bytes and b"\n" not in value and b"\r" not in value:
            self.responseHeaders.plain[self.site.names[name]] = [value]
        else:
            super().setHeader(name, value)

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
                self.answer(NOT_ALLOWED, "method not allowed")
            else:
                self.answer(NOT_IMPLEMENTED, "no such method")
            return
        if body is server.NOT_DONE_YET:
            return
        if not isinstance(body, bytes):
            raise TypeError(f"{resrc!r} rendered {type(body).__name__}, not bytes")
        if body or self.method != b"HEAD":
            # A resource that answers HEAD with nothing says nothing of how long its GET would be, or has said it itself.
            self.responseHeaders.plain[b"Content-Length"] = [b"%d" % len(body)]
        # To HEAD, write() sends the head alone.
        self.write(body)
        self.finish()

    def write(self, data: bytes) -> None:
        """Send a part of the answer; the head goes out with the first bytes, or at once where there are none."""
        if self.promised is not None and self.sentLength + len(data) > self.promised:
            data = self._within_promise(data, self.promised)
        if self.startedWriting or self.finished or self._disconnected or self._inFakeHead or self._encoder is not None:
            super().write(data)
        else:
            self._begin_answer(data)
        if not data and self.startedWriting and not self.finished and not self._disconnected:
            self.channel.flush()

    def finish(self) -> None:
        """End the answer."""
        if not self.startedWriting and not self._disconnected and not self.finished and self._encoder is None:
            # The head goes out with the end, not before it.
            self._begin_answer(b"")
        unusual = (self.chunked, self.finished, self._disconnected, self._encoder, self.producer)
        if self.promised is not None and self.sentLength < self.promised:
            self._break_promise()
            if self._disconnected:
                return
        if any(unusual):
            super().finish()
            return
        # The same, for an answer that is complete already.
        self.finished = 1
        channel, self.channel = self.channel, None
        self.site.log(self)
        channel.requestDone(self)
        self.content.close()
        notifications, self.notifications = self.notifications, []
        for waiting in notifications:
            waiting.callback(None)

    def _within_promise(self, data: bytes, promised: int) -> bytes:
        """Return what of *data* the answer's length has room for: the rest would be read as the next answer."""
        if self.channel is not None and self.channel.persistent:
            self._log.error("an answer is longer than its Content-Length [{connection}]", connection=self.gate.connection_id)
            self.channel.persistent = False
        return data[: promised - self.sentLength]

    def _break_promise(self) -> None:
        """Cut an answer that is shorter than its length: what comes after it would be taken for its end."""
        if not self._disconnected and not self.finished:
            self._log.error("an answer is shorter than its Content-Length [{connection}]", connection=self.gate.connection_id)
            self.channel.persistent = False
            self.gate.abortConnection()

    def _begin_answer(self, data: bytes) -> None:
        """Do what twisted.web does at the first write, from its two classes, each header looked at once."""
        headers = self.responseHeaders.plain
        code = self.code
        if b"Transfer-Encoding" in headers or code in NO_BODY_CODES:
            # What frames an answer is not the resource's affair; one that has no body has no length (RFC 9110 8.6).
            headers.pop(b"Transfer-Encoding", None)
            headers.pop(b"Content-Length", None)
        length = headers.get(b"Content-Length")
        if length is not None and (len(length) > 1 or not length[0].isdigit()):
            # Two readers could take it for two.
            del headers[b"Content-Length"]
            length = None
        default = self.defaultContentType
        if b"Content-Type" not in headers and default is not None and code not in _WITHOUT_TYPE and length != _NOTHING:
            headers[b"Content-Type"] = [default]
        without_body = self.method == b"HEAD" or code in NO_BODY_CODES
        if length is None and not without_body and self.clientproto == b"HTTP/1.1":
            headers[b"Transfer-Encoding"] = [b"chunked"]
            self.chunked = 1
        if self.lastModified is not None and b"Last-Modified" not in headers:
            headers[b"Last-Modified"] = [datetimeToString(self.lastModified)]
        if self.etag is not None:
            self.setHeader(b"ETag", self.etag)
        if self.cookies:
            self.responseHeaders.setRawHeaders(b"Set-Cookie", self.cookies)
        self.startedWriting = 1
        self.channel.writeHeaders(self.clientproto, b"%d" % code, self.code_message, self.responseHeaders)
        if without_body:
            self.write = _write_nothing  # type: ignore[method-assign]
            return
        if length is not None:
            self.promised = int(length[0])
            if len(data) > self.promised:
                data = self._within_promise(data, self.promised)
        if data:
            self.sentLength += len(data)
            self.channel.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

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
        self.responseHeaders = PlainHeaders()
        self.cookies = []
        self.etag = self.lastModified = self._encoder = None
        self._inFakeHead = False
        self.answer(INTERNAL_SERVER_ERROR, f"internal error {connection}")
        return reason

    def connectionLost(self, reason: Failure) -> None:
        """Let go.  An answer that was cut short has its line in the access log all the same."""
        super().connectionLost(reason)
        if self.identity is not None:
            self.site.log(self)

    def _about_the_server(self) -> None:
        # OPTIONS * asks about the server, not about a resource (RFC 9110 9.3.7).
        if self.method == b"OPTIONS":
            self.setHeader(b"Content-Length", b"0")
            self.finish()
            return
        self.setHeader(b"Allow", b"OPTIONS")
        self.answer(NOT_ALLOWED, "method not allowed")


def identity(request: IRequest) -> Identity:
    """Return who a request is from: for any resource that mtlsd serves.

    Raises :exc:`TypeError` for a request that did not come in through mtlsd's front door.  Fails closed: there is no
    answer that means "nobody".
    """
    found: Any = request.identity if isinstance(request, Request) else None
    if not isinstance(found, Identity):
        raise TypeError(f"this request did not come through mtlsd's front door, so nobody can say who it is from: {request!r}")
    return found


def _write_nothing(data: bytes) -> None:
    """Stand in for ``write`` where an answer has no body."""


def _in_order(methods: Any) -> list[bytes]:
    known = [method for method in METHODS if method in methods]
    return known + sorted(method for method in methods if method not in METHODS)
