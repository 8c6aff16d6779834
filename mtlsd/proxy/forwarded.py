"""What goes on to a backend, and back to a client: built anew from what was parsed, never copied.  Pure.

Hop-by-hop headers (RFC 9110 7.6.1) belong to one connection; a reader that takes another's for its own is how requests are
smuggled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from mtlsd.web.claims import ONE_FORM, is_claim

_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"expect", b"http2-settings", b"proxy-authentication-info"),
    }
)
_BODY_METHODS = (b"POST", b"PUT", b"PATCH")


def request_head(
    method: bytes,
    target: bytes,
    headers: Mapping[bytes, list[bytes]],
    length: int | None,
    added: Iterable[tuple[bytes, bytes]],
) -> bytes:
    """Return the head of a request for a backend.

    *headers* are the client's, by name as twisted.web writes it; *length* is the body's, ``None`` for chunked; *added* are
    the door's own.  What a client says of itself is left out, whether or not the door says something in its place.
    """
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    named = named_by_connection(headers)
    for name, values in headers.items():
        if not _may_go_on(name) or (named and name.lower() in named):
            continue
        for value in values:
            lines.append(b"%b: %b\r\n" % (name, value))  # noqa: PERF401 (a list of one is dearer)
    for name, value in added:
        lines.append(b"%b: %b\r\n" % (name, value))
    if length is None:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif length or method in _BODY_METHODS:
        lines.append(b"Content-Length: %d\r\n" % length)
    lines.append(b"\r\n")
    return b"".join(lines)


def end_to_end(headers: Mapping[bytes, list[bytes]]) -> dict[bytes, list[bytes]]:
    """Return the headers of a response that are for the client: without those of the backend's connection."""
    named = named_by_connection(headers)
    return {name: values for name, values in headers.items() if name.lower() not in _HOP_BY_HOP and name.lower() not in named}


def named_by_connection(headers: Mapping[bytes, list[bytes]]) -> frozenset[bytes]:
    """Return the names in ``Connection``, in lower case, but for those that a message cannot do without."""
    values = headers.get(b"Connection")
    if values is None:
        return frozenset()
    # Whoever names Host there would have the backend guess.
    return frozenset(token.strip().lower() for value in values for token in value.split(b",")) - {b"host", b"content-length"}


@lru_cache(maxsize=1024)
def _may_go_on(name: bytes) -> bool:
    """Tell whether a header of a client's request is for the backend: whatever spelling this has for it."""
    form = name.lower().translate(ONE_FORM)
    return form not in _HOP_BY_HOP and form != b"content-length" and not is_claim(name)
