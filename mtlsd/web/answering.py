"""The answering half of a connection: heads that wait for their body, producers, and answers in one plain line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol
from twisted.web.http import NO_BODY_CODES, REQUEST_TIMEOUT, RESPONSES
from twisted.web.http_headers import Headers
from twisted.web.static import StaticProducer

from mtlsd.web.interfaces import SERVER
from mtlsd.web.parser import HEAD_TOO_LARGE

if TYPE_CHECKING:
    from mtlsd.web.site import Site

#: RFC 8297 2; Twisted does not know it.
_INTERIM = {103: b"Early Hints"}
#: RFC 6585 5; Twisted does not know it.
_REASONS = {HEAD_TOO_LARGE: b"Request Header Fields Too Large", REQUEST_TIMEOUT: b"Request Timeout"}
#: Bytes of a file that are read at a time.
_FILE_PIECE = 256 * 1024
#: Headers of an answer that are not the resource's alone.
_OURS = frozenset({b"Server", b"Date", b"Connection"})
_SERVER_LINE = b"\r\nServer: %b\r\n" % SERVER


class Answering(Protocol):
    """What goes out on one connection: one answer at a time.  Whose turn it is, is for a subclass to know."""

    transport: Any
    site: Site
    #: Whether another request may follow on this connection.
    persistent = True
    # The head of an answer went out, and its end has not.
    _is_answering = False
    # The transport's buffer is full.
    _is_blocked = False
    _is_over = True
    # Who makes the answer: by itself, or (which the transport then knows) a piece each time that it is asked.
    _producer: Any = None
    _pulls = False
    _head: bytes | None = None

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Begin an answer: its head waits for the first bytes of its body, to go out with them."""
        self.write_head(version, code, reason, headers._rawHeaders)

    def write_head(self, version: bytes, code: bytes, reason: bytes, headers: Mapping[bytes, Sequence[bytes]]) -> None:
        """Begin an answer, as :meth:`writeHeaders`.  *headers* are by name as twisted.web writes it."""
        self._is_answering = True
        dates = headers.get(b"Date")
        date = b"Date: %b\r\n" % dates[-1] if dates else self.site.date_line()
        head = [version, b" ", code, b" ", reason, _SERVER_LINE, date]
        for name, values in headers.items():
            if name not in _OURS:
                for value in values:
                    head += (name, b": ", value, b"\r\n")
        if b"Connection" in headers:
            self.persistent = self.persistent and not any(b"close" in value.lower() for value in headers[b"Connection"])
        if not self.persistent:
            head.append(b"Connection: close\r\n\r\n")
        elif version == b"HTTP/1.0":
            # Only a length tells this client where the answer ends.
            self.persistent = b"Content-Length" in headers or int(code) in NO_BODY_CODES
            head.append(b"Connection: keep-alive\r\n\r\n" if self.persistent else b"Connection: close\r\n\r\n")
        else:
            head.append(b"\r\n")
        self._head = b"".join(head)

    def write(self, data: bytes) -> None:
        """Send a part of an answer."""
        if self._head is not None:
            data, self._head = self._head + data, None
        self.transport.write(data)

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def flush(self) -> None:
        """Send the head of an answer that waits for its body no longer."""
        if self._head is not None:
            self.write(b"")

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let *producer* make the answer.  Raises :exc:`RuntimeError` where another one does."""
        if self._producer is not None or self._pulls:
            raise RuntimeError(f"cannot register {producer!r}: another producer was never unregistered")
        if streaming:
            self._producer = producer
            if self._is_blocked:
                producer.pauseProducing()
        else:
            # It is asked by the transport itself, each time that there is room.
            self.flush()
            self._pulls = True
            if isinstance(producer, StaticProducer):
                # In pieces of 64 KiB, as it is made, a large file costs a seventh more.
                producer.bufferSize = _FILE_PIECE
            transport = self.transport
            transport.unregisterProducer()
            transport.registerProducer(producer, False)

    def unregisterProducer(self) -> None:
        self._producer = None
        if self._pulls:
            self._pulls = False
            transport = self.transport
            transport.unregisterProducer()
            if not self._is_over:
                transport.registerProducer(self, True)

    def write_interim(self, status: int, headers: Mapping[bytes, Sequence[bytes]]) -> None:
        """Send a 1xx answer before the one that counts."""
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, RESPONSES.get(status) or _INTERIM.get(status, b"Interim"))]
        lines += [b"%b: %b\r\n" % (name, value) for name, values in headers.items() for value in values]
        self.transport.write(b"".join([*lines, b"\r\n"]))

    def write_line(self, version: bytes, status: int, text: bytes, *, is_head: bool = False) -> int:
        """Answer in one plain line; *is_head*: to HEAD, with its head alone.  Returns the bytes of the body that go out."""
        body = text + b"\n"
        headers = Headers()
        headers.setRawHeaders(b"Content-Type", [b"text/plain; charset=utf-8"])
        headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        self.writeHeaders(version, b"%d" % status, _REASONS.get(status) or RESPONSES[status], headers)
        self.write(b"" if is_head else body)
        return 0 if is_head else len(body)
