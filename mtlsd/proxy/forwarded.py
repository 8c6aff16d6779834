"""What goes on to a backend, and back to a client: built anew from what was parsed, never copied.  Pure.

Hop-by-hop headers (RFC 9110 7.6.1) belong to one connection; a reader that takes another's for its own is how requests are
smuggled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from mtlsd.routing.namedheaders import NamedHeaders, one_form
from mtlsd.web.claims import is_claim
from mtlsd.web.message import Message

#: Headers of one connection, in their one form.
HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"expect", b"http2-settings", b"proxy-authentication-info"),
    }
)
_NOTHING: frozenset[bytes] = frozenset()
#: Bytes of a ``Connection`` that is worth remembering: what all say, keep-alive or close, is.
_SHORT = 40
_BODY_METHODS = (b"POST", b"PUT", b"PATCH")
# RFC 9110 7.8: names of protocols, each with a version or without.
_PROTOCOL = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}(?:/[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})?"
_PROTOCOLS = re.compile(rb"%b(?:[ \t]*,[ \t]*%b){0,7}" % (_PROTOCOL, _PROTOCOL))
#: Protocols that carry requests of their own, which no rule would ever see: h2c smuggling.
_WITH_REQUESTS = frozenset({b"h2c", b"h2", b"h3", b"http", b"https", b"spdy", b"tls"})


def request_head(
    method: bytes,
    target: bytes,
    headers: bytes,
    length: int | None,
    added: bytes,
    protocols: tuple[bytes, ...] = (),
) -> bytes:
    """Return the head of a request for a backend.

    *headers* are the client's, as :func:`for_backend` leaves them; *length* is the body's, ``None`` for chunked; *added* are
    the door's own, as lines.  *protocols* are asked for in HTTP's place.
    """
    lines = [method, b" ", target, b" HTTP/1.1\r\n", headers, added]
    if protocols:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % b", ".join(protocols))
    if length is None:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif length or method in _BODY_METHODS:
        lines.append(b"Content-Length: %d\r\n" % length)
    lines.append(b"\r\n")
    return b"".join(lines)


def for_backend(headers: Mapping[bytes, list[bytes]], strip: NamedHeaders | None = None) -> bytes:
    """Return the lines of a client's *headers*, by name as twisted.web writes it, that are for a backend.

    What a client says of itself is left out, whether or not the door says something in its place, and so is what is in
    *strip*.
    """
    lines: list[bytes] = []
    named = named_by_connection(headers)
    for name, values in headers.items():
        if not may_go_on(name) or (strip and name in strip) or (named and name.lower() in named):
            continue
        for value in values:
            lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def of_message(message: Message, strip: NamedHeaders | None) -> bytes:
    """Return :func:`for_backend` of a request's headers; where it has come before, what was made of them then."""
    known = message.forwarded
    if known is not None and known[0] is strip:
        return known[1]
    lines = for_backend(message.headers.plain, strip)
    if message.is_known:
        message.forwarded = strip, lines
    return lines


def protocols_asked_for(message: Message) -> tuple[bytes, ...]:
    """Return the protocols that a request asks for in HTTP's place; none where there is the least doubt.

    RFC 9110 7.8 lets anybody ignore an Upgrade.  So does this for one that two readers may understand in two ways, for what
    is no plain GET, and for any that carries requests: these would go past the rules.
    """
    plain = message.headers.plain
    values = plain.get(b"Upgrade", ())
    # llhttp has to agree: where it sees no upgrade, what follows has been read as requests.
    if not message.upgrade or message.method != b"GET" or message.version != b"HTTP/1.1" or message.length != 0:
        return ()
    if len(values) != 1 or b"upgrade" not in named_by_connection(plain) or not _PROTOCOLS.fullmatch(values[0]):
        return ()
    protocols = tuple(protocol.strip() for protocol in values[0].split(b","))
    return () if any(protocol.partition(b"/")[0].lower() in _WITH_REQUESTS for protocol in protocols) else protocols


def end_to_end(headers: Mapping[bytes, list[bytes]]) -> dict[bytes, list[bytes]]:
    """Return the headers of a response that are for the client: without those of the backend's connection."""
    named = named_by_connection(headers)
    dropped = HOP_BY_HOP if named <= HOP_BY_HOP else HOP_BY_HOP | named
    return {name: values for name, values in headers.items() if name.lower() not in dropped}


def named_by_connection(headers: Mapping[bytes, list[bytes]]) -> frozenset[bytes]:
    """Return the names in ``Connection``, in lower case, but for those that a message cannot do without."""
    values = headers.get(b"Connection")
    if values is None:
        return _NOTHING
    if len(values) == 1 and len(values[0]) <= _SHORT:
        return _named_by(values[0])
    return _named(values)


@lru_cache(maxsize=256)
def _named_by(value: bytes) -> frozenset[bytes]:
    return _named([value])


def _named(values: Iterable[bytes]) -> frozenset[bytes]:
    # Whoever names Host there would have the backend guess.
    return frozenset(token.strip().lower() for value in values for token in value.split(b",")) - {b"host", b"content-length"}


@lru_cache(maxsize=1024)
def may_go_on(name: bytes) -> bool:
    """Tell whether a header of a client's request is for the backend: whatever spelling this has for it."""
    form = one_form(name)
    return form not in HOP_BY_HOP and form != b"content-length" and not is_claim(name)
