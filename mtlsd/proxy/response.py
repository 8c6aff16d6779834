"""HTTP/1.1 responses out of bytes: what is ambiguous is no response, and ends the connection that it came on.

A backend is trusted to answer, not to be read in two ways: an answer that ends elsewhere for us than for it would be
the next client's.  Pure: no connection is known here.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

from mtlsd.web.headers import HeaderNames, PlainHeaders, received
from mtlsd.web.trailers import BadTrailers, LargeTrailers, trailers

#: Headers of one response, and bytes of its head.
_MOST_HEADERS, _LARGEST_HEAD = 500, 256 * 1024
#: Interim responses (1xx) before the one that counts.
_MOST_INTERIM = 20
#: More digits than any length has: int() raises past 4,300 (CVE-2020-10735).
_LENGTH_DIGITS = 18
# RFC 9112 4; llhttp lets everything pass but a line end.
_REASON = re.compile(rb"[\t -~\x80-\xff]*")
# llhttp reads RTSP and other versions as well, and does not say of which it was.
_VERSIONS = (b"HTTP/1.1 ", b"HTTP/1.0 ")
_VERSION = len(_VERSIONS[0])
_SWITCHING, _NO_CONTENT, _NOT_MODIFIED = 101, 204, 304

_OTHER = "it cannot be read: it is neither HTTP/1.1 nor HTTP/1.0"


class BadResponse(Exception):
    """What a backend sent is no response, or can be read in two ways: one line that says why."""


class Head:
    """The head of a response.  ``length`` is that of the body in bytes, ``None`` where only its end tells.

    ``trailers`` are what has come behind the body, once that is complete: no headers.
    """

    __slots__ = ("headers", "length", "reason", "status", "trailers")

    def __init__(self, status: int, reason: bytes, headers: PlainHeaders, length: int | None) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.length = length
        self.trailers: PlainHeaders | None = None


class ResponseParser:
    """The responses of one connection, one at a time: nothing is read before :meth:`begin` has told what was asked.

    After each :meth:`feed`: ``interim`` are the 1xx heads and ``pieces`` the parts of the body that nobody has taken yet,
    ``head`` is there once it is complete, and ``done`` once all is.  Instead of these, ``switched`` is the head of a 101,
    and ``behind`` what has come of the other protocol.
    """

    __slots__ = (
        *(
            "_beginning",
            "_ends_with_connection",
            "_excess",
            "_headers",
            "_interim",
            "_is_final",
            "_is_head",
            "_names",
            "_parser",
            "_past_head",
        ),
        *("_got_on", "_is_at_end", "_is_chunked", "_protocols", "_reason", "_refused", "_size", "behind", "done", "head"),
        *("interim", "pieces", "reusable", "switched"),
    )

    def __init__(self, names: HeaderNames) -> None:
        self._names = names
        self._parser: Any = None
        # Whether llhttp is at the end of a final response, where another may begin: it is not where that was one to HEAD, or a
        # 304 with a length, for it waits for the body.
        self._is_at_end = self.reusable = False

    def begin(self, *, is_head: bool, protocols: tuple[bytes, ...] = ()) -> None:
        """A request is sent, whose response comes next.

        *is_head*: its method was HEAD, so that no body follows whatever the head says.  *protocols* are those that it has
        asked for in HTTP's place.
        """
        if not self._is_at_end or not self.reusable:
            self._parser = httptools.HttpResponseParser(self)
        self._is_at_end = False
        self._is_head = is_head
        self._protocols = protocols
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        #: What has come of its version; ``None`` once that is one of ours.
        self._beginning: bytes | None = b""
        self._size = 0
        # Whether the piece had more than a part of a head, of trailers or of what frames a chunk.
        self._got_on = False
        self._is_final = False
        self._past_head = False
        self._excess = False
        self._ends_with_connection = False
        self._is_chunked = False
        self._refused: BadResponse | None = None
        self.interim: list[Head] = []
        self._interim = 0
        self.head: Head | None = None
        self.pieces: list[bytes] = []
        self.done = False
        #: Whether another request may follow on this connection, once it is ``done``.
        self.reusable = False
        self.switched: Head | None = None
        self.behind = b""

    def let_go(self) -> None:
        """Read nothing any more: llhttp holds this parser as this holds it, and both would live on until the collector comes."""
        self._parser = None
        self._is_at_end = False

    def feed(self, data: bytes) -> None:
        """Read *data*.  Raises :exc:`BadResponse`; what was complete before is there all the same."""
        self._got_on = is_upgraded = False
        if self._beginning is not None:
            is_usual = not self._beginning and data.startswith(_VERSIONS)
            self._beginning = None if is_usual else _beginning_of_version(self._beginning + data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as found:
            is_upgraded = True
            self.behind = data[found.args[0] :]
        except httptools.HttpParserCallbackError:
            raise self._refused or BadResponse("it cannot be read") from None
        except httptools.HttpParserError as error:
            if not self.done:
                raise BadResponse(f"it cannot be read: {error}") from None
            self._excess = True
        if is_upgraded is not (self.switched is not None):
            raise BadResponse("it switches protocols in a way that can be read in two ways")
        if is_upgraded:
            return
        if not self._got_on:
            # A head, trailers or what frames a chunk, of which llhttp says nothing before it is complete.
            self._size += len(data)
            if self._size > _LARGEST_HEAD or len(self._headers) > _MOST_HEADERS:
                raise BadResponse("its head is too large")
        if self.done:
            self.reusable = self.reusable and not self._excess
            if self._is_head:
                # llhttp does not know of HEAD, and tells nothing of a chunk before its size is complete: only where the head
                # ends the piece is it certain that nothing followed.
                self.reusable = self.reusable and data.endswith(b"\r\n\r\n")

    def end(self) -> None:
        """The connection has ended, in good order.  Raises :exc:`BadResponse` where the response has not."""
        if self._past_head and self._ends_with_connection:
            self.done = True
        elif not self.done:
            raise BadResponse("the connection ended before it did" if self.head else "the connection ended without one")

    # Called by llhttp.

    def on_message_begin(self) -> None:
        if self.done:
            self._excess = True
        self._headers = []
        self._reason = b""
        self._past_head = False

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come the same way.
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.done:
            return
        pairs, self._headers = self._headers, []
        self._past_head = True
        try:
            self._head(pairs)
        except BadResponse as error:
            self._refused = error
            raise

    def on_body(self, body: bytes) -> None:
        if self.done:
            self._excess = True
        else:
            self._got_on = True
            self._size = 0
            self.pieces.append(body)

    def on_message_complete(self) -> None:
        if self._headers:
            pairs, self._headers = self._headers, []
            if self.head is not None and not self.done:
                self.head.trailers = self._trailers(pairs)
        if self._is_final:
            # To HEAD, the end of a body that llhttp was told of, and that should not have come.
            self._excess = self._excess or (self.done and self._is_chunked)
            self.done = True
            # Behind what llhttp takes for the close, of a proxy too, it reads nothing any more.
            self._is_at_end = bool(self._parser.should_keep_alive())

    def _head(self, pairs: list[tuple[bytes, bytes]]) -> None:
        if len(pairs) > _MOST_HEADERS:
            raise BadResponse("its head is too large")
        parser = self._parser
        status = parser.get_status_code()
        headers = received(pairs, self._names)
        if status < 200:
            if status < 100:
                raise BadResponse("its status line cannot be read")
            if status == _SWITCHING:
                self._switch(headers)
                return
            self.interim.append(Head(status, self._reason, headers, 0))
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise BadResponse("it says 1xx without end")
            return
        self._is_final = True
        plain = headers.plain
        if self._interim and parser.get_http_version() not in ("1.1", "1.0"):
            raise BadResponse(_OTHER)
        if not _REASON.fullmatch(self._reason):
            raise BadResponse("its status line cannot be read")
        codings, lengths = plain.get(b"Transfer-Encoding"), plain.get(b"Content-Length")
        if codings is not None and (
            lengths is not None or len(codings) > 1 or codings[0].lower() != b"chunked" or parser.get_http_version() != "1.1"
        ):
            raise BadResponse("it has a transfer coding that can be read in two ways")
        # Two of them llhttp refuses itself.
        if lengths is not None and (not lengths[0].isdigit() or len(lengths[0]) > _LENGTH_DIGITS):
            raise BadResponse("its length can be read in two ways")
        self._is_chunked = codings is not None
        length = int(lengths[0]) if lengths is not None else None
        if self._is_head or status in (_NO_CONTENT, _NOT_MODIFIED):
            length = 0
            self.done = True
            self.reusable = bool(parser.get_http_version() == "1.1") and b"close" not in _tokens(plain)
        else:
            self._ends_with_connection = length is None and codings is None
            self.reusable = not self._ends_with_connection and bool(parser.should_keep_alive())
        self._got_on = True
        self._size = 0
        self.head = Head(status, self._reason, headers, length)

    def _trailers(self, pairs: list[tuple[bytes, bytes]]) -> PlainHeaders:
        try:
            return trailers(pairs, self._names, most=_MOST_HEADERS, largest=_LARGEST_HEAD)
        except BadTrailers as error:
            is_large = isinstance(error, LargeTrailers)
            self._refused = BadResponse(f"its trailers {'are too large' if is_large else 'can be read in two ways'}")
            raise self._refused from None

    def _switch(self, headers: PlainHeaders) -> None:
        """Look at the head of a 101 (RFC 9110 7.8): it is to name one protocol that was asked for, and there is no body."""
        plain = headers.plain
        if not self._protocols:
            raise BadResponse("it switches protocols, and nobody has asked for that")
        named = plain.get(b"Upgrade", ())
        if len(named) != 1 or named[0].lower() not in {protocol.lower() for protocol in self._protocols}:
            raise BadResponse("it switches to a protocol that nobody has asked for")
        if b"upgrade" not in _tokens(plain) or self._parser.get_http_version() != "1.1":
            raise BadResponse("it switches protocols in a way that can be read in two ways")
        if b"Content-Length" in plain or b"Transfer-Encoding" in plain:
            raise BadResponse("it switches protocols, and has a body")
        self.switched = Head(_SWITCHING, self._reason, headers, 0)


def _tokens(plain: dict[bytes, list[bytes]]) -> set[bytes]:
    return {token.strip().lower() for value in plain.get(b"Connection", ()) for token in value.split(b",")}


def _beginning_of_version(data: bytes) -> bytes | None:
    """Return what has come of a version, if that is not all of it.  Raises :exc:`BadResponse` where it is none of ours."""
    # A line end before it belonged to whatever was answered last.
    data = data.lstrip(b"\r\n")[:_VERSION]
    if not any(version.startswith(data) for version in _VERSIONS):
        raise BadResponse(_OTHER)
    return data if len(data) < _VERSION else None
