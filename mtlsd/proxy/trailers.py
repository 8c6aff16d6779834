"""What comes behind a body, and goes on: of the trailers of a message those that its head has announced, and of these no
more than may come there.  Pure.

They come when everything has been decided by the head, and some servers write them into its headers all the same.  So a
client's trailers say nothing that its headers may not say, and neither side's say what frames a message, where it goes, who
it is from, and how its content is to be read (RFC 9110 6.5.1).  Any party may drop trailers; what is in doubt is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from mtlsd.proxy.forwarded import HOP_BY_HOP, may_go_on, named_by_connection
from mtlsd.proxy.response import Head
from mtlsd.routing.namedheaders import NamedHeaders, one_form
from mtlsd.web.headers import PlainHeaders
from mtlsd.web.message import Message

#: Names that one message may announce; where there are more, there is none.
_MOST = 64
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
# By RFC 9110 6.5.1, in their one form: of the fields that people know, those whose definition has no word of trailers.  Of
# Content-*, RFC 9530 lets the digest come there: it is known when the content has gone out, and not before.
_TOO_LATE = re.compile(
    # What the content is, and where the message goes.
    rb"content-(?!digest\Z).*|mime-version|host|via|max-forwards|link|location|refresh|x-accel-.*|x-sendfile.*"
    # Who asks, and what gives the right to.
    rb"|authorization|authentication-.*|www-authenticate|proxy-.*|(set-)?cookie2?|origin|referer|from|user-agent|x-auth-.*|(x-)?api-key"
    rb"|x-(csrf|xsrf)-?token|x-requested-with|sec-.*"
    # Conditions, ranges, negotiation, and whatever else changes what is asked for: WebDAV's too (RFC 4918 10).
    rb"|if|if-.*|range|accept|accept-.*|prefer|priority|early-data|idempotency-key|depth|destination|overwrite|timeout|lock-token"
    # How an answer is to be used, kept and shown.
    rb"|age|allow|alt-svc|(.*-)?cache-control|clear-site-data|date|expires|last-modified|pragma|retry-after|server|vary|warning"
    rb"|access-control-.*|cross-origin-.*|strict-transport-security|(feature|permissions|referrer)-policy|x-frame-options"
    rb"|x-content-type-options|x-xss-protection|report-to|reporting-endpoints|nel|service-worker-.*"
)


class Trailers:
    """The trailers of a request that is passed on, and of its answer."""

    __slots__ = ("_head", "_message", "_of_answer", "_of_request", "are_taken")

    def __init__(self, message: Message, strip: NamedHeaders | None) -> None:
        """*message* is the client's, *strip* what its route takes out besides."""
        plain = message.headers.plain
        self._message = message
        # Only chunks have something behind them (RFC 9112 7.1.2).
        self._of_request = _announced(plain, lambda name: _from_client(name, strip)) if message.length is None else {}
        #: Whether the client takes trailers (RFC 9110 10.1.4).  There is nobody between it and the door who could have let
        #: this pass without knowing of it, so `Connection` need not name it.
        self.are_taken = (
            message.version == b"HTTP/1.1"
            and message.method != b"HEAD"
            and any(coding.strip().lower() == b"trailers" for value in plain.get(b"TE", ()) for coding in value.split(b","))
        )
        self._head: Head | None = None
        self._of_answer: Mapping[bytes, bytes] = {}

    @property
    def are_announced(self) -> bool:
        """Whether the request's head has announced any that go on."""
        return bool(self._of_request)

    def lines(self) -> bytes:
        """Return what the backend is told of them in the head of the request, as lines."""
        lines, options = b"", []
        if self._of_request:
            lines += b"Trailer: %b\r\n" % b", ".join(self._of_request.values())
            # There are servers that do not read what is behind the last chunk, and take it for the next request
            # (CVE-2023-41419 is that, in gevent).  On this connection there is none (RFC 9112 9.6).
            options.append(b"close")
        if self.are_taken:
            lines += b"TE: trailers\r\n"
            options.append(b"TE")
        return lines + b"Connection: %b\r\n" % b", ".join(options) if options else lines

    def end_of_request(self) -> bytes:
        """Return the last chunk of the request, and all that comes behind it."""
        return _last_chunk(self._message.trailers, self._of_request)

    def responded(self, head: Head) -> Iterator[tuple[bytes, list[bytes]]]:
        """Return what the client is told of them in the head of an answer that goes out in chunks; *head* is the backend's."""
        plain = head.headers.plain
        # An answer that ends with its connection has nothing behind it.
        if self.are_taken and b"Transfer-Encoding" in plain:
            self._head, self._of_answer = head, _announced(plain, _from_backend)
            if self._of_answer:
                yield b"Trailer", [b", ".join(self._of_answer.values())]

    def end_of_answer(self) -> bytes:
        """Return the last chunk of the answer, and all that comes behind it."""
        return _last_chunk(None if self._head is None else self._head.trailers, self._of_answer)


def _announced(headers: Mapping[bytes, list[bytes]], may: Callable[[bytes], bool]) -> Mapping[bytes, bytes]:
    """Return the names in ``Trailer`` that *may* go on, by their lower case."""
    names = [name.strip(b" \t") for value in headers.get(b"Trailer", ()) for name in value.split(b",")]
    if len(names) > _MOST:
        return {}
    named = named_by_connection(headers)
    return {name.lower(): name for name in names if _NAME.fullmatch(name) and name.lower() not in named and may(name)}


def _last_chunk(trailers: PlainHeaders | None, names: Mapping[bytes, bytes]) -> bytes:
    lines = [b"0\r\n"]
    if trailers is not None and names:
        lines += [
            b"%b: %b\r\n" % (name, value) for name, values in trailers.plain.items() if name.lower() in names for value in values
        ]
    lines.append(b"\r\n")
    return b"".join(lines)


def _from_client(name: bytes, strip: NamedHeaders | None) -> bool:
    return may_go_on(name) and not (strip and name in strip) and not _comes_too_late(name)


def _from_backend(name: bytes) -> bool:
    return one_form(name) not in HOP_BY_HOP and not _comes_too_late(name)


@lru_cache(maxsize=1024)
def _comes_too_late(name: bytes) -> bool:
    """Tell whether a field, in whatever spelling, is one of the head's alone."""
    return _TOO_LATE.fullmatch(one_form(name)) is not None
