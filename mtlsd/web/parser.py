"""HTTP/1.1 requests out of bytes: llhttp finds their parts, and what is ambiguous is no request.

Two readers that take one stream of bytes apart in two ways are how requests are smuggled.  So wherever RFC 9112 leaves
a reader a choice, or llhttp is more lenient than it, the answer is a refusal and the end of the connection.  Pure: no
connection is known here.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

from mtlsd.web.headers import HeaderNames, PlainHeaders, received
from mtlsd.web.heads import KnownHeads
from mtlsd.web.message import Message
from mtlsd.web.trailers import BadTrailers, LargeTrailers, trailers

#: Headers of one request.
MOST_HEADERS = 500
#: More digits than any length has: int() raises past 4,300 (CVE-2020-10735).
_LENGTH_DIGITS = 18

BAD_REQUEST = 400
CONTENT_TOO_LARGE = 413
HEAD_TOO_LARGE = 431
NOT_IMPLEMENTED = 501

# RFC 9112 3.2: printable ASCII.  A fragment never belongs to a target, and the backslash is a slash to some.
_TARGET = re.compile(rb"[!\"$-\[\]-~]+")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?@]+)([/?].*)?")
# RFC 3986 3.2.2, with RFC 9112 3.2.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40} ")
_SLASH = ord("/")
_VERSIONS = {"1.1": b"HTTP/1.1", "1.0": b"HTTP/1.0"}


class Refusal(Exception):
    """What came is no request, or none that is served: a status and one line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class RequestParser:
    """The requests of one connection.  After a :class:`Refusal` it reads nothing any more."""

    # There is one for each connection, most of which are idle.
    __slots__ = (
        *(
            "_got_on",
            "_good_host",
            "_headers",
            "_is_at_end",
            "_is_between",
            "_is_over",
            "_known",
            "_max_head",
            "_names",
            "_parser",
        ),
        *("_past_head", "_piece", "_refusal", "_target", "_waiting", "behind", "in_head", "messages", "upgraded"),
    )

    def __init__(self, max_head: int, names: HeaderNames, known: KnownHeads) -> None:
        """*max_head* is the bytes that the request line and the headers may have together.

        *names* and *known* belong to all parsers that have the same *max_head*.
        """
        self._max_head = max_head
        self._names = names
        self._known = known
        self._parser: Any = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._good_host: bytes | None = None
        self._waiting = 0
        self._piece = 0
        self._past_head = False
        # Whether the piece had more than a part of a head, of trailers or of what frames a chunk.
        self._got_on = False
        # Whether the next byte begins a request: where it is a refusal's, it never does again.
        self._is_between = True
        # Whether the last request that has begun is complete.
        self._is_at_end = True
        # Behind a request that asks for the close, nothing begins (RFC 9112 9.6).
        self._is_over = False
        self._refusal: Refusal | None = None
        #: The requests that have come in, whole but for the last one.  (Of a deque, an empty one takes 600 bytes.)
        self.messages: list[Message] = []
        #: Whether a request has begun that is not in ``messages`` yet: its head is not complete.
        self.in_head = False
        #: Whether nothing that follows is a request any more: the last one asked for another protocol.
        self.upgraded = False
        #: What has come behind the request that asked for another protocol: of that, if it is begun, and of nothing else.
        self.behind = b""

    def end(self) -> None:
        """Read nothing any more: llhttp holds this parser as this holds it, and both would live on until the collector comes."""
        self._is_over = True
        self._parser = self._refusal = None

    def feed(self, data: bytes) -> None:
        """Read *data*.  Raises :class:`Refusal`; what was complete before is in ``messages`` all the same."""
        if self.upgraded:
            self.behind += data
            return
        if self._is_over:
            return
        if not self._is_between:
            self._read(data)
            return
        known = self._known.again(data)
        if known is not None:
            self.messages.append(known)
            self._is_over = not known.keep_alive
            return
        before = len(self.messages)
        if self._read(data) and len(self.messages) - before == 1 and data.endswith(b"\r\n\r\n"):
            message = self.messages[-1]
            if message.length == 0 and not self.upgraded:
                self._known.keep(data, message)

    def _read(self, data: bytes) -> bool:
        """Have llhttp read *data*.  Returns whether the next byte begins a request."""
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        begun = self.in_head
        self._is_between = False
        self._got_on = False
        self._piece = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as found:
            self.upgraded = True
            self.behind = data[found.args[0] :]
        except httptools.HttpParserCallbackError:
            raise self._refusal or Refusal(BAD_REQUEST, "bad request") from None
        except httptools.HttpParserInvalidMethodError:
            unknown = not begun and not self.messages and _METHOD.match(data)
            raise (Refusal(NOT_IMPLEMENTED, "no such method") if unknown else Refusal(BAD_REQUEST, "bad request")) from None
        except httptools.HttpParserError:
            raise Refusal(BAD_REQUEST, "bad request") from None
        if self.in_head or self._past_head:
            # What came behind another request in one piece, or behind a part of a body, is not counted before it is
            # complete: a piece is one TLS record at most.  (llhttp keeps a line until it ends, and says nothing of it.)
            if not self._got_on:
                self._waiting += len(data)
            if self._waiting > self._max_head or len(self._headers) > MOST_HEADERS:
                raise Refusal(HEAD_TOO_LARGE, "request head too large")
        self._is_between = self._is_at_end
        return self._is_between

    # Called by llhttp.

    def on_message_begin(self) -> None:
        if self._is_over:
            raise _bad()
        self.in_head = True
        self._is_at_end = False
        self._waiting = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come the same way; they are kept apart, for they must never pass for headers.
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.in_head = False
        self._past_head = self._got_on = True
        target, self._target = self._target, b""
        headers, self._headers = self._headers, []
        try:
            self.messages.append(self._message(target, headers))
        except Refusal as refusal:
            self._refusal = refusal
            raise
        self._waiting = 0

    def on_body(self, body: bytes) -> None:
        self._got_on = True
        self._waiting = 0
        self.messages[-1].pieces.append(body)

    def on_message_complete(self) -> None:
        self._past_head = False
        self._got_on = self._is_at_end = True
        message = self.messages[-1]
        if self._headers:
            message.trailers = self._trailers()
        message.complete = True
        self._is_over = not message.keep_alive

    # What llhttp leaves open.

    def _trailers(self) -> PlainHeaders:
        pairs, self._headers = self._headers, []
        try:
            return trailers(pairs, self._names, most=MOST_HEADERS, largest=self._max_head)
        except BadTrailers as error:
            is_large = isinstance(error, LargeTrailers)
            self._refusal = Refusal(HEAD_TOO_LARGE, "request head too large") if is_large else _bad()
            raise self._refusal from None

    def _message(self, target: bytes, pairs: list[tuple[bytes, bytes]]) -> Message:
        if self._waiting + self._piece > self._max_head or len(pairs) > MOST_HEADERS:
            # Only where there is as much as that, part of which may belong to other requests, is it counted.
            size = len(target) + sum(len(name) + len(value) + 4 for name, value in pairs)
            if size > self._max_head or len(pairs) > MOST_HEADERS:
                raise Refusal(HEAD_TOO_LARGE, "request head too large")
        parser = self._parser
        version = _VERSIONS.get(parser.get_http_version())
        if version is None or not _TARGET.fullmatch(target):
            raise _bad()
        headers = received(pairs, self._names)
        plain = headers.plain
        length: int | None = 0
        if b"Content-Length" in plain or b"Transfer-Encoding" in plain:
            length = _framing(plain, version)
        method = parser.get_method()
        upgrade = parser.should_upgrade()
        if upgrade and length != 0:
            # Whose are these bytes, this protocol's or the next one's?
            raise _bad()
        hosts = plain.get(b"Host")
        if hosts is None:
            if version == b"HTTP/1.1":
                raise _bad()
        elif hosts[0] != self._good_host or len(hosts) > 1:
            # RFC 9112 3.2: two readers of a request with two hosts would disagree on whom it is for.
            if len(hosts) > 1 or not _HOST.fullmatch(hosts[0]):
                raise _bad()
            self._good_host = hosts[0]
        if target[0] != _SLASH and method != b"CONNECT":
            target = _origin_form(target, headers)
        # After another protocol was asked for, and not begun, nothing is read as a request.
        keep_alive = not upgrade and parser.should_keep_alive()
        if keep_alive and version == b"HTTP/1.0":
            keep_alive = not _asks_for_the_close(plain)
        return Message(method, target, version, headers, length, keep_alive, upgrade)


def _framing(plain: dict[bytes, list[bytes]], version: bytes) -> int | None:
    """Return the Content-Length, or ``None`` for a chunked body: as RFC 9112 6.3 has them and no more leniently."""
    lengths, codings = plain.get(b"Content-Length"), plain.get(b"Transfer-Encoding")
    if codings is not None:
        if lengths is not None or version != b"HTTP/1.1" or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise _bad()
        return None
    if lengths is None or len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > _LENGTH_DIGITS:
        raise _bad()
    return int(lengths[0])


def _asks_for_the_close(plain: dict[bytes, list[bytes]]) -> bool:
    """Tell whether ``close`` is among the options: beside ``keep-alive`` too, where llhttp sees only that (RFC 9112 9.3)."""
    return any(option.strip().lower() == b"close" for value in plain[b"Connection"] for option in value.split(b","))


def _origin_form(target: bytes, headers: PlainHeaders) -> bytes:
    """Return the path of a target in absolute form, whose host wins over the header (RFC 9112 3.2.2)."""
    if target == b"*":
        return target
    found = _ABSOLUTE.fullmatch(target)
    if found is None or not _HOST.fullmatch(found[1]):
        raise _bad()
    headers.plain[b"Host"] = [found[1]]
    rest: bytes = found[2] or b"/"
    return rest if rest.startswith(b"/") else b"/" + rest


def _bad() -> Refusal:
    return Refusal(BAD_REQUEST, "bad request")
